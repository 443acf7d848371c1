//! What the reconciles ask of Kubernetes, and nothing more: read, apply, delete, status, finalizers. Implemented by the
//! API server behind stores of what was watched (`live`), by those with changes laid over them (`overlay`, for `plan`)
//! and by memory (tests).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use kube::core::{DynamicObject, ObjectMeta};
use serde_json::Value;

use crate::kind::Kind;

pub mod direct;
pub mod live;
pub mod memory;
pub mod overlay;
pub mod round;
mod store;

/// Field manager of everything the operator applies; the one owner of those fields.
pub const MANAGER: &str = "millrace-operator";
/// Field manager of status.
pub const MANAGER_STATUS: &str = "millrace-status";

/// One object's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for a Namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// Names an object.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl ObjectKey {
    /// The place of an object; `None` for one without a name or of a kind that is not ours to know.
    pub fn of(object: &DynamicObject) -> Option<Self> {
        let types = object.types.as_ref()?;
        let kind = Kind::ALL.into_iter().find(|kind| {
            let resource = kind.resource();
            resource.kind == types.kind && resource.api_version == types.api_version
        })?;
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        Some(Self::new(kind, namespace, object.metadata.name.as_deref()?))
    }
}

/// Something happened to an object.
#[derive(Clone, Debug)]
pub struct Change {
    /// To which.
    pub key: ObjectKey,
    /// Its state, or its last one.
    pub object: Arc<DynamicObject>,
    /// Whether it is there no more.
    pub is_gone: bool,
    /// Who did it.
    pub author: Author,
}

/// Who changed an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// This process.
    Us,
    /// Anybody else.
    Others,
}

/// Names one state of one object.
fn version_of(metadata: &ObjectMeta) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", part(&metadata.uid), part(&metadata.resource_version))
}

/// Whether an object carries all these labels.
pub(crate) fn has_labels(object: &DynamicObject, labels: &BTreeMap<&str, &str>) -> bool {
    let of = |name: &str| object.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    labels.iter().all(|(name, value)| of(name).is_some_and(|is| is == value))
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// Kubernetes, as far as the reconciles need it. Objects are as stored, unknown fields included.
///
/// Reads of watched kinds may be older than the last write of this process by the time of a watch event, but never
/// older than what this process itself wrote; [`Kind::Secret`] and [`Kind::Namespace`] are read from the server.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// One object, if it is there.
    async fn get(&self, key: &ObjectKey) -> Result<Option<Arc<DynamicObject>>, ClusterError>;

    /// What changes whenever a Secret changes; `None` when there is none. Shows no value.
    async fn secret_version(&self, key: &ObjectKey) -> Result<Option<String>, ClusterError> {
        let found = self.get(key).await?;
        Ok(found.map(|found| version_of(&found.metadata)))
    }

    /// Objects of a kind that carry all these labels, by namespace and name. No namespace means every one served.
    /// Never asked for [`Kind::Secret`].
    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<&str, &str>,
    ) -> Result<Vec<Arc<DynamicObject>>, ClusterError>;

    /// Server-side apply of a full intent under [`MANAGER`], forced, with strict field validation. Creates or changes.
    async fn apply(
        &self,
        key: &ObjectKey,
        intent: &DynamicObject,
    ) -> Result<Arc<DynamicObject>, ClusterError>;

    /// Deletes this very object: nothing happens to one of the same name with another UID. Gone already is `Ok`.
    async fn delete(&self, key: &ObjectKey, uid: &str) -> Result<(), ClusterError>;

    /// Replaces the status (server-side apply of the whole under [`MANAGER_STATUS`]).
    async fn set_status(&self, key: &ObjectKey, status: &Value) -> Result<(), ClusterError>;

    /// Sets the finalizers of an object read at this resourceVersion; a conflict is an error.
    async fn set_finalizers(
        &self,
        object: &DynamicObject,
        key: &ObjectKey,
        finalizers: Vec<String>,
    ) -> Result<(), ClusterError>;

    /// Tells people about a transition: an Event on this object. Best effort: it never fails a reconcile.
    async fn tell(&self, about: &DynamicObject, event: Told);
}

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Normal or a warning.
    pub severity: Severity,
    /// One of `millrace_crds::conditions::reason`, or the condition's type.
    pub reason: &'static str,
    /// What was done, in one word, such as `Reconcile`, `Publish`.
    pub action: &'static str,
    /// For people.
    pub note: String,
}

/// Whether a person should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Things take their course.
    Normal,
    /// A person should look.
    Warning,
}

/// Why Kubernetes did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The object changed in between; read again.
    #[error("{key} was changed by somebody else in the meantime")]
    Conflict {
        /// Which.
        key: ObjectKey,
    },
    /// The API server refused it: a rule, a schema, or missing rights.
    #[error("the API server refuses {verb} of {key}: {message}")]
    Refused {
        /// What was tried.
        verb: &'static str,
        /// Which object.
        key: ObjectKey,
        /// The server's words.
        message: String,
    },
    /// It could not be asked, or did not answer.
    #[error("cannot {verb} {key}")]
    Unreachable {
        /// What was tried.
        verb: &'static str,
        /// Which object.
        key: ObjectKey,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What came back is no object of this kind.
    #[error("{key} cannot be read")]
    Unreadable {
        /// Which.
        key: ObjectKey,
        /// Why.
        source: serde_json::Error,
    },
}

impl ClusterError {
    /// Whether the same call may succeed later without a change of the object.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Conflict { .. } | Self::Unreachable { .. } => true,
            Self::Refused { .. } | Self::Unreadable { .. } => false,
        }
    }
}
