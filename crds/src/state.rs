//! What a pod answers at `/state`: which Revisions it runs or refused, in its own words. Written by the data plane, read
//! by the operator. Unknown fields are ignored in both directions, so that old and new work side by side.

use std::collections::BTreeMap;

use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::Format;
use crate::resolved::Role;

/// The answer of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    /// Name of the pod.
    pub pod: String,
    /// What it does.
    pub role: Role,
    /// Version of the program.
    pub version: String,
    /// Newest format it understands; the operator writes none that a pod does not. One that is newer than any this
    /// release knows counts as the newest that it does: a pod that is ahead of its operator understands all of those.
    #[serde(deserialize_with = "format_known")]
    pub format_max: Format,
    /// Whether it serves.
    pub ready: bool,
    /// By scope: an App's name, or `access`.
    #[serde(default)]
    pub scopes: BTreeMap<String, ScopeState>,
    /// What ingest keeps on its disk for a log that is away; absent where it has no disk for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<SpillState>,
    /// By App's name: what the ledger of those says that this pod compares.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ledger: BTreeMap<String, LedgerState>,
}

/// What a pod keeps on its disk until the log takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpillState {
    /// Bytes that wait. A pod may only go when there are none.
    pub bytes: u64,
    /// Age of the oldest of them.
    pub oldest_milliseconds: u64,
    /// Files kept aside because something in them is damaged or refused by the log; a person has to look at them.
    pub set_aside: u64,
}

/// Whether what was accepted and what is stored agree, as the one pod says that compares an App's ledger. Holds nothing
/// that changes while all is well: a report with news wakes the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerState {
    /// Differences of the last seven days that outlived the lag and were not resolved.
    pub breaches: u64,
    /// The newest of them, for people; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

fn format_known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Format, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = |text: &str| text.strip_prefix('v')?.parse::<u32>().ok();
    match Format::deserialize(text.as_str().into_deserializer()) {
        Ok(format) => Ok(format),
        Err(_) if number(&text) > number(Format::NEWEST.as_str()) => Ok(Format::NEWEST),
        Err(error) => Err(error),
    }
}

/// Where one scope stands in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopeState {
    /// What it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningRevision>,
    /// The highest it refused, if that is above what it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedRevision>,
}

/// A Revision that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningRevision {
    /// Its sequence.
    pub sequence: i64,
    /// SHA-256 of its configuration.
    pub hash: String,
}

/// A Revision that a pod does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRevision {
    /// Its sequence.
    pub sequence: i64,
    /// Why, for people.
    pub reason: String,
}

/// Whether a pod is among the first `percent` of pods that take a Revision: a stable choice by its name and the
/// Revision, the same in the pod and in the operator.
pub fn takes(pod: &str, revision: &str, percent: u8) -> bool {
    if percent >= 100 {
        return true;
    }
    let digest = crate::compile::hash(&format!("{revision}/{pod}"));
    let first = digest.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(u32::MAX);
    first % 100 < u32::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_newer_than_its_operator_is_understood_all_the_same() {
        let state = |format_max: &str| {
            serde_json::from_value::<PodState>(serde_json::json!({
                "pod": "a", "role": "worker", "version": "9.0.0", "formatMax": format_max, "ready": true,
                "newer": {"x": 1}, "scopes": {"shop": {"running": {"sequence": 7, "hash": "h", "newer": 2}}},
            }))
        };
        for format in ["v1", "v2", "v10"] {
            let state = state(format).unwrap();
            assert_eq!((state.format_max, state.scopes.len()), (Format::V1, 1), "{format}");
        }
        for odd in ["v0", "2", "V2", "v", "", "v-2"] {
            assert!(state(odd).is_err(), "{odd} is no format");
        }
        assert_eq!(serde_json::to_value(Format::NEWEST).unwrap(), Format::NEWEST.as_str());
    }

    #[test]
    fn a_share_of_the_pods_is_close_to_what_was_asked_and_only_grows() {
        let pods: Vec<String> = (0..1_000).map(|n| format!("pod-{n}")).collect();
        for percent in [1, 10, 50, 99] {
            let taking = pods.iter().filter(|pod| takes(pod, "shop-7", percent)).count();
            assert!(taking.abs_diff(usize::from(percent) * 10) < 50, "{percent}: {taking}");
            assert!(
                pods.iter().all(|pod| !takes(pod, "shop-7", percent) || takes(pod, "shop-7", percent + 1))
            );
        }
        assert!(pods.iter().all(|pod| takes(pod, "shop-7", 100)));
    }
}
