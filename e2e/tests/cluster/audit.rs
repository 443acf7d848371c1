//! The audit log of the API server: what the operator really wrote and read, after the fact.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use anyhow::{Context, Result};
use serde_json::Value;

/// Every account of the operator's namespace; only the operator runs there.
const OPERATOR: &str = "system:serviceaccount:millrace-system:";
/// Written all the time and of no interest: who leads, and what people were told.
const APART: [&str; 2] = ["leases", "events"];

/// A place in the log.
pub(crate) struct Mark {
    path: String,
    bytes: u64,
}

/// A request of the operator that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) verb: String,
    /// Plural, with the subresource where there is one: `apps/status`.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Mark {
    /// Here and now.
    pub(crate) fn now() -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "`e2e/cluster/run` tells where the log is")]
        let path = std::env::var("CLUSTER_AUDIT_LOG")
            .context("CLUSTER_AUDIT_LOG names the audit log of the API server")?;
        let bytes = std::fs::metadata(&path).with_context(|| format!("the audit log `{path}`"))?.len();
        Ok(Self { path, bytes })
    }

    /// What the operator wrote since, in order.
    pub(crate) fn writes(&self) -> Result<Vec<Request>> {
        let mut requests = self.requests()?;
        requests.retain(|request| {
            ["create", "update", "patch", "delete", "deletecollection"].contains(&request.verb.as_str())
        });
        Ok(requests)
    }

    /// What the operator asked since, in order, reads included.
    pub(crate) fn requests(&self) -> Result<Vec<Request>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.bytes))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // The last line may be half-written.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let entries = whole.lines().map(serde_json::from_str::<Value>);
        let mut requests = Vec::new();
        for entry in entries {
            requests.extend(request(&entry?));
        }
        Ok(requests)
    }
}

fn request(entry: &Value) -> Option<Request> {
    let user = entry["user"]["username"].as_str()?;
    let succeeded = entry["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300);
    let about = &entry["objectRef"];
    let resource = about["resource"].as_str()?;
    if entry["stage"] != "ResponseComplete"
        || !user.starts_with(OPERATOR)
        || !succeeded
        || APART.contains(&resource)
    {
        return None;
    }
    let text = |field: &str| about[field].as_str().unwrap_or_default().to_owned();
    let resource = match about["subresource"].as_str() {
        Some(subresource) => format!("{resource}/{subresource}"),
        None => resource.to_owned(),
    };
    Some(Request {
        verb: entry["verb"].as_str()?.to_owned(),
        resource,
        namespace: text("namespace"),
        name: text("name"),
    })
}
