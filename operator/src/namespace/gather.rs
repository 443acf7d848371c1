//! Everything the namespace reconcile looks at, read once: custom resources, what is owned, pods with what they said, and
//! the Secrets that are named. Reads only; decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::ByteString;
use kube::core::DynamicObject;
use millrace_crds::app::App;
use millrace_crds::integration::Integration;
use millrace_crds::manifest::{Secret, SecretValue};
use millrace_crds::names::AppId;
use millrace_crds::resolved::Role;
use millrace_crds::role_policy::RolePolicy;
use millrace_crds::validate::SecretUse;
use millrace_crds::{crd, labels};

use super::planes::{self, Planes};
use super::pods::{self, PodSeen};
use super::read::{self, Found, Published};
use crate::cluster::{ClusterError, ObjectKey};
use crate::context::Context;
use crate::kind::Kind;
use crate::workloads::KINDS;

/// Secrets asked for at the same time: enough to hide the way to the API server, few enough not to fill its queue.
const SECRETS_AT_ONCE: usize = 16;

/// What was found in a namespace.
pub(super) struct Gathered {
    pub(super) namespace: String,
    /// Nothing can be made in it any more.
    pub(super) is_terminating: bool,
    pub(super) apps: Vec<Found<App>>,
    pub(super) integrations: Vec<Found<Integration>>,
    pub(super) policies: Vec<Found<RolePolicy>>,
    /// Revisions of every scope, oldest first within a scope.
    pub(super) revisions: Vec<Published>,
    /// Pods of all data planes.
    pub(super) pods: Vec<PodSeen>,
    /// What carries our label, by place; Secrets and Revisions apart.
    pub(super) owned: BTreeMap<ObjectKey, Arc<DynamicObject>>,
    /// Secrets that are there, by name.
    pub(super) secrets: BTreeMap<String, KnownSecret>,
}

/// A Secret as found.
pub(super) struct KnownSecret {
    pub(super) uid: String,
    pub(super) secret: Secret,
}

/// Reads a namespace.
pub(super) async fn gather(context: &Context, namespace: &str) -> Result<Gathered, ClusterError> {
    let cluster = &context.cluster;
    let list = async |kind, ours: bool| {
        let labels =
            if ours { BTreeMap::from([(labels::MANAGED_BY, labels::MANAGER)]) } else { BTreeMap::new() };
        cluster.list(kind, Some(namespace), &labels).await
    };
    let here = cluster.get(&ObjectKey::new(Kind::Namespace, "", namespace)).await?;
    let mut revisions: Vec<_> =
        list(Kind::Revision, true).await?.iter().filter_map(|object| Published::read(object)).collect();
    revisions.sort_by(|a, b| (&a.scope, a.sequence).cmp(&(&b.scope, b.sequence)));
    let mut owned = BTreeMap::new();
    for kind in KINDS {
        for object in list(kind, true).await? {
            let name = object.metadata.name.clone().unwrap_or_default();
            owned.insert(ObjectKey::new(kind, namespace, &name), object);
        }
    }
    let mut gathered = Gathered {
        namespace: namespace.to_owned(),
        is_terminating: here.is_some_and(|found| found.metadata.deletion_timestamp.is_some()),
        apps: read::all(crd::Kind::App, &list(Kind::App, false).await?),
        integrations: read::all(crd::Kind::Integration, &list(Kind::Integration, false).await?),
        policies: read::all(crd::Kind::RolePolicy, &list(Kind::RolePolicy, false).await?),
        revisions,
        pods: pods::read(&list(Kind::Pod, true).await?, &context.reports),
        owned,
        secrets: BTreeMap::new(),
    };
    gathered.secrets = secrets(context, namespace, named(&gathered)).await?;
    Ok(gathered)
}

impl Gathered {
    /// The data planes and who is in them.
    pub(super) fn planes(&self) -> Planes<'_> {
        planes::planes(&self.namespace, &self.apps, &self.revisions)
    }

    /// Names of data planes that something here belongs to and that nobody needs any more.
    pub(super) fn abandoned(&self) -> BTreeSet<&str> {
        let planes = self.planes();
        let of =
            |object: &'_ Arc<DynamicObject>| read::label(object, labels::DATA_PLANE).map(ToOwned::to_owned);
        self.owned
            .values()
            .filter(|object| of(object).is_some_and(|plane| !planes.contains_key(&plane)))
            .filter_map(|object| read::label(object, labels::DATA_PLANE))
            .collect()
    }

    /// A value of a Secret as text, unless it is empty or not there.
    pub(super) fn text(&self, secret: &str, key: &str) -> Option<&str> {
        let value = self.secrets.get(secret)?.secret.data.get(key)?;
        std::str::from_utf8(value.expose()).ok().filter(|text| !text.is_empty())
    }
}

/// Every Secret that matters here, by name.
fn named(gathered: &Gathered) -> BTreeSet<String> {
    let mut names = BTreeSet::from([labels::PEPPER_SECRET.to_owned(), labels::ADMIN_SECRET.to_owned()]);
    for app in &gathered.apps {
        names.extend(AppId::new(&gathered.namespace, &app.name).ok().map(|id| labels::app_secret(&id)));
        let connections = app.typed.as_ref().ok().and_then(|app| app.spec.connections.as_ref());
        let connections = connections.into_iter().flat_map(|c| [&c.kafka, &c.clickhouse]).flatten();
        names.extend(connections.map(|connection| connection.credentials_ref.name.clone()));
    }
    for integration in gathered.integrations.iter().filter_map(|found| found.typed.as_ref().ok()) {
        let uses = SecretUse::of_integration(&integration.spec);
        names.extend(uses.into_iter().map(|usage| usage.secret.to_owned()));
    }
    for plane in gathered.abandoned() {
        names.extend(Role::ALL.into_iter().map(|role| labels::resolved_secret(plane, role)));
    }
    names
}

async fn secrets(
    context: &Context,
    namespace: &str,
    names: BTreeSet<String>,
) -> Result<BTreeMap<String, KnownSecret>, ClusterError> {
    let read = async |name: String| {
        let found = context.cluster.get(&ObjectKey::new(Kind::Secret, namespace, &name)).await?;
        Ok::<_, ClusterError>(found.map(|object| (name.clone(), known(namespace, name, &object))))
    };
    let mut reads = futures::stream::iter(names).map(read).buffer_unordered(SECRETS_AT_ONCE);
    let mut secrets = BTreeMap::new();
    while let Some(found) = reads.try_next().await? {
        secrets.extend(found);
    }
    Ok(secrets)
}

fn known(namespace: &str, name: String, object: &DynamicObject) -> KnownSecret {
    let data = object.data["data"].as_object().into_iter().flatten();
    let data = data.filter_map(|(key, value)| {
        // A `ByteString` is read from base64.
        let value = serde_json::from_value::<ByteString>(value.clone()).ok()?;
        Some((key.clone(), SecretValue::new(value.0)))
    });
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let secret = Secret { namespace: namespace.to_owned(), name, labels, data: data.collect() };
    KnownSecret { uid: object.metadata.uid.clone().unwrap_or_default(), secret }
}
