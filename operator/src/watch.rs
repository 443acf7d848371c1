//! Changes in, woken keys out: who is concerned by what. Also what wakes without a change: the clock, and Secrets that
//! were edited (they are read by name and never watched).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kube::core::DynamicObject;
use millrace_crds::app::AppSpec;
use millrace_crds::integration::IntegrationSpec;
use millrace_crds::labels;
use millrace_crds::names::AppId;
use millrace_crds::validate::SecretUse;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::warn;

use crate::cluster::{Author, Change, Cluster, ObjectKey};
use crate::kind::Kind;
use crate::poller::News;
use crate::queue::{Key, Queue};
use crate::reports::Fresh;

/// Everything is looked at again this often: drift that no watch tells of (topics, tables) is found within it.
const RESYNC: Duration = Duration::from_secs(600);
/// Keys of a resync spread over this part of it.
const RESYNC_SPREAD: Duration = Duration::from_secs(60);
/// Secrets that are named somewhere are compared this often.
const SECRETS: Duration = Duration::from_secs(60);

/// Pods of a data plane are asked at the same moment; what they say is looked at together, and is one status.
const ANSWERS_TOGETHER: Duration = Duration::from_millis(50);

/// Wakes keys.
pub struct Waker {
    queue: Arc<Queue>,
    known: Mutex<Known>,
    published: Arc<Notify>,
}

/// What must be known of objects to tell who is concerned by a change of another.
#[derive(Default)]
struct Known {
    /// Apps of each namespace, and the data plane that serves each.
    apps: BTreeMap<String, BTreeMap<String, String>>,
    /// Secrets that an App or an Integration names.
    named: BTreeMap<ObjectKey, BTreeSet<String>>,
    /// Their versions when they were last compared.
    versions: BTreeMap<ObjectKey, Option<String>>,
}

impl Waker {
    /// Wakes keys of this queue.
    pub fn new(queue: Arc<Queue>) -> Self {
        Self { queue, known: Mutex::new(Known::default()), published: Arc::default() }
    }

    /// An object changed.
    pub fn changed(&self, change: &Change) {
        let mut known = self.lock();
        known.note(change);
        let keys = known.concerned(change);
        drop(known);
        self.wake(keys);
        if change.key.kind == Kind::Revision && !change.is_gone {
            self.published.notify_one();
        }
    }

    /// Notified when a Revision comes or changes, also by us.
    pub fn published(&self) -> Arc<Notify> {
        Arc::clone(&self.published)
    }

    /// A pod of a data plane said something new.
    pub fn heard(&self, news: &News) {
        let keys = self.lock().concerned_by_news(news);
        for key in keys {
            self.queue.wake_after(key, ANSWERS_TOGETHER);
        }
    }

    /// Wakes everything there is: at the start of work, and when accounts changed.
    pub fn wake_all(&self) {
        let keys = self.lock().all();
        self.wake(keys);
    }

    /// Wakes everything from time to time, for ever. `random` fills bytes.
    pub async fn resync(&self, random: fn(&mut [u8])) {
        loop {
            sleep(RESYNC).await;
            for key in self.lock().all() {
                let mut bytes = [0; 2];
                random(&mut bytes);
                let share = f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX);
                self.queue.wake_after(key, RESYNC_SPREAD.mul_f64(share));
            }
        }
    }

    /// Compares Secrets from time to time, for ever.
    pub async fn compare_secrets(&self, cluster: &dyn Cluster) {
        loop {
            sleep(SECRETS).await;
            self.compare_secrets_once(cluster).await;
        }
    }

    /// Compares the versions of all Secrets that are named, and wakes who names one that changed, or that was not seen
    /// before: it may have changed after it was read.
    async fn compare_secrets_once(&self, cluster: &dyn Cluster) {
        let named = self.lock().named_secrets();
        self.lock().versions.retain(|secret, _| named.contains(secret));
        for secret in named {
            let version = match cluster.secret_version(&secret).await {
                Ok(version) => version,
                Err(error) if error.is_retryable() => {
                    // The next one would not fare better; the next round may.
                    warn!(object.key = %secret, error = %error, "cannot compare Secrets");
                    return;
                }
                // Not ours to read: whoever names it says so in its status.
                Err(_) => None,
            };
            let mut known = self.lock();
            if known.versions.get(&secret) == Some(&version) {
                continue;
            }
            known.versions.insert(secret.clone(), version);
            let keys = known.who_names(&secret);
            drop(known);
            self.wake(keys);
        }
    }

    fn wake(&self, keys: BTreeSet<Key>) {
        for key in keys {
            self.queue.wake(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of this lock panics")
    }
}

impl Known {
    fn note(&mut self, change: &Change) {
        let (namespace, name) = (&change.key.namespace, &change.key.name);
        if matches!(change.key.kind, Kind::Integration | Kind::RolePolicy) {
            self.apps.entry(namespace.clone()).or_default();
        }
        if change.key.kind == Kind::App {
            let apps = self.apps.entry(namespace.clone()).or_default();
            if change.is_gone {
                apps.remove(name);
            } else {
                apps.insert(name.clone(), data_plane_of(&change.object, name));
            }
        }
        if matches!(change.key.kind, Kind::App | Kind::Integration) {
            let secrets = if change.is_gone { BTreeSet::new() } else { secrets_of(change) };
            if secrets.is_empty() {
                self.named.remove(&change.key);
            } else {
                self.named.insert(change.key.clone(), secrets);
            }
        }
    }

    /// Who must look again. Our own writes wake nobody who made them: only who reads what another key wrote.
    fn concerned(&self, change: &Change) -> BTreeSet<Key> {
        let namespace = &change.key.namespace;
        let is_ours = change.author == Author::Us && !change.is_gone;
        match change.key.kind {
            Kind::Secret => self.of_our_secret(namespace, &change.key.name),
            Kind::Pod => self.of_data_plane(namespace, label(&change.object, labels::DATA_PLANE)),
            _ if is_ours => BTreeSet::new(),
            Kind::App => {
                let app = AppId::new(namespace, &change.key.name).map(Key::App);
                app.into_iter().chain([Key::Namespace(namespace.clone())]).collect()
            }
            Kind::Integration | Kind::RolePolicy => self.of_namespace(namespace),
            Kind::Revision => {
                let scope = label(&change.object, labels::SCOPE);
                AppId::new(namespace, scope).map_or_else(
                    |_| BTreeSet::from([Key::Namespace(namespace.clone())]),
                    |app| BTreeSet::from([Key::App(app)]),
                )
            }
            Kind::ServiceAccount
            | Kind::Role
            | Kind::RoleBinding
            | Kind::Service
            | Kind::Deployment
            | Kind::StatefulSet
            | Kind::PodDisruptionBudget
            | Kind::HorizontalPodAutoscaler
            | Kind::NetworkPolicy
            | Kind::Ingress
            | Kind::HttpRoute => BTreeSet::from([Key::Namespace(namespace.clone())]),
            Kind::Namespace => BTreeSet::new(),
        }
    }

    /// Secrets are told of only when we wrote them: the pepper is what Apps wait for, an App's keys are what the
    /// namespace resolves.
    fn of_our_secret(&self, namespace: &str, name: &str) -> BTreeSet<Key> {
        let apps = self.apps.get(namespace).into_iter().flatten();
        let is_app_secret = apps
            .filter_map(|(app, _)| AppId::new(namespace, app).ok())
            .any(|app| labels::app_secret(&app) == name);
        if name == labels::PEPPER_SECRET {
            self.of_namespace(namespace)
        } else if is_app_secret {
            BTreeSet::from([Key::Namespace(namespace.to_owned())])
        } else {
            BTreeSet::new()
        }
    }

    fn of_namespace(&self, namespace: &str) -> BTreeSet<Key> {
        let apps = self.apps.get(namespace).into_iter().flatten();
        apps.filter_map(|(app, _)| AppId::new(namespace, app).ok().map(Key::App))
            .chain([Key::Namespace(namespace.to_owned())])
            .collect()
    }

    fn of_data_plane(&self, namespace: &str, data_plane: &str) -> BTreeSet<Key> {
        let apps = self.apps.get(namespace).into_iter().flatten();
        apps.filter(|(_, of)| *of == data_plane)
            .filter_map(|(app, _)| AppId::new(namespace, app).ok().map(Key::App))
            .chain([Key::Namespace(namespace.to_owned())])
            .collect()
    }

    /// Where a pod stands with one App is that App's alone; with the access rules, everybody's.
    fn concerned_by_news(&self, news: &News) -> BTreeSet<Key> {
        match &news.fresh {
            Fresh::Scopes(scopes) if !scopes.contains(labels::SCOPE_ACCESS) => {
                let apps = scopes.iter().filter_map(|scope| AppId::new(&news.namespace, scope).ok());
                apps.map(Key::App).collect()
            }
            Fresh::Nothing => BTreeSet::new(),
            Fresh::Scopes(_) | Fresh::Anything => self.of_data_plane(&news.namespace, &news.data_plane),
        }
    }

    fn all(&self) -> BTreeSet<Key> {
        self.apps.keys().flat_map(|namespace| self.of_namespace(namespace)).collect()
    }

    fn named_secrets(&self) -> BTreeSet<ObjectKey> {
        let named = self.named.iter().flat_map(|(by, names)| {
            names.iter().map(|name| ObjectKey::new(Kind::Secret, &by.namespace, name))
        });
        named.collect()
    }

    fn who_names(&self, secret: &ObjectKey) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        let by = self
            .named
            .iter()
            .filter(|(by, names)| by.namespace == secret.namespace && names.contains(&secret.name));
        for (by, _) in by {
            // Which Apps an Integration serves is for their reconciles to say.
            if by.kind == Kind::Integration {
                return self.of_namespace(&by.namespace);
            }
            keys.extend(AppId::new(&by.namespace, &by.name).ok().map(Key::App));
            keys.insert(Key::Namespace(by.namespace.clone()));
        }
        keys
    }
}

fn label<'a>(object: &'a DynamicObject, name: &str) -> &'a str {
    object.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map_or("", String::as_str)
}

fn data_plane_of(app: &DynamicObject, name: &str) -> String {
    let placement = app.data.pointer("/spec/dataplane/placement").and_then(Value::as_str);
    if placement == Some("Dedicated") { name.to_owned() } else { labels::SHARED.to_owned() }
}

/// Names of the Secrets that an object names; none of one that cannot be read, which says so in its status.
fn secrets_of(change: &Change) -> BTreeSet<String> {
    fn spec<T: DeserializeOwned>(object: &DynamicObject) -> Option<T> {
        T::deserialize(object.data.get("spec")?).ok()
    }
    let names = |uses: Vec<SecretUse<'_>>| uses.into_iter().map(|used| used.secret.to_owned()).collect();
    match change.key.kind {
        Kind::App => spec::<AppSpec>(&change.object).map(|spec| names(SecretUse::of_app(&spec))),
        _ => spec::<IntegrationSpec>(&change.object).map(|spec| names(SecretUse::of_integration(&spec))),
    }
    .unwrap_or_default()
}

#[cfg(test)]
mod tests;
