//! An App's key in, everything its reconcile has to know out: reads only. What does not parse is a finding, not an error;
//! only Kubernetes itself failing ends the reconcile. Back ends are asked in [`super::observe`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kube::core::DynamicObject;
use millrace_crds::app::{App, AppStatus, Placement};
use millrace_crds::compile;
use millrace_crds::integration::Integration;
use millrace_crds::integration::IntegrationSpec;
use millrace_crds::labels;
use millrace_crds::manifest::{Secret, SecretValue};
use millrace_crds::names::AppId;
use millrace_crds::resolved::Role;
use millrace_crds::revision::RevisionSpec;
use millrace_crds::selection;
use millrace_crds::state::PodState;
use millrace_crds::validate::{self, SecretUse};

use super::objects::{self, Meta as _};
use super::place::Place;
use crate::cluster::{ClusterError, ObjectKey};
use crate::context::Context;
use crate::kind::Kind;
use crate::reports::Report;

/// What one reconcile of an App knows of Kubernetes.
pub(crate) struct Gathered {
    /// Which App.
    pub(crate) id: AppId,
    /// As stored.
    pub(crate) object: Arc<DynamicObject>,
    /// As understood, or why not.
    pub(crate) app: Result<App, String>,
    /// Its status as stored; empty when that is not understood.
    pub(crate) status: AppStatus,
    /// Valid Integrations that are for it, by name.
    pub(crate) integrations: Vec<(String, IntegrationSpec)>,
    /// Names of Integrations that are for it and left out, because they have problems of their own.
    pub(crate) integrations_broken: Vec<String>,
    /// The Secrets it names and that exist.
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// Its own Secret.
    pub(crate) own_secret: Option<OwnSecret>,
    /// Under which write keys are hashed; absent until the namespace has one.
    pub(crate) pepper: Option<SecretValue>,
    /// Its Revisions, by sequence.
    pub(crate) revisions: Vec<Published>,
    /// The newest Revision of the access rules.
    pub(crate) access: Option<Published>,
    /// The newest Revision of every other App of the namespace.
    pub(crate) neighbours: Vec<Neighbour>,
    /// Pods of its data plane that are not on their way out.
    pub(crate) pods: Vec<PodSeen>,
    /// Where its Revisions are; absent while there are none.
    pub(crate) place: Option<Place>,
    /// Pods of the data plane that it is to leave, if it is to leave one.
    pub(crate) left: Vec<PodSeen>,
    /// StatefulSets of its data plane, by role.
    pub(crate) sets: Vec<(Role, Arc<DynamicObject>)>,
}

/// The App's own Secret as it is.
pub(crate) struct OwnSecret {
    /// Its UID.
    pub(crate) uid: String,
    /// Whether we made it.
    pub(crate) is_ours: bool,
    /// Its annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Its values.
    pub(crate) data: BTreeMap<String, SecretValue>,
}

/// A Revision as it is.
#[derive(Clone)]
pub(crate) struct Published {
    /// As stored.
    pub(crate) object: Arc<DynamicObject>,
    /// Its sequence: of its spec, or else of its name.
    pub(crate) sequence: i64,
    /// What it says; absent when a newer operator wrote what this one does not understand.
    pub(crate) spec: Option<RevisionSpec>,
    /// SHA-256 of its configuration.
    pub(crate) hash: String,
}

impl Published {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Another App of the namespace, as far as clashes go.
pub(crate) struct Neighbour {
    /// Its name.
    pub(crate) app: String,
    /// Its newest Revision.
    revision: Arc<DynamicObject>,
}

impl Neighbour {
    /// Its newest configuration, as text.
    pub(crate) fn config(&self) -> &str {
        self.revision.data["spec"]["config"].as_str().unwrap_or_default()
    }
}

/// A pod as Kubernetes has it, with what it last said.
#[derive(Clone, Debug)]
pub(crate) struct PodSeen {
    /// Its name.
    pub(crate) name: String,
    /// What it does.
    pub(crate) role: Role,
    /// When it was made.
    pub(crate) created: Timestamp,
    /// Since when it has not been ready; absent when it is.
    pub(crate) unready_since: Option<Timestamp>,
    /// What it last said, or why nothing; absent when it was not asked yet.
    pub(crate) said: Option<Result<PodState, String>>,
}

/// Reads all of it; `None` when there is no such App.
pub(crate) async fn gather(context: &Context, id: &AppId) -> Result<Option<Gathered>, ClusterError> {
    let key = ObjectKey::new(Kind::App, id.namespace(), id.name());
    let Some(object) = context.cluster.get(&key).await? else { return Ok(None) };
    let app = objects::parse::<App>(&object);
    let status = serde_json::from_value(object.data["status"].clone()).unwrap_or_default();
    let (integrations, integrations_broken) = integrations(context, id, &object).await?;
    let secrets = match &app {
        Ok(app) => named_secrets(context, id, app).await?,
        Err(_) => BTreeMap::new(),
    };
    let (revisions, access, neighbours) = revisions(context, id).await?;
    let place = revisions.last().and_then(Place::of);
    let left = match place.as_ref().and_then(|place| place.to_leave(data_plane(id, &object))) {
        Some(old) => pods(context, id.namespace(), old).await?,
        None => Vec::new(),
    };
    Ok(Some(Gathered {
        id: id.clone(),
        app,
        status,
        integrations,
        integrations_broken,
        secrets,
        own_secret: own_secret(context, id).await?,
        pepper: pepper(context, id.namespace()).await?,
        revisions,
        access,
        neighbours,
        pods: pods(context, id.namespace(), data_plane(id, &object)).await?,
        place,
        left,
        sets: sets(context, id.namespace(), data_plane(id, &object)).await?,
        object,
    }))
}

/// The data plane that serves an App, by its stored spec, even if that does not parse otherwise.
pub(crate) fn data_plane<'a>(id: &'a AppId, object: &DynamicObject) -> &'a str {
    let placement = object.data["spec"]["dataplane"]["placement"].as_str();
    let is_dedicated = placement.is_some_and(|text| text == format!("{:?}", Placement::Dedicated));
    if is_dedicated { id.name() } else { labels::SHARED }
}

async fn integrations(
    context: &Context,
    id: &AppId,
    app: &DynamicObject,
) -> Result<(Vec<(String, IntegrationSpec)>, Vec<String>), ClusterError> {
    let (mut found, mut broken) = (Vec::new(), Vec::new());
    let none = BTreeMap::new();
    let app_labels = app.metadata.labels.as_ref().unwrap_or(&none);
    for object in context.cluster.list(Kind::Integration, Some(id.namespace()), &BTreeMap::new()).await? {
        // One that does not parse is reported on itself; whether it is for this App cannot be told.
        let Ok(integration) = objects::parse::<Integration>(&object) else { continue };
        if !selection::includes(integration.spec.apps.as_ref(), id.name(), app_labels) {
            continue;
        }
        let name = object.name_text().to_owned();
        if object.is_deleting() {
            continue;
        }
        if validate::integration(&integration).is_empty() {
            found.push((name, integration.spec));
        } else {
            broken.push(name);
        }
    }
    Ok((found, broken))
}

async fn named_secrets(
    context: &Context,
    id: &AppId,
    app: &App,
) -> Result<BTreeMap<String, Secret>, ClusterError> {
    let names: BTreeSet<&str> = SecretUse::of_app(&app.spec).iter().map(|used| used.secret).collect();
    let mut secrets = BTreeMap::new();
    for name in names {
        if let Some(object) = secret(context, id.namespace(), name).await? {
            let labels = object.metadata.labels.clone().unwrap_or_default();
            let data = objects::secret_data(&object);
            let (namespace, name) = (id.namespace().to_owned(), name.to_owned());
            secrets.insert(name.clone(), Secret { namespace, name, labels, data });
        }
    }
    Ok(secrets)
}

async fn own_secret(context: &Context, id: &AppId) -> Result<Option<OwnSecret>, ClusterError> {
    let found = secret(context, id.namespace(), &labels::app_secret(id)).await?;
    Ok(found.map(|object| OwnSecret {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        is_ours: object.label(labels::MANAGED_BY) == Some(labels::MANAGER),
        annotations: object.metadata.annotations.clone().unwrap_or_default(),
        data: objects::secret_data(&object),
    }))
}

async fn pepper(context: &Context, namespace: &str) -> Result<Option<SecretValue>, ClusterError> {
    let found = secret(context, namespace, labels::PEPPER_SECRET).await?;
    let value = found.and_then(|object| objects::secret_data(&object).remove(labels::PEPPER));
    let bytes = value.and_then(|value| hex::decode(value.expose()).ok());
    Ok(bytes.filter(|bytes| !bytes.is_empty()).map(SecretValue::new))
}

async fn secret(
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<DynamicObject>>, ClusterError> {
    context.cluster.get(&ObjectKey::new(Kind::Secret, namespace, name)).await
}

type Revisions = (Vec<Published>, Option<Published>, Vec<Neighbour>);

async fn revisions(context: &Context, id: &AppId) -> Result<Revisions, ClusterError> {
    let ours = BTreeMap::from([(labels::MANAGED_BY, labels::MANAGER)]);
    let mut own = Vec::new();
    let mut newest: BTreeMap<String, (i64, Arc<DynamicObject>)> = BTreeMap::new();
    for object in context.cluster.list(Kind::Revision, Some(id.namespace()), &ours).await? {
        let Some(scope) = object.label(labels::SCOPE).map(ToOwned::to_owned) else { continue };
        if scope == id.name() {
            own.push(published(object));
            continue;
        }
        let sequence = sequence(&object);
        if newest.get(&scope).is_none_or(|(known, _)| *known < sequence) {
            newest.insert(scope, (sequence, object));
        }
    }
    own.sort_by_key(|revision| revision.sequence);
    let access = newest.remove(labels::SCOPE_ACCESS).map(|(_, object)| published(object));
    let neighbours = newest.into_iter().map(|(app, (_, revision))| Neighbour { app, revision });
    Ok((own, access, neighbours.collect()))
}

/// A Revision, with its hash.
pub(crate) fn published(object: Arc<DynamicObject>) -> Published {
    let config = object.data["spec"]["config"].as_str().unwrap_or_default();
    Published {
        sequence: sequence(&object),
        spec: serde_json::from_value(object.data["spec"].clone()).ok(),
        hash: compile::hash(config),
        object,
    }
}

fn sequence(object: &DynamicObject) -> i64 {
    let named = object.name_text().rsplit_once('-').and_then(|(_, number)| number.parse().ok());
    object.data["spec"]["sequence"].as_i64().or(named).unwrap_or_default()
}

async fn pods(context: &Context, namespace: &str, data_plane: &str) -> Result<Vec<PodSeen>, ClusterError> {
    let of_data_plane = BTreeMap::from([(labels::DATA_PLANE, data_plane)]);
    let pods = context.cluster.list(Kind::Pod, Some(namespace), &of_data_plane).await?;
    let seen = pods.iter().filter(|pod| !pod.is_deleting()).filter_map(|pod| {
        let said = context.reports.of(namespace, pod.name_text());
        pod_seen(pod, said)
    });
    Ok(seen.collect())
}

async fn sets(
    context: &Context,
    namespace: &str,
    data_plane: &str,
) -> Result<Vec<(Role, Arc<DynamicObject>)>, ClusterError> {
    let mut sets = Vec::new();
    for role in Role::ALL {
        let key = ObjectKey::new(Kind::StatefulSet, namespace, &labels::role_object(data_plane, role));
        sets.extend(context.cluster.get(&key).await?.map(|set| (role, set)));
    }
    Ok(sets)
}

/// `None` for a pod that has ended, or is none of ours.
fn pod_seen(pod: &DynamicObject, report: Option<Report>) -> Option<PodSeen> {
    let component = pod.label(labels::COMPONENT)?;
    let role = Role::ALL.into_iter().find(|role| role.as_str() == component)?;
    let status = &pod.data["status"];
    if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    let is_ready = ready.is_some_and(|condition| condition["status"] == "True");
    let since = ready.and_then(|condition| condition["lastTransitionTime"].as_str()?.parse().ok());
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    Some(PodSeen {
        name: pod.name_text().to_owned(),
        role,
        created,
        unready_since: (!is_ready).then(|| since.unwrap_or(created)),
        // A new pod of the same name has said nothing yet.
        said: report.filter(|report| report.uid == uid).map(|report| report.said),
    })
}
