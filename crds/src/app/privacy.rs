//! `spec.privacy` of an App: what happens to personal data before anything is written.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{DeviceIds, FieldAction, Ip, UserIds};
use crate::pattern;

/// What happens to personal data, before anything is written.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivacySpec {
    /// What becomes of `user_id` and `anonymous_id`. Hash is keyed: equal ids stay equal, and nobody without the
    /// key can test a guess. Keep stores them as sent.
    #[serde(default)]
    pub user_ids: UserIds,
    /// What becomes of `device_id`. Encrypt is deterministic: devices still group, and who holds the key can open
    /// them. Hash is keyed, Keep stores them as sent.
    #[serde(default)]
    pub device_ids: DeviceIds,
    /// What becomes of the client's address. Truncate keeps the network (/24, /48), Drop nothing, Keep all of it.
    #[serde(default)]
    pub ip: Ip,
    /// Rules on single fields of `event_data`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".to_owned()]))]
    pub fields: Vec<FieldRuleSpec>,
    /// Consent that an event must carry to be accepted.
    #[serde(default)]
    pub consent: ConsentSpec,
}

/// What is done with one personal field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldRuleSpec {
    /// The field, such as `event_data.email` or `event_data.customer.phone`. Lists are passed through to their
    /// elements.
    #[schemars(length(max = 256), regex(pattern = pattern::DATA_PATH))]
    pub path: String,
    /// Hash: keyed hash. Truncate: an address to its network, other text to its first character. Encrypt:
    /// deterministic encryption. Drop: the key is removed.
    pub action: FieldAction,
}

/// Consent that an event must carry.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsentSpec {
    /// Categories that must all be in the event's `consent.categories`; an event without them is refused with
    /// `consent_required` and never written. Empty means that none is required.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63), regex(pattern = pattern::CATEGORY)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub required: Vec<String>,
}
