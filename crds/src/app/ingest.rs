//! `spec.ingest` of an App: keys, wire formats and limits of the HTTP endpoint.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;
use crate::config::Dialect;
use crate::pattern;

/// What is accepted over HTTP, from whom and how much.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new(
        "!has(self.maxEventBytes) || !has(self.maxBodyBytes) || self.maxEventBytes <= self.maxBodyBytes"
    )
    .message("`maxEventBytes` cannot exceed `maxBodyBytes`: an event travels in a body")
    .field_path(".maxEventBytes"),
    validation = Rule::new(
        "!has(self.maxBatchEvents) || !has(self.rateLimit) || !has(self.rateLimit.burst) || \
         self.maxBatchEvents <= self.rateLimit.burst"
    )
    .message("`maxBatchEvents` cannot exceed `rateLimit.burst`: a full batch could never pass")
    .field_path(".maxBatchEvents")
)]
#[serde(rename_all = "camelCase")]
pub struct IngestSpec {
    /// Wire formats accepted. Absent means all this release knows, so that a new release may bring more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub dialects: Option<Vec<Dialect>>,
    /// Keys that senders present. Without any, one named `default` is generated into the App's Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub write_keys: Vec<WriteKeySpec>,
    /// Most events per second, per process; absent means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,
    /// Largest request body in bytes, as sent and after decompression. Absent means the installation's limit,
    /// 4 MiB unless it says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_024, max = 67_108_864))]
    pub max_body_bytes: Option<u32>,
    /// Largest single event in bytes, as sent. Absent means the installation's limit, 256 KiB unless it says
    /// otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 921_600))]
    pub max_event_bytes: Option<u32>,
    /// Most events in one request. Absent means the installation's limit, 1000 unless it says otherwise, or
    /// `rateLimit.burst` where that is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_batch_events: Option<u32>,
    /// Whether senders may pass on the end user's `ip` and `user_agent`. Only for servers that are trusted to;
    /// otherwise what the connection shows is used.
    #[serde(default)]
    pub trust_forwarded_client: bool,
}

/// One key that senders present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WriteKeySpec {
    /// Name of the key, shown in metrics and logs in place of the key. A DNS label.
    #[schemars(length(min = 1, max = 63), regex(pattern = pattern::LABEL))]
    pub name: String,
    /// Where the key itself is: a Secret in this namespace, labelled `millrace.dev/app-use: "true"`.
    pub secret_ref: SecretKeyRef,
    /// Origins a browser may send from, as browsers write them: `https://shop.example`, no path, no wildcard.
    /// Empty means any origin, which suits keys that live on servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 255), regex(pattern = pattern::ORIGIN)))]
    pub allowed_origins: Vec<String>,
    /// The wire format this key speaks where several share a path; absent means it is recognised by its shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
}

/// A token bucket, per App and process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitSpec {
    /// Sustained events per second.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub events_per_second: u32,
    /// Events that may come at once; absent means twice the sustained rate, or one full batch if that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20_000_000))]
    pub burst: Option<u32>,
}
