//! What is known of the Apps' ledgers in this process, for `/state`. Written by [`super::reconcile`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use millrace_crds::names::AppId;
use millrace_crds::state::LedgerState;

/// By App; those this process does not compare are absent.
#[derive(Debug, Default)]
pub struct Standing(Mutex<BTreeMap<AppId, LedgerState>>);

impl Standing {
    /// Tells this of an App from now on; `None` where another process compares it.
    pub fn set(&self, app: &AppId, state: Option<LedgerState>) {
        let mut apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            Some(state) => drop(apps.insert(app.clone(), state)),
            None => drop(apps.remove(app)),
        }
    }

    /// What is told now.
    pub fn all(&self) -> BTreeMap<AppId, LedgerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
