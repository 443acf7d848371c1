//! A real API server in, a namespace of a test's own out: made at the start, removed at the end.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use millrace_crds::labels;
use millrace_operator::backends::memory::Memory as Backends;
use millrace_operator::cluster::ObjectKey;
use millrace_operator::cluster::live::watching::Watches;
use millrace_operator::cluster::live::{Live, connect};
use millrace_operator::context::{Context, for_tests};
use millrace_operator::kind::Kind;
use millrace_operator::metrics::Metrics;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Longest wait for something that must come.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// One test's part of the API server.
pub(crate) struct World {
    pub(crate) client: kube::Client,
    pub(crate) live: Arc<Live>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) context: Context,
    pub(crate) namespace: String,
    _watches: Watches,
}

/// A namespace, definitions, and stores that are filled.
pub(crate) async fn world(name: &str) -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = connect().await.unwrap();
    define(&client).await;
    let namespace = format!("live-{name}-{}", std::process::id());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
    namespaces.create(&PostParams::default(), &object).await.unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let live = Arc::new(Live::new(client.clone(), Arc::clone(&metrics), "test".to_owned()));
    let mut context = for_tests(Arc::clone(&live) as Arc<_>, Arc::new(Backends::new()));
    context.metrics = Arc::clone(&metrics);
    let watches = live.watch(&context.installation).await;
    watches.wait_for_sync().await;
    World { client, live, metrics, context, namespace, _watches: watches }
}

/// Puts the definitions there, and waits until they are served.
async fn define(client: &kube::Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in millrace_crds::crd::all() {
        let name = crd.metadata.name.clone().unwrap();
        let parameters = PatchParams::apply("test").force();
        definitions.patch(&name, &parameters, &Patch::Apply(&crd)).await.unwrap();
    }
    let live = Live::new(client.clone(), Arc::new(Metrics::new().unwrap()), "test".to_owned());
    until("definitions", || async { live.definitions_missing().await.unwrap().is_empty() }).await;
}

/// Waits until it holds; fails when it does not in time.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < WAIT_MAX, "waited in vain for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

impl World {
    pub(crate) fn key(&self, kind: Kind, name: &str) -> ObjectKey {
        ObjectKey::new(kind, &self.namespace, name)
    }

    /// An intent with the labels that all of ours carry.
    pub(crate) fn intent(&self, kind: Kind, name: &str, data: Value) -> DynamicObject {
        let mut object = DynamicObject::new(name, &kind.resource()).within(&self.namespace).data(data);
        object.metadata.labels = Some(
            [(labels::MANAGED_BY, labels::MANAGER), (labels::NAME, labels::PRODUCT)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        );
        object
    }

    /// The objects of a kind, asked past the operator.
    pub(crate) fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource())
    }

    /// Writes so far, of all kinds and verbs.
    pub(crate) fn writes(&self) -> u64 {
        let families = self.metrics.registry.gather();
        let writes = families.iter().filter(|family| family.name() == "millrace_operator_writes_total");
        let counts = writes
            .flat_map(|family| family.get_metric().iter().map(|metric| metric.get_counter().get_value()));
        counts.map(|count| count as u64).sum()
    }

    /// The stores of another process, filled anew.
    pub(crate) async fn another_process(&self) -> (Arc<Live>, Watches) {
        let live = Arc::new(Live::new(self.client.clone(), Arc::clone(&self.metrics), "another".to_owned()));
        let watches = live.watch(&self.context.installation).await;
        watches.wait_for_sync().await;
        (live, watches)
    }

    pub(crate) async fn remove(self) {
        let namespaces: Api<Namespace> = Api::all(self.client);
        namespaces.delete(&self.namespace, &DeleteParams::background()).await.unwrap();
    }
}
