//! The App: one tenant product that sends events. What a team writes, field by field, and what Millrace reports back.
//! The documentation of each field is what `kubectl explain app` shows.

mod dataplane;
mod events;
mod ingest;
mod privacy;
mod status;
mod storage;

pub use dataplane::{
    Autoscaling, ConnectionSpec, Connections, DataplaneSpec, GatewaySpec, IngestWorkload, Placement,
    ResourceAmounts, Resources, Spill, WorkerSpec,
};
pub use events::{DeclaredEventSpec, EventsSpec, PropertySpec, RevenueSpec};
pub use ingest::{IngestSpec, RateLimitSpec, WriteKeySpec};
pub use privacy::{ConsentSpec, FieldRuleSpec, PrivacySpec};
pub use status::{AppStatus, Endpoints, RevisionStatus};
pub use storage::{StorageSpec, TopicSpec, TopicsSpec};

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pattern;

/// What an App is. `{}` is complete: a write key, topics, a database and dashboards come with it.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "App",
    plural = "apps",
    namespaced,
    status = "AppStatus",
    derive = "PartialEq",
    shortname = "mrapp",
    category = "millrace",
    doc = "One tenant product that sends events: its keys, event types, privacy rules, retention, topics and tables.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether events flow by the current configuration."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is or is not ready."
    ),
    printcolumn(
        name = "Revision",
        type_ = "integer",
        json_path = ".status.revision.sequence",
        description = "The Revision in force."
    ),
    printcolumn(
        name = "Applied",
        type_ = "integer",
        json_path = ".status.revision.applied",
        description = "Pods that run it.",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created."
    ),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("an App's name has at most 40 characters"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]+(-[a-z0-9]+)*$')")
        .message("an App's name is a DNS label without `--`"),
    validation = Rule::new("!(self.metadata.name in ['access', 'shared'])")
        .message("`access` and `shared` are reserved; choose another App name")
)]
#[x_kube(validation = Rule::new("!has(self.connections) || self.dataplane.placement == 'Dedicated'")
    .message("`connections` needs `dataplane.placement: Dedicated`: a shared data plane has one set of connections")
    .field_path(".connections"))]
#[serde(rename_all = "camelCase")]
pub struct AppSpec {
    /// What is accepted over HTTP, from whom and how much.
    #[serde(default)]
    pub ingest: IngestSpec,
    /// What the events mean: declared types, revenue, conversions, duplicates.
    #[serde(default)]
    pub events: EventsSpec,
    /// What happens to personal data, at ingest, before anything is written.
    #[serde(default)]
    pub privacy: PrivacySpec,
    /// How long rows stay in ClickHouse.
    #[serde(default)]
    pub storage: StorageSpec,
    /// Partitions and retention of the log topics. What is absent is filled when the App is compiled, from the
    /// installation's defaults: raw 12 partitions and 7d, processed 6 and 30d, alerts 1 and 90d, unless it says
    /// otherwise.
    #[serde(default, skip_serializing_if = "TopicsSpec::is_empty")]
    pub topics: TopicsSpec,
    /// Back ends of this App's own, with credentials of its own. Only with a Dedicated data plane; absent means
    /// those the installation was configured with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
    /// Where the App's events are processed, and with how much.
    #[serde(default)]
    pub dataplane: DataplaneSpec,
    /// Dashboards generated from what is declared here.
    #[serde(default)]
    pub dashboards: DashboardsSpec,
    /// How a change of this App reaches the pods.
    #[serde(default)]
    pub rollout: Rollout,
    /// What happens to topics, tables and the App's Secret when the App is deleted. Retain leaves them, and an App
    /// of the same name takes them up again; Delete removes them.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Dashboards generated for an App.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DashboardsSpec {
    /// Whether they are made.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

impl Default for DashboardsSpec {
    fn default() -> Self {
        Self { enabled: enabled() }
    }
}

fn enabled() -> bool {
    true
}

/// How a change reaches the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rollout {
    /// Share of pods, in percent, that take a new Revision first. 100 means all at once.
    #[serde(default = "everyone")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { percent: everyone() }
    }
}

fn everyone() -> u8 {
    100
}

/// What happens to data when its App is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Topics, tables and the App's Secret stay.
    #[default]
    Retain,
    /// Topics, tables and the App's Secret go with the App.
    Delete,
}

/// One key of a Secret in the same namespace. Only Secrets labelled `millrace.dev/app-use: "true"` may be named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = pattern::SUBDOMAIN))]
    pub name: String,
    /// Key inside the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = pattern::SECRET_KEY))]
    pub key: String,
}

/// A whole Secret in the same namespace. Only Secrets labelled `millrace.dev/app-use: "true"` may be named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = pattern::SUBDOMAIN))]
    pub name: String,
}
