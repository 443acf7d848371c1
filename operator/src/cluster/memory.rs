//! Kubernetes in memory, for tests and benchmarks: enough of the API server and its garbage collector that reconciles
//! cannot tell. Counts every write, and can fail at any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Author, Change, Cluster, ClusterError, MANAGER, MANAGER_STATUS, ObjectKey, Told};
use crate::fields;
use crate::kind::Kind;

/// Kubernetes in memory. Defaults nothing and validates little; keeps versions, generations, field ownership,
/// finalizers and owner references as the API server does.
pub struct Memory {
    inner: Mutex<Inner>,
}

/// One write, in the order they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// `apply`, `delete`, `set the status of` or `set the finalizers of`.
    pub verb: &'static str,
    /// Of which object.
    pub key: ObjectKey,
    /// Under which field manager.
    pub manager: &'static str,
}

/// When a crash comes, seen from the write that it comes at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The write does not happen.
    Before,
    /// The write happens, and nobody hears of it.
    After,
}

struct Inner {
    objects: BTreeMap<ObjectKey, Arc<DynamicObject>>,
    /// What each manager last applied.
    intents: BTreeMap<(ObjectKey, &'static str), Value>,
    version: u64,
    uids: u64,
    now: Timestamp,
    writes: Vec<Write>,
    told: Vec<(ObjectKey, Told)>,
    /// Writes until the crash, and its moment.
    crash: Option<(usize, Moment)>,
    crashed: bool,
    listeners: Vec<mpsc::UnboundedSender<Change>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty cluster, at 2026-01-01.
    pub fn new() -> Self {
        let now = "2026-01-01T00:00:00Z".parse().expect("written as RFC 3339");
        Self {
            inner: Mutex::new(Inner {
                objects: BTreeMap::new(),
                intents: BTreeMap::new(),
                version: 0,
                uids: 0,
                now,
                writes: Vec::new(),
                told: Vec::new(),
                crash: None,
                crashed: false,
                listeners: Vec::new(),
            }),
        }
    }

    /// Sets the server's clock: what `creationTimestamp` and `deletionTimestamp` will say.
    pub fn set_now(&self, now: Timestamp) {
        self.lock().now = now;
    }

    /// Creates or replaces an object as a person or another controller would; not counted as a write. A status that is
    /// not given stays.
    pub fn put(&self, key: &ObjectKey, object: &Value) -> Arc<DynamicObject> {
        let mut inner = self.lock();
        let mut value = object.clone();
        let stored = inner.objects.get(key).map(|stored| as_value(stored));
        if let Some(stored) = &stored {
            for field in ["uid", "generation", "creationTimestamp", "deletionTimestamp"] {
                value["metadata"][field] = stored["metadata"][field].clone();
            }
            if value.get("status").is_none_or(Value::is_null) {
                value["status"] = stored["status"].clone();
            }
            if value["metadata"].get("finalizers").is_none() {
                value["metadata"]["finalizers"] = stored["metadata"]["finalizers"].clone();
            }
            for (_, last) in inner.intents.iter_mut().filter(|((of, _), _)| of == key) {
                hand_over(last, stored, &value);
            }
        }
        inner.keep(key, value, Author::Others)
    }

    /// Sets fields of the status as another controller would; not counted as a write.
    pub fn put_status(&self, key: &ObjectKey, status: Value) {
        let mut inner = self.lock();
        if let Some(mut value) = inner.objects.get(key).map(|stored| as_value(stored)) {
            value["status"] = status;
            inner.keep(key, value, Author::Others);
        }
    }

    /// Deletes an object as a person would: one with finalizers stays until they are gone.
    pub fn remove(&self, key: &ObjectKey) {
        self.lock().delete(key, Author::Others);
    }

    /// One object as stored.
    pub fn object(&self, key: &ObjectKey) -> Option<Arc<DynamicObject>> {
        self.lock().objects.get(key).cloned()
    }

    /// Everything stored, by key.
    pub fn objects(&self) -> BTreeMap<ObjectKey, Arc<DynamicObject>> {
        self.lock().objects.clone()
    }

    /// All writes since the start or the last [`Memory::forget_writes`].
    pub fn writes(&self) -> Vec<Write> {
        self.lock().writes.clone()
    }

    /// Starts the count of writes anew.
    pub fn forget_writes(&self) {
        self.lock().writes.clear();
    }

    /// Events told so far.
    pub fn told(&self) -> Vec<(ObjectKey, Told)> {
        self.lock().told.clone()
    }

    /// Crashes at the n-th write from now, counted from 1: this one and all after it fail until [`Memory::restart`].
    pub fn crash_at(&self, write: usize, moment: Moment) {
        self.lock().crash = Some((write, moment));
    }

    /// Whether the crash has come.
    pub fn has_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Ends the crash; one that has not come yet does not come any more.
    pub fn restart(&self) {
        let mut inner = self.lock();
        inner.crashed = false;
        inner.crash = None;
    }

    /// Every change from now on. Unbounded: whoever subscribes in a test also reads.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Change> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().listeners.push(sender);
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// Counts a write and carries it out, unless the crash comes first.
    fn write<T>(
        &self,
        write: Write,
        change: impl FnOnce(&mut Inner) -> Result<T, ClusterError>,
    ) -> Result<T, ClusterError> {
        let mut inner = self.lock();
        let lost = || ClusterError::Unreachable {
            verb: write.verb,
            key: write.key.clone(),
            source: "the process crashed here".into(),
        };
        if inner.crashed {
            return Err(lost());
        }
        let moment = inner.crash.and_then(|(left, moment)| (left <= 1).then_some(moment));
        inner.crash = inner.crash.map(|(left, moment)| (left.saturating_sub(1), moment));
        inner.crashed = moment.is_some();
        if moment == Some(Moment::Before) {
            return Err(lost());
        }
        inner.writes.push(write.clone());
        let done = change(&mut inner)?;
        if moment == Some(Moment::After) { Err(lost()) } else { Ok(done) }
    }
}

impl Inner {
    /// Stores a value under a new version and tells the listeners; a value that is there already changes nothing.
    fn keep(&mut self, key: &ObjectKey, mut value: Value, author: Author) -> Arc<DynamicObject> {
        let resource = key.kind.resource();
        value["apiVersion"] = resource.api_version.into();
        value["kind"] = resource.kind.into();
        value["metadata"]["name"] = key.name.as_str().into();
        if !key.namespace.is_empty() {
            value["metadata"]["namespace"] = key.namespace.as_str().into();
        }
        self.fill(&mut value);
        tidy(&mut value);
        let before = self.objects.get(key).cloned();
        if let Some(before) = &before {
            let stored = as_value(before);
            if without_versions(&stored) == without_versions(&value) {
                return Arc::clone(before);
            }
            let generation = stored["metadata"]["generation"].as_i64().unwrap_or(1);
            let changed = stored.get("spec") != value.get("spec");
            value["metadata"]["generation"] = (generation + i64::from(changed)).into();
        } else {
            value["metadata"]["generation"] = 1.into();
        }
        self.version += 1;
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object: Arc<DynamicObject> =
            Arc::new(serde_json::from_value(value).expect("tests put in valid metadata"));
        self.objects.insert(key.clone(), Arc::clone(&object));
        self.tell(Change { key: key.clone(), object: Arc::clone(&object), is_gone: false, author });
        object
    }

    fn fill(&mut self, value: &mut Value) {
        let metadata = &mut value["metadata"];
        if metadata["uid"].is_null() {
            self.uids += 1;
            metadata["uid"] = format!("00000000-0000-4000-8000-{:012}", self.uids).into();
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!(Time(self.now));
        }
    }

    fn tell(&mut self, change: Change) {
        self.listeners.retain(|listener| listener.send(change.clone()).is_ok());
    }

    fn delete(&mut self, key: &ObjectKey, author: Author) {
        let Some(object) = self.objects.get(key).cloned() else { return };
        if object.metadata.finalizers.iter().flatten().next().is_none() {
            self.drop_object(key, author);
        } else if object.metadata.deletion_timestamp.is_none() {
            let mut value = as_value(&object);
            value["metadata"]["deletionTimestamp"] = json!(Time(self.now));
            self.keep(key, value, author);
        }
    }

    /// Removes an object and, as the garbage collector does, everything that only it owned.
    fn drop_object(&mut self, key: &ObjectKey, author: Author) {
        let Some(object) = self.objects.remove(key) else { return };
        self.intents.retain(|(of, _), _| of != key);
        self.version += 1;
        let mut last = DynamicObject::clone(&object);
        last.metadata.resource_version = Some(self.version.to_string());
        self.tell(Change { key: key.clone(), object: Arc::new(last), is_gone: true, author });
        let uids: BTreeSet<_> =
            self.objects.values().filter_map(|object| object.metadata.uid.clone()).collect();
        let orphans = self.objects.iter().filter(|(_, object)| {
            let mut owners = object.metadata.owner_references.iter().flatten().peekable();
            owners.peek().is_some() && owners.all(|owner| !uids.contains(&owner.uid))
        });
        let orphans: Vec<_> = orphans.map(|(key, _)| key.clone()).collect();
        for orphan in orphans {
            self.delete(&orphan, Author::Others);
        }
    }

    fn apply(
        &mut self,
        key: &ObjectKey,
        manager: &'static str,
        intent: Value,
    ) -> Result<Arc<DynamicObject>, ClusterError> {
        let stored = self.objects.get(key).map(|stored| as_value(stored));
        self.admit(key, stored.as_ref(), &intent)?;
        let last = self.intents.insert((key.clone(), manager), intent.clone()).unwrap_or(Value::Null);
        let mut value = stored.unwrap_or_else(|| json!({"metadata": {}}));
        fields::apply(key.kind.as_str(), &mut value, &last, &intent);
        Ok(self.keep(key, value, Author::Us))
    }

    fn admit(&self, key: &ObjectKey, stored: Option<&Value>, intent: &Value) -> Result<(), ClusterError> {
        let refused = |message: &str| {
            Err(ClusterError::Refused { verb: "apply", key: key.clone(), message: message.to_owned() })
        };
        let metadata = &intent["metadata"];
        let says_otherwise =
            |field: &str, expected: &str| metadata[field].as_str().is_some_and(|is| is != expected);
        if says_otherwise("name", &key.name) || says_otherwise("namespace", &key.namespace) {
            return refused("the name in the object is not the name in the request");
        }
        let namespace = self.objects.get(&ObjectKey::new(Kind::Namespace, "", &key.namespace));
        if stored.is_none() && namespace.is_some_and(|found| found.metadata.deletion_timestamp.is_some()) {
            return refused("unable to create new content in a namespace that is being terminated");
        }
        let is_changed = stored.is_some_and(|stored| {
            intent.get("spec").is_some_and(|spec| !fields::contains("Revision", &stored["spec"], spec))
        });
        if key.kind == Kind::Revision && is_changed {
            return refused("spec: a Revision never changes; write a new one");
        }
        Ok(())
    }
}

#[async_trait]
impl Cluster for Memory {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Arc<DynamicObject>>, ClusterError> {
        Ok(self.object(key))
    }

    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<&str, &str>,
    ) -> Result<Vec<Arc<DynamicObject>>, ClusterError> {
        if kind == Kind::Secret {
            let key = ObjectKey::new(kind, namespace.unwrap_or_default(), "");
            return Err(ClusterError::Refused {
                verb: "list",
                key,
                message: "secrets are forbidden".to_owned(),
            });
        }
        let inner = self.lock();
        let wanted = inner.objects.iter().filter(|(key, object)| {
            key.kind == kind
                && namespace.is_none_or(|namespace| key.namespace == namespace)
                && super::has_labels(object, labels)
        });
        Ok(wanted.map(|(_, object)| Arc::clone(object)).collect())
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        intent: &DynamicObject,
    ) -> Result<Arc<DynamicObject>, ClusterError> {
        let write = Write { verb: "apply", key: key.clone(), manager: MANAGER };
        let mut intent = fields::tree(intent);
        if let Some(fields) = intent.as_object_mut() {
            fields.remove("status");
        }
        self.write(write, |inner| inner.apply(key, MANAGER, intent))
    }

    async fn delete(&self, key: &ObjectKey, uid: &str) -> Result<(), ClusterError> {
        let write = Write { verb: "delete", key: key.clone(), manager: MANAGER };
        self.write(write, |inner| {
            if inner.objects.get(key).is_some_and(|object| object.metadata.uid.as_deref() == Some(uid)) {
                inner.delete(key, Author::Us);
            }
            Ok(())
        })
    }

    async fn set_status(&self, key: &ObjectKey, status: &Value) -> Result<(), ClusterError> {
        let write = Write { verb: "set the status of", key: key.clone(), manager: MANAGER_STATUS };
        self.write(write, |inner| {
            if inner.objects.contains_key(key) {
                inner.apply(key, MANAGER_STATUS, json!({"status": status}))?;
            }
            Ok(())
        })
    }

    async fn set_finalizers(
        &self,
        object: &DynamicObject,
        key: &ObjectKey,
        finalizers: Vec<String>,
    ) -> Result<(), ClusterError> {
        let write = Write { verb: "set the finalizers of", key: key.clone(), manager: MANAGER };
        self.write(write, |inner| {
            let Some(stored) = inner.objects.get(key).cloned() else { return Ok(()) };
            if stored.metadata.resource_version != object.metadata.resource_version {
                return Err(ClusterError::Conflict { key: key.clone() });
            }
            let mut value = as_value(&stored);
            value["metadata"]["finalizers"] = json!(finalizers);
            let kept = inner.keep(key, value, Author::Us);
            let is_last = finalizers.is_empty() && kept.metadata.deletion_timestamp.is_some();
            if is_last {
                inner.drop_object(key, Author::Us);
            }
            Ok(())
        })
    }

    async fn tell(&self, about: &DynamicObject, event: Told) {
        if let Some(key) = ObjectKey::of(about) {
            self.lock().told.push((key, event));
        }
    }
}

fn as_value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object has text keys and no failing field")
}

/// A field that somebody else sets to another value is theirs from then on: what was applied before no longer holds it.
fn hand_over(last: &mut Value, before: &Value, after: &Value) {
    let Some(fields) = last.as_object_mut() else { return };
    fields.retain(|name, last| {
        let (before, after) = (&before[name.as_str()], &after[name.as_str()]);
        if before.is_object() && after.is_object() {
            hand_over(last, before, after);
            return true;
        }
        before == after
    });
}

/// Leaves out what says nothing, so that an object looks the same however it came about.
fn tidy(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, value| name != "status" || !value.is_null());
    }
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata
            .retain(|_, value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()));
    }
}

fn without_versions(value: &Value) -> Value {
    let mut value = value.clone();
    for field in ["resourceVersion", "generation"] {
        value["metadata"][field] = Value::Null;
    }
    value
}

#[cfg(test)]
mod tests;
