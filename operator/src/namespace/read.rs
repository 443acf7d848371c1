//! Stored objects in, typed values or all their problems out. Pure. One that does not parse is a value too, so that it can
//! be reported where it is and never stops its neighbours.

use std::sync::Arc;

use kube::core::DynamicObject;
use millrace_crds::labels;
use millrace_crds::problem::{ObjectRef, Path, Problem, Report};
use millrace_crds::revision::{HOLD_ANNOTATION, RevisionSpec};
use millrace_crds::{crd, structure};
use serde::de::DeserializeOwned;

/// A custom resource as found.
pub(super) struct Found<T> {
    pub(super) name: String,
    pub(super) uid: String,
    /// As stored.
    pub(super) object: Arc<DynamicObject>,
    /// As understood, or what keeps it from that.
    pub(super) typed: Result<T, Vec<Problem>>,
}

impl<T> Found<T> {
    pub(super) fn is_paused(&self) -> bool {
        let annotations = self.object.metadata.annotations.as_ref();
        annotations.is_some_and(|annotations| annotations.contains_key(labels::PAUSED_ANNOTATION))
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }
}

/// Reads all objects of a kind, in the order of their names.
pub(super) fn all<T: DeserializeOwned>(kind: crd::Kind, objects: &[Arc<DynamicObject>]) -> Vec<Found<T>> {
    let mut found: Vec<_> = objects.iter().map(|object| one(kind, object)).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn one<T: DeserializeOwned>(kind: crd::Kind, object: &Arc<DynamicObject>) -> Found<T> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let value = serde_json::to_value(&**object).expect("what was read from JSON can be written as JSON");
    let spec = value["spec"].clone();
    let typed = serde_json::from_value(value).map_err(|error| {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let mut report = Report::new(ObjectRef::new(kind.as_str(), namespace, &name));
        let root = Path::root("spec");
        for fault in structure::faults(&kind.schema()["properties"]["spec"], &spec, &root) {
            report.add(&fault.path, fault.message, fault.fix);
        }
        let mut problems = report.into_problems();
        if problems.is_empty() {
            let mut report = Report::new(ObjectRef::new(kind.as_str(), namespace, &name));
            let fix = "if a newer release wrote it, update the operator";
            report.add(&root, format!("cannot be understood: {error}"), fix);
            problems = report.into_problems();
        }
        problems
    });
    Found { name, uid, object: Arc::clone(object), typed }
}

/// A label of an object.
pub(super) fn label<'a>(object: &'a DynamicObject, name: &str) -> Option<&'a str> {
    object.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// A Revision as found.
pub(super) struct Published {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) scope: String,
    /// The data plane that runs it, or is to let go of it; none for `access`.
    pub(super) plane: Option<String>,
    pub(super) sequence: i64,
    pub(super) is_held: bool,
    /// `None` when it was written by a release that this one does not understand.
    pub(super) spec: Option<RevisionSpec>,
}

impl Published {
    /// `None` for an object without scope or sequence, which is none of ours.
    pub(super) fn read(object: &DynamicObject) -> Option<Self> {
        let annotations = object.metadata.annotations.as_ref();
        let spec = object.data.get("spec")?;
        Some(Self {
            name: object.metadata.name.clone()?,
            uid: object.metadata.uid.clone()?,
            scope: label(object, labels::SCOPE)?.to_owned(),
            plane: label(object, labels::DATA_PLANE)
                .or_else(|| annotations?.get(labels::MOVING_FROM_ANNOTATION).map(String::as_str))
                .map(ToOwned::to_owned),
            sequence: spec.get("sequence")?.as_i64()?,
            is_held: annotations.is_some_and(|annotations| annotations.contains_key(HOLD_ANNOTATION)),
            spec: serde_json::from_value(spec.clone()).ok(),
        })
    }
}
