//! What was found about RolePolicies and Integrations in, their status out; written only where it differs, told only when
//! a condition turns.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DynamicObject;
use millrace_crds::conditions::{self, Finding, Status, reason};
use millrace_crds::integration::Integration;
use millrace_crds::problem::{ObjectRef, Problem, Report};
use millrace_crds::role_policy::RolePolicy;
use millrace_crds::selection::AppSelection;
use millrace_crds::validate::{self, SecretUse};
use millrace_crds::{crd, labels};
use serde::{Deserialize, Serialize};

use super::access::{Access, Newest, Obstacle};
use super::gather::Gathered;
use super::read::Found;
use crate::cluster::{ClusterError, ObjectKey, Severity, Told};
use crate::context::Context;
use crate::kind::Kind;

/// Problems that a message lists; the rest are counted. A condition's message has a bound, and nobody reads more.
const PROBLEMS_SHOWN: usize = 10;

/// The status of a RolePolicy or Integration: both are made of the same parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stood {
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Condition>,
}

/// One aspect, as found now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Aspect {
    status: Status,
    reason: &'static str,
    message: String,
}

impl Aspect {
    fn new(status: Status, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }
}

/// Writes the status of every RolePolicy and Integration that has changed.
pub(super) async fn write(
    context: &Context,
    gathered: &Gathered,
    access: &Access<'_>,
    now: Timestamp,
) -> Result<(), ClusterError> {
    for found in &gathered.policies {
        let aspects = policy(found, gathered, access);
        keep(context, (Kind::RolePolicy, &found.object), aspects, now).await?;
    }
    for found in &gathered.integrations {
        let aspects = integration(found, gathered);
        keep(context, (Kind::Integration, &found.object), aspects, now).await?;
    }
    Ok(())
}

/// Whether it is accepted, and whether it is in force.
type Aspects = [Aspect; 2];

fn policy(found: &Found<RolePolicy>, gathered: &Gathered, access: &Access<'_>) -> Aspects {
    let problems = access.problems.get(found.name.as_str()).map_or(&[][..], Vec::as_slice);
    if !problems.is_empty() {
        let in_force = access.newest.as_ref().map_or_else(
            || "nothing is in force".to_owned(),
            |newest| format!("{} stays in force", revision(newest)),
        );
        let ready = Aspect::new(Status::False, reason::INVALID, format!("not accepted; {in_force}"));
        return [Aspect::new(Status::False, reason::INVALID, listed(problems)), ready];
    }
    if found.is_paused() {
        let message =
            format!("annotation `{}` keeps changes from being published", labels::PAUSED_ANNOTATION);
        return [Aspect::new(Status::True, reason::PAUSED, message), enforced(access)];
    }
    if let Some(held) = access.held {
        return [Aspect::new(Status::True, reason::HELD, held_back(held)), enforced(access)];
    }
    let selection = found.typed.as_ref().ok().and_then(|policy| policy.spec.apps.as_ref());
    let accepted = Aspect::new(Status::True, reason::OK, missing_apps(selection, gathered));
    [accepted, enforced(access)]
}

fn held_back(revision: &str) -> String {
    let annotation = millrace_crds::revision::HOLD_ANNOTATION;
    format!("Revision `{revision}` is held; remove its annotation `{annotation}` to publish newer ones")
}

fn revision(newest: &Newest) -> String {
    format!("Revision `{}`", labels::revision(labels::SCOPE_ACCESS, newest.sequence))
}

/// Whether what the policies say is what pods enforce.
fn enforced(access: &Access<'_>) -> Aspect {
    let Some(newest) = &access.newest else {
        return Aspect::new(Status::False, reason::PROGRESSING, "there is no App in this namespace yet");
    };
    let progressing = |message| Aspect::new(Status::False, reason::PROGRESSING, message);
    let name = revision(newest);
    match &access.obstacle {
        Some(Obstacle::Held { revision }) => {
            return Aspect::new(Status::False, reason::HELD, held_back(revision));
        }
        Some(Obstacle::Paused { policy }) => {
            let message = format!("RolePolicy `{policy}` is paused, and all policies are published together");
            return Aspect::new(Status::False, reason::PAUSED, message);
        }
        Some(Obstacle::Refused { policy }) => {
            return progressing(format!(
                "waits for RolePolicy `{policy}` to be corrected, since all policies are published together; {name} \
                 stays in force"
            ));
        }
        None => {}
    }
    let progress = &newest.progress;
    if let Some((pod, words)) = &progress.refused {
        let message = format!("pod `{pod}` refuses {name}: {words}");
        return Aspect::new(Status::False, reason::REVISION_REFUSED, message);
    }
    if progress.total == 0 {
        return progressing(format!("{name} is published; no pod has reported yet"));
    }
    if progress.running < progress.total {
        return progressing(format!("{} of {} pods run {name}", progress.running, progress.total));
    }
    let share = if newest.percent < 100 {
        format!("; it is rolled out to {} percent of them", newest.percent)
    } else {
        String::new()
    };
    Aspect::new(Status::True, reason::OK, format!("all pods that should run {name}{share}"))
}

fn integration(found: &Found<Integration>, gathered: &Gathered) -> Aspects {
    let (problems, why) = match &found.typed {
        Err(problems) => (problems.clone(), reason::INVALID),
        Ok(typed) => match validate::integration(typed) {
            own if own.is_empty() => (secret_problems(found, typed, gathered), reason::SECRET_UNUSABLE),
            own => ([own, secret_problems(found, typed, gathered)].concat(), reason::INVALID),
        },
    };
    if !problems.is_empty() {
        let ready = Aspect::new(Status::False, why, "not accepted; nothing is delivered");
        return [Aspect::new(Status::False, why, listed(&problems)), ready];
    }
    let selection = found.typed.as_ref().ok().and_then(|typed| typed.spec.apps.as_ref());
    let accepted = Aspect::new(Status::True, reason::OK, missing_apps(selection, gathered));
    let message = "this release checks Integrations and passes them to the pods, but makes no deliveries yet";
    [accepted, Aspect::new(Status::False, reason::NOT_SUPPORTED, message)]
}

fn secret_problems(found: &Found<Integration>, typed: &Integration, gathered: &Gathered) -> Vec<Problem> {
    let object = ObjectRef::new(crd::Kind::Integration.as_str(), &gathered.namespace, &found.name);
    let mut report = Report::new(object);
    for usage in SecretUse::of_integration(&typed.spec) {
        usage.check(gathered.secrets.get(usage.secret).map(|known| &known.secret), &mut report);
    }
    report.into_problems()
}

/// Apps that are named and do not exist: no problem, since they may come, but worth a word.
fn missing_apps(selection: Option<&AppSelection>, gathered: &Gathered) -> String {
    let named = selection.and_then(|selection| selection.names.as_deref()).unwrap_or_default();
    let is_there = |name: &str| gathered.apps.iter().any(|app| app.name == name);
    let missing: Vec<_> =
        named.iter().filter(|name| !is_there(name)).map(|name| format!("`{name}`")).collect();
    if missing.is_empty() {
        return String::new();
    }
    format!("there is no App {} in this namespace", missing.join(", "))
}

/// The first problems, each with field and fix, and how many more there are.
fn listed(problems: &[Problem]) -> String {
    let line = |problem: &Problem| Problem { object: None, ..problem.clone() }.to_string();
    let mut lines: Vec<String> = problems.iter().take(PROBLEMS_SHOWN).map(line).collect();
    if problems.len() > PROBLEMS_SHOWN {
        lines.push(format!("and {} more", problems.len() - PROBLEMS_SHOWN));
    }
    lines.join("\n")
}

/// Conditions from the two aspects; beside them what kstatus looks at.
fn conditions_of(
    mut stood: Stood,
    [accepted, ready]: &Aspects,
    generation: Option<i64>,
    now: Timestamp,
) -> Stood {
    let needs_a_person = accepted.status != Status::True || ready.reason == reason::REVISION_REFUSED;
    let is_moving = !needs_a_person && ready.reason == reason::PROGRESSING;
    let abnormal = |is_so: bool, why: &Aspect| {
        let (status, reason) = if is_so { (Status::True, why.reason) } else { (Status::False, reason::OK) };
        Aspect::new(status, reason, if is_so { why.message.clone() } else { String::new() })
    };
    let why = if accepted.status == Status::True { ready } else { accepted };
    for (kind, aspect) in [
        (conditions::ACCEPTED, accepted),
        (conditions::READY, ready),
        (conditions::RECONCILING, &abnormal(is_moving, ready)),
        (conditions::STALLED, &abnormal(needs_a_person, why)),
    ] {
        let finding = Finding {
            kind,
            status: aspect.status,
            reason: aspect.reason,
            message: &aspect.message,
            observed_generation: generation,
        };
        conditions::set(&mut stood.conditions, &finding, now);
    }
    stood.observed_generation = generation;
    stood
}

async fn keep(
    context: &Context,
    (kind, object): (Kind, &DynamicObject),
    aspects: Aspects,
    now: Timestamp,
) -> Result<(), ClusterError> {
    let before = stood(object);
    let generation = object.metadata.generation;
    let after = conditions_of(before.clone(), &aspects, generation, now);
    if after == before {
        return Ok(());
    }
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let key = ObjectKey::new(kind, object.metadata.namespace.as_deref().unwrap_or_default(), name);
    let status = serde_json::to_value(&after).expect("texts and numbers are valid JSON");
    context.cluster.set_status(&key, &status).await?;
    let [accepted, ready] = aspects;
    for (kind, aspect) in [(conditions::ACCEPTED, accepted), (conditions::READY, ready)] {
        if has_turned(&before, &after, kind) {
            context.cluster.tell(object, told(kind, aspect)).await;
        }
    }
    Ok(())
}

/// What was written before; nothing where somebody else wrote something that is no status of ours.
fn stood(object: &DynamicObject) -> Stood {
    let status = object.data.get("status").cloned().unwrap_or_default();
    serde_json::from_value(status).unwrap_or_default()
}

/// A first verdict is told only where it is bad: that all is well needs no Event.
fn has_turned(before: &Stood, after: &Stood, kind: &str) -> bool {
    let status = |stood: &Stood| {
        let found = stood.conditions.iter().find(|condition| condition.type_ == kind);
        found.map(|condition| condition.status.clone())
    };
    let first_and_good = kind == conditions::READY || status(after).as_deref() == Some(Status::True.as_str());
    match status(before) {
        None => !first_and_good,
        Some(was) => Some(was) != status(after),
    }
}

fn told(kind: &'static str, aspect: Aspect) -> Told {
    let severity = if aspect.status == Status::True { Severity::Normal } else { Severity::Warning };
    let note = format!("{kind} is {}: {}", aspect.status.as_str(), aspect.message);
    Told { severity, reason: aspect.reason, action: "Reconcile", note }
}
