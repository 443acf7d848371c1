//! What people do: definitions, namespaces and Apps into the API server, as fast as it takes them; and what they see: when
//! each App is Ready.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderName, HeaderValue};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config};
use millrace_crds::crd;
use millrace_operator::kind::Kind;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::process;

/// Requests at the same time.
const AT_ONCE: usize = 16;
/// Longest wait for definitions to be served.
const SERVED_MAX: Duration = Duration::from_secs(30);
/// Longest wait for all Apps to be Ready: ten times the goal.
const READY_MAX: Duration = Duration::from_secs(600);

/// A client that is not the operator's.
pub(crate) async fn client() -> Result<Client> {
    let mut config = Config::infer().await.context("a KUBECONFIG, or run it with `e2e/cluster/run`")?;
    let agent = (HeaderName::from_static("user-agent"), HeaderValue::from_static("millrace-bench"));
    config.headers.push(agent);
    Ok(Client::try_from(config)?)
}

/// Makes definitions and namespaces, and gives the names of those for Apps.
pub(crate) async fn prepare(client: &Client, count: usize) -> Result<Vec<String>> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in crd::all() {
        let made = definitions.create(&PostParams::default(), &definition).await;
        made.context("create the definitions; the API server must be a fresh one")?;
    }
    let names: Vec<String> = (0..count).map(|number| format!("team-{number}")).collect();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in names.iter().map(String::as_str).chain([process::NAMESPACE]) {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
    }
    let are_served = async {
        for kind in [Kind::App, Kind::Integration, Kind::RolePolicy, Kind::Revision] {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
            while api.list(&ListParams::default().limit(1)).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    timeout(SERVED_MAX, are_served).await.context("the definitions are not served")?;
    Ok(names)
}

/// When each App was made, by namespace and name.
pub(crate) type Created = HashMap<(String, String), Instant>;

/// Creates Apps with these numbers, spread over the namespaces.
pub(crate) async fn create(
    client: &Client,
    namespaces: &[String],
    numbers: std::ops::Range<usize>,
) -> Result<Created> {
    let one = async |number: usize| {
        let namespace = &namespaces[number % namespaces.len()];
        let name = format!("app-{number}");
        let resource = Kind::App.resource();
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let app = DynamicObject::new(&name, &resource).data(json!({"spec": spec()}));
        let created = Instant::now();
        api.create(&PostParams::default(), &app).await.with_context(|| format!("create App `{name}`"))?;
        anyhow::Ok(((namespace.clone(), name), created))
    };
    stream::iter(numbers).map(one).buffer_unordered(AT_ONCE).try_collect().await
}

/// A few declared events with properties, as a small product has them.
fn spec() -> serde_json::Value {
    json!({
        "events": {"declared": [
            {"name": "purchase", "properties": [
                {"name": "sku", "type": "String", "required": true},
                {"name": "quantity", "type": "Integer"},
            ]},
            {"name": "search", "properties": [{"name": "words", "type": "String"}]},
        ]},
    })
}

/// When each of so many Apps was first seen Ready for its present generation.
pub(crate) async fn all_ready(client: &Client, count: usize) -> Result<HashMap<(String, String), Instant>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &Kind::App.resource());
    let mut events =
        std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    let mut ready = HashMap::new();
    let waiting = async {
        while ready.len() < count {
            let app = events.try_next().await?.context("the watch ended")?;
            let place = (
                app.metadata.namespace.clone().unwrap_or_default(),
                app.metadata.name.clone().unwrap_or_default(),
            );
            if is_ready(&app) {
                ready.entry(place).or_insert_with(Instant::now);
            }
        }
        anyhow::Ok(())
    };
    match timeout(READY_MAX, waiting).await {
        Ok(done) => done?,
        Err(_) => ensure!(ready.len() >= count, "only {} of {count} Apps are Ready", ready.len()),
    }
    Ok(ready)
}

fn is_ready(app: &DynamicObject) -> bool {
    let conditions = app.data["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| {
        condition["type"] == "Ready"
            && condition["status"] == "True"
            && condition["observedGeneration"].as_i64() == app.metadata.generation
    })
}
