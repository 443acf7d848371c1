//! `spec.events` of an App: what its events mean.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{OnUndeclared, PropertyType};
use crate::pattern;
use crate::quantity::Duration;

/// What the events mean.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventsSpec {
    /// What happens to an event type that is not declared. Keep stores it like any other; DeadLetter sets it aside
    /// with reason `undeclared_event`, from where it can be replayed.
    #[serde(default)]
    pub on_undeclared: OnUndeclared,
    /// Event types with the properties that get a column of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub declared: Vec<DeclaredEventSpec>,
    /// Where revenue is found; absent means that no event carries revenue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revenue: Option<RevenueSpec>,
    /// Event types that count as a conversion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128), regex(pattern = pattern::EVENT_TYPE)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub conversions: Vec<String>,
    /// How far back a second copy of an event is recognised, from 1m to 30d and at most the retention of the raw
    /// topic. Measured between the times at which the log took the copies.
    #[serde(default = "day")]
    pub dedupe_window: Duration,
}

impl Default for EventsSpec {
    fn default() -> Self {
        Self {
            on_undeclared: OnUndeclared::default(),
            declared: Vec::new(),
            revenue: None,
            conversions: Vec::new(),
            dedupe_window: day(),
        }
    }
}

fn day() -> Duration {
    Duration::hours(24)
}

/// A declared event type.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeclaredEventSpec {
    /// The `event_type` it stands for, exactly as sent.
    #[schemars(length(min = 1, max = 128), regex(pattern = pattern::EVENT_TYPE))]
    pub name: String,
    /// Properties of `event_data` that get a column. A name has one type over all events of the App.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub properties: Vec<PropertySpec>,
}

/// A declared property: a column `p_<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PropertySpec {
    /// Key in `event_data`: a letter or `_`, then up to 63 letters, digits or `_`.
    #[schemars(length(min = 1, max = 64), regex(pattern = pattern::PROPERTY))]
    pub name: String,
    /// Type of the column. Decimal is exact, with 9 digits after the point; Timestamp is RFC 3339 or epoch
    /// milliseconds. A value that does not fit becomes empty and is counted.
    #[serde(rename = "type")]
    pub kind: PropertyType,
    /// Whether an event without it is set aside as a dead letter.
    #[serde(default)]
    pub required: bool,
}

/// Where revenue is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevenueSpec {
    /// Property of `event_data` with the amount: a number, or its text.
    #[schemars(length(min = 1, max = 64), regex(pattern = pattern::PROPERTY))]
    pub property: String,
    /// Property with the ISO 4217 code of the currency; absent means one currency for the whole App.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = pattern::PROPERTY))]
    pub currency_property: Option<String>,
}
