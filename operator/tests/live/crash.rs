//! The process ends after each single write to a real API server, whose answer it never hears; the next process, which
//! lists everything anew, comes to the same end: no duplicate, no orphan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use millrace_crds::labels;
use millrace_crds::names::AppId;
use millrace_operator::cluster::{Cluster, ClusterError, ObjectKey, Told};
use millrace_operator::context::{Context, Next, ReconcileError};
use millrace_operator::kind::Kind;
use millrace_operator::{app, namespace};
use serde_json::{Value, json};

use super::world::{World, until, world};

/// Rounds after which what still writes never ends.
const ROUNDS_MAX: usize = 12;

/// An API server whose answers are lost from a certain write on.
struct Dying {
    inner: Arc<dyn Cluster>,
    writes: AtomicUsize,
    /// The write after which the process is dead; it still happens.
    last: usize,
}

impl Dying {
    fn new(inner: Arc<dyn Cluster>, last: usize) -> Arc<Self> {
        Arc::new(Self { inner, writes: AtomicUsize::new(0), last })
    }

    fn is_dead(&self) -> bool {
        self.writes.load(Ordering::Relaxed) >= self.last
    }

    /// Lets a write through, unless the process is dead; loses the answer to the last one.
    async fn write<T>(
        &self,
        key: &ObjectKey,
        write: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        let lost = || ClusterError::Unreachable {
            verb: "write",
            key: key.clone(),
            source: "the process ended".into(),
        };
        if self.is_dead() {
            return Err(lost());
        }
        let done = write.await?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        if self.is_dead() { Err(lost()) } else { Ok(done) }
    }
}

#[async_trait]
impl Cluster for Dying {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Arc<DynamicObject>>, ClusterError> {
        self.inner.get(key).await
    }

    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<&str, &str>,
    ) -> Result<Vec<Arc<DynamicObject>>, ClusterError> {
        self.inner.list(kind, namespace, labels).await
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        intent: &DynamicObject,
    ) -> Result<Arc<DynamicObject>, ClusterError> {
        self.write(key, self.inner.apply(key, intent)).await
    }

    async fn delete(&self, key: &ObjectKey, uid: &str) -> Result<(), ClusterError> {
        self.write(key, self.inner.delete(key, uid)).await
    }

    async fn set_status(&self, key: &ObjectKey, status: &Value) -> Result<(), ClusterError> {
        self.write(key, self.inner.set_status(key, status)).await
    }

    async fn set_finalizers(
        &self,
        object: &DynamicObject,
        key: &ObjectKey,
        finalizers: Vec<String>,
    ) -> Result<(), ClusterError> {
        self.write(key, self.inner.set_finalizers(object, key, finalizers)).await
    }

    async fn tell(&self, _about: &DynamicObject, _event: Told) {}
}

/// The context of a process that sees this cluster. Back ends outlive processes.
fn process(of: &Context, cluster: Arc<dyn Cluster>) -> Context {
    Context {
        cluster,
        backends: Arc::clone(&of.backends),
        reports: Arc::default(),
        installation: Arc::clone(&of.installation),
        accounts: Arc::clone(&of.accounts),
        cluster_id: of.cluster_id.clone(),
        operator_namespace: of.operator_namespace.clone(),
        random: of.random,
        metrics: Arc::clone(&of.metrics),
        settled: Arc::default(),
    }
}

/// Both reconciles, for as long as they write or ask to come again at once.
async fn settle(context: &Context, dying: &Dying, id: &AppId) -> Result<(), ReconcileError> {
    for _ in 0..ROUNDS_MAX {
        let before = dying.writes.load(Ordering::Relaxed);
        let next = namespace::reconcile(&context.for_round(), id.namespace(), Timestamp::now()).await?;
        app::reconcile(&context.for_round(), id, Timestamp::now()).await?;
        let is_still = dying.writes.load(Ordering::Relaxed) == before;
        if is_still && next != Next::After(std::time::Duration::ZERO) {
            return Ok(());
        }
    }
    panic!("after {ROUNDS_MAX} rounds there is still something to write");
}

/// Everything of ours in the namespace as the server has it, without what differs from run to run.
async fn end(world: &World) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for kind in Kind::ALL {
        if matches!(kind, Kind::Namespace | Kind::HttpRoute | Kind::Pod) {
            continue;
        }
        let ours = format!("{}={}", labels::MANAGED_BY, labels::MANAGER);
        let params =
            if kind == Kind::App { ListParams::default() } else { ListParams::default().labels(&ours) };
        for object in world.api(kind).list(&params).await.unwrap() {
            let name = object.metadata.name.clone().unwrap();
            let text = serde_json::to_string(&object).unwrap().replace(&world.namespace, "NAMESPACE");
            // As in the names of databases.
            let text = text.replace(&world.namespace.replace('-', "_"), "NAMESPACE");
            found.insert(format!("{}/{name}", kind.as_str()), stripped(serde_json::from_str(&text).unwrap()));
        }
    }
    found
}

fn stripped(mut object: Value) -> Value {
    let metadata = &mut object["metadata"];
    let owners = metadata["ownerReferences"].as_array().cloned().unwrap_or_default();
    let owners: Vec<_> =
        owners.iter().map(|owner| json!([owner["kind"], owner["name"], owner["controller"]])).collect();
    *metadata = json!({"labels": metadata["labels"], "finalizers": metadata["finalizers"], "owners": owners});
    // Addresses are the server's to give, hashes are of texts with the namespace in them.
    for (parent, fields) in
        [("/spec", &["clusterIP", "clusterIPs", "schemaHash"][..]), ("/status/revision", &["hash"])]
    {
        if let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
            parent.retain(|field, _| !fields.contains(&field.as_str()));
        }
    }
    let config = object["spec"]["config"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    if let Some(mut config) = config {
        config["storage"]["schemaHash"] = Value::Null;
        object["spec"]["config"] = config;
    }
    // What is in a Secret names the namespace too, behind base64.
    for (_, value) in object["data"].as_object_mut().into_iter().flatten() {
        *value = Value::Null;
    }
    for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastTransitionTime"] = Value::Null;
    }
    object
}

/// One App that is created while the process dies after this write; how many writes there were, and the end of it all.
async fn story(name: &str, last: usize) -> (usize, BTreeMap<String, Value>) {
    let world = world(name).await;
    let id = AppId::new(&world.namespace, "shop").unwrap();
    let app = json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "App", "metadata": {"name": "shop"},
        "spec": {"deletionPolicy": "Delete"},
    });
    world.api(Kind::App).patch("shop", &PatchParams::apply("team"), &Patch::Apply(&app)).await.unwrap();
    until("the App to be seen", || async {
        world.live.get(&world.key(Kind::App, "shop")).await.unwrap().is_some()
    })
    .await;
    let dying = Dying::new(Arc::clone(&world.live) as Arc<_>, last);
    let first = process(&world.context, Arc::clone(&dying) as Arc<_>);
    let outcome = settle(&first, &dying, &id).await;
    assert_eq!(outcome.is_err(), dying.is_dead(), "{outcome:?}");
    if dying.is_dead() {
        let (live, _watches) = world.another_process().await;
        let next = Dying::new(live, usize::MAX);
        settle(&process(&world.context, Arc::clone(&next) as Arc<_>), &next, &id).await.unwrap();
    }
    let end = end(&world).await;
    world.remove().await;
    (dying.writes.load(Ordering::Relaxed), end)
}

#[tokio::test]
async fn a_crash_after_any_write_ends_where_no_crash_ends() {
    let (writes, expected) = story("whole", usize::MAX).await;
    assert!(writes > 30 && expected.len() > 30, "{writes} writes, {} objects", expected.len());
    for last in 1..=writes {
        let (done, found) = story(&format!("crash-{last}"), last).await;
        assert_eq!(done, last, "the crash did not come");
        let names = |of: &BTreeMap<String, Value>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "after write {last} of {writes}");
        for (name, object) in &expected {
            assert_eq!(&found[name], object, "{name} after write {last} of {writes}");
        }
    }
    println!("{writes} points of crash on a real API server");
}
