//! What a pod tells the operator at `/state`: which Revisions it runs or refused, in its own words.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use millrace_crds::resolved::Role;
use millrace_crds::state::{PodState, ScopeState};
use serde_json::Value;

use super::offer::FORMAT_MAX;
use crate::admin::{TellsState, readiness};
use crate::ledger::standing::Standing;
use crate::log::spill::SpillLog;

/// What this pod has to tell.
pub struct Told {
    pod: String,
    role: Role,
    scopes: Mutex<BTreeMap<String, ScopeState>>,
    spill: OnceLock<Arc<SpillLog>>,
    standing: Arc<Standing>,
}

impl Told {
    /// A pod that runs nothing yet.
    pub fn new(pod: &str, role: Role) -> Self {
        Self {
            pod: pod.to_owned(),
            role,
            scopes: Mutex::default(),
            spill: OnceLock::new(),
            standing: Arc::default(),
        }
    }

    /// Tells of this spill too; a process has one for its whole life.
    pub fn of_spill(&self, spill: Arc<SpillLog>) {
        self.spill.get_or_init(|| spill);
    }

    /// What it tells of ledgers; the one who compares them writes it.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// Tells this from now on; returns what was told before.
    pub fn replace(&self, scopes: BTreeMap<String, ScopeState>) -> BTreeMap<String, ScopeState> {
        std::mem::replace(&mut *self.scopes.lock().expect("no holder of this lock panics"), scopes)
    }
}

impl TellsState for Told {
    fn state(&self, readiness: readiness::Report) -> Value {
        let state = PodState {
            pod: self.pod.clone(),
            role: self.role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            format_max: FORMAT_MAX,
            ready: readiness.ready,
            scopes: self.scopes.lock().expect("no holder of this lock panics").clone(),
            spill: self.spill.get().map(|spill| spill.state()),
            ledger: self
                .standing
                .all()
                .into_iter()
                .map(|(app, state)| (app.name().to_owned(), state))
                .collect(),
        };
        serde_json::to_value(state).expect("the state has text keys and no failing field")
    }
}

#[cfg(test)]
mod tests {
    use millrace_crds::state::{RefusedRevision, RunningRevision};
    use serde_json::json;

    use super::*;
    use crate::admin::readiness::{Need, Readiness};

    #[test]
    fn the_answer_is_what_operators_of_every_release_read() {
        let told = Told::new("mr-shared-ingest-7d9f-x2", Role::Ingest);
        let hash = "ab".repeat(32);
        let running = Some(RunningRevision { sequence: 7, hash: hash.clone() });
        let reason = "its format `\"v9\"` is not known to this release; upgrade the data plane".to_owned();
        let refused = Some(RefusedRevision { sequence: 8, reason: reason.clone() });
        told.replace(BTreeMap::from([
            ("access".to_owned(), ScopeState { running: running.clone(), refused: None }),
            ("shop".to_owned(), ScopeState { running, refused }),
        ]));
        let readiness = Arc::new(Readiness::default());
        readiness.part("configuration", Need::Required).up();
        let answer = told.state(readiness.report());
        let running = json!({"sequence": 7, "hash": hash});
        let expected = json!({
            "pod": "mr-shared-ingest-7d9f-x2",
            "role": "ingest",
            "version": env!("CARGO_PKG_VERSION"),
            "formatMax": "v1",
            "ready": true,
            "scopes": {
                "access": {"running": running},
                "shop": {"running": running, "refused": {"sequence": 8, "reason": reason}},
            },
        });
        assert_eq!(answer, expected);
        assert!(serde_json::from_value::<PodState>(answer).is_ok());
    }
}
