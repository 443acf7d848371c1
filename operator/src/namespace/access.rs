//! All RolePolicies of a namespace in, the Revision of scope `access` out, with a verdict on every policy. Pure.
//!
//! While any policy cannot be taken as it stands, none of the changes is: the last good Revision stays whole. Leaving only
//! the faulty one out would take away what it grants, and show what it masks. Where there is no Revision yet, the first is
//! made without any policy: it binds nobody.

use std::collections::BTreeMap;

use jiff::Timestamp;
use millrace_crds::app::Rollout;
use millrace_crds::compile::{AccessInput, canonical, compile_access, hash};
use millrace_crds::config::AccessConfig;
use millrace_crds::labels::SCOPE_ACCESS;
use millrace_crds::names::AppId;
use millrace_crds::problem::{ObjectRef, Path, Problem, Report};
use millrace_crds::revision::{CONFIG_BYTES_MAX, RevisionSpec};
use millrace_crds::role_policy::{RolePolicy, RolePolicySpec};
use millrace_crds::validate::{self, Apps};

use super::gather::Gathered;
use super::pods::{self, Progress};
use super::read::{Found, Published};

/// Revisions of a scope that are kept, so that there is something to go back to.
const KEPT: usize = 5;

/// What is found about the access rules of a namespace.
pub(super) struct Access<'a> {
    /// Problems of each policy, by its name; none for one that is fine.
    pub(super) problems: BTreeMap<&'a str, Vec<Problem>>,
    /// What is to be published, if anything.
    pub(super) publish: Option<RevisionSpec>,
    /// The newest Revision, with the one to be published; none while there is no App.
    pub(super) newest: Option<Newest>,
    /// Revisions that nobody needs any more.
    pub(super) outdated: Vec<&'a Published>,
    /// The Revision that is held by annotation.
    pub(super) held: Option<&'a str>,
    /// What stands between the policies as they are and their coming into force.
    pub(super) obstacle: Option<Obstacle>,
}

/// The newest Revision of the scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) sequence: i64,
    pub(super) percent: u8,
    /// How far it has come.
    pub(super) progress: Progress,
}

/// Why nothing newer is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// This Revision is held by annotation.
    Held { revision: String },
    /// A policy is paused by annotation.
    Paused { policy: String },
    /// A policy has problems.
    Refused { policy: String },
}

/// Judges the policies of a namespace.
pub(super) fn access<'a>(gathered: &'a Gathered, now: Timestamp) -> Access<'a> {
    let revisions: Vec<&Published> =
        gathered.revisions.iter().filter(|revision| revision.scope == SCOPE_ACCESS).collect();
    let problems = problems(gathered);
    if gathered.apps.is_empty() {
        return Access {
            problems,
            publish: None,
            newest: None,
            outdated: revisions,
            held: None,
            obstacle: None,
        };
    }
    let held =
        revisions.iter().rev().find(|revision| revision.is_held).map(|revision| revision.name.as_str());
    let wanted = next(compiled(gathered, &sound(gathered)), rollout(gathered), &revisions);
    let refused = problems.iter().find(|(_, of)| !of.is_empty());
    let obstacle = match refused {
        Some((policy, _)) => Some(Obstacle::Refused { policy: (*policy).to_owned() }),
        // Nothing is kept back where nothing newer is to be said.
        None => wanted.as_ref().and_then(|_| brake(gathered, held)),
    };
    let publish = match &obstacle {
        Some(_) if !revisions.is_empty() => None,
        Some(_) => next(compiled(gathered, &[]), Rollout::default(), &revisions),
        None => wanted,
    };
    let newest = match (&publish, revisions.last()) {
        (Some(spec), _) => Some((spec.sequence, spec.rollout.percent)),
        (None, Some(last)) => {
            Some((last.sequence, last.spec.as_ref().map_or(100, |spec| spec.rollout.percent)))
        }
        (None, None) => None,
    };
    let newest = newest.map(|(sequence, percent)| Newest {
        sequence,
        percent,
        progress: pods::progress(&gathered.pods, SCOPE_ACCESS, (sequence, percent), now),
    });
    let outdated = outdated(gathered, revisions, publish.is_some());
    Access { problems, publish, newest, outdated, held, obstacle }
}

/// Policies that parsed, by name.
fn sound(gathered: &Gathered) -> Vec<(&str, &RolePolicySpec)> {
    let typed = |found: &'_ Found<RolePolicy>| found.typed.is_ok();
    let policies = gathered.policies.iter().filter(|found| typed(found));
    policies.filter_map(|found| Some((found.name.as_str(), &found.typed.as_ref().ok()?.spec))).collect()
}

fn problems(gathered: &Gathered) -> BTreeMap<&str, Vec<Problem>> {
    let mut problems: BTreeMap<&str, Vec<Problem>> = BTreeMap::new();
    for found in &gathered.policies {
        let own = match &found.typed {
            Ok(policy) => validate::role_policy(policy),
            Err(unreadable) => unreadable.clone(),
        };
        problems.insert(&found.name, own);
    }
    let policies = sound(gathered);
    for problem in validate::namespace_access(&gathered.namespace, &policies, Apps::NotJudged) {
        let of = problem.object.as_ref().and_then(|object| problems.get_mut(object.name.as_str()));
        if let Some(of) = of {
            of.push(problem);
        }
    }
    if problems.values().all(Vec::is_empty) {
        let size = compiled(gathered, &policies).map_or(0, |config| canonical(&config).len());
        if size > CONFIG_BYTES_MAX {
            for (name, of) in &mut problems {
                of.extend(too_large(&gathered.namespace, name, size));
            }
        }
    }
    problems
}

fn too_large(namespace: &str, name: &str, size: usize) -> Vec<Problem> {
    let mut report = Report::new(ObjectRef::new("RolePolicy", namespace, name));
    let message = format!(
        "all policies of the namespace together compile to {size} bytes, more than {CONFIG_BYTES_MAX}"
    );
    report.add(&Path::root("spec"), message, "bind groups by a claim instead of people one by one");
    report.into_problems()
}

/// What a person has put between the policies and the pods.
fn brake(gathered: &Gathered, held: Option<&str>) -> Option<Obstacle> {
    let held = held.map(|revision| Obstacle::Held { revision: revision.to_owned() });
    let paused = gathered.policies.iter().find(|found| found.is_paused());
    held.or_else(|| paused.map(|found| Obstacle::Paused { policy: found.name.clone() }))
}

/// `None` where policies have problems, which are reported on them.
fn compiled(gathered: &Gathered, policies: &[(&str, &RolePolicySpec)]) -> Option<AccessConfig> {
    let apps = gathered.apps.iter().filter_map(|found| {
        let id = AppId::new(&gathered.namespace, &found.name).ok()?;
        Some((id, found.object.metadata.labels.clone().unwrap_or_default()))
    });
    let apps: Vec<_> = apps.collect();
    compile_access(&AccessInput { namespace: &gathered.namespace, apps: &apps, policies }).ok()
}

/// The most careful one that any policy asks for.
fn rollout(gathered: &Gathered) -> Rollout {
    let percents = sound(gathered).into_iter().map(|(_, spec)| spec.rollout.percent);
    Rollout { percent: percents.min().unwrap_or_else(|| Rollout::default().percent) }
}

/// A new Revision, where the newest one says something else.
fn next(config: Option<AccessConfig>, rollout: Rollout, revisions: &[&Published]) -> Option<RevisionSpec> {
    let config = config?;
    let text = canonical(&config);
    let last = revisions.last();
    let says_the_same = |spec: &RevisionSpec| hash(&spec.config) == hash(&text) && spec.rollout == rollout;
    if last.and_then(|last| last.spec.as_ref()).is_some_and(says_the_same) {
        return None;
    }
    let sequence = last.map_or(1, |last| last.sequence + 1);
    Some(RevisionSpec { sequence, format: config.format, rollout, schema_hash: None, config: text })
}

/// All but the newest ones, what every pod runs, and what is held.
fn outdated<'a>(
    gathered: &Gathered,
    revisions: Vec<&'a Published>,
    is_publishing: bool,
) -> Vec<&'a Published> {
    let kept = KEPT - usize::from(is_publishing);
    let older = revisions.len().saturating_sub(kept);
    let good = pods::run_by_all(&gathered.pods, SCOPE_ACCESS);
    let is_needed = |revision: &Published| revision.is_held || Some(revision.sequence) == good;
    revisions.into_iter().take(older).filter(|revision| !is_needed(revision)).collect()
}
