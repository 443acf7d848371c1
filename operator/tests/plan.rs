//! `plan` says what would happen, to the last object, and writes nothing.

#![expect(clippy::unwrap_used, reason = "a fixture that does not hold should end the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::core::DynamicObject;
use millrace_crds::names::AppId;
use millrace_operator::backends::memory::{Failure, Memory as BackendMemory, Which};
use millrace_operator::cluster::memory::Memory;
use millrace_operator::cluster::{Cluster, ClusterError, ObjectKey, Told};
use millrace_operator::context::{Context, for_tests};
use millrace_operator::kind::Kind;
use millrace_operator::plan_command::files::Files;
use millrace_operator::plan_command::report::{Action, Report, Verdict};
use millrace_operator::plan_command::text::Paint;
use millrace_operator::plan_command::{Output, Planned, Wanted, World, plan};
use millrace_operator::{app, namespace};
use serde_json::{Value, json};

/// A cluster that ends the test when it is written to.
struct Untouchable(Arc<Memory>);

#[async_trait]
impl Cluster for Untouchable {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Arc<DynamicObject>>, ClusterError> {
        self.0.get(key).await
    }

    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<&str, &str>,
    ) -> Result<Vec<Arc<DynamicObject>>, ClusterError> {
        self.0.list(kind, namespace, labels).await
    }

    async fn apply(&self, key: &ObjectKey, _: &DynamicObject) -> Result<Arc<DynamicObject>, ClusterError> {
        panic!("plan applied {key}")
    }

    async fn delete(&self, key: &ObjectKey, _: &str) -> Result<(), ClusterError> {
        panic!("plan deleted {key}")
    }

    async fn set_status(&self, key: &ObjectKey, _: &Value) -> Result<(), ClusterError> {
        panic!("plan set the status of {key}")
    }

    async fn set_finalizers(
        &self,
        _: &DynamicObject,
        key: &ObjectKey,
        _: Vec<String>,
    ) -> Result<(), ClusterError> {
        panic!("plan set the finalizers of {key}")
    }

    async fn tell(&self, _: &DynamicObject, event: Told) {
        panic!("plan told {event:?}")
    }
}

/// A cluster with its back ends.
struct Site {
    cluster: Arc<Memory>,
    backends: BackendMemory,
    image: &'static str,
}

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

impl Site {
    fn new() -> Self {
        let cluster = Arc::new(Memory::new());
        cluster.put(&ObjectKey::new(Kind::Namespace, "", "default"), &json!({"metadata": {}}));
        Self { cluster, backends: BackendMemory::new(), image: "millrace-dataplane:test" }
    }

    fn context(&self) -> Context {
        let cluster = Arc::clone(&self.cluster) as Arc<dyn Cluster>;
        let mut context = for_tests(cluster, Arc::new(self.backends.clone()));
        let mut installation = (*context.installation).clone();
        installation.image.reference = self.image.to_owned();
        context.installation = Arc::new(installation);
        context
    }

    async fn plan(&self, wanted: &Wanted<'_>) -> Planned {
        let context = self.context();
        let world = World {
            cluster: Arc::new(Untouchable(Arc::clone(&self.cluster))),
            backends: context.backends,
            installation: context.installation,
            accounts: context.accounts,
            cluster_id: context.cluster_id,
            operator_namespace: context.operator_namespace,
            reports: context.reports,
            random: context.random,
            metrics: context.metrics,
        };
        self.backends.take_writes();
        let planned = plan(&world, wanted, &|_| {}, now()).await.unwrap();
        assert_eq!(self.backends.take_writes(), Vec::<String>::new(), "plan wrote to a back end");
        planned
    }

    async fn plan_text(&self, yaml: &str) -> Planned {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), yaml).unwrap();
        let files = Files::read(&[dir.path().to_owned()], "default").unwrap();
        self.plan(&Wanted::Files(&files)).await
    }

    async fn plan_deletion(&self, yaml: &str) -> Planned {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), yaml).unwrap();
        let files = Files::read(&[dir.path().to_owned()], "default").unwrap();
        self.plan(&Wanted::Deletion(&files)).await
    }

    async fn drift(&self) -> Planned {
        self.plan(&Wanted::Drift(None)).await
    }

    /// What a person applies.
    fn put(&self, kind: Kind, name: &str, object: Value) {
        self.cluster.put(&ObjectKey::new(kind, "default", name), &object);
    }

    /// What the operator does until it has nothing left to do; every object that it wrote.
    async fn work(&self) -> BTreeSet<ObjectKey> {
        self.cluster.forget_writes();
        let context = self.context();
        for _ in 0..6 {
            namespace::reconcile(&context, "default", now()).await.unwrap();
            for object in self.cluster.list(Kind::App, None, &BTreeMap::new()).await.unwrap() {
                let id = AppId::new("default", object.metadata.name.as_deref().unwrap()).unwrap();
                app::reconcile(&context, &id, now()).await.unwrap();
            }
        }
        let writes = self.cluster.writes().into_iter();
        writes.filter(|write| !write.verb.contains("status")).map(|write| write.key).collect()
    }
}

fn report(planned: &Planned) -> &Report {
    match planned {
        Planned::Report(report) => report,
        Planned::Problems(problems) => panic!("{problems:?}"),
    }
}

fn text(planned: &Planned) -> String {
    planned.printed(Output::Text, Paint::Plain)
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples").join(name)
}

const HELLO: &str = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: hello}\nspec: ";

#[tokio::test]
async fn the_shop_on_an_empty_cluster_is_planned_as_committed() {
    let site = Site::new();
    let files = Files::read(&[example("shop")], "default").unwrap();
    let planned = site.plan(&Wanted::Files(&files)).await;
    assert_eq!(planned.verdict(), Verdict::Changes, "{}", text(&planned));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan/shop.txt");
    let committed = fs::read_to_string(&golden).unwrap_or_default();
    let printed = text(&planned);
    if printed != committed {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shop.txt");
        fs::write(&new, &printed).unwrap();
        panic!("{} is not {}; read it, and copy it there if it is right", new.display(), golden.display());
    }
    assert!(!printed.contains("mrw_") && !printed.contains("070707"), "a secret is shown");
}

#[tokio::test]
async fn what_is_planned_is_what_the_operator_then_writes_and_then_nothing_is_left() {
    let site = Site::new();
    let planned = site.plan_text(&format!("{HELLO}{{}}")).await;
    let listed: BTreeSet<String> = report(&planned)
        .objects
        .iter()
        .map(|object| format!("{} {}/{}", object.kind, object.namespace, object.name))
        .collect();
    site.put(Kind::App, "hello", json!({"metadata": {}, "spec": {}}));
    let written: BTreeSet<String> = site.work().await.iter().map(ToString::to_string).collect();
    assert_eq!(listed, written);
    let drift = site.drift().await;
    assert_eq!(drift.verdict(), Verdict::Unchanged, "{}", text(&drift));
    assert_eq!(text(&drift), "No change: everything is as it should be.\n");
    let again = site.plan_text(&format!("{HELLO}{{}}")).await;
    assert_eq!(again.verdict(), Verdict::Unchanged, "{}", text(&again));
}

#[tokio::test]
async fn a_live_setting_reloads_and_restarts_nothing() {
    let site = Site::new();
    site.put(Kind::App, "hello", json!({"metadata": {}, "spec": {}}));
    site.work().await;
    let planned = site.plan_text(&format!("{HELLO}{{privacy: {{ip: Drop}}}}")).await;
    let found = report(&planned);
    assert!(found.restarts.is_empty());
    assert_eq!(found.reloads.len(), 1, "{}", text(&planned));
    let reload = &found.reloads[0];
    assert_eq!((reload.scope.as_str(), reload.from, reload.to), ("hello", 1, 2));
    assert_eq!(reload.fields.len(), 1, "{:?}", reload.fields);
    assert!(text(&planned).contains("privacy.ip"), "{}", text(&planned));
    assert_eq!(planned.verdict().exit_code(), 2);
}

#[tokio::test]
async fn a_move_is_planned_to_its_end_and_waits_for_no_pod() {
    let site = Site::new();
    site.put(Kind::App, "hello", json!({"metadata": {}, "spec": {"dataplane": {"placement": "Shared"}}}));
    site.work().await;
    // Who set the label, as an API server would remember it.
    let key = ObjectKey::new(Kind::Revision, "default", "hello-1");
    let mut revision = serde_json::to_value(&*site.cluster.get(&key).await.unwrap().unwrap()).unwrap();
    revision["metadata"]["managedFields"] = json!([{
        "manager": "millrace-operator", "operation": "Apply", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {"f:millrace.dev/data-plane": {}}}},
    }]);
    site.cluster.put(&key, &revision);
    // It says nothing, so it may still have the App.
    let labels = json!({
        "millrace.dev/data-plane": "shared", "app.kubernetes.io/managed-by": "millrace-operator",
        "app.kubernetes.io/component": "worker",
    });
    site.put(Kind::Pod, "mr-shared-worker-0", json!({"metadata": {"labels": labels}, "status": {}}));
    let planned = site.plan_text(&format!("{HELLO}{{dataplane: {{placement: Dedicated}}}}")).await;
    let objects = &report(&planned).objects;
    let changed = |name: &str| objects.iter().find(|object| object.name == name);
    let moved = changed("hello-1").unwrap().fields.iter().find(|field| field.path.contains("data-plane"));
    assert_eq!(moved.unwrap().after.as_ref().unwrap(), "hello", "{}", text(&planned));
    assert_eq!(changed("mr-hello-worker").unwrap().action, Action::Create, "{}", text(&planned));
    assert_eq!(changed("millrace.shared.ingest").unwrap().action, Action::Delete, "{}", text(&planned));
}

#[tokio::test]
async fn another_image_restarts_every_workload_and_reloads_nothing() {
    let mut site = Site::new();
    site.put(Kind::App, "hello", json!({"metadata": {}, "spec": {}}));
    site.work().await;
    site.image = "millrace-dataplane:next";
    let planned = site.drift().await;
    let found = report(&planned);
    assert_eq!((found.restarts.len(), found.reloads.len()), (3, 0), "{}", text(&planned));
    assert!(text(&planned).contains("image: millrace-dataplane:test → millrace-dataplane:next"));
}

#[tokio::test]
async fn what_was_edited_by_hand_is_drift() {
    let site = Site::new();
    site.put(Kind::App, "hello", json!({"metadata": {}, "spec": {}}));
    site.work().await;
    let key = ObjectKey::new(Kind::Deployment, "default", "mr-shared-gateway");
    let mut edited = serde_json::to_value(&*site.cluster.object(&key).unwrap()).unwrap();
    edited["spec"]["replicas"] = json!(7);
    site.cluster.put(&key, &edited);
    let gone = ObjectKey::new(Kind::Service, "default", "mr-shared-gateway");
    site.cluster.remove(&gone);
    let planned = site.drift().await;
    let objects = &report(&planned).objects;
    assert_eq!(objects.len(), 2, "{}", text(&planned));
    let changed = objects.iter().find(|object| object.action == Action::Change).unwrap();
    assert_eq!((changed.kind, changed.fields[0].path.as_str()), ("Deployment", "spec.replicas"));
    assert!(objects.iter().any(|object| object.action == Action::Create && object.kind == "Service"));
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_the_fix() {
    let site = Site::new();
    site.put(Kind::App, "hello", json!({"metadata": {}, "spec": {"topics": {"raw": {"partitions": 4}}}}));
    site.work().await;
    let planned = site.plan_text(&format!("{HELLO}{{topics: {{raw: {{partitions: 2}}}}}}")).await;
    assert_eq!(planned.verdict().exit_code(), 1);
    let printed = text(&planned);
    assert!(printed.contains("TopicsReady does not hold, Incompatible"), "{printed}");
    assert!(printed.contains("cannot shrink to 2; set at least 4"), "{printed}");
}

#[tokio::test]
async fn a_missing_secret_is_refused_and_one_in_the_files_is_found() {
    let site = Site::new();
    let app =
        format!("{HELLO}{{ingest: {{writeKeys: [{{name: web, secretRef: {{name: k, key: web}}}}]}}}}\n");
    let planned = site.plan_text(&app).await;
    assert_eq!(planned.verdict(), Verdict::Refused, "{}", text(&planned));
    assert!(text(&planned).contains("Accepted does not hold"), "{}", text(&planned));
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: k, labels: {millrace.dev/app-use: 'true'}}\nstringData: {web: hush-hush-hush-hush}\n";
    let planned = site.plan_text(&format!("{app}{secret}")).await;
    assert_eq!(planned.verdict(), Verdict::Changes, "{}", text(&planned));
    let json = planned.printed(Output::Json, Paint::Plain);
    assert!(json.contains("\"data.web\"") && !json.contains("hush") && !json.contains("aHVzaC"), "{json}");
}

#[tokio::test]
async fn problems_of_files_are_told_with_file_and_line_before_anything_is_asked() {
    let site = Site::new();
    let planned = site.plan_text(&format!("{HELLO}\n  privcay: {{}}\n")).await;
    assert_eq!(planned.verdict().exit_code(), 1);
    let printed = text(&planned);
    assert!(printed.contains("a.yaml:5") && printed.contains("did you mean `privacy`?"), "{printed}");
    let planned = site
        .plan_text(&format!("{}{{}}", HELLO.replace("{name: hello}", "{name: hello, namespace: nowhere}")))
        .await;
    assert!(text(&planned).contains("Namespace /nowhere: does not exist"), "{}", text(&planned));
}

#[tokio::test]
async fn a_back_end_that_is_away_is_refused_and_hides_nothing_else() {
    let site = Site::new();
    site.backends.fail(Which::ClickHouse, Some(Failure::Unreachable));
    let planned = site.plan_text(&format!("{HELLO}{{}}")).await;
    assert_eq!(planned.verdict(), Verdict::Refused);
    assert!(text(&planned).contains("SchemaReady does not hold, Unreachable"), "{}", text(&planned));
    assert!(!report(&planned).topics.is_empty());
}

#[tokio::test]
async fn what_stood_so_before_on_others_is_told_and_no_verdict() {
    let site = Site::new();
    let broken =
        json!({"ingest": {"writeKeys": [{"name": "web", "secretRef": {"name": "k", "key": "web"}}]}});
    site.put(Kind::App, "broken", json!({"metadata": {}, "spec": broken}));
    site.work().await;
    let planned = site.plan_text(&format!("{HELLO}{{}}")).await;
    assert_eq!(planned.verdict(), Verdict::Changes, "{}", text(&planned));
    assert!(text(&planned).contains("as before; not in these files"), "{}", text(&planned));
    assert_eq!(site.drift().await.verdict(), Verdict::Refused);
}

#[tokio::test]
async fn colours_come_only_when_asked_for() {
    let site = Site::new();
    let planned = site.plan_text(&format!("{HELLO}{{}}")).await;
    assert!(!text(&planned).contains('\u{1b}'));
    assert!(planned.printed(Output::Text, Paint::Colours).contains("\u{1b}[32m+\u{1b}[0m App"));
}

#[tokio::test]
async fn deleting_one_of_two_apps_takes_its_revision_and_leaves_data_keys_and_pods() {
    let site = Site::new();
    site.put(Kind::App, "hello", json!({"metadata": {}, "spec": {}}));
    // With a key of its own, because here all random keys are the same.
    let labels = json!({"millrace.dev/app-use": "true"});
    site.put(
        Kind::Secret,
        "k",
        json!({"metadata": {"labels": labels}, "data": {"web": "bXJ3X290aGVyX2tleV9vZl90aGVfdGVzdA=="}}),
    );
    let keys = json!([{"name": "web", "secretRef": {"name": "k", "key": "web"}}]);
    site.put(Kind::App, "other", json!({"metadata": {}, "spec": {"ingest": {"writeKeys": keys}}}));
    site.work().await;
    let planned = site.plan_deletion(&format!("{HELLO}{{}}")).await;
    let found = report(&planned);
    assert_eq!(planned.verdict(), Verdict::Changes, "{}", text(&planned));
    let gone = |objects: &[millrace_operator::plan_command::report::ObjectChange]| -> Vec<String> {
        let deleted = objects.iter().filter(|object| object.action == Action::Delete);
        deleted.map(|object| format!("{} {}", object.kind, object.name)).collect()
    };
    assert_eq!(gone(&found.resources), ["App hello"]);
    assert_eq!(gone(&found.objects), ["Revision hello-1"]);
    assert!(found.objects.iter().any(|object| object.action == Action::Change), "owners of what is shared");
    let untouched = found.topics.is_empty() && found.statements.is_empty() && found.restarts.is_empty();
    assert!(untouched, "{}", text(&planned));
    let missing =
        site.plan_deletion(&HELLO.replace("name: hello", "name: nobody").replace("spec: ", "spec: {}")).await;
    assert_eq!(missing.verdict(), Verdict::Unchanged, "{}", text(&missing));
    assert!(text(&missing).contains("App default/nobody is not there"), "{}", text(&missing));
}

#[tokio::test]
async fn the_policy_delete_shows_what_is_lost_and_what_stands_against_it() {
    let site = Site::new();
    let app = format!("{HELLO}{{deletionPolicy: Delete}}");
    site.put(Kind::App, "hello", json!({"metadata": {}, "spec": {"deletionPolicy": "Delete"}}));
    site.work().await;
    let planned = site.plan_deletion(&app).await;
    let printed = text(&planned);
    assert_eq!(planned.verdict(), Verdict::Changes, "{printed}");
    for lost in
        ["DROP DATABASE", "with everything in it", "Secret default/millrace-hello", "mr-shared-ingest"]
    {
        assert!(printed.contains(lost), "{lost}: {printed}");
    }
    site.backends.fail(Which::ClickHouse, Some(Failure::Unreachable));
    let planned = site.plan_deletion(&app).await;
    assert_eq!(planned.verdict(), Verdict::Refused, "{}", text(&planned));
    assert!(text(&planned).contains("cannot remove the database"), "{}", text(&planned));
}

#[tokio::test]
async fn a_new_object_is_shown_whole_to_programs_and_no_digest_of_a_key() {
    let site = Site::new();
    let planned = site.plan_text(&format!("{HELLO}{{}}")).await;
    let object = |kind: &str| report(&planned).objects.iter().find(|object| object.kind == kind).unwrap();
    let service = object("Service").object.as_ref().unwrap();
    assert!(service["spec"]["ports"][0]["port"].is_u64(), "{service}");
    let revision = object("Revision").object.as_ref().unwrap();
    let config = revision["spec"]["config"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(config).is_ok(), "{config}");
    assert!(object("Secret").object.is_none());
    let printed = planned.printed(Output::Json, Paint::Plain);
    assert!(printed.contains("(digest of a key)"), "{printed}");
}
