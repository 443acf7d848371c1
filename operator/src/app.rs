//! The reconcile of one App: gather → validate → observe → plan → apply → status. It alone writes the App's Secret,
//! topics, tables, Revisions, finalizer and status; the workloads are the namespace's.
//!
//! Guarantees: an unchanged world costs no write; a crash between any two writes is followed by the same plan, shorter;
//! a back end that fails is a condition and hides nothing else; rows have a place before a Revision that makes them.
//! Assumes that no two reconciles of the same App run at once.

mod dataplane;
mod deletion;
mod gather;
mod keys;
mod objects;
mod observe;
mod place;
mod plan;
mod status;
mod validate;
mod volumes;

use std::time::Duration;

use jiff::Timestamp;
use millrace_crds::app::{AppStatus, RevisionStatus};
use millrace_crds::conditions::{
    ACCEPTED, DATAPLANE_READY, DURABLE, SCHEMA_READY, Status, TOPICS_READY, reason,
};
use millrace_crds::labels::{PAUSED_ANNOTATION, PEPPER_SECRET, SCOPE_ACCESS};
use millrace_crds::names::AppId;
use millrace_crds::revision::HOLD_ANNOTATION;
use millrace_crds::schema::Owner;

use crate::apply::{self, ApplyError};
use crate::context::{Context, Next, ReconcileError};
use crate::plan::Plan;
use crate::reports::Reports;
use dataplane::{Before, Judged, Target};
pub(crate) use deletion::WITHDRAWN_MAX;
use gather::Gathered;
use keys::Source;
use objects::Meta as _;
use place::Place;
use status::{Findings, Verdict};
use validate::{Digests, Refusal, Valid};

/// When to look again for what the namespace's reconcile makes at the same time.
const PEPPER_AGAIN: Duration = Duration::from_secs(2);
/// When to look again at an App that moves: its old pods say that they let go of it, or are gone.
const LEFT_AGAIN: Duration = Duration::from_secs(2);
/// When to look again at an App that cannot be accepted because of others: a Secret, another App's key.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);
/// Bounds of the time after which a back end that failed is tried again: half the time that it has failed for.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Brings one App to what is wanted, as far as it goes, and says in its status how far that is.
pub async fn reconcile(context: &Context, id: &AppId, now: Timestamp) -> Result<Next, ReconcileError> {
    let Some(gathered) = gather::gather(context, id).await? else { return Ok(Next::OnChange) };
    if gathered.object.is_deleting() {
        return deletion::reconcile(context, &gathered, now).await;
    }
    let source = Source { random: context.random, now };
    let valid = validate::validate(&gathered, &context.installation.for_compile(), source);
    let is_paused = gathered.object.annotation(PAUSED_ANNOTATION).is_some();
    let mut done = match &valid {
        _ if is_paused => unchanged(&gathered),
        Ok(valid) => bring(context, &gathered, valid, now).await?,
        Err(_) => {
            apply::carry_out(context, &plan::finalizer(&gathered)).await?;
            unchanged(&gathered)
        }
    };
    done.findings.accepted = Some(accepted(&gathered, valid.as_ref()));
    finish(context, &gathered, done, now).await
}

/// What a round did.
struct Done {
    findings: Findings,
    /// What pods should run now.
    target: Option<Target>,
    /// Why there is none, where that is known.
    no_target: Option<String>,
    /// What a move to another data plane waits for.
    moving: Option<String>,
    /// When something outside is due that no watch tells of.
    due: Option<Timestamp>,
    /// The same as a time from now.
    again: Option<Duration>,
}

fn unchanged(gathered: &Gathered) -> Done {
    let target = gathered.revisions.last().map(|newest| Target::of(gathered.id.name(), newest));
    Done { findings: Findings::default(), target, no_target: None, moving: None, due: None, again: None }
}

/// Carries out the plan, part by part.
async fn bring(
    context: &Context,
    gathered: &Gathered,
    valid: &Valid,
    now: Timestamp,
) -> Result<Done, ReconcileError> {
    let owner = owner(context, gathered);
    let seen = observe::observe(context, &gathered.id, &owner, valid).await;
    let planned = plan::plan(gathered, valid, &seen, &owner, now);
    apply::carry_out(context, &planned.keys).await?;
    let count = valid.config.topics.len();
    let topics = part(context, planned.topics, &format!("all {count} topics are as wanted")).await?;
    let database = &valid.config.storage.database;
    let tables = part(context, planned.tables, &format!("database `{database}` is as wanted")).await?;
    let is_in_place = topics.status == Status::True && tables.status == Status::True;
    let target = if is_in_place {
        apply::carry_out(context, &planned.publish.plan).await?;
        planned.publish.target
    } else {
        planned.publish.target_before
    };
    // After the Revision, which does not wait for it.
    let durable = match topics.status {
        Status::True => Some(status::durable(&observe::durability(context, valid).await)),
        Status::False | Status::Unknown => None,
    };
    let no_target = match valid.digests {
        Digests::Awaited => Some(format!(
            "no Revision is published: waiting for Secret `{PEPPER_SECRET}`, which the namespace gets with its first App (32 bytes in hex, key `pepper`)"
        )),
        Digests::Made if !is_in_place => {
            Some("no Revision is published: topics and tables are not in place".to_owned())
        }
        Digests::Made => None,
    };
    let moving = match &planned.publish.place {
        Place::At(_) => None,
        Place::Leaving { from, .. } => is_in_place.then(|| moving(gathered, from)),
    };
    let again = (valid.digests == Digests::Awaited).then_some(PEPPER_AGAIN);
    let again = again.into_iter().chain(moving.as_ref().map(|_| LEFT_AGAIN)).min();
    let findings = Findings { topics: Some(topics), tables: Some(tables), durable, ..Findings::default() };
    Ok(Done { findings, target, no_target, moving, due: valid.keys.previous_until, again })
}

/// What an App that moves waits for.
fn moving(gathered: &Gathered, from: &str) -> String {
    let awaited = place::holding(gathered.id.name(), &gathered.left);
    let awaited = awaited.map_or_else(String::new, |pod| format!("; awaited: `{pod}`"));
    format!("moving: the pods of data plane `{from}` let go of the App first, for a minute at most{awaited}")
}

/// Who the App's topics and database belong to.
fn owner(context: &Context, gathered: &Gathered) -> Owner {
    Owner {
        cluster: context.cluster_id.clone(),
        namespace: gathered.id.namespace().to_owned(),
        app: gathered.id.name().to_owned(),
        uid: gathered.object.uid_text().to_owned(),
    }
}

/// Carries out one part on a back end. A back end that fails is a verdict; Kubernetes failing ends the round.
async fn part(
    context: &Context,
    planned: Result<Plan, Verdict>,
    message: &str,
) -> Result<Verdict, ReconcileError> {
    let plan = match planned {
        Ok(plan) => plan,
        Err(verdict) => return Ok(verdict),
    };
    match apply::carry_out(context, &plan).await {
        Ok(_) => Ok(Verdict::ok(message)),
        Err(ApplyError::Backend { source, .. }) => Ok(Verdict::of_backend(&source)),
        Err(error @ ApplyError::Object { .. }) => Err(error.into()),
    }
}

fn accepted(gathered: &Gathered, valid: Result<&Valid, &Refusal>) -> Verdict {
    let valid = match valid {
        Ok(valid) => valid,
        Err(Refusal { reason, message }) => return Verdict::new(Status::False, reason, message),
    };
    let newest = gathered.revisions.last().map_or("none", |newest| newest.name());
    if gathered.object.annotation(PAUSED_ANNOTATION).is_some() {
        let message = format!("paused: nothing is written until the annotation {PAUSED_ANNOTATION} is gone");
        return Verdict::new(Status::True, reason::PAUSED, &message);
    }
    if gathered.object.annotation(HOLD_ANNOTATION).is_some() {
        let message = format!(
            "held at Revision `{newest}` by the annotation {HOLD_ANNOTATION}; \
             `millrace-operator rollback {} -n {} --resume` publishes what the App says now",
            gathered.id.name(),
            gathered.id.namespace()
        );
        return Verdict::new(Status::True, reason::HELD, &message);
    }
    let mut words = Vec::new();
    if !gathered.integrations_broken.is_empty() {
        let names = gathered.integrations_broken.join("`, `");
        words.push(format!("without Integration `{names}`, which has problems of its own"));
    }
    if let Some(until) = valid.keys.previous_until {
        words.push(format!("the write key before the last rotation is taken until {until}"));
    }
    Verdict::ok(&words.join("\n"))
}

/// Judges the pods, writes the status and says when to come again.
async fn finish(
    context: &Context,
    gathered: &Gathered,
    done: Done,
    now: Timestamp,
) -> Result<Next, ReconcileError> {
    let Done { mut findings, target, no_target, moving, due, again } = done;
    let judged = judge(gathered, target.as_ref(), &context.reports, now);
    findings.dataplane = Some(match moving.or(no_target.filter(|_| target.is_none())) {
        Some(message) => Verdict::new(Status::False, reason::PROGRESSING, &message),
        None => judged.verdict,
    });
    findings.ledger = dataplane::ledger(&gathered.pods, gathered.id.name());
    findings.revision = target.map(|target| RevisionStatus {
        sequence: target.sequence,
        hash: target.hash,
        applied: judged.applied,
        total: judged.total,
    });
    let app = gathered.app.as_ref().ok();
    findings.volumes = app.and_then(|app| volumes::judge(gathered, app, &context.installation));
    let data_plane = gather::data_plane(&gathered.id, &gathered.object);
    findings.endpoints = Some(status::endpoints(&gathered.id, data_plane, &context.installation));
    let status = status::status(&gathered.status, gathered.object.metadata.generation, findings, now);
    status::write(context, gathered, &status).await?;
    let due = due.map(|due| until(due, now));
    let soonest = [again, due, judged.look_again, retry(&status, now)].into_iter().flatten().min();
    Ok(soonest.map_or(Next::OnChange, Next::After))
}

fn judge(gathered: &Gathered, target: Option<&Target>, reports: &Reports, now: Timestamp) -> Judged {
    let Some(own) = target else {
        return dataplane::judge(&gathered.pods, &[], Before::NotReady, now);
    };
    let was = gathered.status.conditions.iter().find(|known| known.type_ == DATAPLANE_READY);
    let before = match was {
        Some(known) if known.status == Status::True.as_str() => Before::Ready,
        Some(_) | None => Before::NotReady,
    };
    // An operator that has just started knows what it wrote, and has not asked yet whether it still holds.
    if let (Some(known), Some(stored), Before::Ready) = (was, &gathered.status.revision, before)
        && stored.sequence == own.sequence
        && reports.is_young(now)
        && dataplane::is_unasked(&gathered.pods)
    {
        return dataplane::as_it_was(&known.message, stored.applied, stored.total);
    }
    let mut targets = vec![own.clone()];
    targets.extend(gathered.access.as_ref().map(|access| Target::of(SCOPE_ACCESS, access)));
    dataplane::judge(&gathered.pods, &targets, before, now)
}

fn until(due: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default().max(Duration::from_secs(1))
}

/// When to try again what does not hold because of something outside: the longer it fails, the later.
fn retry(status: &AppStatus, now: Timestamp) -> Option<Duration> {
    let fails =
        |kind: &str| status.conditions.iter().find(|c| c.type_ == kind && c.status != Status::True.as_str());
    let failing = [TOPICS_READY, SCHEMA_READY, DURABLE].into_iter().filter_map(fails);
    let failing = failing.filter(|condition| condition.reason != reason::TOO_FEW_REPLICAS);
    let backed_off = failing.map(|condition| {
        let failed_for = now.duration_since(condition.last_transition_time.0);
        Duration::try_from(failed_for / 2).unwrap_or_default().clamp(AGAIN.0, AGAIN.1)
    });
    backed_off.chain(fails(ACCEPTED).map(|_| REFUSED_AGAIN)).min()
}
