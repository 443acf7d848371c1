//! A valid App and what its back ends hold in, every step towards what is wanted out, in the order in which they are
//! safe: finalizer, keys, topics, tables, and the Revision last, because rows need a place before they come. Pure.

use jiff::Timestamp;
use millrace_crds::app::{App, DeletionPolicy};
use millrace_crds::conditions::{Status, reason};
use millrace_crds::config::Topic;
use millrace_crds::labels::{self, FINALIZER};
use millrace_crds::names::AppId;
use millrace_crds::revision::{HOLD_ANNOTATION, RevisionSpec};
use millrace_crds::schema::Owner;
use millrace_crds::topics;

use super::dataplane::Target;
use super::gather::{Gathered, Published};
use super::objects::{self, Meta as _, RevisionHome};
use super::observe::{BackendsSeen, TopicsSeen};
use super::place::Place;
use super::status::Verdict;
use super::validate::{Digests, Valid};
use crate::backends::BackendError;
use crate::cluster::ObjectKey;
use crate::kind::Kind;
use crate::plan::{Plan, Presence, Step};

/// Revisions that are kept, beside those that pods run.
const KEPT: usize = 5;
/// Revisions that are kept while pods do not say what they run.
const KEPT_UNKNOWN_MAX: usize = 20;

/// Everything to be done, in four parts that are carried out one after the other. A part that fails ends itself; the
/// Revision comes only when all did well.
pub(crate) struct Planned {
    /// The finalizer and the App's Secret.
    pub(crate) keys: Plan,
    /// Topics, or what stands against them.
    pub(crate) topics: Result<Plan, Verdict>,
    /// Tables, or what stands against them.
    pub(crate) tables: Result<Plan, Verdict>,
    /// The Revision.
    pub(crate) publish: Publish,
}

/// What is done about Revisions.
pub(crate) struct Publish {
    /// Those that stay, the new one, and removal of old ones.
    pub(crate) plan: Plan,
    /// What pods should run once this is carried out.
    pub(crate) target: Option<Target>,
    /// The same if it is not carried out.
    pub(crate) target_before: Option<Target>,
    /// Where Revisions belong.
    pub(crate) place: Place,
}

/// The finalizer as the policy has it. One that could not be read changes nothing.
pub(crate) fn finalizer(gathered: &Gathered) -> Plan {
    let Ok(app) = &gathered.app else { return Plan::default() };
    Plan { steps: finalizer_step(gathered, app).into_iter().collect(), ..Plan::default() }
}

/// Plans an App without problems.
pub(crate) fn plan(
    gathered: &Gathered,
    valid: &Valid,
    seen: &BackendsSeen,
    owner: &Owner,
    now: Timestamp,
) -> Planned {
    let mut keys = finalizer(gathered);
    keys.steps.push(objects::own_secret(&gathered.id, &valid.keys.data, &valid.keys.annotations));
    let on_backends =
        |steps| Plan { steps, kafka: valid.kafka.clone(), clickhouse: valid.clickhouse.clone() };
    let topics = match &seen.topics {
        Ok(found) => topic_steps(&gathered.id, found, &valid.config.topics, owner),
        Err(error) => Err(Verdict::of_backend(error)),
    };
    let tables = match &seen.tables {
        Ok(statements) => Ok(statements.iter().cloned().map(Step::Statement).collect()),
        Err(error) => Err(Verdict::of_backend(error)),
    };
    Planned {
        keys,
        topics: topics.map(on_backends),
        tables: tables.map(on_backends),
        publish: publish(gathered, valid, now),
    }
}

fn finalizer_step(gathered: &Gathered, app: &App) -> Option<Step> {
    let finalizers = gathered.object.metadata.finalizers.as_deref().unwrap_or_default();
    let is_there = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    let finalizer = match (app.spec.deletion_policy, is_there) {
        (DeletionPolicy::Delete, false) => Presence::Present,
        (DeletionPolicy::Retain, true) => Presence::Absent,
        (DeletionPolicy::Delete, true) | (DeletionPolicy::Retain, false) => return None,
    };
    let key = ObjectKey::new(Kind::App, gathered.id.namespace(), gathered.id.name());
    Some(Step::Finalize { key, finalizer })
}

fn topic_steps(
    id: &AppId,
    seen: &TopicsSeen,
    desired: &[Topic],
    owner: &Owner,
) -> Result<Vec<Step>, Verdict> {
    let claim = claim(id, seen, owner)?;
    let changes = topics::diff(&seen.found, desired).map_err(|refused| {
        let words: Vec<String> = refused.iter().map(ToString::to_string).collect();
        Verdict::new(Status::False, reason::INCOMPATIBLE, &words.join("\n"))
    })?;
    Ok(claim.into_iter().chain(changes.into_iter().map(Step::Topic)).collect())
}

/// The topics are ours, nobody's, or another's. The claim stands before the first topic, so topics without one were made
/// by somebody else.
fn claim(id: &AppId, seen: &TopicsSeen, owner: &Owner) -> Result<Option<Step>, Verdict> {
    let ours = Step::ClaimTopics { app: id.clone(), owner: owner.clone() };
    let taken = |message: &str| Err(Verdict::new(Status::False, reason::OWNED_BY_ANOTHER, message));
    match &seen.owner {
        Some(found) if found == owner => Ok(None),
        Some(found) if is_same_app(found, owner) => Ok(Some(ours)),
        Some(found) => taken(&format!(
            "the topics of App `{id}` belong to App `{}/{}` (uid `{}`) of cluster `{}`, not to this one of cluster `{}`; \
             choose another App name or prefix, or delete that App there with `deletionPolicy: Delete`",
            found.namespace, found.app, found.uid, found.cluster, owner.cluster
        )),
        None if seen.found.is_empty() => Ok(Some(ours)),
        None => taken(&format!(
            "topic `{}` exists and no App has claimed it; choose another App name or prefix, or delete the topic if \
             nobody needs it",
            seen.found[0].name
        )),
    }
}

/// Whether both are the same App, which may have been deleted and made again in between.
pub(crate) fn is_same_app(found: &Owner, owner: &Owner) -> bool {
    (&found.cluster, &found.namespace, &found.app) == (&owner.cluster, &owner.namespace, &owner.app)
}

fn publish(gathered: &Gathered, valid: &Valid, now: Timestamp) -> Publish {
    let mut known: Vec<&Published> = gathered.revisions.iter().collect();
    let newest = known.last().copied();
    let target_before = newest.map(|newest| Target::of(gathered.id.name(), newest));
    let place = place(gathered, now);
    let home = home(gathered, &place);
    let new = next(gathered, valid, newest);
    let target = new.as_ref().map_or_else(
        || newest.map(|newest| Target::of(gathered.id.name(), newest)),
        |spec| Some(new_target(&gathered.id, spec)),
    );
    let dropped = dropped(gathered, known.len() + usize::from(new.is_some()));
    known.retain(|revision| !dropped.contains(&revision.sequence));
    let mut steps: Vec<Step> = known.into_iter().map(|revision| home.keep(revision)).collect();
    steps.extend(new.map(|spec| home.publish(&spec)));
    if matches!(place, Place::At(_)) {
        // The newest first: pods that get all of them never run an older one on the way. Those that lose all of them lose
        // the newest last, for the same reason.
        steps.reverse();
    }
    let dropped = gathered.revisions.iter().filter(|revision| dropped.contains(&revision.sequence));
    steps.extend(dropped.map(|revision| objects::delete_revision(&gathered.id, revision)));
    Publish { plan: Plan { steps, ..Plan::default() }, target, target_before, place }
}

/// Where the Revisions of an App belong now.
pub(crate) fn place(gathered: &Gathered, now: Timestamp) -> Place {
    let wanted = super::gather::data_plane(&gathered.id, &gathered.object);
    Place::next(gathered.place.clone(), wanted, gathered.id.name(), &gathered.left, now)
}

fn home<'a>(gathered: &'a Gathered, place: &'a Place) -> RevisionHome<'a> {
    RevisionHome { app: &gathered.id, uid: gathered.object.uid_text(), place }
}

/// The Revision to write, if the newest does not say it already and nothing holds it back.
fn next(gathered: &Gathered, valid: &Valid, newest: Option<&Published>) -> Option<RevisionSpec> {
    let Ok(app) = &gathered.app else { return None };
    if valid.digests == Digests::Awaited || gathered.object.annotation(HOLD_ANNOTATION).is_some() {
        return None;
    }
    let spec = RevisionSpec {
        sequence: newest.map_or(0, |newest| newest.sequence) + 1,
        format: valid.config.format,
        rollout: app.spec.rollout,
        schema_hash: Some(valid.config.storage.schema_hash.clone()),
        config: valid.bytes.clone(),
    };
    let says_it = |known: &RevisionSpec| (&known.config, known.rollout) == (&spec.config, spec.rollout);
    let is_said = newest.and_then(|newest| newest.spec.as_ref()).is_some_and(says_it);
    (!is_said).then_some(spec)
}

fn new_target(id: &AppId, spec: &RevisionSpec) -> Target {
    Target {
        name: labels::revision(id.name(), spec.sequence),
        scope: id.name().to_owned(),
        sequence: spec.sequence,
        hash: millrace_crds::compile::hash(&spec.config),
        percent: spec.rollout.percent,
    }
}

/// Sequences that may go: beyond the last five and run by nobody. What pods that say nothing run is unknown, so that then
/// more are kept, within bounds.
fn dropped(gathered: &Gathered, count: usize) -> Vec<i64> {
    let said = gathered.pods.iter().map(|pod| pod.said.as_ref().and_then(|said| said.as_ref().ok()));
    let is_known = said.clone().all(|said| said.is_some());
    let kept = if is_known { KEPT } else { KEPT_UNKNOWN_MAX };
    let running: Vec<i64> = said
        .flatten()
        .filter_map(|said| said.scopes.get(gathered.id.name())?.running.as_ref())
        .map(|running| running.sequence)
        .collect();
    let old = gathered.revisions.iter().take(count.saturating_sub(kept));
    old.map(|revision| revision.sequence).filter(|sequence| !running.contains(sequence)).collect()
}

impl Verdict {
    /// A back end failed.
    pub(crate) fn of_backend(error: &BackendError) -> Self {
        Self::new(Status::False, error.reason, &error.message)
    }
}
