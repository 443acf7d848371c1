//! What watches told and what this process wrote in, the newer of both out. A store is never older than a write of this
//! process: otherwise the next look would plan what was done already, or take back what was just made.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use kube::core::DynamicObject;
use tokio::sync::watch;

use super::{Author, Change, ObjectKey, has_labels};
use crate::kind::Kind;

/// Called for every change, outside of the lock; must not wait.
type Listener = Box<dyn Fn(&Change) + Send + Sync>;

/// What one watch covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    /// The kind.
    pub(crate) kind: Kind,
    /// One namespace, or all.
    pub(crate) namespace: Option<String>,
}

impl Scope {
    fn covers(&self, key: &ObjectKey) -> bool {
        self.kind == key.kind && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }
}

/// All watched objects.
pub(crate) struct Store {
    inner: Mutex<Inner>,
    listener: OnceLock<Listener>,
    /// How many scopes were listed whole at least once.
    synced: watch::Sender<usize>,
}

#[derive(Default)]
struct Inner {
    kinds: BTreeMap<Kind, BTreeMap<(String, String), Arc<DynamicObject>>>,
    /// Deleted by us, UID by key; the watch has not said so yet.
    deleted: HashMap<ObjectKey, String>,
    lists: HashMap<Scope, List>,
    synced: HashSet<Scope>,
}

/// A list under way.
#[derive(Default)]
struct List {
    seen: HashSet<ObjectKey>,
    /// Written by us since it began: it may be too old to hold them.
    written: HashSet<ObjectKey>,
    /// Deleted by us before it began: after it, the watch will not speak of them.
    deleted: Vec<ObjectKey>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::new(Inner::default()), listener: OnceLock::new(), synced: watch::Sender::new(0) }
    }

    /// Who hears of changes; set once, before the first watch.
    pub(crate) fn listen(&self, listener: impl Fn(&Change) + Send + Sync + 'static) {
        let first = self.listener.set(Box::new(listener));
        debug_assert!(first.is_ok(), "there is one listener");
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<DynamicObject>> {
        self.lock().get(key).cloned()
    }

    pub(crate) fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<&str, &str>,
    ) -> Vec<Arc<DynamicObject>> {
        let inner = self.lock();
        let Some(objects) = inner.kinds.get(&kind) else { return Vec::new() };
        // From the first of the namespace on, and no further than its last.
        let first = (namespace.unwrap_or_default().to_owned(), String::new());
        objects
            .range(first..)
            .take_while(|((of, _), _)| namespace.is_none_or(|namespace| of == namespace))
            .filter(|(_, object)| has_labels(object, labels))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// How many objects of each kind are kept.
    pub(crate) fn sizes(&self) -> Vec<(Kind, usize)> {
        self.lock().kinds.iter().map(|(kind, objects)| (*kind, objects.len())).collect()
    }

    /// Waits until this many scopes were listed whole.
    pub(crate) async fn wait_for_sync(&self, scopes: usize) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as the store.
        let _ = synced.wait_for(|done| *done >= scopes).await;
    }

    /// A watch tells of an object.
    pub(crate) fn seen(&self, key: ObjectKey, object: DynamicObject) {
        let object = Arc::new(object);
        if self.lock().take_in(&key, &object) {
            self.tell(Change { key, object, is_gone: false, author: Author::Others });
        }
    }

    /// A watch tells that an object is gone.
    pub(crate) fn gone(&self, key: ObjectKey, object: DynamicObject) {
        let mut inner = self.lock();
        if inner.deleted.get(&key) == object.metadata.uid.as_ref() {
            inner.deleted.remove(&key);
        }
        // Another one of the same name may stand there already: ours, made since.
        let is_ours = inner.get(&key).is_some_and(|stored| stored.metadata.uid == object.metadata.uid);
        if is_ours {
            inner.remove(&key);
            drop(inner);
            self.tell(Change { key, object: Arc::new(object), is_gone: true, author: Author::Others });
        }
    }

    /// A watch lists its scope anew.
    pub(crate) fn list_begins(&self, scope: &Scope) {
        let mut inner = self.lock();
        let deleted = inner.deleted.keys().filter(|key| scope.covers(key)).cloned().collect();
        inner.lists.insert(scope.clone(), List { deleted, ..List::default() });
    }

    /// An object of the list.
    pub(crate) fn listed(&self, scope: &Scope, key: ObjectKey, object: DynamicObject) {
        let mut inner = self.lock();
        if let Some(list) = inner.lists.get_mut(scope) {
            list.seen.insert(key.clone());
        }
        drop(inner);
        self.seen(key, object);
    }

    /// The list is whole: what was not in it is gone.
    pub(crate) fn list_ends(&self, scope: &Scope) {
        let mut inner = self.lock();
        let list = inner.lists.remove(scope).unwrap_or_default();
        for key in list.deleted {
            inner.deleted.remove(&key);
        }
        let known = inner.kinds.get(&scope.kind).into_iter().flatten();
        let missing: Vec<_> = known
            .map(|((namespace, name), _)| ObjectKey::new(scope.kind, namespace, name))
            .filter(|key| scope.covers(key) && !list.seen.contains(key) && !list.written.contains(key))
            .collect();
        let gone: Vec<_> =
            missing.into_iter().filter_map(|key| inner.remove(&key).map(|object| (key, object))).collect();
        inner.synced.insert(scope.clone());
        let synced = inner.synced.len();
        drop(inner);
        self.synced.send_replace(synced);
        for (key, object) in gone {
            self.tell(Change { key, object, is_gone: true, author: Author::Others });
        }
    }

    /// The API server answered a write of ours with this.
    pub(crate) fn wrote(&self, key: &ObjectKey, object: &Arc<DynamicObject>) {
        let mut inner = self.lock();
        inner.note_write(key);
        inner.take_in(key, object);
        drop(inner);
        self.tell(Change {
            key: key.clone(),
            object: Arc::clone(object),
            is_gone: false,
            author: Author::Us,
        });
    }

    /// The API server deleted this for us.
    pub(crate) fn deleted(&self, key: &ObjectKey, uid: &str) {
        let mut inner = self.lock();
        let stored = inner.get(key).filter(|stored| stored.metadata.uid.as_deref() == Some(uid)).cloned();
        let Some(stored) = stored else { return };
        inner.remove(key);
        inner.deleted.insert(key.clone(), uid.to_owned());
        drop(inner);
        self.tell(Change { key: key.clone(), object: stored, is_gone: true, author: Author::Us });
    }

    /// Something that is not kept was written by us, such as a Secret.
    pub(crate) fn tell(&self, change: Change) {
        if let Some(listener) = self.listener.get() {
            listener(&change);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

impl Inner {
    fn get(&self, key: &ObjectKey) -> Option<&Arc<DynamicObject>> {
        self.kinds.get(&key.kind)?.get(&(key.namespace.clone(), key.name.clone()))
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<DynamicObject>> {
        self.kinds.get_mut(&key.kind)?.remove(&(key.namespace.clone(), key.name.clone()))
    }

    fn note_write(&mut self, key: &ObjectKey) {
        for (_, list) in self.lists.iter_mut().filter(|(scope, _)| scope.covers(key)) {
            list.written.insert(key.clone());
        }
    }

    /// Keeps the object if it is news.
    fn take_in(&mut self, key: &ObjectKey, object: &Arc<DynamicObject>) -> bool {
        let is_deleted = self.deleted.get(key).is_some_and(|uid| object.metadata.uid.as_ref() == Some(uid));
        if is_deleted || self.get(key).is_some_and(|stored| !is_newer(object, stored)) {
            return false;
        }
        let place = (key.namespace.clone(), key.name.clone());
        self.kinds.entry(key.kind).or_default().insert(place, Arc::clone(object));
        true
    }
}

/// Resource versions are numbers that rise, by contract since Kubernetes 1.35 and in fact long before. What is none is
/// taken as it comes.
fn is_newer(object: &DynamicObject, stored: &DynamicObject) -> bool {
    let version = |object: &DynamicObject| object.metadata.resource_version.as_deref()?.parse::<u128>().ok();
    match (version(object), version(stored)) {
        (Some(new), Some(old)) => new > old,
        (None, _) | (_, None) => true,
    }
}

#[cfg(test)]
mod tests;
