//! `spec.dataplane` and `spec.connections` of an App: where its events are processed, and against which back ends.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;
use crate::pattern;
use crate::quantity::ByteSize;

/// Where the App's events are processed, and with how much.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.ingest) || self.placement == 'Dedicated'")
        .message("`ingest` needs `placement: Dedicated`: shared sizes are set by the installation")
        .field_path(".ingest"),
    validation = Rule::new("!has(self.worker) || self.placement == 'Dedicated'")
        .message("`worker` needs `placement: Dedicated`: shared sizes are set by the installation")
        .field_path(".worker"),
    validation = Rule::new("!has(self.gateway) || self.placement == 'Dedicated'")
        .message("`gateway` needs `placement: Dedicated`: shared sizes are set by the installation")
        .field_path(".gateway")
)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneSpec {
    /// Shared: the one data plane of the namespace. Dedicated: one for this App alone.
    #[serde(default)]
    pub placement: Placement,
    /// Size of the ingest pods. Only with Dedicated; absent means the installation's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest: Option<IngestWorkload>,
    /// Size of the worker pods. Only with Dedicated; absent means the installation's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerSpec>,
    /// Size of the gateway pods. Only with Dedicated; absent means the installation's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewaySpec>,
}

/// Which data plane serves an App.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Placement {
    /// The one data plane of the namespace.
    #[default]
    Shared,
    /// A data plane for this App alone.
    Dedicated,
}

/// Size of the ingest pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))")
        .message("give either `replicas` or `autoscaling`").field_path(".replicas"),
    validation = Rule::new("!(has(self.spill) && has(self.autoscaling))")
        .message("`autoscaling` cannot go with `spill`: a pod may only go when its spill is empty")
        .field_path(".autoscaling")
)]
#[serde(rename_all = "camelCase")]
pub struct IngestWorkload {
    /// Number of pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub replicas: Option<u32>,
    /// Processor time and memory of each pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Number of pods by load, in place of `replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// A volume per pod that takes events while the broker is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spill: Option<Spill>,
}

/// Size of the worker pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerSpec {
    /// Number of pods; more than the raw topic has partitions stay idle.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub replicas: Option<u32>,
    /// Processor time and memory of each pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// Size of the gateway pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))")
    .message("give either `replicas` or `autoscaling`").field_path(".replicas"))]
pub struct GatewaySpec {
    /// Number of pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub replicas: Option<u32>,
    /// Processor time and memory of each pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Number of pods by load, in place of `replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
}

/// Number of pods by load.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("`minReplicas` cannot exceed `maxReplicas`").field_path(".minReplicas"))]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// Fewest pods.
    #[schemars(range(min = 1, max = 256))]
    pub min_replicas: u32,
    /// Most pods.
    #[schemars(range(min = 1, max = 256))]
    pub max_replicas: u32,
    /// Processor use, in percent of what is requested, that the number of pods aims at.
    #[serde(default = "target_percent")]
    #[schemars(range(min = 10, max = 95))]
    pub target_cpu_percent: u8,
}

fn target_percent() -> u8 {
    70
}

/// A volume that takes events while the broker is away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spill {
    /// Size of the volume of each pod.
    pub size: ByteSize,
    /// Storage class of the volume; absent means the cluster's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = pattern::SUBDOMAIN))]
    pub storage_class_name: Option<String>,
}

/// Processor time and memory of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// What is set aside for the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceAmounts>,
    /// What the pod may not exceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceAmounts>,
}

/// An amount of processor time and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceAmounts {
    /// Processor time, as text: `500m` or `"2"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = pattern::CPU))]
    pub cpu: Option<String>,
    /// Memory: `512Mi`, `2Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
}

/// Back ends of an App's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Connections {
    /// The Kafka cluster that holds the App's topics; absent means the installation's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<ConnectionSpec>,
    /// The ClickHouse that holds the App's database; absent means the installation's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clickhouse: Option<ConnectionSpec>,
}

/// One back end, with the credentials that go to it: the installation's own never leave its own hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionSpec {
    /// Where it is: `host:port` with commas between several for Kafka, a URL for ClickHouse.
    #[schemars(length(min = 1, max = 1_024), regex(pattern = pattern::ENDPOINT))]
    pub endpoint: String,
    /// Secret with `username` and `password` for it, labelled `millrace.dev/app-use: "true"`.
    pub credentials_ref: SecretRef,
}
