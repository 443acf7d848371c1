//! What pods last said of themselves, by namespace and pod. Written by the poller, read by the reconciles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, OnceLock};

use jiff::{SignedDuration, Timestamp};
use millrace_crds::state::PodState;

/// What one pod said, or why it said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// UID of the pod that was asked: a new pod of the same name has said nothing yet.
    pub uid: String,
    /// When.
    pub at: Timestamp,
    /// Its state, or the words of the failure.
    pub said: Result<PodState, String>,
}

/// What of a report was not in the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// Nothing.
    Nothing,
    /// Where the pod stands with these scopes, and nothing else.
    Scopes(BTreeSet<String>),
    /// Anything: a pod that is new, fell silent, speaks again, or is another than before.
    Anything,
}

/// The last report of every pod.
#[derive(Debug, Default)]
pub struct Reports {
    inner: Mutex<BTreeMap<(String, String), Report>>,
    began: OnceLock<Timestamp>,
}

/// Every pod was asked this long after the asking began.
const ALL_ASKED: SignedDuration = SignedDuration::from_secs(60);

impl Reports {
    /// Notes when the asking begins; the first time counts.
    pub fn begin(&self, now: Timestamp) {
        self.began.get_or_init(|| now);
    }

    /// Whether pods may be silent because nobody asked them yet.
    pub fn is_young(&self, now: Timestamp) -> bool {
        self.began.get().is_some_and(|began| now.duration_since(*began) < ALL_ASKED)
    }

    /// What a pod last said.
    pub fn of(&self, namespace: &str, pod: &str) -> Option<Report> {
        self.lock().get(&(namespace.to_owned(), pod.to_owned())).cloned()
    }

    /// Keeps a report, and tells what in it is new.
    pub fn keep(&self, namespace: &str, pod: &str, report: Report) -> Fresh {
        let key = (namespace.to_owned(), pod.to_owned());
        let mut inner = self.lock();
        let fresh = inner.get(&key).map_or(Fresh::Anything, |known| fresh(known, &report));
        inner.insert(key, report);
        fresh
    }

    /// Forgets pods that are gone; asks with namespace and name.
    pub fn retain(&self, is_there: impl Fn(&str, &str) -> bool) {
        self.lock().retain(|(namespace, pod), _| is_there(namespace, pod));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Report>> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

fn fresh(known: &Report, now: &Report) -> Fresh {
    if known.uid == now.uid && known.said == now.said {
        return Fresh::Nothing;
    }
    match (&known.said, &now.said) {
        (Ok(before), Ok(after)) if known.uid == now.uid => {
            let scopes = before.scopes.keys().chain(after.scopes.keys());
            let turned = scopes.filter(|scope| before.scopes.get(*scope) != after.scopes.get(*scope));
            let turned: BTreeSet<String> = turned.cloned().collect();
            if apart_from_scopes(before) == apart_from_scopes(after) {
                Fresh::Scopes(turned)
            } else {
                Fresh::Anything
            }
        }
        _ => Fresh::Anything,
    }
}

fn apart_from_scopes(state: &PodState) -> impl PartialEq {
    let PodState { pod, role, version, format_max, ready, scopes: _, spill, ledger } = state;
    // How much is spilled moves all the time; that there is something is news.
    let holds_spill = spill.is_some_and(|spill| spill.bytes > 0);
    (pod, role, version, format_max, ready, holds_spill, ledger)
}

#[cfg(test)]
mod tests {
    use millrace_crds::state::{RunningRevision, ScopeState};
    use serde_json::json;

    use super::*;

    fn report(uid: &str, version: &str, scopes: &[(&str, i64)]) -> Report {
        let base =
            json!({"pod": "a", "role": "ingest", "version": version, "formatMax": "v1", "ready": true});
        let scopes = scopes.iter().map(|(scope, sequence)| {
            let running = RunningRevision { sequence: *sequence, hash: String::new() };
            ((*scope).to_owned(), ScopeState { running: Some(running), refused: None })
        });
        let said = PodState { scopes: scopes.collect(), ..serde_json::from_value(base).unwrap() };
        Report { uid: uid.to_owned(), at: Timestamp::UNIX_EPOCH, said: Ok(said) }
    }

    #[test]
    fn only_what_is_new_is_told() {
        let before = || report("u", "1", &[("shop", 1), ("blog", 4)]);
        let silent = Report { said: Err("away".to_owned()), ..before() };
        let scopes = |names: &[&str]| Fresh::Scopes(names.iter().map(|name| (*name).to_owned()).collect());
        for (after, expected) in [
            (before(), Fresh::Nothing),
            (Report { at: Timestamp::MAX, ..before() }, Fresh::Nothing),
            (report("u", "1", &[("shop", 2), ("blog", 4)]), scopes(&["shop"])),
            (report("u", "1", &[("blog", 4), ("new", 1)]), scopes(&["new", "shop"])),
            (report("u", "2", &[("shop", 2), ("blog", 4)]), Fresh::Anything),
            (report("other", "1", &[("shop", 1), ("blog", 4)]), Fresh::Anything),
            (silent, Fresh::Anything),
        ] {
            let reports = Reports::default();
            assert_eq!(reports.keep("team", "a", before()), Fresh::Anything, "the first report");
            assert_eq!(reports.keep("team", "a", after), expected);
        }
    }
}
