//! A plan in, a world that agrees with it out. Compares first and writes only what differs; the order of the steps is
//! the plan's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::core::DynamicObject;
use millrace_crds::compile::revision_hash;
use millrace_crds::conditions::reason;
use millrace_crds::labels::{FINALIZER, INTENT_ANNOTATION};
use millrace_crds::topics::Change;
use serde_json::Value;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::backends::BackendError;
use crate::cluster::{ClusterError, ObjectKey};
use crate::context::Context;
use crate::fields;
use crate::kind::Kind;
use crate::plan::{Plan, Presence, Step};

/// Longest time of one step on a back end: a statement that alters a large table is given to ClickHouse without waiting
/// for its mutation, and a broker answers or is away.
const BACKEND_STEP_MAX: Duration = Duration::from_secs(30);

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Objects applied or deleted; empty when everything was as planned.
    pub written: Vec<ObjectKey>,
    /// Steps on back ends, in words.
    pub backends: Vec<String>,
}

impl Applied {
    /// Whether nothing had to be done.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.backends.is_empty()
    }
}

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A write to Kubernetes.
    #[error("cannot bring {key} to what is planned")]
    Object {
        /// Which object.
        key: ObjectKey,
        /// Why.
        source: ClusterError,
    },
    /// A change of a back end.
    #[error("cannot {step}")]
    Backend {
        /// What was tried, in words.
        step: String,
        /// Why.
        source: BackendError,
    },
}

/// Carries out a plan, step by step; the first failure ends it.
pub async fn carry_out(context: &Context, plan: &Plan) -> Result<Applied, ApplyError> {
    let mut applied = Applied::default();
    for step in &plan.steps {
        match step {
            Step::Apply { .. } | Step::Delete { .. } | Step::Finalize { .. } => {
                if let Some(key) = on_cluster(context, step).await? {
                    info!(object.key = %key, "brought an object to what is planned");
                    applied.written.push(key);
                }
            }
            Step::ClaimTopics { .. }
            | Step::Topic(_)
            | Step::Statement(_)
            | Step::DeleteTopics { .. }
            | Step::DropDatabase { .. } => {
                applied.backends.push(on_backend(context, plan, step).await?);
            }
        }
    }
    let outcome = if applied.is_empty() { "unchanged" } else { "changed" };
    context.metrics.plans.with_label_values(&[outcome]).inc();
    Ok(applied)
}

/// Whether the object as stored already says all that the intent says, and was last applied with this very intent.
pub fn is_as_intended(stored: &DynamicObject, intent: &DynamicObject) -> bool {
    carries(stored, &intent_hash(intent)) && says(stored, intent)
}

fn carries(stored: &DynamicObject, hash: &str) -> bool {
    let annotations = stored.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(INTENT_ANNOTATION)).is_some_and(|is| is == hash)
}

fn says(stored: &DynamicObject, intent: &DynamicObject) -> bool {
    fields::contains(kind_of(intent), &fields::tree(stored), &intent_fields(intent))
}

fn kind_of(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

fn intent_fields(intent: &DynamicObject) -> Value {
    let mut value = fields::tree(intent);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    if let Some(annotations) = value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(INTENT_ANNOTATION);
    }
    value
}

/// Names an intent, so that a field that is no longer in it is noticed. Values of a Secret do not go into it: a digest
/// would help whoever guesses them, and the values themselves are compared anyway.
fn intent_hash(intent: &DynamicObject) -> String {
    let mut value = intent_fields(intent);
    if kind_of(intent) == Kind::Secret.as_str() {
        for values in ["data", "stringData"] {
            for (_, value) in value.get_mut(values).and_then(Value::as_object_mut).into_iter().flatten() {
                *value = Value::Null;
            }
        }
    }
    revision_hash(&value)
}

/// A step on an object; its key when something was written.
async fn on_cluster(context: &Context, step: &Step) -> Result<Option<ObjectKey>, ApplyError> {
    let (key, written) = match step {
        Step::Apply { key, intent } => (key, apply(context, key, intent).await),
        Step::Delete { key, uid } => (key, delete(context, key, uid).await),
        Step::Finalize { key, finalizer } => (key, finalize(context, key, *finalizer).await),
        Step::ClaimTopics { .. }
        | Step::Topic(_)
        | Step::Statement(_)
        | Step::DeleteTopics { .. }
        | Step::DropDatabase { .. } => return Ok(None),
    };
    match written {
        Ok(Written::Yes) => Ok(Some(key.clone())),
        Ok(Written::No) => Ok(None),
        Err(source) => Err(ApplyError::Object { key: key.clone(), source }),
    }
}

enum Written {
    Yes,
    No,
}

async fn apply(context: &Context, key: &ObjectKey, intent: &DynamicObject) -> Result<Written, ClusterError> {
    let hash = intent_hash(intent);
    if let Some(stored) = context.cluster.get(key).await?
        && carries(&stored, &hash)
        && (says(&stored, intent) || context.settled.holds(key, &hash, &stored))
    {
        return Ok(Written::No);
    }
    let mut marked = intent.clone();
    let annotations = marked.metadata.annotations.get_or_insert_default();
    annotations.insert(INTENT_ANNOTATION.to_owned(), hash.clone());
    let answer = context.cluster.apply(key, &marked).await?;
    if !says(&answer, intent) {
        warn!(object.key = %key, "the API server writes this object in other words than we do");
        context.settled.keep(key, hash, &answer);
    }
    Ok(Written::Yes)
}

async fn delete(context: &Context, key: &ObjectKey, uid: &str) -> Result<Written, ClusterError> {
    let stored = context.cluster.get(key).await?;
    let is_there = stored.is_some_and(|stored| {
        stored.metadata.uid.as_deref() == Some(uid) && stored.metadata.deletion_timestamp.is_none()
    });
    if !is_there {
        return Ok(Written::No);
    }
    context.cluster.delete(key, uid).await?;
    Ok(Written::Yes)
}

async fn finalize(context: &Context, key: &ObjectKey, finalizer: Presence) -> Result<Written, ClusterError> {
    let Some(stored) = context.cluster.get(key).await? else { return Ok(Written::No) };
    let mut finalizers = stored.metadata.finalizers.clone().unwrap_or_default();
    let is_there = finalizers.iter().any(|name| name == FINALIZER);
    match (finalizer, is_there) {
        (Presence::Present, true) | (Presence::Absent, false) => return Ok(Written::No),
        // The API server takes no new finalizer on what is being deleted.
        (Presence::Present, false) if stored.metadata.deletion_timestamp.is_some() => return Ok(Written::No),
        (Presence::Present, false) => finalizers.push(FINALIZER.to_owned()),
        (Presence::Absent, true) => finalizers.retain(|name| name != FINALIZER),
    }
    context.cluster.set_finalizers(&stored, key, finalizers).await?;
    Ok(Written::Yes)
}

/// A step on a back end, in words.
async fn on_backend(context: &Context, plan: &Plan, step: &Step) -> Result<String, ApplyError> {
    let words = in_words(step);
    let done = timeout(BACKEND_STEP_MAX, call_backend(context, plan, step)).await;
    let done = done.unwrap_or_else(|_| {
        let seconds = BACKEND_STEP_MAX.as_secs();
        Err(BackendError {
            reason: reason::UNREACHABLE,
            message: format!("no answer within {seconds} s; it is tried again"),
            retryable: true,
        })
    });
    let outcome = if done.is_ok() { "ok" } else { "error" };
    context.metrics.backend_steps.with_label_values(&[outcome]).inc();
    match done {
        Ok(()) => {
            info!(backend.step = words, "changed a back end");
            Ok(words)
        }
        Err(source) => Err(ApplyError::Backend { step: words, source }),
    }
}

async fn call_backend(context: &Context, plan: &Plan, step: &Step) -> Result<(), BackendError> {
    let topics = || context.backends.topics(plan.kafka.as_ref());
    let tables = || context.backends.tables(plan.clickhouse.as_ref());
    match step {
        Step::ClaimTopics { app, owner } => topics().claim(app, owner).await,
        Step::Topic(change) => topics().carry_out(change).await,
        Step::DeleteTopics { app, names } => topics().delete(app, names).await,
        Step::Statement(statement) => tables().carry_out(statement).await,
        Step::DropDatabase { database, owner } => tables().drop_database(database, owner).await,
        Step::Apply { .. } | Step::Delete { .. } | Step::Finalize { .. } => Ok(()),
    }
}

fn in_words(step: &Step) -> String {
    match step {
        Step::ClaimTopics { app, .. } => format!("claim the topics of `{app}`"),
        Step::Topic(Change::Create(topic)) => format!("create topic `{}`", topic.name),
        Step::Topic(Change::Grow { name, from, to }) => {
            format!("grow topic `{name}` from {from} to {to} partitions")
        }
        Step::Topic(Change::SetRetention { name, .. }) => format!("change the retention of topic `{name}`"),
        Step::Statement(statement) => format!("change `{}` in ClickHouse", statement.object),
        Step::DeleteTopics { app, .. } => format!("delete the topics of `{app}`"),
        Step::DropDatabase { database, .. } => format!("drop database `{database}`"),
        Step::Apply { key, .. } => format!("apply {key}"),
        Step::Delete { key, .. } => format!("delete {key}"),
        Step::Finalize { key, .. } => format!("set the finalizer of {key}"),
    }
}

/// What the API server answered to our intents: where it writes a field in other words than we do, the stored object
/// never equals the intent, and only this tells that there is nothing left to do.
#[derive(Debug, Default)]
pub struct Settled {
    /// Per object: the intent, and a digest of what it became. Holds only the odd ones.
    inner: Mutex<HashMap<ObjectKey, (String, String)>>,
}

/// Most objects remembered as settled; beyond it they are written once more.
const SETTLED_MAX: usize = 10_000;

impl Settled {
    fn holds(&self, key: &ObjectKey, hash: &str, stored: &DynamicObject) -> bool {
        let inner = self.inner.lock().expect("no holder of this lock panics");
        inner.get(key).is_some_and(|(intent, digest)| intent == hash && *digest == digest_of(stored))
    }

    fn keep(&self, key: &ObjectKey, hash: String, answer: &Arc<DynamicObject>) {
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        if inner.len() >= SETTLED_MAX {
            inner.clear();
        }
        inner.insert(key.clone(), (hash, digest_of(answer)));
    }
}

/// Names an object as it is, status apart. Stays in memory.
fn digest_of(object: &DynamicObject) -> String {
    let mut value = fields::tree(object);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    revision_hash(&value)
}

#[cfg(test)]
mod tests;
