//! What reconciles would have written in, what people want to know of it out. Values only; [`super::text`] prints them, and
//! as JSON they are the output of `plan --output json`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DynamicObject;
use millrace_crds::conditions::{ACCEPTED, READY, SCHEMA_READY, Status, TOPICS_READY, reason};
use millrace_crds::labels::SCOPE;
use millrace_crds::topics::Change;
use serde::Serialize;
use serde_json::Value;

use crate::backends::record::{BackendStep, Recorded};
use crate::cluster::overlay::{Verb, Write};
use crate::cluster::{Cluster, ClusterError, ObjectKey};
use crate::diff_text::{self, FieldChange};
use crate::kind::Kind;

/// What applying would do.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Custom resources and Secrets of the files.
    pub resources: Vec<ObjectChange>,
    /// What the operator makes, changes and removes.
    pub objects: Vec<ObjectChange>,
    /// Topics, in order.
    pub topics: Vec<TopicChange>,
    /// Statements on ClickHouse, in order.
    pub statements: Vec<StatementChange>,
    /// Workloads whose pods are replaced.
    pub restarts: Vec<Restart>,
    /// Configurations that running pods take without a restart.
    pub reloads: Vec<Reload>,
    /// What cannot be done.
    pub refused: Vec<Refused>,
    /// What was left aside, held or paused.
    pub notes: Vec<String>,
}

/// What happens to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is made.
    Create,
    /// It is changed.
    Change,
    /// It is removed.
    Delete,
}

/// One object that changes.
#[derive(Debug, Serialize)]
pub struct ObjectChange {
    /// What happens to it.
    pub action: Action,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Of new workloads: what they run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<String>,
    /// Fields that differ; of a new Secret its keys, of other new or removed objects none.
    pub fields: Vec<FieldChange>,
    /// Of a new object, Secrets apart: all that is written into it, digests of keys apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<Value>,
}

/// One topic that changes.
#[derive(Debug, Serialize)]
pub struct TopicChange {
    /// What happens to it.
    pub action: Action,
    /// Its name.
    pub topic: String,
    /// In words.
    pub what: String,
    /// The Kafka, where it is an App's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// One statement on ClickHouse.
#[derive(Debug, Serialize)]
pub struct StatementChange {
    /// Whether something is removed by it.
    pub action: Action,
    /// Database, or object within it.
    pub object: String,
    /// The SQL.
    pub sql: String,
    /// The ClickHouse, where it is an App's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// A workload whose pods are replaced, one by one.
#[derive(Debug, Serialize)]
pub struct Restart {
    /// Deployment or StatefulSet.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many pods, where that is known.
    pub pods: Option<u64>,
}

/// A configuration that pods take while they run.
#[derive(Debug, Serialize)]
pub struct Reload {
    /// Its namespace.
    pub namespace: String,
    /// An App's name, or `access`.
    pub scope: String,
    /// Sequence of the newest Revision so far.
    pub from: i64,
    /// Sequence of the new one.
    pub to: i64,
    /// What differs in the configuration.
    pub fields: Vec<FieldChange>,
}

/// Something that cannot be done.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// Kind of the resource.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The condition that does not hold.
    pub condition: String,
    /// Its reason.
    pub reason: String,
    /// Its message, with the fix.
    pub message: String,
    /// Whether it stood so before, on a resource that is not in the files: told, and no verdict.
    pub known: bool,
}

/// How it ends, as an exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing would change: 0.
    Unchanged,
    /// Something cannot be done: 1.
    Refused,
    /// Something would change: 2.
    Changes,
}

impl Report {
    /// How it ends.
    pub fn verdict(&self) -> Verdict {
        let nothing = self.resources.is_empty()
            && self.objects.is_empty()
            && self.topics.is_empty()
            && self.statements.is_empty();
        if self.refused.iter().any(|refused| !refused.known) {
            Verdict::Refused
        } else if nothing {
            Verdict::Unchanged
        } else {
            Verdict::Changes
        }
    }

    /// Adds what happens to objects. `base` is the cluster as it is.
    pub async fn add_objects(&mut self, base: &dyn Cluster, changes: &[Write]) -> Result<(), ClusterError> {
        for change in changes {
            let listed = object_change(change);
            match change.verb {
                Verb::Lay => self.resources.push(listed),
                Verb::Apply | Verb::Delete | Verb::Status | Verb::Finalizers => self.objects.push(listed),
            }
            self.restarts.extend(restart(change));
            self.reloads.extend(reload(base, change).await?);
        }
        Ok(())
    }

    /// Adds what happens to topics and tables.
    pub fn add_backends(&mut self, steps: Vec<Recorded>) {
        for Recorded { endpoint, step } in steps {
            match step {
                BackendStep::Claim(app, _) => self.topics.push(TopicChange {
                    action: Action::Create,
                    topic: app.to_string(),
                    what: "its owner is written down".to_owned(),
                    endpoint,
                }),
                BackendStep::Topic(change) => self.topics.push(topic_change(change, endpoint)),
                BackendStep::DeleteTopics(_, names) => {
                    self.topics.extend(names.into_iter().map(|topic| TopicChange {
                        action: Action::Delete,
                        topic,
                        what: "with everything in it".to_owned(),
                        endpoint: endpoint.clone(),
                    }));
                }
                BackendStep::Statement(statement) => self.statements.push(StatementChange {
                    action: if statement.text.starts_with("CREATE") {
                        Action::Create
                    } else {
                        Action::Change
                    },
                    object: statement.object,
                    sql: statement.text,
                    endpoint,
                }),
                BackendStep::DropDatabase(database) => self.statements.push(StatementChange {
                    action: Action::Delete,
                    sql: format!("DROP DATABASE `{database}`"),
                    object: database,
                    endpoint,
                }),
            }
        }
    }

    /// Adds what the conditions of the resources of a namespace say of it once everything is done.
    pub async fn add_conditions(
        &mut self,
        base: &dyn Cluster,
        planned: &dyn Cluster,
        namespace: &str,
        files: Option<&BTreeSet<ObjectKey>>,
    ) -> Result<(), ClusterError> {
        for kind in [Kind::App, Kind::Integration, Kind::RolePolicy] {
            for object in planned.list(kind, Some(namespace), &BTreeMap::new()).await? {
                let key =
                    ObjectKey::new(kind, namespace, object.metadata.name.as_deref().unwrap_or_default());
                let before = base.get(&key).await?.as_deref().map(conditions).unwrap_or_default();
                let of_files = files.is_none_or(|files| files.contains(&key));
                let is_going = object.metadata.deletion_timestamp.is_some();
                for condition in conditions(&object) {
                    self.notes.extend(held_note(&key, &condition));
                    if stands_against(&condition, is_going) {
                        self.refuse(&key, condition, &before, of_files);
                    }
                }
            }
        }
        Ok(())
    }

    fn refuse(&mut self, key: &ObjectKey, condition: Condition, before: &[Condition], of_files: bool) {
        let same = |known: &Condition| {
            (&known.type_, &known.reason, &known.message)
                == (&condition.type_, &condition.reason, &condition.message)
        };
        self.refused.push(Refused {
            kind: key.kind.as_str(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            known: !of_files && before.iter().any(same),
            condition: condition.type_,
            reason: condition.reason,
            message: condition.message,
        });
    }
}

fn held_note(key: &ObjectKey, condition: &Condition) -> Option<String> {
    let is_held = [reason::HELD, reason::PAUSED].contains(&condition.reason.as_str());
    (is_held && condition.type_ == ACCEPTED).then(|| format!("{key}: {}", condition.message))
}

/// Whether a condition tells of something that cannot be done. What is still there after its deletion was not let go.
fn stands_against(condition: &Condition, is_going: bool) -> bool {
    let kind = condition.type_.as_str();
    let counts = if is_going {
        kind == READY
    } else {
        [ACCEPTED, TOPICS_READY, SCHEMA_READY].contains(&kind) && condition.reason != reason::PROGRESSING
    };
    counts && condition.status != Status::True.as_str()
}

fn conditions(object: &DynamicObject) -> Vec<Condition> {
    serde_json::from_value(object.data["status"]["conditions"].clone()).unwrap_or_default()
}

fn object_change(change: &Write) -> ObjectChange {
    let kind = change.key.kind;
    let (action, fields) = match (&change.before, &change.after) {
        (Some(before), Some(after)) => (Action::Change, diff_text::of_objects(kind, before, after)),
        (None, Some(after)) if kind == Kind::Secret => {
            (Action::Create, diff_text::of_secret(None, &after.data))
        }
        (None, _) => (Action::Create, Vec::new()),
        (Some(_), None) => (Action::Delete, Vec::new()),
    };
    let runs = change.after.as_deref().filter(|_| action == Action::Create).and_then(runs);
    let new = change.after.as_deref().filter(|_| action == Action::Create);
    let object = new.and_then(|new| diff_text::of_new(kind, new));
    let ObjectKey { namespace, name, .. } = change.key.clone();
    ObjectChange { action, kind: kind.as_str(), namespace, name, runs, fields, object }
}

/// Pods and image of a workload.
fn runs(object: &DynamicObject) -> Option<String> {
    let spec = &object.data["spec"];
    let image = spec["template"]["spec"]["containers"][0]["image"].as_str()?;
    // Without a number the autoscaler decides.
    let pods =
        spec["replicas"].as_u64().map_or_else(|| "pods by load".to_owned(), |pods| counted(pods, "pod"));
    Some(format!("{pods} of {image}"))
}

/// Pods are replaced when their template changes.
fn restart(change: &Write) -> Option<Restart> {
    let (before, after) = (change.before.as_ref()?, change.after.as_ref()?);
    let runs_pods = matches!(change.key.kind, Kind::Deployment | Kind::StatefulSet);
    if !runs_pods || before.data["spec"]["template"] == after.data["spec"]["template"] {
        return None;
    }
    let pods = before.data["status"]["replicas"].as_u64().or(before.data["spec"]["replicas"].as_u64());
    let ObjectKey { kind, namespace, name } = change.key.clone();
    Some(Restart { kind: kind.as_str(), namespace, name, pods })
}

/// A new Revision of a scope that has one is taken by running pods.
async fn reload(base: &dyn Cluster, change: &Write) -> Result<Option<Reload>, ClusterError> {
    let (Kind::Revision, None, Some(after)) = (change.key.kind, &change.before, &change.after) else {
        return Ok(None);
    };
    let labels = after.metadata.labels.as_ref();
    let Some(scope) = labels.and_then(|labels| labels.get(SCOPE)).cloned() else { return Ok(None) };
    let sequence = |object: &DynamicObject| object.data["spec"]["sequence"].as_i64().unwrap_or_default();
    let of_scope = BTreeMap::from([(SCOPE, scope.as_str())]);
    let known = base.list(Kind::Revision, Some(&change.key.namespace), &of_scope).await?;
    let Some(newest) = known.iter().max_by_key(|object| sequence(object)) else { return Ok(None) };
    let config =
        |object: &DynamicObject| object.data["spec"]["config"].as_str().unwrap_or_default().to_owned();
    Ok(Some(Reload {
        namespace: change.key.namespace.clone(),
        scope: scope.clone(),
        from: sequence(newest),
        to: sequence(after),
        fields: diff_text::of_configs(&config(newest), &config(after)),
    }))
}

fn topic_change(change: Change, endpoint: Option<String>) -> TopicChange {
    let (action, topic, what) = match change {
        Change::Create(topic) => {
            let kept = kept(topic.retention_ms, topic.retention_bytes);
            (Action::Create, topic.name, format!("{}, {kept}", counted(topic.partitions.into(), "partition")))
        }
        Change::Grow { name, from, to } => (Action::Change, name, format!("partitions {from} → {to}")),
        Change::SetRetention { name, retention_ms, retention_bytes } => {
            (Action::Change, name, kept(retention_ms, retention_bytes))
        }
    };
    TopicChange { action, topic, what, endpoint }
}

fn kept(retention_ms: u64, retention_bytes: Option<u64>) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let exact =
        UNITS.into_iter().find(|(unit, _)| retention_ms >= *unit && retention_ms.is_multiple_of(*unit));
    let age = match exact {
        Some((unit, name)) => format!("{}{name}", retention_ms / unit),
        None => format!("{retention_ms}ms"),
    };
    match retention_bytes {
        Some(bytes) => format!("kept {age} or {bytes} bytes per partition"),
        None => format!("kept {age}"),
    }
}

/// `1 topic`, `2 topics`.
pub(super) fn counted(count: u64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}
