//! What a pod answers at `/state`: which Revisions it runs or refused, in its own words. Written by the data plane, read
//! by the operator. Unknown fields are ignored in both directions, so that old and new work side by side.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// Newest format it understands; the operator writes none that a pod does not.
    pub format_max: Format,
    /// Whether it serves.
    pub ready: bool,
    /// By scope: an App's name, or `access`.
    #[serde(default)]
    pub scopes: BTreeMap<String, ScopeState>,
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
