//! Pods with what they last said in, how far a Revision has come out. Pure.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::core::DynamicObject;
use millrace_crds::labels;
use millrace_crds::state::{PodState, takes};

use super::read;
use crate::reports::Reports;

/// Age below which a pod that said nothing yet is not counted: it is starting, and what was ready stays so.
pub(super) const YOUNG: SignedDuration = SignedDuration::from_secs(60);

/// A pod of a data plane.
pub(super) struct PodSeen {
    pub(super) name: String,
    pub(super) created: Option<Timestamp>,
    /// What it said, if it said anything and is still the same pod.
    pub(super) said: Option<PodState>,
}

/// Reads pods; those that end or have ended count for nothing.
pub(super) fn read(objects: &[Arc<DynamicObject>], reports: &Reports) -> Vec<PodSeen> {
    let is_there = |object: &&Arc<DynamicObject>| {
        let phase = object.data["status"]["phase"].as_str();
        object.metadata.deletion_timestamp.is_none()
            && !matches!(phase, Some("Succeeded" | "Failed"))
            && read::label(object, labels::COMPONENT).is_some()
            && read::label(object, labels::DATA_PLANE).is_some()
    };
    objects.iter().filter(is_there).filter_map(|object| seen(object, reports)).collect()
}

fn seen(object: &DynamicObject, reports: &Reports) -> Option<PodSeen> {
    let name = object.metadata.name.clone()?;
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let report = reports.of(namespace, &name);
    let said = report.filter(|report| Some(&report.uid) == object.metadata.uid.as_ref());
    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    Some(PodSeen { name, created, said: said.and_then(|report| report.said.ok()) })
}

/// How far a Revision has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Pods that should run it and are counted.
    pub(super) total: usize,
    /// Pods that do.
    pub(super) running: usize,
    /// Pods that said nothing yet because they are new.
    pub(super) starting: usize,
    /// A pod that refused it, with its words.
    pub(super) refused: Option<(String, String)>,
}

/// How far a Revision of a scope has come in these pods.
pub(super) fn progress(
    pods: &[PodSeen],
    scope: &str,
    (sequence, percent): (i64, u8),
    now: Timestamp,
) -> Progress {
    let mut progress = Progress::default();
    let revision = labels::revision(scope, sequence);
    for pod in pods.iter().filter(|pod| takes(&pod.name, &revision, percent)) {
        let is_young = pod.created.is_none_or(|created| now.duration_since(created) < YOUNG);
        let standing = pod.said.as_ref().map(|said| said.scopes.get(scope).cloned().unwrap_or_default());
        let Some(standing) = standing else {
            progress.starting += usize::from(is_young);
            progress.total += usize::from(!is_young);
            continue;
        };
        progress.total += 1;
        if standing.running.is_some_and(|running| running.sequence >= sequence) {
            progress.running += 1;
        } else if let Some(refused) = standing.refused.filter(|refused| refused.sequence >= sequence) {
            progress.refused.get_or_insert((pod.name.clone(), refused.reason));
        }
    }
    progress
}

/// The newest sequence of a scope that every pod that said anything runs; `None` while nobody said anything.
pub(super) fn run_by_all(pods: &[PodSeen], scope: &str) -> Option<i64> {
    let said = pods.iter().filter_map(|pod| pod.said.as_ref());
    let running = |said: &PodState| said.scopes.get(scope)?.running.as_ref().map(|running| running.sequence);
    said.map(|said| running(said).unwrap_or_default()).min()
}
