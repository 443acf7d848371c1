//! What was planned, and the world before and after, in; how what was recorded differs from it out. What counts as equal
//! is written down in `e2e/cluster/README.md`.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::DynamicObject;
use millrace_crds::config;
use millrace_crds::names::TopicKind;
use millrace_crds::topics::Change;
use millrace_operator::apply::is_as_intended;
use millrace_operator::backends::record::{BackendStep, Recorded};
use millrace_operator::cluster::ObjectKey;
use millrace_operator::diff_text;
use millrace_operator::kind::Kind;
use millrace_operator::plan_command::report;
use serde_json::Value;

use crate::audit::Request;
use crate::plan::{Action, ObjectChange, Report, TopicChange};
use crate::world::{Objects, Tables, Topics};

/// Fields that controllers of Kubernetes write into objects of ours.
const OTHERS: [&str; 2] =
    ["metadata.annotations.\"deployment.kubernetes.io/revision\"", "metadata.deletionGracePeriodSeconds"];
/// A field whose value is the moment of a person's doing.
const MOMENT: &str = "metadata.deletionTimestamp";
/// Stands in a plan for what only the making of it decides.
const DIGEST: &str = "(digest of a key)";

/// How many changes there were, and what of it was not as planned.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub(crate) planned: usize,
    pub(crate) recorded: usize,
    pub(crate) differences: Vec<String>,
}

impl Compared {
    fn differs(&mut self, what: String) {
        self.differences.push(what);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.planned += other.planned;
        self.recorded += other.recorded;
        self.differences.extend(other.differences);
    }
}

/// UIDs are given by the API server: in a plan, new owners have stand-ins, which are replaced by what they became.
pub(crate) fn with_uids(printed: &str, report: &Report, after: &Objects) -> String {
    let mut text = printed.to_owned();
    let objects = report.objects.iter().filter_map(|change| change.object.as_ref());
    for owner in
        objects.flat_map(|object| object["metadata"]["ownerReferences"].as_array().into_iter().flatten())
    {
        let (Some(stand_in), Some(kind), Some(name)) =
            (owner["uid"].as_str(), owner["kind"].as_str(), owner["name"].as_str())
        else {
            continue;
        };
        let made = after.iter().find(|(key, _)| key.kind.as_str() == kind && key.name == name);
        if let Some(uid) = made.and_then(|(_, object)| object.metadata.uid.as_ref()) {
            text = text.replace(stand_in, uid);
        }
    }
    text
}

/// Objects: what people and the operator changed, by the API server.
pub(crate) fn of_objects(report: &Report, before: &Objects, after: &Objects, audit: &Audit) -> Compared {
    let mut compared = Compared::default();
    let resources = report.resources.iter().map(|change| (change, Author::Person));
    let objects = report.objects.iter().map(|change| (change, Author::Operator));
    let mut planned: BTreeMap<(Kind, &str), (&ObjectChange, Author)> = BTreeMap::new();
    for (change, author) in resources.chain(objects) {
        match kind_of(&change.kind) {
            Some(kind) => drop(planned.insert((kind, &change.name), (change, author))),
            None => compared.differs(format!("plan names a kind {}", change.kind)),
        }
    }
    compared.planned = planned.len();
    let mut touched: BTreeSet<(Kind, &str)> =
        audit.0.keys().map(|key| (key.kind, key.name.as_str())).collect();
    touched.extend(planned.keys());
    for (kind, name) in touched {
        let of = |objects: &Objects| {
            objects
                .iter()
                .find(|(key, _)| key.kind == kind && key.name == name)
                .map(|(_, object)| object.clone())
        };
        let (before, after) = (of(before), of(after));
        let happened = happened(kind, before.as_ref(), after.as_ref());
        compared.recorded += usize::from(happened.is_some());
        let place = format!("{} {name}", kind.as_str());
        match (planned.get(&(kind, name)), happened) {
            (None, None) => compared.differs(format!("{place}: written, and is as it was")),
            (None, Some(did)) => compared.differs(format!("{place}: {did:?}, and not planned")),
            (Some((change, _)), None) => {
                compared.differs(format!("{place}: {:?} planned, and nothing recorded", change.action))
            }
            (Some((change, author)), Some(did)) => {
                if change.action != did {
                    compared.differs(format!("{place}: {:?} planned, {did:?} recorded", change.action));
                } else if let Some(differs) = fields(change, *author, kind, (before.as_ref(), after.as_ref()))
                {
                    compared.differs(format!("{place}: {differs}"));
                }
                if *author == Author::Operator && !audit.tells(kind, name, did) {
                    compared.differs(format!("{place}: {did:?}, and not by the operator"));
                }
            }
        }
    }
    compared
}

/// Who writes an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Author {
    Person,
    Operator,
}

fn happened(kind: Kind, before: Option<&DynamicObject>, after: Option<&DynamicObject>) -> Option<Action> {
    match (before, after) {
        (None, None) => None,
        (None, Some(_)) => Some(Action::Create),
        (Some(_), None) => Some(Action::Delete),
        // Deleted and made again.
        (Some(before), Some(after)) if before.metadata.uid != after.metadata.uid => Some(Action::Create),
        (Some(before), Some(after)) => (!changed(kind, before, after).is_empty()).then_some(Action::Change),
    }
}

fn changed(kind: Kind, before: &DynamicObject, after: &DynamicObject) -> Vec<Value> {
    let fields = diff_text::of_objects(kind, before, after).into_iter();
    let ours = fields.filter(|field| !OTHERS.contains(&field.path.as_str()));
    ours.filter_map(|field| serde_json::to_value(field).ok().map(timeless)).collect()
}

fn timeless(mut field: Value) -> Value {
    if field["path"] == MOMENT {
        field["after"] = "(then)".into();
    }
    field
}

fn kind_of(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
}

/// What of the fields is not as planned.
fn fields(
    change: &ObjectChange,
    author: Author,
    kind: Kind,
    (before, after): (Option<&DynamicObject>, Option<&DynamicObject>),
) -> Option<String> {
    let after = after?;
    let recorded = match (change.action, kind) {
        (Action::Delete, _) => return None,
        (Action::Change, _) => changed(kind, before?, after),
        (Action::Create, Kind::Secret) => {
            let fields = diff_text::of_secret(None, &after.data).into_iter();
            fields.filter_map(|field| serde_json::to_value(field).ok()).collect()
        }
        (Action::Create, _) => return new_object(change, author, kind, after),
    };
    let planned: Vec<Value> = change.fields.iter().cloned().map(timeless).collect();
    let missing: Vec<_> = planned.iter().filter(|field| !recorded.contains(field)).collect();
    let more: Vec<_> = recorded.iter().filter(|field| !planned.contains(field)).collect();
    (!missing.is_empty() || !more.is_empty())
        .then(|| format!("planned {missing:?} and recorded {more:?} in place of it"))
}

/// What the operator makes must be what it planned to the last field; to what people make the server adds defaults.
fn new_object(change: &ObjectChange, author: Author, kind: Kind, made: &DynamicObject) -> Option<String> {
    let Some(mut planned) = change.object.clone() else {
        return Some("plan shows no fields of it".to_owned());
    };
    if kind == Kind::Revision {
        take_digests(&mut planned["spec"]["config"], &made.data["spec"]["config"]);
    }
    let stored = serde_json::to_value(made).ok()?;
    if author == Author::Person {
        return (!says(&stored, &planned)).then(|| format!("planned {planned}, made {stored}"));
    }
    match serde_json::from_value::<DynamicObject>(planned.clone()) {
        Ok(intent) if is_as_intended(made, &intent) => None,
        Ok(intent) => {
            Some(format!("planned {planned}; differs in {:?}", diff_text::of_objects(kind, &intent, made)))
        }
        Err(error) => Some(format!("planned {planned}, which is no object: {error}")),
    }
}

/// Keys are random, so their digests are what they became; everything else of a configuration is compared.
fn take_digests(planned: &mut Value, made: &Value) {
    let parse =
        |text: &Value| serde_json::from_str::<Value>(text.as_str().unwrap_or_default()).unwrap_or_default();
    let (mut config, stored) = (parse(planned), parse(made));
    fill_digests(&mut config, &stored);
    if config == stored {
        *planned = made.clone();
    }
}

fn fill_digests(planned: &mut Value, made: &Value) {
    match (planned, made) {
        (Value::Object(planned), Value::Object(made)) => {
            for (name, value) in planned {
                fill_digests(value, made.get(name).unwrap_or(&Value::Null));
            }
        }
        (Value::Array(planned), Value::Array(made)) => {
            planned.iter_mut().zip(made).for_each(|(planned, made)| fill_digests(planned, made));
        }
        (planned, made) if planned == DIGEST => *planned = made.clone(),
        _ => {}
    }
}

/// Whether an object says everything that was planned.
fn says(stored: &Value, planned: &Value) -> bool {
    match (stored, planned) {
        (Value::Object(stored), Value::Object(planned)) => {
            planned.iter().all(|(name, value)| stored.get(name).is_some_and(|stored| says(stored, value)))
        }
        (Value::Array(stored), Value::Array(planned)) => {
            stored.len() == planned.len()
                && stored.iter().zip(planned).all(|(stored, planned)| says(stored, planned))
        }
        (stored, planned) => stored == planned,
    }
}

/// What was written to which object, by the operator or, of what belonged to something that is gone, by the collector.
pub(crate) struct Audit(BTreeMap<ObjectKey, Vec<Request>>);

impl Audit {
    /// Of one namespace; status apart.
    pub(crate) fn of(requests: impl IntoIterator<Item = Request>, namespace: &str) -> Self {
        let mut known: BTreeMap<ObjectKey, Vec<Request>> = BTreeMap::new();
        for request in requests.into_iter().filter(|request| request.namespace == namespace) {
            let kind = Kind::ALL.into_iter().find(|kind| kind.resource().plural == request.resource);
            if let Some(kind) = kind {
                let key = ObjectKey::new(kind, namespace, &request.name);
                known.entry(key).or_default().push(request);
            }
        }
        Self(known)
    }

    fn tells(&self, kind: Kind, name: &str, did: Action) -> bool {
        let requests = self.0.iter().filter(|(key, _)| key.kind == kind && key.name == name);
        requests.flat_map(|(_, requests)| requests).any(|request| match did {
            Action::Create => request.code == 201,
            Action::Change => ["patch", "update"].contains(&request.verb.as_str()),
            Action::Delete => request.verb == "delete",
        })
    }
}

/// Topics: what Kafka has, in the words of a plan.
pub(crate) fn of_topics(report: &Report, before: &Topics, after: &Topics) -> Compared {
    let mut found = report::Report::default();
    let step = |step| Recorded { endpoint: None, step };
    for (name, topic) in &after.topics {
        let changes = match before.topics.get(name) {
            None => vec![Change::Create(config::Topic {
                kind: TopicKind::EventsRaw,
                name: name.clone(),
                partitions: topic.partitions,
                retention_ms: topic.retention_ms,
                retention_bytes: topic.retention_bytes,
            })],
            Some(was) => {
                let grown = (was.partitions != topic.partitions).then(|| Change::Grow {
                    name: name.clone(),
                    from: was.partitions,
                    to: topic.partitions,
                });
                let kept = |topic: &crate::world::Topic| (topic.retention_ms, topic.retention_bytes);
                let retention = (kept(was) != kept(topic)).then(|| Change::SetRetention {
                    name: name.clone(),
                    retention_ms: topic.retention_ms,
                    retention_bytes: topic.retention_bytes,
                });
                grown.into_iter().chain(retention).collect()
            }
        };
        found.add_backends(changes.into_iter().map(|change| step(BackendStep::Topic(change))).collect());
    }
    let as_planned = |topic: report::TopicChange| {
        let action =
            serde_json::to_value(topic.action).ok().and_then(|action| Some(action.as_str()?.to_owned()));
        TopicChange { action: action.unwrap_or_default(), topic: topic.topic, what: topic.what }
    };
    let mut recorded: BTreeSet<TopicChange> = found.topics.into_iter().map(as_planned).collect();
    let gone = before.topics.keys().filter(|name| !after.topics.contains_key(*name));
    recorded.extend(gone.map(|name| TopicChange {
        action: "delete".to_owned(),
        topic: name.clone(),
        what: "with everything in it".to_owned(),
    }));
    let claimed = after.owners.iter().filter(|(app, owner)| before.owners.get(*app) != Some(owner));
    recorded.extend(claimed.map(|(app, _)| TopicChange {
        action: "create".to_owned(),
        topic: app.clone(),
        what: "its owner is written down".to_owned(),
    }));
    let planned: BTreeSet<TopicChange> = report.topics.iter().cloned().collect();
    let mut compared = Compared { planned: planned.len(), recorded: recorded.len(), differences: Vec::new() };
    if planned != recorded {
        compared.differs(format!("topics: planned {planned:#?}, recorded {recorded:#?}"));
    }
    compared
}

/// Tables: what the engine has, beside what it has elsewhere after the planned statements were carried out there.
pub(crate) fn of_tables(before: &Tables, planned: &Tables, after: &Tables) -> Compared {
    let changed = |to: &Tables| {
        let names: BTreeSet<&String> = before.keys().chain(to.keys()).collect();
        names.into_iter().filter(|name| before.get(*name) != to.get(*name)).count()
    };
    let mut compared =
        Compared { planned: changed(planned), recorded: changed(after), differences: Vec::new() };
    let names: BTreeSet<&String> = planned.keys().chain(after.keys()).collect();
    for name in names.into_iter().filter(|name| planned.get(*name) != after.get(*name)) {
        compared.differs(format!(
            "`{name}`: planned {:?}, recorded {:?}",
            planned.get(name),
            after.get(name)
        ));
    }
    compared
}
