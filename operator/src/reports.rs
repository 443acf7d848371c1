//! What pods last said of themselves, by namespace and pod. Written by the poller, read by the reconciles.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use jiff::Timestamp;
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

/// The last report of every pod.
#[derive(Debug, Default)]
pub struct Reports {
    inner: Mutex<BTreeMap<(String, String), Report>>,
}

impl Reports {
    /// What a pod last said.
    pub fn of(&self, namespace: &str, pod: &str) -> Option<Report> {
        self.lock().get(&(namespace.to_owned(), pod.to_owned())).cloned()
    }

    /// Keeps a report; whether it says something else than the one before.
    pub fn keep(&self, namespace: &str, pod: &str, report: Report) -> bool {
        let key = (namespace.to_owned(), pod.to_owned());
        let mut inner = self.lock();
        let news = inner.get(&key).is_none_or(|known| known.said != report.said || known.uid != report.uid);
        inner.insert(key, report);
        news
    }

    /// Forgets pods that are gone; asks with namespace and name.
    pub fn retain(&self, is_there: impl Fn(&str, &str) -> bool) {
        self.lock().retain(|(namespace, pod), _| is_there(namespace, pod));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Report>> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}
