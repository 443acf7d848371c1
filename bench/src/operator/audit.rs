//! The API server's audit log in, what the operator asked of it out, by kind and verb. The client is told by its user
//! agent, so that the load beside it does not count.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// How the operator calls itself.
const AGENT: &str = "millrace-operator/";
/// Verbs that change something.
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// A place in the log.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    bytes: u64,
}

/// What was asked, apart from Leases.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Requests by verb and resource, with its subresource; `make` is a patch that created its object.
    pub(crate) by_kind: BTreeMap<(String, String), usize>,
    /// Writes that left their object as it was, by resource.
    pub(crate) in_vain: BTreeMap<String, usize>,
    /// Requests that were refused, by status.
    pub(crate) refused: BTreeMap<u64, usize>,
}

impl Asked {
    /// All writes, Events included.
    pub(crate) fn writes(&self) -> usize {
        self.count(|verb, _| verb == "make" || WRITES.contains(&verb))
    }

    /// Objects made, Events apart.
    pub(crate) fn objects(&self) -> usize {
        self.count(|verb, _| verb == "make")
    }

    /// Single objects read, and lists.
    pub(crate) fn reads(&self) -> usize {
        self.count(|verb, _| verb == "get" || verb == "list")
    }

    fn count(&self, is_counted: impl Fn(&str, &str) -> bool) -> usize {
        self.by_kind.iter().filter(|((verb, kind), _)| is_counted(verb, kind)).map(|(_, count)| count).sum()
    }
}

impl Mark {
    /// The end of the log as it is now.
    pub(crate) fn now(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).with_context(|| format!("the audit log `{}`", path.display()))?;
        Ok(Self { path: path.to_owned(), bytes: found.len() })
    }

    /// What the operator asked since.
    pub(crate) fn asked(&self) -> Result<Asked> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.bytes))?;
        let mut asked = Asked::default();
        let mut versions = HashMap::new();
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        // The last line may be half-written.
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            if line.contains(AGENT) {
                let entry = serde_json::from_str(&line).context("a line of the audit log")?;
                asked.take(&entry, &mut versions);
            }
            line.clear();
        }
        Ok(asked)
    }
}

impl Asked {
    /// Counts one entry. `versions` holds the version that each object had after its last write.
    fn take(&mut self, entry: &Value, versions: &mut HashMap<String, String>) {
        let about = &entry["objectRef"];
        let text = |field: &str| about[field].as_str().unwrap_or_default();
        let is_ours = entry["userAgent"].as_str().is_some_and(|agent| agent.starts_with(AGENT));
        let verb = entry["verb"].as_str().unwrap_or_default();
        if !is_ours || entry["stage"] != "ResponseComplete" || text("resource") == "leases" || verb == "watch"
        {
            return;
        }
        let code = entry["responseStatus"]["code"].as_u64().unwrap_or_default();
        let resource = match text("subresource") {
            "" => text("resource").to_owned(),
            subresource => format!("{}/{subresource}", text("resource")),
        };
        // A read of what is not there is an answer.
        if code >= 300 && !(code == 404 && verb == "get") {
            *self.refused.entry(code).or_default() += 1;
        }
        let is_made = verb == "patch" && code == 201;
        if WRITES.contains(&verb) && code < 300 {
            let key = format!("{} {}/{}", text("resource"), text("namespace"), text("name"));
            if let Some(version) = entry["responseObject"]["metadata"]["resourceVersion"].as_str()
                && versions.insert(key, version.to_owned()).is_some_and(|before| before == version)
            {
                *self.in_vain.entry(resource.clone()).or_default() += 1;
            }
        }
        let verb = if is_made { "make" } else { verb };
        *self.by_kind.entry((verb.to_owned(), resource)).or_default() += 1;
    }
}
