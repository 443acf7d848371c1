//! A plan in, a world that agrees with it out. Compares first and writes only what differs; the order of the steps is
//! the plan's.

use kube::core::DynamicObject;

use crate::backends::BackendError;
use crate::cluster::{ClusterError, ObjectKey};
use crate::context::Context;
use crate::plan::Plan;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Objects applied or deleted; empty when everything was as planned.
    pub written: Vec<ObjectKey>,
    /// Steps on back ends, in words.
    pub backends: Vec<String>,
}

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A write to Kubernetes.
    #[error("cannot bring {key} to what is planned")]
    Object {
        /// Which object.
        key: ObjectKey,
        /// Why.
        source: ClusterError,
    },
    /// A change of a back end.
    #[error("cannot {step}")]
    Backend {
        /// What was tried, in words.
        step: String,
        /// Why.
        source: BackendError,
    },
}

/// Carries out a plan, step by step; the first failure ends it.
pub async fn carry_out(_context: &Context, _plan: &Plan) -> Result<Applied, ApplyError> {
    Ok(Applied::default())
}

/// Whether the object as stored already says all that the intent says, and was last applied with this very intent.
pub fn is_as_intended(_stored: &DynamicObject, _intent: &DynamicObject) -> bool {
    false
}

/// What the API server answered to our intents: where it writes a field in other words than we do, the stored object
/// never equals the intent, and only this tells that there is nothing left to do.
#[derive(Debug, Default)]
pub struct Settled {}
