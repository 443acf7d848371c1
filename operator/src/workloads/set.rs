//! Deployment and StatefulSet of a role.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment, StatefulSet,
    StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::sizes::Volume;
use super::{Intended, Part, intended, pod, service};
use crate::kind::Kind;

/// How long a new pod must have been ready before the next is replaced, in seconds: longer than its address takes to reach
/// every node.
const READY_S_MIN: i32 = 5;

/// A new pod is ready before an old one goes: the role never has fewer than it should.
pub(super) fn deployment(part: &Part<'_>) -> Intended {
    let rolling = RollingUpdateDeployment {
        max_unavailable: Some(IntOrString::Int(0)),
        max_surge: Some(IntOrString::Int(1)),
    };
    let spec = DeploymentSpec {
        replicas: part.replicas(),
        selector: part.selector(),
        template: pod::template(part),
        min_ready_seconds: Some(READY_S_MIN),
        strategy: Some(DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(rolling),
        }),
        ..DeploymentSpec::default()
    };
    let deployment = Deployment { metadata: part.metadata(), spec: Some(spec), ..Deployment::default() };
    intended(Kind::Deployment, &deployment)
}

/// Volumes outlive their pods and the set itself: what is in them is not ours to throw away.
pub(super) fn stateful_set(part: &Part<'_>, volume: &Volume) -> Intended {
    let retain = || Some("Retain".to_owned());
    let spec = StatefulSetSpec {
        replicas: part.replicas(),
        selector: part.selector(),
        template: pod::template(part),
        service_name: Some(service::headless_name(part)),
        // The pods do not wait for each other: each has partitions of its own.
        pod_management_policy: Some("Parallel".to_owned()),
        min_ready_seconds: Some(READY_S_MIN),
        update_strategy: Some(StatefulSetUpdateStrategy {
            type_: Some("RollingUpdate".to_owned()),
            ..StatefulSetUpdateStrategy::default()
        }),
        persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
            when_deleted: retain(),
            when_scaled: retain(),
        }),
        volume_claim_templates: Some(vec![claim(volume)]),
        ..StatefulSetSpec::default()
    };
    let set = StatefulSet { metadata: part.metadata(), spec: Some(spec), ..StatefulSet::default() };
    intended(Kind::StatefulSet, &set)
}

fn claim(volume: &Volume) -> PersistentVolumeClaim {
    let requests = BTreeMap::from([("storage".to_owned(), volume.size.clone())]);
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        storage_class_name: volume.class.clone(),
        resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
        ..PersistentVolumeClaimSpec::default()
    };
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(pod::VOLUME.to_owned()), ..ObjectMeta::default() },
        spec: Some(spec),
        status: None,
    }
}
