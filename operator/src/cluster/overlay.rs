//! Another cluster read through, writes kept here: what reconciles would do to it, without doing it. Nothing of this
//! file writes to the cluster below; Events are dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DynamicObject;
use millrace_crds::crd::API_VERSION;
use serde_json::{Map, Value, json};

use super::{Cluster, ClusterError, MANAGER, MANAGER_STATUS, ObjectKey, Told, has_labels};
use crate::fields;
use crate::kind::Kind;
use crate::workloads::KINDS;

/// First resourceVersion given here: above every one of a real server, so that what is laid over looks newer.
const VERSION_FIRST: u64 = 1 << 62;

/// A cluster with changes laid over it.
pub struct Overlay {
    base: Arc<dyn Cluster>,
    now: Timestamp,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// What differs from the cluster below; `None` is gone.
    laid: BTreeMap<ObjectKey, Option<Arc<DynamicObject>>>,
    /// What each manager last applied here.
    intents: BTreeMap<(ObjectKey, &'static str), Value>,
    writes: Vec<Write>,
    versions: u64,
}

/// One write, in the order they came.
#[derive(Clone, Debug)]
pub struct Write {
    /// What was done.
    pub verb: Verb,
    /// To which object.
    pub key: ObjectKey,
    /// The object before; absent when it was made.
    pub before: Option<Arc<DynamicObject>>,
    /// The object after; absent when it is gone.
    pub after: Option<Arc<DynamicObject>>,
}

/// Kinds of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A person's file, or their deletion; see [`Overlay::lay`].
    Lay,
    /// Server-side apply.
    Apply,
    /// Deletion.
    Delete,
    /// The status.
    Status,
    /// The finalizers.
    Finalizers,
}

impl Overlay {
    /// Nothing laid over it yet. The time is what `creationTimestamp` says of new objects.
    pub fn new(base: Arc<dyn Cluster>, now: Timestamp) -> Self {
        Self { base, now, inner: Mutex::new(Inner::default()) }
    }

    /// Puts an object there as a person would: what it says replaces `spec`, `data` and `type`, labels and annotations are
    /// added. The status stays. Nothing is recorded when that changes nothing.
    pub async fn lay(&self, key: &ObjectKey, object: &Value) -> Result<(), ClusterError> {
        let before = self.get(key).await?;
        let mut value = before.as_deref().map_or_else(|| json!({"metadata": {}}), as_value);
        for field in ["spec", "data", "type"] {
            if let Some(said) = object.get(field) {
                value[field] = said.clone();
            }
        }
        for field in ["labels", "annotations"] {
            for (name, text) in object["metadata"][field].as_object().into_iter().flatten() {
                value["metadata"][field][name.as_str()] = text.clone();
            }
        }
        self.keep(Verb::Lay, key, before, Some(value));
        Ok(())
    }

    /// Deletes an object as a person would, and says whether it was there.
    pub async fn lay_deletion(&self, key: &ObjectKey) -> Result<bool, ClusterError> {
        let before = self.get(key).await?;
        let is_there = before.is_some();
        if let Some(before) = before {
            self.let_go(Verb::Lay, key, before);
        }
        Ok(is_there)
    }

    /// Removes what belonged to Apps that are gone, as the garbage collector of Kubernetes does. Of Secrets, which nobody
    /// may list, it knows nothing; the operator removes them by their names.
    pub async fn collect_garbage(&self, namespace: &str) -> Result<(), ClusterError> {
        for kind in KINDS.into_iter().chain([Kind::Revision]) {
            for object in self.list(kind, Some(namespace), &BTreeMap::new()).await? {
                if let Some(key) = ObjectKey::of(&object)
                    && self.is_garbage(namespace, &object).await?
                {
                    self.let_go(Verb::Delete, &key, object);
                }
            }
        }
        Ok(())
    }

    /// Whether an object has owners, and all of them are Apps that are there no more.
    async fn is_garbage(&self, namespace: &str, object: &DynamicObject) -> Result<bool, ClusterError> {
        let owners = object.metadata.owner_references.as_deref().unwrap_or_default();
        for owner in owners {
            let key = ObjectKey::new(Kind::App, namespace, &owner.name);
            let is_app = owner.kind == Kind::App.as_str() && owner.api_version == API_VERSION;
            let found = if is_app { self.get(&key).await? } else { return Ok(false) };
            if found.is_some_and(|found| found.metadata.uid.as_ref() == Some(&owner.uid)) {
                return Ok(false);
            }
        }
        Ok(!owners.is_empty())
    }

    /// A deletion: what has finalizers stays until they are gone.
    fn let_go(&self, verb: Verb, key: &ObjectKey, before: Arc<DynamicObject>) {
        let held = before.metadata.finalizers.iter().flatten().next().is_some();
        let after = held.then(|| {
            let mut value = as_value(&before);
            value["metadata"]["deletionTimestamp"] = json!(Time(self.now));
            value
        });
        self.keep(verb, key, Some(before), after);
    }

    /// All writes so far, in their order.
    pub fn writes(&self) -> Vec<Write> {
        self.lock().writes.clone()
    }

    /// What is left of all writes: every object that ends other than it began, as one write each, by key. The status
    /// does not count.
    pub fn changes(&self) -> Vec<Write> {
        let mut first: BTreeMap<ObjectKey, Write> = BTreeMap::new();
        for write in self.lock().writes.iter().filter(|write| write.verb != Verb::Status) {
            let known = first.entry(write.key.clone()).or_insert_with(|| write.clone());
            known.after = write.after.clone();
            // A person's own object stays theirs, whatever else happens to it.
            known.verb = if known.verb == Verb::Lay { Verb::Lay } else { write.verb };
        }
        let differs = |write: &Write| match (&write.before, &write.after) {
            (None, None) => false,
            (Some(before), Some(after)) => said(before) != said(after),
            (None, Some(_)) | (Some(_), None) => true,
        };
        first.into_values().filter(differs).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// Lays a value over what is there and records it; one that says the same changes nothing.
    fn keep(
        &self,
        verb: Verb,
        key: &ObjectKey,
        before: Option<Arc<DynamicObject>>,
        value: Option<Value>,
    ) -> Option<Arc<DynamicObject>> {
        let mut inner = self.lock();
        let after = value.map(|value| Arc::new(inner.finish(key, before.as_deref(), value, self.now)));
        if let (Some(before), Some(after)) = (&before, &after)
            && everything(before) == everything(after)
        {
            return Some(Arc::clone(before));
        }
        inner.laid.insert(key.clone(), after.clone());
        inner.writes.push(Write { verb, key: key.clone(), before, after: after.clone() });
        after
    }

    async fn apply_as(
        &self,
        verb: Verb,
        key: &ObjectKey,
        manager: &'static str,
        intent: Value,
    ) -> Result<Option<Arc<DynamicObject>>, ClusterError> {
        let before = self.get(key).await?;
        let mut value = before.as_deref().map_or_else(|| json!({"metadata": {}}), as_value);
        let last = self.lock().intents.insert((key.clone(), manager), intent.clone());
        let last = last.unwrap_or_else(|| before.as_deref().map_or(Value::Null, |b| owned_by(manager, b)));
        fields::apply(key.kind.as_str(), &mut value, &last, &intent);
        Ok(self.keep(verb, key, before, Some(value)))
    }
}

impl Inner {
    /// An object as the server would store it.
    fn finish(
        &mut self,
        key: &ObjectKey,
        before: Option<&DynamicObject>,
        mut value: Value,
        now: Timestamp,
    ) -> DynamicObject {
        let resource = key.kind.resource();
        value["apiVersion"] = resource.api_version.into();
        value["kind"] = resource.kind.into();
        self.versions += 1;
        let metadata = &mut value["metadata"];
        metadata["name"] = key.name.as_str().into();
        if !key.namespace.is_empty() {
            metadata["namespace"] = key.namespace.as_str().into();
        }
        if before.is_none() {
            metadata["uid"] = format!("(new {})", self.versions).into();
            metadata["creationTimestamp"] = json!(Time(now));
        }
        metadata["resourceVersion"] = (VERSION_FIRST + self.versions).to_string().into();
        let generation = before.map_or(0, |before| before.metadata.generation.unwrap_or(1));
        let spec_before = before.and_then(|before| before.data.get("spec").cloned());
        let changed = before.is_none() || spec_before.as_ref() != value.get("spec");
        value["metadata"]["generation"] = (generation + i64::from(changed)).into();
        serde_json::from_value(value).expect("it was an object before, and only fields of ours were changed")
    }
}

#[async_trait]
impl Cluster for Overlay {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Arc<DynamicObject>>, ClusterError> {
        if let Some(laid) = self.lock().laid.get(key) {
            return Ok(laid.clone());
        }
        self.base.get(key).await
    }

    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<&str, &str>,
    ) -> Result<Vec<Arc<DynamicObject>>, ClusterError> {
        let below = self.base.list(kind, namespace, labels).await?;
        let inner = self.lock();
        let keyed = below.into_iter().filter_map(|object| Some((ObjectKey::of(&object)?, object)));
        let mut found: BTreeMap<ObjectKey, _> =
            keyed.filter(|(key, _)| !inner.laid.contains_key(key)).collect();
        for (key, object) in &inner.laid {
            let here = key.kind == kind && namespace.is_none_or(|namespace| key.namespace == namespace);
            if let Some(object) = object.as_ref().filter(|object| here && has_labels(object, labels)) {
                found.insert(key.clone(), Arc::clone(object));
            }
        }
        Ok(found.into_values().collect())
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        intent: &DynamicObject,
    ) -> Result<Arc<DynamicObject>, ClusterError> {
        let mut intent = fields::tree(intent);
        if let Some(fields) = intent.as_object_mut() {
            fields.remove("status");
        }
        let after = self.apply_as(Verb::Apply, key, MANAGER, intent).await?;
        Ok(after.expect("what was applied is there"))
    }

    async fn delete(&self, key: &ObjectKey, uid: &str) -> Result<(), ClusterError> {
        let before = self.get(key).await?;
        if let Some(before) = before.filter(|before| before.metadata.uid.as_deref() == Some(uid)) {
            self.let_go(Verb::Delete, key, before);
        }
        Ok(())
    }

    async fn set_status(&self, key: &ObjectKey, status: &Value) -> Result<(), ClusterError> {
        if self.get(key).await?.is_some() {
            self.apply_as(Verb::Status, key, MANAGER_STATUS, json!({"status": status})).await?;
        }
        Ok(())
    }

    async fn set_finalizers(
        &self,
        object: &DynamicObject,
        key: &ObjectKey,
        finalizers: Vec<String>,
    ) -> Result<(), ClusterError> {
        let before = self
            .get(key)
            .await?
            .filter(|before| before.metadata.resource_version == object.metadata.resource_version);
        let Some(before) = before else { return Err(ClusterError::Conflict { key: key.clone() }) };
        let is_gone = finalizers.is_empty() && before.metadata.deletion_timestamp.is_some();
        let mut value = as_value(&before);
        value["metadata"]["finalizers"] = json!(finalizers);
        self.keep(Verb::Finalizers, key, Some(before), (!is_gone).then_some(value));
        Ok(())
    }

    async fn tell(&self, _about: &DynamicObject, _event: Told) {}
}

fn as_value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object has text keys and no failing field")
}

/// All fields that somebody says, the status included.
fn everything(object: &DynamicObject) -> Value {
    let mut value = fields::tree(object);
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !empty(value));
    }
    value
}

/// All fields but the status.
pub fn said(object: &DynamicObject) -> Value {
    let mut value = everything(object);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    value
}

/// The fields of an object that this manager applied last, with the values they have now, by `managedFields`.
fn owned_by(manager: &str, object: &DynamicObject) -> Value {
    let entries = object.metadata.managed_fields.iter().flatten();
    let applied = entries.filter(|entry| {
        entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply")
    });
    let value = as_value(object);
    let mut owned = Value::Null;
    for fields in applied.filter_map(|entry| entry.fields_v1.as_ref()) {
        owned = select(&value, &fields.0);
    }
    owned
}

/// The part of a value that a `FieldsV1` names: `f:` a field, `k:` the list item with these keys, `v:` a value of a set.
fn select(value: &Value, names: &Value) -> Value {
    let names: Vec<(&String, &Value)> =
        names.as_object().into_iter().flatten().filter(|(name, _)| *name != ".").collect();
    match value {
        _ if names.is_empty() => value.clone(),
        Value::Object(fields) => {
            let chosen = names.into_iter().filter_map(|(name, below)| {
                let name = name.strip_prefix("f:")?;
                Some((name.to_owned(), select(fields.get(name)?, below)))
            });
            Value::Object(chosen.collect::<Map<_, _>>())
        }
        Value::Array(items) => {
            let chosen = names.into_iter().filter_map(|(name, below)| {
                if let Some(text) = name.strip_prefix("v:") {
                    return serde_json::from_str(text).ok();
                }
                let keys: Value = serde_json::from_str(name.strip_prefix("k:")?).ok()?;
                let is_it =
                    |item: &&Value| keys.as_object().into_iter().flatten().all(|(key, is)| &item[key] == is);
                Some(select(items.iter().find(is_it)?, below))
            });
            Value::Array(chosen.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests;
