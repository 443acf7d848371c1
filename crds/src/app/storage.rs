//! `spec.storage` and `spec.topics` of an App: how long data stays, and how wide its topics are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{ByteSize, Duration};

/// How long rows stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StorageSpec {
    /// Age at which events are removed from ClickHouse, from 1d to 3650d.
    #[serde(default = "two_years")]
    pub retention: Duration,
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self { retention: two_years() }
    }
}

fn two_years() -> Duration {
    Duration::days(730)
}

/// The log topics of an App.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TopicsSpec {
    /// Accepted events, anonymised. Its retention bounds how far back processing can start again.
    #[serde(default, skip_serializing_if = "TopicSpec::is_empty")]
    pub raw: TopicSpec,
    /// Events after dedupe, check and enrichment; what the tables are loaded from.
    #[serde(default, skip_serializing_if = "TopicSpec::is_empty")]
    pub processed: TopicSpec,
    /// What a person should look at: broken balances, surges of dead letters.
    #[serde(default, skip_serializing_if = "TopicSpec::is_empty")]
    pub alerts: TopicSpec,
}

impl TopicsSpec {
    /// Whether everything is left to the installation.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One topic. What is absent comes from the installation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicSpec {
    /// Number of partitions. May later grow to a multiple, never shrink. Absent means the installation's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub partitions: Option<u32>,
    /// Age at which records may be removed, from 1m to 365d. Absent means the installation's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Duration>,
    /// Size per partition at which the oldest records may be removed, at least 1Mi. Absent means the
    /// installation's default, which is no limit by size unless it says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<ByteSize>,
}

impl TopicSpec {
    /// Whether everything is left to the installation.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
