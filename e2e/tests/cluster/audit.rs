//! The audit log of the API server: what the operator really wrote and read, after the fact.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use anyhow::{Context, Result};
use serde_json::Value;

/// Every account of the operator's namespace; only the operator runs there.
const OPERATOR: &str = "system:serviceaccount:millrace-system:";
/// Removes what belonged to what is gone.
const COLLECTOR: &str = "system:serviceaccount:kube-system:generic-garbage-collector";
/// Written all the time and of no interest for what is planned: who leads, and what people were told.
const APART: [&str; 2] = ["leases", "events"];

/// A place in the log.
#[derive(Clone)]
pub(crate) struct Mark {
    path: String,
    bytes: u64,
}

/// A request and its answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) verb: String,
    /// Plural, with the subresource where there is one: `apps/status`.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The answer: 201 tells a `patch` that made the object.
    pub(crate) code: u64,
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

    /// What the garbage collector removed since; pods apart, whose end a plan tells by that of their workload.
    pub(crate) fn collected(&self) -> Result<Vec<Request>> {
        let mut requests = self.of(COLLECTOR)?;
        requests.retain(|request| request.verb == "delete" && request.resource != "pods");
        Ok(requests)
    }

    /// What the operator asked since, in order, reads included.
    pub(crate) fn requests(&self) -> Result<Vec<Request>> {
        self.of(OPERATOR)
    }

    /// What these pods asked since, whatever the answer; leases and Events included.
    pub(crate) fn answered_to(&self, pods: &[String]) -> Result<Vec<Request>> {
        let asked_by = |entry: &Value| {
            let pod = &entry["user"]["extra"]["authentication.kubernetes.io/pod-uid"][0];
            pod.as_str().is_some_and(|pod| pods.iter().any(|known| known == pod))
        };
        let entries = self.entries()?;
        let answered = entries.iter().filter(|entry| entry["stage"] == "ResponseComplete" && asked_by(entry));
        Ok(answered.filter_map(parsed).collect())
    }

    /// What succeeded of an account whose name begins so.
    fn of(&self, account: &str) -> Result<Vec<Request>> {
        let by =
            |entry: &Value| entry["user"]["username"].as_str().is_some_and(|user| user.starts_with(account));
        let entries = self.entries()?;
        let done = entries.iter().filter(|entry| entry["stage"] == "ResponseComplete" && by(entry));
        let about = |request: &Request| !APART.contains(&request.resource.as_str());
        Ok(done.filter_map(parsed).filter(|request| request.code < 300 && about(request)).collect())
    }

    fn entries(&self) -> Result<Vec<Value>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.bytes))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // The last line may be half-written.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

fn parsed(entry: &Value) -> Option<Request> {
    let about = &entry["objectRef"];
    let text = |field: &str| about[field].as_str().unwrap_or_default().to_owned();
    let resource = match about["subresource"].as_str() {
        Some(subresource) => format!("{}/{subresource}", text("resource")),
        None => text("resource"),
    };
    Some(Request {
        verb: entry["verb"].as_str()?.to_owned(),
        resource,
        namespace: text("namespace"),
        name: text("name"),
        code: entry["responseStatus"]["code"].as_u64()?,
    })
}
