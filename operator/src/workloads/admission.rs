//! Bounds around the pods of a role: who may connect, how many may be away at once, how many there are by load.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec,
    MetricTarget, ResourceMetricSource,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use millrace_crds::pod::PORT_ADMIN;

use super::sizes::Count;
use super::{Intended, Part, intended};
use crate::kind::Kind;

/// Nobody connects but to the public port, and the operator's namespace to the admin port. What pods connect to is left
/// open: back ends are named by host, which a NetworkPolicy cannot express, and issuers' keys come from anywhere.
pub(super) fn network_policy(part: &Part<'_>) -> Intended {
    let port = |number: u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(number))),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    let name = BTreeMap::from([(
        "kubernetes.io/metadata.name".to_owned(),
        part.plane.operator_namespace.to_owned(),
    )]);
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector { match_labels: Some(name), match_expressions: None }),
        ..NetworkPolicyPeer::default()
    };
    let public = part
        .public_port()
        .map(|number| NetworkPolicyIngressRule { from: None, ports: Some(vec![port(number)]) });
    let admin = NetworkPolicyIngressRule { from: Some(vec![operator]), ports: Some(vec![port(PORT_ADMIN)]) };
    let spec = NetworkPolicySpec {
        pod_selector: Some(part.selector()),
        policy_types: Some(vec!["Ingress".to_owned()]),
        ingress: Some(public.into_iter().chain([admin]).collect()),
        egress: None,
    };
    intended(Kind::NetworkPolicy, &NetworkPolicy { metadata: part.metadata(), spec: Some(spec) })
}

/// One pod at a time; one that does not work anyway never stands in the way of a node's drain.
pub(super) fn disruption_budget(part: &Part<'_>) -> Intended {
    let spec = PodDisruptionBudgetSpec {
        max_unavailable: Some(IntOrString::Int(1)),
        selector: Some(part.selector()),
        unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
        min_available: None,
    };
    let budget =
        PodDisruptionBudget { metadata: part.metadata(), spec: Some(spec), ..PodDisruptionBudget::default() };
    intended(Kind::PodDisruptionBudget, &budget)
}

/// Only where pods are counted by load.
pub(super) fn autoscaler(part: &Part<'_>) -> Option<Intended> {
    let Count::ByLoad { bounds, .. } = part.size().count else { return None };
    let count = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let target = MetricTarget {
        type_: "Utilization".to_owned(),
        average_utilization: Some(i32::from(bounds.target_cpu_percent)),
        ..MetricTarget::default()
    };
    let metric = MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource { name: "cpu".to_owned(), target }),
        ..MetricSpec::default()
    };
    let spec = HorizontalPodAutoscalerSpec {
        scale_target_ref: CrossVersionObjectReference {
            api_version: Some("apps/v1".to_owned()),
            kind: Kind::Deployment.as_str().to_owned(),
            name: part.name(),
        },
        min_replicas: Some(count(bounds.min_replicas)),
        max_replicas: count(bounds.max_replicas),
        metrics: Some(vec![metric]),
        behavior: None,
    };
    let autoscaler = HorizontalPodAutoscaler {
        metadata: part.metadata(),
        spec: Some(spec),
        ..HorizontalPodAutoscaler::default()
    };
    Some(intended(Kind::HorizontalPodAutoscaler, &autoscaler))
}
