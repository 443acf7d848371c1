//! The API server as the reconciles see it: reads from stores that watches fill, writes by server-side apply. Secrets
//! and Namespaces are read from the server, by name.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::HeaderValue;
use axum::http::header::USER_AGENT;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{DynamicObject, TypeMeta};
use kube::{Client, Config};
use millrace_crds::compile;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::debug;

use super::store::Store;
use super::{Author, Change, Cluster, ClusterError, MANAGER, MANAGER_STATUS, ObjectKey, Severity, Told};
use crate::fields::owners;
use crate::kind::Kind;
use crate::metrics::Metrics;

pub mod watching;

/// How the operator calls itself in the API server's logs.
const AGENT: &str = concat!("millrace-operator/", env!("CARGO_PKG_VERSION"));
/// Longest time of one call: the API server itself gives up after 60 s, and a reconcile has better to do.
const CALL_MAX: Duration = Duration::from_secs(30);
/// Events with the same words on the same object within this time are one.
const EVENT_WINDOW_S: i64 = 600;
/// Longest note of an Event, in bytes; the API server refuses longer ones.
const NOTE_BYTES_MAX: usize = 1024;

/// The API server.
pub struct Live {
    client: Client,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    /// Name of this process in Events.
    instance: String,
}

/// Connects as the environment says: the KUBECONFIG, or the pod's ServiceAccount. Calls that fail are not repeated
/// below us: a repeated POST may have succeeded before, and the queue repeats whole reconciles anyway.
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = Config::infer().await.map_err(|source| ConnectError::Config { source })?;
    config.default_retry = false;
    config.headers.push((USER_AGENT, HeaderValue::from_static(AGENT)));
    Client::try_from(config).map_err(|source| ConnectError::Client { source })
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No configuration.
    #[error(
        "no way to the API server is configured; set `KUBECONFIG`, or run in a pod with a ServiceAccount"
    )]
    Config {
        /// Why.
        source: kube::config::InferConfigError,
    },
    /// One that cannot be used.
    #[error("the configured way to the API server cannot be used")]
    Client {
        /// Why.
        source: kube::Error,
    },
}

impl Live {
    /// The API server behind this client; reads are empty until watches run.
    pub fn new(client: Client, metrics: Arc<Metrics>, instance: String) -> Self {
        Self { client, store: Arc::new(Store::new()), metrics, instance }
    }

    /// Who hears of every change; set once, before watches start. Must not wait.
    pub fn listen(&self, listener: impl Fn(&Change) + Send + Sync + 'static) {
        self.store.listen(listener);
    }

    /// Brings the gauges up to date.
    pub fn measure(&self) {
        for (kind, count) in self.store.sizes() {
            let gauge = self.metrics.stored_objects.with_label_values(&[kind.as_str()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn api(&self, key: &ObjectKey) -> Api<DynamicObject> {
        let resource = key.kind.resource();
        if key.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &key.namespace, &resource)
        }
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        key: &ObjectKey,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        let answer = match timeout(CALL_MAX, call).await {
            Ok(answer) => answer.map_err(|error| said(verb, key, error)),
            Err(elapsed) => Err(ClusterError::Unreachable { verb, key: key.clone(), source: elapsed.into() }),
        };
        if let Err(error) = &answer {
            self.metrics.cluster_errors.with_label_values(&[verb, class(error)]).inc();
        }
        answer
    }

    /// Keeps what a write was answered with.
    fn keep(&self, key: &ObjectKey, mut answer: DynamicObject) -> Arc<DynamicObject> {
        lighten(key.kind, &mut answer);
        let answer = Arc::new(answer);
        if is_read_by_name(key.kind) {
            let object = Arc::clone(&answer);
            self.store.tell(Change { key: key.clone(), object, is_gone: false, author: Author::Us });
        } else {
            self.store.wrote(key, &answer);
        }
        answer
    }
}

/// Kinds that are not watched.
fn is_read_by_name(kind: Kind) -> bool {
    matches!(kind, Kind::Secret | Kind::Namespace)
}

fn is_held(object: &DynamicObject) -> bool {
    object.metadata.finalizers.iter().flatten().next().is_some()
}

/// Takes off what nobody here reads and what takes most of the memory, and says what a list leaves out: its items carry
/// neither `apiVersion` nor `kind`, and would never equal what is applied.
fn lighten(kind: Kind, object: &mut DynamicObject) {
    let resource = kind.resource();
    object.types = Some(TypeMeta { api_version: resource.api_version, kind: resource.kind });
    object.metadata.managed_fields = match kind {
        Kind::Deployment | Kind::StatefulSet => {
            object.metadata.managed_fields.take().and_then(owners::keep_who_counts_pods)
        }
        _ => None,
    };
    if let Some(annotations) = &mut object.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// The server's answer as an error of ours.
fn said(verb: &'static str, key: &ObjectKey, error: kube::Error) -> ClusterError {
    let key = key.clone();
    match error {
        kube::Error::Api(status) if status.code == 409 => ClusterError::Conflict { key },
        kube::Error::Api(status) if is_refusal(status.code, &status.message) => {
            ClusterError::Refused { verb, key, message: status.message }
        }
        kube::Error::SerdeError(source) => ClusterError::Unreadable { key, source },
        error => ClusterError::Unreachable { verb, key, source: Box::new(error) },
    }
}

/// A field that does not exist, or of another type, is answered with 500 by server-side apply, although no repetition
/// helps.
fn is_refusal(code: u16, message: &str) -> bool {
    match code {
        429 => false,
        400..=499 => true,
        500 => message.starts_with("failed to create typed patch object"),
        _ => false,
    }
}

fn class(error: &ClusterError) -> &'static str {
    match error {
        ClusterError::Conflict { .. } => "conflict",
        ClusterError::Refused { .. } => "refused",
        ClusterError::Unreachable { .. } => "unreachable",
        ClusterError::Unreadable { .. } => "unreadable",
    }
}

/// Nothing there is no failure where nothing is wanted.
fn unless_gone<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Cluster for Live {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Arc<DynamicObject>>, ClusterError> {
        if !is_read_by_name(key.kind) {
            return Ok(self.store.get(key));
        }
        let api = self.api(key);
        let found = self.call("read", key, api.get_opt(&key.name)).await?;
        Ok(found.map(|mut found| {
            lighten(key.kind, &mut found);
            Arc::new(found)
        }))
    }

    async fn secret_version(&self, key: &ObjectKey) -> Result<Option<String>, ClusterError> {
        let api = self.api(key);
        let found = self.call("read", key, api.get_metadata_opt(&key.name)).await?;
        Ok(found.map(|found| super::version_of(&found.metadata)))
    }

    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<&str, &str>,
    ) -> Result<Vec<Arc<DynamicObject>>, ClusterError> {
        if is_read_by_name(kind) {
            let key = ObjectKey::new(kind, namespace.unwrap_or_default(), "");
            let message = "the operator reads this kind by name only".to_owned();
            return Err(ClusterError::Refused { verb: "list", key, message });
        }
        Ok(self.store.list(kind, namespace, labels))
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        intent: &DynamicObject,
    ) -> Result<Arc<DynamicObject>, ClusterError> {
        let parameters = PatchParams::apply(MANAGER).force().validation_strict();
        self.metrics.wrote(key.kind, "apply");
        let api = self.api(key);
        let answer =
            self.call("apply", key, api.patch(&key.name, &parameters, &Patch::Apply(intent))).await?;
        Ok(self.keep(key, answer))
    }

    async fn delete(&self, key: &ObjectKey, uid: &str) -> Result<(), ClusterError> {
        let this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let parameters = DeleteParams::background().preconditions(this);
        self.metrics.wrote(key.kind, "delete");
        let api = self.api(key);
        let answer = async { unless_gone(api.delete(&key.name, &parameters).await) };
        match self.call("delete", key, answer).await {
            // Some kinds answer with the object although it is gone: only finalizers tell.
            Ok(Some(answer)) => match answer.left().filter(is_held) {
                Some(object) => {
                    self.keep(key, object);
                }
                None => self.store.deleted(key, uid),
            },
            Ok(None) => self.store.deleted(key, uid),
            // Another one of the same name: not ours to delete.
            Err(ClusterError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn set_status(&self, key: &ObjectKey, status: &Value) -> Result<(), ClusterError> {
        let resource = key.kind.resource();
        let body = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": key.name, "namespace": key.namespace}, "status": status,
        });
        let parameters = PatchParams::apply(MANAGER_STATUS).force().validation_strict();
        self.metrics.wrote(key.kind, "status");
        let api = self.api(key);
        let patch = Patch::Apply(&body);
        let answer = async { unless_gone(api.patch_status(&key.name, &parameters, &patch).await) };
        if let Some(answer) = self.call("set the status of", key, answer).await? {
            self.keep(key, answer);
        }
        Ok(())
    }

    async fn set_finalizers(
        &self,
        object: &DynamicObject,
        key: &ObjectKey,
        finalizers: Vec<String>,
    ) -> Result<(), ClusterError> {
        let metadata = json!({
            "resourceVersion": object.metadata.resource_version, "uid": object.metadata.uid,
            "finalizers": finalizers,
        });
        let body = json!({"metadata": metadata});
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.metrics.wrote(key.kind, "finalizers");
        let api = self.api(key);
        let patch = Patch::Merge(&body);
        let answer = async { unless_gone(api.patch(&key.name, &parameters, &patch).await) };
        let answer = self.call("set the finalizers of", key, answer).await?;
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        match answer {
            Some(answer) if finalizers.is_empty() && answer.metadata.deletion_timestamp.is_some() => {
                self.store.deleted(key, uid);
            }
            Some(answer) => {
                self.keep(key, answer);
            }
            None => self.store.deleted(key, uid),
        }
        Ok(())
    }

    async fn tell(&self, about: &DynamicObject, event: Told) {
        let Some(key) = ObjectKey::of(about) else { return };
        let event = self.event(&key, about, event, jiff::Timestamp::now());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &key.namespace);
        let parameters = PostParams::default();
        // Told already, in the same words: the server says so by a conflict.
        if let Err(error) = self.call("tell of", &key, api.create(&parameters, &event)).await
            && !matches!(error, ClusterError::Conflict { .. })
        {
            debug!(error = %error, "an Event was lost");
        }
    }
}

impl Live {
    fn event(&self, key: &ObjectKey, about: &DynamicObject, told: Told, now: jiff::Timestamp) -> Event {
        let resource = key.kind.resource();
        let window = now.as_second() / EVENT_WINDOW_S;
        let uid = about.metadata.uid.as_deref().unwrap_or_default();
        let words = format!("{uid}/{}/{}/{}/{window}", told.reason, told.action, told.note);
        let digest = compile::hash(&words);
        let name = format!("{}.{}", key.name, digest.get(..16).unwrap_or(&digest));
        let mut note = told.note;
        note.truncate(note.floor_char_boundary(NOTE_BYTES_MAX));
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(key.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            action: Some(told.action.to_owned()),
            reason: Some(told.reason.to_owned()),
            note: Some(note),
            type_: Some(kind_of_event(told.severity).to_owned()),
            reporting_controller: Some(format!("millrace.dev/{MANAGER}")),
            reporting_instance: Some(self.instance.clone()),
            regarding: Some(ObjectReference {
                api_version: Some(resource.api_version),
                kind: Some(resource.kind),
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                resource_version: about.metadata.resource_version.clone(),
                uid: about.metadata.uid.clone(),
                field_path: None,
            }),
            ..Event::default()
        }
    }
}

fn kind_of_event(severity: Severity) -> &'static str {
    match severity {
        Severity::Normal => "Normal",
        Severity::Warning => "Warning",
    }
}
