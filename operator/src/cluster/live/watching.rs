//! Watches in, filled stores out: one watch for each kind and each namespace served, or for all of them at once. A
//! watch that fails begins anew; an object that cannot be read as its kind is kept as it is.

use std::pin::pin;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use millrace_crds::labels;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{Live, is_read_by_name, lighten};
use crate::cluster::store::{Scope, Store};
use crate::cluster::{ClusterError, ObjectKey};
use crate::installation::Installation;
use crate::kind::Kind;
use crate::metrics::Metrics;

/// Group and version of the definitions.
const DEFINED: &str = "millrace.dev/v1alpha1";
/// Kinds without which nothing can be done.
const NEEDED: [Kind; 4] = [Kind::App, Kind::Integration, Kind::RolePolicy, Kind::Revision];

/// Watches that run; dropping it ends them.
pub struct Watches {
    tasks: JoinSet<()>,
    store: Arc<Store>,
    scopes: usize,
}

impl Watches {
    /// Waits until everything watched was listed whole once.
    pub async fn wait_for_sync(&self) {
        self.store.wait_for_sync(self.scopes).await;
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.tasks.len()
    }
}

impl Live {
    /// Definitions that the API server does not serve yet.
    pub async fn definitions_missing(&self) -> Result<Vec<Kind>, ClusterError> {
        let key = ObjectKey::new(Kind::App, "", "");
        let asked = async { super::unless_gone(self.client.list_api_group_resources(DEFINED).await) };
        let served = self.call("ask for the definitions of", &key, asked).await?;
        let served: Vec<_> =
            served.into_iter().flat_map(|list| list.resources).map(|found| found.kind).collect();
        let missing = NEEDED.into_iter().filter(|kind| !served.iter().any(|found| found == kind.as_str()));
        Ok(missing.collect())
    }

    /// Starts all watches. Kinds that only some installations have are watched where they can be: an Ingress of an
    /// installation that makes none any more must still be found to be removed, but nothing breaks where the API
    /// server does not serve the kind or does not let us see it.
    pub async fn watch(&self, installation: &Installation) -> Watches {
        let mut watches = Watches { tasks: JoinSet::new(), store: Arc::clone(&self.store), scopes: 0 };
        for scope in scopes(installation) {
            if is_optional(scope.kind) && !self.can_list(&scope).await {
                info!(
                    object.kind = scope.kind.as_str(),
                    "this kind is not watched: it is not served, or not for us"
                );
                continue;
            }
            watches.scopes += 1;
            let watch = Watch {
                api: api_of(&self.client, &scope),
                scope,
                store: Arc::clone(&self.store),
                metrics: Arc::clone(&self.metrics),
            };
            watches.tasks.spawn(watch.run());
        }
        watches
    }

    async fn can_list(&self, scope: &Scope) -> bool {
        let key = ObjectKey::new(scope.kind, scope.namespace.as_deref().unwrap_or_default(), "");
        let api = api_of(&self.client, scope);
        let one = ListParams::default().limit(1);
        // Where nobody can say, the watch will.
        !matches!(self.call("list", &key, api.list(&one)).await, Err(ClusterError::Refused { .. }))
    }
}

fn is_optional(kind: Kind) -> bool {
    matches!(kind, Kind::Ingress | Kind::HttpRoute)
}

fn scopes(installation: &Installation) -> Vec<Scope> {
    let namespaces: Vec<_> = if installation.namespaces.is_empty() {
        vec![None]
    } else {
        installation.namespaces.iter().cloned().map(Some).collect()
    };
    let watched = Kind::ALL.into_iter().filter(|kind| !is_read_by_name(*kind));
    watched
        .flat_map(|kind| namespaces.iter().map(move |namespace| Scope { kind, namespace: namespace.clone() }))
        .collect()
}

fn api_of(client: &Client, scope: &Scope) -> Api<DynamicObject> {
    let resource = scope.kind.resource();
    match &scope.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// What is watched of a kind: all of our own kinds, of others what carries our labels.
fn selector(kind: Kind) -> Option<String> {
    match kind {
        Kind::App | Kind::Integration | Kind::RolePolicy | Kind::Revision => None,
        Kind::Pod => Some(format!("{}={},{}", labels::NAME, labels::PRODUCT, labels::DATA_PLANE)),
        Kind::Secret
        | Kind::ServiceAccount
        | Kind::Role
        | Kind::RoleBinding
        | Kind::Service
        | Kind::Deployment
        | Kind::StatefulSet
        | Kind::PodDisruptionBudget
        | Kind::HorizontalPodAutoscaler
        | Kind::NetworkPolicy
        | Kind::Ingress
        | Kind::HttpRoute
        | Kind::Namespace => Some(format!("{}={}", labels::MANAGED_BY, labels::MANAGER)),
    }
}

/// One watch.
struct Watch {
    scope: Scope,
    api: Api<DynamicObject>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
}

impl Watch {
    async fn run(self) {
        let mut config = watcher::Config::default();
        if let Some(selector) = selector(self.scope.kind) {
            config = config.labels(&selector);
        }
        let kind = self.scope.kind.as_str();
        let events = watcher::watcher(self.api.clone(), config).default_backoff();
        let mut events = pin!(events.inspect_err(|error| {
            self.metrics.watch_restarts.with_label_values(&[kind]).inc();
            warn!(object.kind = kind, error = %error, "a watch failed and begins anew");
        }));
        while let Some(event) = events.next().await {
            if let Ok(event) = event {
                self.take(event);
            }
        }
    }

    fn take(&self, event: Event<DynamicObject>) {
        match event {
            Event::Apply(object) => self.with_key(object, |key, object| self.store.seen(key, object)),
            Event::Delete(object) => self.with_key(object, |key, object| self.store.gone(key, object)),
            Event::Init => self.store.list_begins(&self.scope),
            Event::InitApply(object) => {
                self.with_key(object, |key, object| self.store.listed(&self.scope, key, object));
            }
            Event::InitDone => self.store.list_ends(&self.scope),
        }
    }

    fn with_key(&self, mut object: DynamicObject, then: impl FnOnce(ObjectKey, DynamicObject)) {
        let Some(name) = object.metadata.name.clone() else { return };
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        lighten(self.scope.kind, &mut object);
        then(ObjectKey::new(self.scope.kind, &namespace, &name), object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(namespaces: &[&str]) -> Installation {
        serde_json::from_value(serde_json::json!({
            "image": {"reference": "x"}, "kafka": {"brokers": "x"}, "clickhouse": {"url": "http://x"},
            "namespaces": namespaces,
        }))
        .unwrap()
    }

    #[test]
    fn secrets_are_never_watched_and_every_other_kind_is() {
        let all = scopes(&installation(&[]));
        assert_eq!(all.len(), Kind::ALL.len() - 2);
        assert!(all.iter().all(|scope| scope.namespace.is_none() && scope.kind != Kind::Secret));
    }

    #[test]
    fn an_installation_for_some_namespaces_watches_nothing_cluster_wide() {
        let some = scopes(&installation(&["a", "b"]));
        assert_eq!(some.len(), 2 * (Kind::ALL.len() - 2));
        assert!(some.iter().all(|scope| scope.namespace.is_some()));
    }
}
