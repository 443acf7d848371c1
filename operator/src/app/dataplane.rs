//! The pods of a data plane and what they said in, whether all that count run the current Revisions out. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use millrace_crds::conditions::{Status, reason};
use millrace_crds::resolved::Role;
use millrace_crds::state;

use super::gather::{PodSeen, Published};
use super::status::Verdict;

/// A pod younger than this may not have said anything yet.
const YOUNG: SignedDuration = SignedDuration::from_secs(60);
/// A pod that is not ready for longer than this does not come up by itself.
const UNREADY_MAX: SignedDuration = SignedDuration::from_secs(120);
/// When to look again while pods are awaited: their reports wake this reconcile before.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Pods named in a message; the rest is counted.
const NAMED_MAX: usize = 3;

/// What pods should run.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Name of the Revision.
    pub(crate) name: String,
    /// The App, or `access`.
    pub(crate) scope: String,
    /// Its sequence.
    pub(crate) sequence: i64,
    /// Hash of its configuration.
    pub(crate) hash: String,
    /// Share of pods that take it.
    pub(crate) percent: u8,
}

impl Target {
    /// A Revision that is there.
    pub(crate) fn of(scope: &str, published: &Published) -> Self {
        Self {
            name: published.name().to_owned(),
            scope: scope.to_owned(),
            sequence: published.sequence,
            hash: published.hash.clone(),
            percent: published.spec.as_ref().map_or(100, |spec| spec.rollout.percent),
        }
    }
}

/// Whether the App's ledger balances, in the words of the pods that compare it; `None` while none does.
pub(crate) fn ledger(pods: &[PodSeen], app: &str) -> Option<Verdict> {
    let told = pods.iter().filter_map(|pod| match &pod.said {
        Some(Ok(said)) => said.ledger.get(app),
        Some(Err(_)) | None => None,
    });
    let told: Vec<_> = told.collect();
    let breaches: u64 = told.iter().map(|told| told.breaches).sum();
    if told.is_empty() {
        return None;
    }
    let Some(worst) = told.into_iter().find(|told| told.breaches > 0) else {
        return Some(Verdict::ok("every accepted event was stored, recognised as a copy or set aside"));
    };
    let message = format!(
        "{breaches} differences outlived the lag in the last seven days, the newest: {}; \
         `GET /api/apps/{app}/ledger` lists them by minute",
        worst.message
    );
    Some(Verdict::new(Status::False, reason::UNBALANCED, &message))
}

/// What was found.
pub(crate) struct Judged {
    /// For the condition.
    pub(crate) verdict: Verdict,
    /// Pods that run the App's Revision.
    pub(crate) applied: u32,
    /// Pods that should.
    pub(crate) total: u32,
    /// When to look again.
    pub(crate) look_again: Option<Duration>,
}

/// How it was the last time: a pod that is merely new does not end readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// The condition was true.
    Ready,
    /// It was not.
    NotReady,
}

/// Where one pod stands with one Revision.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Runs,
    Refuses(String),
    Behind,
    Silent(String),
}

/// Judges them. `targets`: the App's Revision first, then that of the access rules if there is one.
pub(crate) fn judge(pods: &[PodSeen], targets: &[Target], before: Before, now: Timestamp) -> Judged {
    let Some(own) = targets.first() else {
        let verdict = Verdict::new(Status::False, reason::PROGRESSING, "no Revision is published yet");
        return Judged { verdict, applied: 0, total: 0, look_again: None };
    };
    let counted = |target: &Target| -> Vec<(&PodSeen, Standing)> {
        let takes = |pod: &&PodSeen| state::takes(&pod.name, &target.name, target.percent);
        pods.iter().filter(takes).map(|pod| (pod, standing(pod, target))).collect()
    };
    let own_standing = counted(own);
    let applied = own_standing.iter().filter(|(_, standing)| *standing == Standing::Runs).count();
    let total = own_standing.len();
    let verdict = (targets.iter().find_map(|target| refused(target, &counted(target))))
        .or_else(|| unready_for_long(pods, now))
        .or_else(|| missing(pods))
        .or_else(|| targets.iter().find_map(|target| behind(target, &counted(target), before, now)))
        .or_else(|| starting(pods, before))
        .unwrap_or_else(|| Verdict::new(Status::True, reason::OK, &all_run(own, total, pods.len())));
    // Silence of young pods ends readiness only once they are no longer young.
    let unsettled = applied < total || pods.iter().any(|pod| pod.unready_since.is_some());
    let look_again = (unsettled || verdict.status != Status::True).then_some(LOOK_AGAIN);
    Judged { verdict, applied: count(applied), total: count(total), look_again }
}

/// Whether a pod was never asked by this process; one that was and did not answer is another matter.
pub(crate) fn is_unasked(pods: &[PodSeen]) -> bool {
    pods.iter().any(|pod| pod.said.is_none())
}

/// What was found the last time, until every pod was asked.
pub(crate) fn as_it_was(message: &str, applied: u32, total: u32) -> Judged {
    let verdict = Verdict::new(Status::True, reason::OK, message);
    Judged { verdict, applied, total, look_again: Some(LOOK_AGAIN) }
}

fn standing(pod: &PodSeen, target: &Target) -> Standing {
    let said = match &pod.said {
        None => return Standing::Silent("it was not asked yet".to_owned()),
        Some(Err(words)) => return Standing::Silent(words.clone()),
        Some(Ok(said)) => said,
    };
    let Some(scope) = said.scopes.get(&target.scope) else {
        return Standing::Silent(format!("it runs nothing of `{}` yet", target.scope));
    };
    if scope.running.as_ref().is_some_and(|r| r.sequence == target.sequence && r.hash == target.hash) {
        return Standing::Runs;
    }
    match &scope.refused {
        Some(refused) if refused.sequence == target.sequence => Standing::Refuses(refused.reason.clone()),
        Some(_) | None => Standing::Behind,
    }
}

fn refused(target: &Target, standings: &[(&PodSeen, Standing)]) -> Option<Verdict> {
    let mut words = standings.iter().filter_map(|(pod, standing)| match standing {
        Standing::Refuses(words) => Some((pod, words)),
        Standing::Runs | Standing::Behind | Standing::Silent(_) => None,
    });
    let (pod, first) = words.next()?;
    let others = words.count();
    let others = if others == 0 { String::new() } else { format!(" (and {others} more pods)") };
    let message = format!(
        "pod `{}`{others} refuses Revision `{}` and runs the one before: {first}",
        pod.name, target.name
    );
    Some(Verdict::new(Status::False, reason::REVISION_REFUSED, &message))
}

fn unready_for_long(pods: &[PodSeen], now: Timestamp) -> Option<Verdict> {
    let is_long =
        |pod: &&PodSeen| pod.unready_since.is_some_and(|since| now.duration_since(since) > UNREADY_MAX);
    let named = names(pods.iter().filter(is_long))?;
    let message = format!(
        "not ready for more than {} min: {named}; `kubectl describe pod` and `kubectl logs` say why",
        UNREADY_MAX.as_mins()
    );
    Some(Verdict::new(Status::False, reason::PODS_NOT_READY, &message))
}

fn missing(pods: &[PodSeen]) -> Option<Verdict> {
    let absent = |role: &Role| pods.iter().all(|pod| pod.role != *role);
    let absent: Vec<&str> = Role::ALL.into_iter().filter(absent).map(Role::as_str).collect();
    let message = format!("there is no pod yet for {}", absent.join(", "));
    (!absent.is_empty()).then(|| Verdict::new(Status::False, reason::PROGRESSING, &message))
}

fn behind(
    target: &Target,
    standings: &[(&PodSeen, Standing)],
    before: Before,
    now: Timestamp,
) -> Option<Verdict> {
    let is_awaited = |(pod, standing): &&(&PodSeen, Standing)| match standing {
        Standing::Runs => false,
        Standing::Behind | Standing::Refuses(_) => true,
        Standing::Silent(_) => before == Before::NotReady || now.duration_since(pod.created) >= YOUNG,
    };
    let awaited = standings.iter().filter(is_awaited);
    let named = names(awaited.map(|(pod, _)| *pod))?;
    let runs = standings.iter().filter(|(_, standing)| *standing == Standing::Runs).count();
    let words = standings.iter().find_map(|(pod, standing)| match standing {
        Standing::Silent(words) => Some(format!("; pod `{}`: {words}", pod.name)),
        Standing::Runs | Standing::Behind | Standing::Refuses(_) => None,
    });
    let message = format!(
        "{runs} of {} pods run Revision `{}`; awaited: {named}{}",
        standings.len(),
        target.name,
        words.unwrap_or_default()
    );
    Some(Verdict::new(Status::False, reason::PROGRESSING, &message))
}

/// Pods that are not taken into service yet. Once all were, a role is missed only when none of its pods is left.
fn starting(pods: &[PodSeen], before: Before) -> Option<Verdict> {
    let is_served = |role: Role| pods.iter().any(|pod| pod.role == role && pod.unready_since.is_none());
    let is_awaited =
        |pod: &&PodSeen| pod.unready_since.is_some() && (before == Before::NotReady || !is_served(pod.role));
    let named = names(pods.iter().filter(is_awaited))?;
    Some(Verdict::new(Status::False, reason::PROGRESSING, &format!("not ready yet: {named}")))
}

fn all_run(target: &Target, total: usize, pods: usize) -> String {
    if target.percent >= 100 {
        return format!("all {total} pods run Revision `{}`", target.name);
    }
    let (percent, name) = (target.percent, &target.name);
    format!("{total} of {pods} pods are the {percent} percent that take Revision `{name}`, and run it")
}

fn names<'a>(pods: impl Iterator<Item = &'a PodSeen>) -> Option<String> {
    let all: Vec<&str> = pods.map(|pod| pod.name.as_str()).collect();
    let shown: Vec<String> = all.iter().take(NAMED_MAX).map(|name| format!("`{name}`")).collect();
    let more = all.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    (!all.is_empty()).then(|| format!("{}{more}", shown.join(", ")))
}

fn count(pods: usize) -> u32 {
    u32::try_from(pods).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millrace_crds::config::Format;
    use millrace_crds::state::{LedgerState, PodState};

    use super::*;

    fn worker(name: &str, ledger: &[(&str, u64)]) -> PodSeen {
        let of = |(app, breaches): &(&str, u64)| {
            (
                (*app).to_owned(),
                LedgerState { breaches: *breaches, message: "12:00: one is missing".to_owned() },
            )
        };
        let said = PodState {
            pod: name.to_owned(),
            role: Role::Worker,
            version: "1".to_owned(),
            format_max: Format::V1,
            ready: true,
            scopes: BTreeMap::new(),
            spill: None,
            ledger: ledger.iter().map(of).collect(),
        };
        let created = Timestamp::UNIX_EPOCH;
        PodSeen {
            name: name.to_owned(),
            role: Role::Worker,
            created,
            unready_since: None,
            said: Some(Ok(said)),
        }
    }

    #[test]
    fn the_ledger_is_judged_by_the_pod_that_compares_it() {
        let pods = [worker("w-0", &[("blog", 2)]), worker("w-1", &[("shop", 0)])];
        assert_eq!(ledger(&pods[..1], "shop"), None);
        assert_eq!(ledger(&pods, "shop").map(|verdict| verdict.status), Some(Status::True));
        let breached = ledger(&pods, "blog").unwrap();
        assert_eq!((breached.status, breached.reason), (Status::False, reason::UNBALANCED));
        assert!(breached.message.contains("12:00: one is missing"), "{}", breached.message);
    }
}
