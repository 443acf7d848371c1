//! What an installation sets, as written in the operator's settings file (the chart makes it from its values), and as
//! used. Credentials are not in it: they lie in files beside it, one folder per back end and account.

use std::collections::BTreeMap;

use millrace_crds::app::{GatewaySpec, IngestWorkload, WorkerSpec};
use serde::Deserialize;

/// The settings file. Unknown fields are refused: a misspelt setting would silently be its default.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Installation {
    /// First part of topic and database names.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// Namespaces served; empty means all of them.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Id of this cluster in claims on topics and databases; by default the UID of the `kube-system` namespace.
    pub cluster_id: Option<String>,
    /// The data plane's image.
    pub image: Image,
    /// The Kafka of every App that has none of its own.
    pub kafka: Kafka,
    /// The ClickHouse of every App that has none of its own.
    pub clickhouse: ClickHouse,
    /// Accounts and grants; not used yet. Account: folder `postgres/gateway`.
    pub postgres: Option<Profile>,
    /// Limits over all gateway pods; not used yet. Account: folder `redis/gateway`.
    pub redis: Option<Profile>,
    /// Dashboards; not used yet. Account: folder `grafana/operator`.
    pub grafana: Option<Profile>,
    /// Topics where an App names no size.
    #[serde(default)]
    pub topics: TopicDefaults,
    /// Sizes of shared data planes, and of Dedicated ones where the App names none.
    #[serde(default)]
    pub dataplane: Sizes,
    /// Ways in from outside.
    #[serde(default)]
    pub expose: Expose,
    /// Highest number of reconciles at once.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
}

fn prefix() -> String {
    millrace_crds::names::PREFIX_DEFAULT.to_owned()
}

fn concurrency() -> usize {
    8
}

/// An image.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Reference with tag or digest.
    pub reference: String,
    /// `IfNotPresent`, `Always` or `Never`.
    #[serde(default = "pull_policy")]
    pub pull_policy: String,
    /// Names of pull Secrets, which must exist in every namespace served.
    #[serde(default)]
    pub pull_secrets: Vec<String>,
}

fn pull_policy() -> String {
    "IfNotPresent".to_owned()
}

/// A Kafka cluster. Accounts: folders `kafka/{operator,ingest,worker}` with files `username` and `password`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, with commas.
    pub brokers: String,
    /// Whether connections are encrypted; certificates are always verified.
    #[serde(default)]
    pub tls: bool,
    /// SASL mechanism; none when absent.
    pub sasl_mechanism: Option<String>,
    /// Copies of each partition that the operator asks for.
    #[serde(default = "replication")]
    pub replication: u32,
    /// Copies that must have a record before it is acknowledged.
    #[serde(default = "in_sync_min")]
    pub min_in_sync_replicas: u32,
}

fn replication() -> u32 {
    3
}

fn in_sync_min() -> u32 {
    2
}

/// A ClickHouse. Accounts: folders `clickhouse/{operator,worker,gateway}` with files `username` and `password`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClickHouse {
    /// URL of its HTTP interface.
    pub url: String,
}

/// A back end that is only an address; its accounts lie beside the settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// Its URL, without credentials.
    pub url: String,
}

/// Topics where an App names no size: lower ones suit a small installation.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TopicDefaults {
    /// Partitions of the raw topic; 12 when absent.
    pub raw_partitions: Option<u32>,
    /// Partitions of the processed topic; 6 when absent.
    pub processed_partitions: Option<u32>,
}

/// Sizes of a data plane, as an App's `spec.dataplane` has them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sizes {
    /// Ingest pods.
    #[serde(default)]
    pub ingest: IngestWorkload,
    /// Worker pods.
    #[serde(default)]
    pub worker: WorkerSpec,
    /// Volume of each worker pod for its dedupe store.
    #[serde(default)]
    pub worker_volume: WorkerVolume,
    /// Gateway pods.
    #[serde(default)]
    pub gateway: GatewaySpec,
}

/// Volume of a worker pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerVolume {
    /// Its size.
    #[serde(default = "volume_size")]
    pub size: String,
    /// Its storage class; the cluster's default when absent.
    pub storage_class_name: Option<String>,
}

impl Default for WorkerVolume {
    fn default() -> Self {
        Self { size: volume_size(), storage_class_name: None }
    }
}

fn volume_size() -> String {
    "10Gi".to_owned()
}

/// Ways in from outside, the same for every data plane; `{namespace}` and `{dataPlane}` in a host are filled in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expose {
    /// An Ingress per data plane.
    pub ingress: Option<IngressSettings>,
    /// An HTTPRoute per data plane.
    pub http_route: Option<HttpRouteSettings>,
}

/// An Ingress.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressSettings {
    /// Its class; the cluster's default when absent.
    pub class_name: Option<String>,
    /// Host of ingest.
    pub ingest_host: String,
    /// Host of the gateway.
    pub gateway_host: String,
    /// Secret with the certificate; none means that something in front ends TLS.
    pub tls_secret_name: Option<String>,
    /// Annotations for its controller.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// An HTTPRoute of the Gateway API.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteSettings {
    /// Gateway it attaches to.
    pub gateway_name: String,
    /// Namespace of that Gateway.
    pub gateway_namespace: String,
    /// Host of ingest.
    pub ingest_host: String,
    /// Host of the gateway.
    pub gateway_host: String,
}

impl Installation {
    /// What fills the gaps of an App at compile.
    pub fn for_compile(&self) -> millrace_crds::compile::Installation {
        let mut installation = millrace_crds::compile::Installation::cluster();
        installation.prefix.clone_from(&self.prefix);
        if let Some(partitions) = self.topics.raw_partitions {
            installation.topics.raw.partitions = partitions;
        }
        if let Some(partitions) = self.topics.processed_partitions {
            installation.topics.processed.partitions = partitions;
        }
        installation
    }
}
