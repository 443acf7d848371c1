//! Pods, Revisions and reports in, which pods are due to be asked out. Pure: time is an argument.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::core::DynamicObject;
use millrace_crds::labels;
use millrace_crds::state::{PodState, takes};

use crate::reports::Reports;

/// The same as [`BEHIND`], while there is credit: what a person just changed is in force within moments.
const QUICK: SignedDuration = SignedDuration::from_millis(100);
/// Questions that may follow so quickly; each costs one, and one comes back every [`CREDIT_EVERY`]. Enough for a few edits
/// in a row, and next to nothing where Revisions come without an end.
const CREDIT_MAX: u32 = 20;
const CREDIT_EVERY: SignedDuration = SignedDuration::from_secs(1);
/// Between two questions to a pod that does not run yet what it should.
const BEHIND: SignedDuration = SignedDuration::from_millis(500);
/// The same, once it has not moved for [`PATIENCE`].
const STUCK: SignedDuration = SignedDuration::from_secs(5);
/// How long a pod is asked often without getting anywhere.
const PATIENCE: SignedDuration = SignedDuration::from_secs(60);
/// Between two questions to a pod that runs what it should.
const CURRENT: SignedDuration = SignedDuration::from_secs(30);

/// A pod that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) uid: String,
    pub(super) ip: String,
    pub(super) data_plane: String,
}

impl Target {
    /// `None` for a pod that is no data plane's, has no address, or ends.
    pub(super) fn read(pod: &DynamicObject) -> Option<Self> {
        let is_ending = pod.metadata.deletion_timestamp.is_some()
            || matches!(pod.data["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let labels = pod.metadata.labels.as_ref()?;
        labels.get(labels::COMPONENT)?;
        (!is_ending).then_some(())?;
        Some(Self {
            namespace: pod.metadata.namespace.clone()?,
            pod: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
            ip: pod.data["status"]["podIP"].as_str().filter(|ip| !ip.is_empty())?.to_owned(),
            data_plane: labels.get(labels::DATA_PLANE)?.clone(),
        })
    }
}

/// When each pod was asked, and what it should run.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// By namespace and pod.
    pods: BTreeMap<(String, String), Asked>,
    wanted: Wanted,
}

/// By namespace and data plane (none for `access`), then by scope: every sequence with the share of pods that takes it,
/// oldest first.
type Wanted = BTreeMap<(String, Option<String>), BTreeMap<String, Vec<(i64, u8)>>>;

#[derive(Debug)]
struct Asked {
    target: Target,
    is_asked_now: bool,
    /// When it last answered or failed to.
    heard_at: Option<Timestamp>,
    /// Failures in a row.
    failures: u32,
    /// What it was behind of, and since when.
    behind: Option<(i64, Timestamp)>,
    credit: Credit,
}

/// How soon the next look may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Nothing is urgent.
    Usual,
    /// A pod that may be asked quickly is behind.
    Quick,
}

/// Questions that a pod may still be asked quickly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Credit {
    left: u32,
    /// Until when what comes back was counted.
    counted: Timestamp,
}

impl Credit {
    fn full() -> Self {
        Self { left: CREDIT_MAX, counted: Timestamp::MIN }
    }

    /// With what came back by now.
    fn at(self, now: Timestamp) -> Self {
        let back = now.duration_since(self.counted).as_millis() / CREDIT_EVERY.as_millis();
        match u32::try_from(back) {
            Ok(0) => self,
            Ok(back) if back < CREDIT_MAX - self.left => {
                let counted = self.counted.saturating_add(CREDIT_EVERY.saturating_mul(back.cast_signed()));
                Self { left: self.left + back, counted: counted.unwrap_or(now) }
            }
            Ok(_) | Err(_) => Self { left: CREDIT_MAX, counted: now },
        }
    }
}

impl Schedule {
    /// Takes in the world as it is now, and gives the pods that are gone from it.
    pub(super) fn look(&mut self, targets: Vec<Target>, revisions: &[Arc<DynamicObject>]) -> Vec<Target> {
        self.wanted = wanted(revisions);
        let mut before = std::mem::take(&mut self.pods);
        for target in targets {
            let key = (target.namespace.clone(), target.pod.clone());
            let known = before.remove(&key).filter(|known| known.target.uid == target.uid);
            let asked = match known {
                Some(known) => Asked { target, ..known },
                None => Asked {
                    target,
                    is_asked_now: false,
                    heard_at: None,
                    failures: 0,
                    behind: None,
                    credit: Credit::full(),
                },
            };
            self.pods.insert(key, asked);
        }
        before.into_values().map(|asked| asked.target).collect()
    }

    pub(super) fn knows(&self, namespace: &str, pod: &str) -> bool {
        self.pods.contains_key(&(namespace.to_owned(), pod.to_owned()))
    }

    /// At most so many pods whose time has come, those never or longest not heard first.
    pub(super) fn due(&mut self, reports: &Reports, now: Timestamp, most: usize) -> Vec<Target> {
        let mut due = Vec::new();
        for (key, asked) in &mut self.pods {
            let report = reports.of(&key.0, &key.1).filter(|report| report.uid == asked.target.uid);
            let lag = lag(&self.wanted, &asked.target, report.and_then(|report| report.said.ok()).as_ref());
            asked.behind = match (lag, asked.behind) {
                (None, _) => None,
                (Some(lag), Some((same, since))) if same == lag => Some((lag, since)),
                (Some(lag), _) => Some((lag, now)),
            };
            asked.credit = asked.credit.at(now);
            let waited = asked.heard_at.map(|at| now.duration_since(at));
            if !asked.is_asked_now && waited.is_none_or(|waited| waited >= asked.pause(now)) {
                due.push((asked.heard_at, key.clone()));
            }
        }
        due.sort();
        due.truncate(most);
        let start = |(_, key): (_, (String, String))| {
            let asked = self.pods.get_mut(&key)?;
            asked.is_asked_now = true;
            let is_quick = asked.heard_at.is_some_and(|at| now.duration_since(at) < BEHIND);
            asked.credit.left = asked.credit.left.saturating_sub(u32::from(is_quick));
            Some(asked.target.clone())
        };
        due.into_iter().filter_map(start).collect()
    }

    /// How soon to look again after this look.
    pub(super) fn pace(&self, now: Timestamp) -> Pace {
        if self.pods.values().any(|asked| asked.pause(now) == QUICK) { Pace::Quick } else { Pace::Usual }
    }

    /// A pod answered, or failed to; whether it is still there.
    pub(super) fn heard(&mut self, target: &Target, is_answer: bool, now: Timestamp) -> bool {
        let key = (target.namespace.clone(), target.pod.clone());
        let Some(asked) = self.pods.get_mut(&key).filter(|asked| asked.target.uid == target.uid) else {
            return false;
        };
        asked.is_asked_now = false;
        asked.heard_at = Some(now);
        asked.failures = if is_answer { 0 } else { asked.failures.saturating_add(1) };
        true
    }
}

impl Asked {
    fn pause(&self, now: Timestamp) -> SignedDuration {
        if self.failures > 0 {
            // 0.5, 1, 2 … 30 s: a pod that starts is found soon, one that is lost costs little.
            return BEHIND.saturating_mul(1 << (self.failures - 1).min(6)).min(CURRENT);
        }
        match self.behind {
            None => CURRENT,
            Some((_, since)) if self.credit.left > 0 && now.duration_since(since) < PATIENCE => QUICK,
            Some((_, since)) if now.duration_since(since) < PATIENCE => BEHIND,
            Some(_) => STUCK,
        }
    }
}

fn wanted(revisions: &[Arc<DynamicObject>]) -> Wanted {
    let mut wanted = Wanted::new();
    for revision in revisions {
        let label = |name: &str| revision.metadata.labels.as_ref()?.get(name).cloned();
        let spec = &revision.data["spec"];
        let (Some(namespace), Some(scope), Some(sequence)) =
            (revision.metadata.namespace.clone(), label(labels::SCOPE), spec["sequence"].as_i64())
        else {
            continue;
        };
        let plane = label(labels::DATA_PLANE).filter(|_| scope != labels::SCOPE_ACCESS);
        if plane.is_none() && scope != labels::SCOPE_ACCESS {
            // Of an App that moves: no pod is to run it.
            continue;
        }
        let percent = spec["rollout"]["percent"].as_u64();
        let percent = percent.and_then(|percent| u8::try_from(percent).ok()).unwrap_or(100);
        let scopes = wanted.entry((namespace, plane)).or_default();
        scopes.entry(scope).or_default().push((sequence, percent));
    }
    for sequences in wanted.values_mut().flat_map(BTreeMap::values_mut) {
        sequences.sort_unstable();
    }
    wanted
}

/// What a pod is behind of: the sum of the sequences it does not run yet; `None` when it runs what it should. What it
/// refused it will not run, so it is not behind of that; what it runs though it is withdrawn counts as one.
fn lag(wanted: &Wanted, target: &Target, said: Option<&PodState>) -> Option<i64> {
    let Some(said) = said else { return Some(0) };
    let mut lag = 0;
    let mut known = 0;
    let of = |plane: Option<&String>| wanted.get(&(target.namespace.clone(), plane.cloned()));
    for (scope, sequences) in [of(None), of(Some(&target.data_plane))].into_iter().flatten().flatten() {
        let standing = said.scopes.get(scope);
        let running = standing.and_then(|standing| standing.running.as_ref());
        known += usize::from(running.is_some());
        let newest = sequences
            .iter()
            .rev()
            .find(|(sequence, percent)| takes(&target.pod, &labels::revision(scope, *sequence), *percent));
        let Some((newest, _)) = newest else { continue };
        let runs_it = running.is_some_and(|running| running.sequence >= *newest);
        let refused = standing.and_then(|standing| standing.refused.as_ref());
        if !runs_it && refused.is_none_or(|refused| refused.sequence < *newest) {
            lag += newest;
        }
    }
    let runs = said.scopes.values().filter(|standing| standing.running.is_some()).count();
    lag += i64::from(runs > known);
    (lag > 0).then_some(lag)
}

#[cfg(test)]
mod tests;
