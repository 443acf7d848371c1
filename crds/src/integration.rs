//! The Integration: one connection to an outside service. Common fields beside exactly one service.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::SecretKeyRef;
use crate::pattern;
use crate::quantity::Duration;
use crate::selection::AppSelection;

/// Headers that carry credentials; those belong into a Secret, not into clear text.
pub const HEADERS_SECRET: [&str; 6] =
    ["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-auth-token"];
/// Headers that Millrace or HTTP itself sets.
pub const HEADERS_RESERVED: [&str; 8] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

/// A connection to an outside service: which events go where, and how failures are retried.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "Integration",
    plural = "integrations",
    namespaced,
    status = "IntegrationStatus",
    derive = "PartialEq",
    shortname = "mrint",
    category = "millrace",
    doc = "One connection to an outside service: which events go where, and how failures are retried.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether deliveries are made by the current configuration."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why they are or are not."
    ),
    printcolumn(
        name = "Direction",
        type_ = "string",
        json_path = ".spec.direction",
        description = "Which way events go."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created."
    ),
    validation = Rule::new(
        "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]+(-[a-z0-9]+)*$')"
    )
    .message("an Integration's name is a DNS label without `--`")
)]
#[x_kube(validation = Rule::new("(has(self.webhook) ? 1 : 0) == 1")
    .message("give exactly one service: `webhook`"))]
#[serde(rename_all = "camelCase")]
pub struct IntegrationSpec {
    /// Apps of this namespace whose events it takes; absent means all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apps: Option<AppSelection>,
    /// Which way events go. Outbound: from Millrace to the service.
    #[serde(default)]
    pub direction: Direction,
    /// Event types it takes, exactly as sent; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128), regex(pattern = pattern::EVENT_TYPE)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub events: Vec<String>,
    /// How often a failed delivery is tried again.
    #[serde(default)]
    pub retry: RetrySpec,
    /// An HTTP endpoint that takes signed JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookSpec>,
}

/// Which way events go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    /// From Millrace to the service.
    #[default]
    Outbound,
}

/// How often a failed delivery is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Most attempts, the first included. Pauses grow from 5 seconds to a day, as Standard Webhooks suggests.
    #[serde(default = "attempts")]
    #[schemars(range(min = 1, max = 20))]
    pub max_attempts: u32,
    /// Age at which a delivery is given up, from 1m to 7d, whatever attempts are left.
    #[serde(default = "expiry")]
    pub expire_after: Duration,
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self { max_attempts: attempts(), expire_after: expiry() }
    }
}

/// The length of the schedule that Standard Webhooks gives as its example.
fn attempts() -> u32 {
    10
}

/// The whole of that schedule (75 h 35 min), rounded up to days.
fn expiry() -> Duration {
    Duration::days(4)
}

/// An HTTP endpoint that takes JSON signed as Standard Webhooks v1.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookSpec {
    /// Where to send; `https://` only. Private and link-local addresses are refused at delivery.
    #[schemars(length(min = 1, max = 2_048))]
    #[x_kube(validation = Rule::new("self.matches('^https://[^@\\\\x00-\\\\x20]+$')")
        .message("must start with `https://` and hold no credentials"))]
    pub url: String,
    /// The signing key: `whsec_` and the base64 of 24 to 64 random bytes, in a Secret of this namespace labelled
    /// `millrace.dev/app-use: "true"`.
    pub signing_secret_ref: SecretKeyRef,
    /// Extra headers, none of them secret: credentials in clear text are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".to_owned()]),
        validation = Rule::new(
            "self.all(h, !(h.name.lowerAscii() in ['authorization', 'proxy-authorization', 'cookie', \
             'x-api-key', 'api-key', 'x-auth-token']))"
        )
        .message("headers here are clear text and cannot carry credentials; the signature proves the sender"),
        validation = Rule::new(
            "self.all(h, !(h.name.lowerAscii() in ['host', 'content-length', 'content-type', \
             'transfer-encoding', 'connection', 'webhook-id', 'webhook-timestamp', 'webhook-signature']))"
        )
        .message("this header is set by Millrace itself")
    )]
    pub headers: Vec<HeaderSpec>,
    /// Body template: JSON in which `{{ path }}` stands for a field of the event as JSON, such as
    /// `{{ event_data.total }}`. Absent means the event itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65_536))]
    pub template: Option<String>,
    /// Longest wait for an answer, from 1s to 60s.
    #[serde(default = "timeout")]
    pub timeout: Duration,
}

/// The lower end of what Standard Webhooks recommends.
fn timeout() -> Duration {
    Duration::seconds(15)
}

/// A header in clear text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderSpec {
    /// Its name.
    #[schemars(length(min = 1, max = 128), regex(pattern = pattern::HEADER_NAME))]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 1_024), regex(pattern = pattern::HEADER_VALUE))]
    pub value: String,
}

/// What Millrace reports about an Integration.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntegrationStatus {
    /// Generation of the Integration that this status speaks of; -1 until the operator has seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// State by aspect; Accepted makes Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}
