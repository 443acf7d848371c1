//! When which configuration came into force, and which one was refused since and why. Kept in memory only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use millrace_crds::compile::revision_hash;
use millrace_crds::names::AppId;
use millrace_crds::state::LedgerState;
use serde::Serialize;
use serde_json::Value;

use super::{TellsState, readiness};
use crate::config::{Config, Current};
use crate::ledger::standing::Standing;

/// Most problems of a refused configuration that are kept; the log has them all.
const PROBLEMS_MAX: usize = 100;

/// The history that matters: since when each part is in force, and the last refusal if nothing was applied since.
#[derive(Default)]
pub struct Changes {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Scope → hash and since when.
    applied: BTreeMap<String, (String, Timestamp)>,
    refused: Option<Refusal>,
}

/// One compiled configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Revision {
    /// `<namespace>/<app>`, or `<namespace>/access` for the access rules of a namespace.
    pub scope: String,
    /// SHA-256 of its canonical JSON, in hex.
    pub hash: String,
    /// Since when it is in force; absent if that was not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<Timestamp>,
}

/// A configuration that was refused; the one before it stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// When.
    pub refused_at: Timestamp,
    /// What is wrong with it: the first hundred.
    pub problems: Vec<RefusedProblem>,
    /// How many there are.
    pub problems_total: usize,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedProblem {
    /// File, document and line, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The object: `<kind> <namespace>/<name>`.
    pub object: String,
    /// The field, like `spec.ingest.writeKeys[0].name`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

/// What a process tells that keeps its own history.
pub struct History {
    /// The configuration in force.
    pub config: Current,
    /// When it changed, and what was refused.
    pub changes: Arc<Changes>,
    /// What the ledgers say.
    pub standing: Arc<Standing>,
    /// When the process started.
    pub started_at: Timestamp,
}

/// The answer at `/state`.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    started_at: Timestamp,
    revisions: Vec<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Refusal>,
    /// By App: what its ledger says.
    ledger: BTreeMap<AppId, LedgerState>,
    readiness: readiness::Report,
}

impl TellsState for History {
    fn state(&self, readiness: readiness::Report) -> Value {
        let (revisions, refused) = self.changes.report(&self.config.load());
        let version = env!("CARGO_PKG_VERSION");
        let (started_at, ledger) = (self.started_at, self.standing.all());
        let report = Report { version, started_at, revisions, refused, ledger, readiness };
        serde_json::to_value(report).expect("the report has text keys and no failing field")
    }
}

impl Changes {
    /// Notes that `config` is in force from `at` on. What did not change keeps its time.
    pub fn applied(&self, config: &Config, at: Timestamp) {
        let mut inner = self.lock();
        let before = std::mem::take(&mut inner.applied);
        for (scope, hash) in hashes(config) {
            let since = before.get(&scope).filter(|(old, _)| *old == hash).map_or(at, |(_, since)| *since);
            inner.applied.insert(scope, (hash, since));
        }
        inner.refused = None;
    }

    /// Notes that a configuration was refused at `at`.
    pub fn refused(&self, mut problems: Vec<RefusedProblem>, at: Timestamp) {
        let problems_total = problems.len();
        problems.truncate(PROBLEMS_MAX);
        self.lock().refused = Some(Refusal { refused_at: at, problems, problems_total });
    }

    /// What is in force, by scope, and what was refused since. Hashes are taken from `config` itself.
    pub fn report(&self, config: &Config) -> (Vec<Revision>, Option<Refusal>) {
        let inner = self.lock();
        let revisions = hashes(config).map(|(scope, hash)| {
            let known = inner.applied.get(&scope).filter(|(known, _)| *known == hash);
            let applied_at = known.map(|(_, at)| *at);
            Revision { scope, hash, applied_at }
        });
        (revisions.collect(), inner.refused.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

fn hashes(config: &Config) -> impl Iterator<Item = (String, String)> {
    let apps = config.apps().iter().map(|(id, app)| (id.to_string(), revision_hash(&app.config)));
    let access = config.access_rules().iter();
    apps.chain(
        access.map(|(namespace, rules)| (format!("{namespace}/access"), revision_hash(rules.as_ref()))),
    )
}
