//! `status` of an App: what Millrace reports back. Written by the operator only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pattern;

/// What Millrace reports about an App.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppStatus {
    /// Generation of the App that this status speaks of; -1 until the operator has seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// State by aspect. Accepted, TopicsReady, SchemaReady and DataplaneReady make Ready; one that nothing has
    /// judged yet is absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The Revision in force and how far it has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionStatus>,
    /// Where the App is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
}

/// How far a Revision has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RevisionStatus {
    /// Its sequence.
    #[schemars(range(min = 1))]
    pub sequence: i64,
    /// SHA-256 of its configuration.
    #[schemars(length(max = 64), regex(pattern = pattern::SHA256))]
    pub hash: String,
    /// Pods that run it.
    #[schemars(range(min = 0, max = 100_000))]
    pub applied: u32,
    /// Pods that should.
    #[schemars(range(min = 0, max = 100_000))]
    pub total: u32,
}

/// Where an App is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoints {
    /// Base URL that senders use.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1_024))]
    pub ingest: Option<String>,
    /// Base URL of the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1_024))]
    pub gateway: Option<String>,
}
