//! A set of ingest pods and what they keep on their volumes in, how many of them have to stay out. Pure.
//!
//! Kubernetes takes pods of a set away from the highest number down, and their volumes stay. What such a volume holds was
//! acknowledged, and nobody would give it to the log before a pod of that number came back. So a pod goes only when it has
//! said that nothing waits on its volume; one that says nothing may hold anything.

use std::collections::BTreeSet;

use kube::core::DynamicObject;
use millrace_crds::state::PodState;

/// The pods of one set of which it is known that nothing waits on their volumes.
#[derive(Clone, Debug, Default)]
pub struct Empty {
    pods: BTreeSet<String>,
}

impl Empty {
    /// What pods last said.
    pub fn of<'a>(said: impl IntoIterator<Item = &'a PodState>) -> Self {
        let is_empty = |said: &&PodState| said.spill.is_some_and(|spill| spill.bytes == 0);
        Self { pods: said.into_iter().filter(is_empty).map(|said| said.pod.clone()).collect() }
    }

    /// The pod because of which a set cannot shrink to so many, if there is one.
    pub fn in_the_way(&self, set: &DynamicObject, wanted: u32) -> Option<InTheWay> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let pod = |number: u32| format!("{name}-{number}");
        let number = (wanted..pods(set)).rev().find(|number| !self.pods.contains(&pod(*number)))?;
        Some(InTheWay { pod: pod(number), kept: number + 1 })
    }
}

/// A pod that may hold something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InTheWay {
    /// Its name.
    pub pod: String,
    /// How many pods the set keeps.
    pub kept: u32,
}

/// How many pods a set is to have now.
pub fn pods(set: &DynamicObject) -> u32 {
    set.data["spec"]["replicas"].as_u64().and_then(|pods| u32::try_from(pods).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use millrace_crds::state::SpillState;
    use serde_json::json;

    use super::*;

    fn set(replicas: u32) -> DynamicObject {
        let set = json!({"metadata": {"name": "in"}, "spec": {"replicas": replicas}});
        serde_json::from_value(set).unwrap()
    }

    fn said(number: u32, bytes: Option<u64>) -> PodState {
        let spill = bytes.map(|bytes| SpillState { bytes, ..SpillState::default() });
        let state = json!({"pod": format!("in-{number}"), "role": "ingest", "version": "1", "formatMax": "v1", "ready": true});
        PodState { spill, ..serde_json::from_value(state).unwrap() }
    }

    #[test]
    fn a_set_shrinks_down_to_the_highest_pod_that_may_hold_something() {
        let some = |number: u32| Some((format!("in-{number}"), number + 1));
        for (pods, wanted, expected) in [
            (vec![Some(0), Some(0), Some(0)], 1, None),
            (vec![Some(9), Some(0), Some(0)], 1, None),
            (vec![Some(9), Some(0), Some(0)], 0, some(0)),
            (vec![Some(0), Some(9), Some(0)], 1, some(1)),
            (vec![Some(0), Some(9), Some(1)], 1, some(2)),
            (vec![Some(0), None, Some(0)], 1, some(1)),
            (vec![Some(0), Some(0), None], 3, None),
            (vec![Some(0), Some(0), None], 5, None),
        ] {
            let states: Vec<PodState> =
                (0..).zip(&pods).map(|(number, bytes)| said(number, *bytes)).collect();
            let found = Empty::of(&states).in_the_way(&set(3), wanted);
            let found = found.map(|InTheWay { pod, kept }| (pod, kept));
            assert_eq!(found, expected, "{pods:?} to {wanted}");
        }
        assert!(Empty::default().in_the_way(&set(1), 0).is_some(), "nobody said anything");
    }
}
