//! The parts of a process say whether they are up; probes read the sum. Not ready until every required part said so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::Serialize;

/// Whether the process can do its work without a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It cannot: without it the process is not ready.
    Required,
    /// It can, for a while: the part is shown and does not count. The engine, for ingest.
    Shown,
}

/// All parts, by name.
#[derive(Default)]
pub struct Readiness {
    parts: Mutex<BTreeMap<&'static str, Part>>,
}

struct Part {
    need: Need,
    /// Why it is not up; `None` when it is.
    reason: Option<String>,
}

impl Readiness {
    /// Adds a part, which is not up until it says so. A second one of the same name takes the first one's place.
    pub fn part(self: &Arc<Self>, name: &'static str, need: Need) -> Signal {
        self.lock().insert(name, Part { need, reason: Some("starting".to_owned()) });
        Signal { readiness: Arc::clone(self), name }
    }

    /// How things stand. Without any required part nothing can be ready.
    pub fn report(&self) -> Report {
        let parts = self.lock();
        let mut required = parts.values().filter(|part| part.need == Need::Required).peekable();
        let ready = required.peek().is_some() && required.all(|part| part.reason.is_none());
        let checks = parts.iter().map(|(name, part)| (*name, Check::new(part))).collect();
        Report { ready, checks }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Part>> {
        self.parts.lock().expect("no holder of this lock panics")
    }
}

/// How one part says whether it is up.
#[derive(Clone)]
pub struct Signal {
    readiness: Arc<Readiness>,
    name: &'static str,
}

impl Signal {
    /// The part is up.
    pub fn up(&self) {
        self.set(None);
    }

    /// The part is not up; `reason` is for who looks at `/readyz`, and names no secret.
    pub fn down(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        if let Some(part) = self.readiness.lock().get_mut(self.name) {
            part.reason = reason;
        }
    }
}

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether every required part is up.
    pub ready: bool,
    /// The parts, by name.
    pub checks: BTreeMap<&'static str, Check>,
}

/// How one part stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Whether it is up.
    pub ready: bool,
    /// Whether it counts.
    pub required: bool,
    /// Why it is not up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Check {
    fn new(part: &Part) -> Self {
        Self {
            ready: part.reason.is_none(),
            required: part.need == Need::Required,
            reason: part.reason.clone(),
        }
    }
}
