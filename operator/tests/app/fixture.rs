//! A cluster with one App, back ends and pods in memory; time passes when a test says so.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use jiff::{SignedDuration, Timestamp};
use kube::core::DynamicObject;
use millrace_crds::compile;
use millrace_crds::config::Format;
use millrace_crds::labels;
use millrace_crds::names::AppId;
use millrace_crds::resolved::Role;
use millrace_crds::state::{PodState, RefusedRevision, RunningRevision, ScopeState};
use millrace_operator::backends::memory::Memory as Backends;
use millrace_operator::cluster::ObjectKey;
use millrace_operator::cluster::memory::Memory as Cluster;
use millrace_operator::context::{Context, Next};
use millrace_operator::kind::Kind;
use millrace_operator::reports::{Report, Reports};
use millrace_operator::{app, context};
use serde_json::{Value, json};

/// Rounds after which an App that still changes something never ends.
const ROUNDS_MAX: usize = 12;

pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) backends: Backends,
    pub(crate) reports: Arc<Reports>,
    pub(crate) context: Context,
    pub(crate) id: AppId,
    now: Cell<Timestamp>,
}

/// Other bytes at each call, the same in each run of a lone test.
fn random(bytes: &mut [u8]) {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    bytes.fill(CALLS.fetch_add(1, Ordering::Relaxed));
}

impl World {
    /// A namespace with its pepper and no App yet.
    pub(crate) fn new() -> Self {
        let cluster = Arc::new(Cluster::new());
        let backends = Backends::new();
        let reports = Arc::new(Reports::default());
        let backs: Arc<Backends> = Arc::new(backends.clone());
        let context = Context {
            reports: Arc::clone(&reports),
            cluster_id: "cluster-a".to_owned(),
            operator_namespace: "millrace-system".to_owned(),
            random,
            ..context::for_tests(Arc::<Cluster>::clone(&cluster), backs)
        };
        let now = Cell::new("2026-01-01T00:00:00Z".parse().unwrap());
        let id = AppId::new("default", "shop").unwrap();
        let world = Self { cluster, backends, reports, context, id, now };
        world.put(Kind::Namespace, "", "default", json!({}));
        world.secret(labels::PEPPER_SECRET, &[(labels::PEPPER, "00ff")]);
        world
    }

    /// A namespace in which App `shop` with this spec runs on three pods.
    pub(crate) async fn running(spec: Value) -> Self {
        let world = Self::new();
        world.app(spec);
        world.pods();
        world.settle().await;
        world.report();
        world.settle().await;
        assert_eq!(world.condition("Ready").0, "True", "{}", world.conditions());
        world.cluster.forget_writes();
        world.backends.take_calls();
        world
    }

    /// Another operator takes over, which has asked no pod yet.
    pub(crate) fn another_operator(&mut self) {
        self.reports = Arc::new(Reports::default());
        self.reports.begin(self.now());
        self.context.reports = Arc::clone(&self.reports);
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now.get()
    }

    pub(crate) fn pass(&self, seconds: i64) {
        self.now.set(self.now.get() + SignedDuration::from_secs(seconds));
        self.cluster.set_now(self.now.get());
    }

    pub(crate) fn key(&self, kind: Kind, name: &str) -> ObjectKey {
        ObjectKey::new(kind, self.id.namespace(), name)
    }

    pub(crate) fn put(&self, kind: Kind, namespace: &str, name: &str, object: Value) {
        let mut object = object;
        if object["metadata"].is_null() {
            object["metadata"] = json!({});
        }
        self.cluster.put(&ObjectKey::new(kind, namespace, name), &object);
    }

    pub(crate) fn app(&self, spec: Value) {
        self.app_with(json!({}), spec);
    }

    pub(crate) fn app_with(&self, metadata: Value, spec: Value) {
        self.put(Kind::App, "default", "shop", json!({"metadata": metadata, "spec": spec}));
    }

    /// A Secret that Apps may use.
    pub(crate) fn secret(&self, name: &str, values: &[(&str, &str)]) {
        let data: serde_json::Map<String, Value> =
            values.iter().map(|(key, value)| ((*key).to_owned(), base64(value).into())).collect();
        let metadata = json!({"labels": {"millrace.dev/app-use": "true"}});
        self.put(Kind::Secret, "default", name, json!({"metadata": metadata, "data": data}));
    }

    /// One ready pod of each role.
    pub(crate) fn pods(&self) {
        for role in Role::ALL {
            self.pod(role, "0", "True");
        }
    }

    pub(crate) fn pod(&self, role: Role, suffix: &str, ready: &str) {
        let name = format!("mr-shared-{role}-{suffix}");
        let metadata = json!({"labels": {
            labels::MANAGED_BY: labels::MANAGER, labels::DATA_PLANE: labels::SHARED, labels::COMPONENT: role.as_str(),
        }});
        let ready = json!({"type": "Ready", "status": ready, "lastTransitionTime": self.now().to_string()});
        let status = json!({"phase": "Running", "conditions": [ready]});
        self.put(Kind::Pod, "default", &name, json!({"metadata": metadata, "status": status}));
    }

    fn all_pods(&self) -> Vec<Arc<DynamicObject>> {
        let objects = self.cluster.objects();
        objects.into_iter().filter(|(key, _)| key.kind == Kind::Pod).map(|(_, pod)| pod).collect()
    }

    /// Every pod says that it runs the newest Revisions.
    pub(crate) fn report(&self) {
        for pod in self.all_pods() {
            self.say(&pod, |scope| match self.newest(scope) {
                Some((sequence, hash)) => {
                    ScopeState { running: Some(RunningRevision { sequence, hash }), refused: None }
                }
                None => ScopeState::default(),
            });
        }
    }

    /// Every pod says that it refuses the newest Revision of the App and runs the one with this sequence.
    pub(crate) fn refuse(&self, running: i64, reason: &str) {
        for pod in self.all_pods() {
            self.say(&pod, |_| ScopeState {
                running: Some(RunningRevision { sequence: running, hash: String::new() }),
                refused: self
                    .newest("shop")
                    .map(|(sequence, _)| RefusedRevision { sequence, reason: reason.to_owned() }),
            });
        }
    }

    /// Every pod says that it runs nothing of the App any more.
    pub(crate) fn let_go(&self) {
        for pod in self.all_pods() {
            self.say(&pod, |_| ScopeState::default());
        }
    }

    fn say(&self, pod: &DynamicObject, scope: impl Fn(&str) -> ScopeState) {
        let name = pod.metadata.name.clone().unwrap();
        let role = Role::ALL.into_iter().find(|role| name.contains(role.as_str())).unwrap();
        let scopes = ["shop", "access"].map(|name| (name.to_owned(), scope(name)));
        let said = PodState {
            spill: None,
            pod: name.clone(),
            role,
            version: "1".to_owned(),
            format_max: Format::V1,
            ready: true,
            scopes: scopes.into_iter().filter(|(_, state)| *state != ScopeState::default()).collect(),
            ledger: Default::default(),
        };
        let report = Report { uid: pod.metadata.uid.clone().unwrap(), at: self.now(), said: Ok(said) };
        self.reports.keep("default", &name, report);
    }

    /// Sequence and hash of the newest Revision of a scope.
    pub(crate) fn newest(&self, scope: &str) -> Option<(i64, String)> {
        let of_scope = self.revisions_of(scope);
        let newest = of_scope.iter().max_by_key(|revision| revision.data["spec"]["sequence"].as_i64())?;
        let config = newest.data["spec"]["config"].as_str().unwrap();
        Some((newest.data["spec"]["sequence"].as_i64().unwrap(), compile::hash(config)))
    }

    fn revisions_of(&self, scope: &str) -> Vec<Arc<DynamicObject>> {
        let objects = self.cluster.objects().into_iter().filter(|(key, _)| key.kind == Kind::Revision);
        let is_of = |object: &DynamicObject| {
            object
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(labels::SCOPE))
                .is_some_and(|s| s == scope)
        };
        objects.map(|(_, object)| object).filter(|object| is_of(object)).collect()
    }

    /// Sequences of the App's Revisions.
    pub(crate) fn sequences(&self) -> Vec<i64> {
        let mut all: Vec<i64> = self
            .revisions_of("shop")
            .iter()
            .map(|revision| revision.data["spec"]["sequence"].as_i64().unwrap())
            .collect();
        all.sort_unstable();
        all
    }

    /// The newest configuration of the App.
    pub(crate) fn config(&self) -> Value {
        let (sequence, _) = self.newest("shop").unwrap();
        let revision = self.cluster.object(&self.key(Kind::Revision, &format!("shop-{sequence}"))).unwrap();
        serde_json::from_str(revision.data["spec"]["config"].as_str().unwrap()).unwrap()
    }

    pub(crate) async fn round(&self) -> Result<Next, context::ReconcileError> {
        app::reconcile(&self.context, &self.id, self.now()).await
    }

    /// Reconciles until nothing is written any more; when to come again then.
    pub(crate) async fn settle(&self) -> Next {
        for _ in 0..ROUNDS_MAX {
            let before = (self.cluster.writes().len(), self.backends.changes());
            let next = self.round().await.unwrap();
            if (self.cluster.writes().len(), self.backends.changes()) == before {
                return next;
            }
        }
        panic!("it never ends: {:?}", self.cluster.writes());
    }

    /// Status, reason and message of a condition of the App.
    pub(crate) fn condition(&self, kind: &str) -> (String, String, String) {
        let status = self.status();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        found.map_or(("absent".to_owned(), String::new(), String::new()), |condition| {
            (text(&condition["status"]), text(&condition["reason"]), text(&condition["message"]))
        })
    }

    pub(crate) fn status(&self) -> Value {
        let app = self.cluster.object(&self.key(Kind::App, "shop"));
        app.map(|app| app.data["status"].clone()).unwrap_or_default()
    }

    pub(crate) fn conditions(&self) -> String {
        serde_json::to_string_pretty(&self.status()["conditions"]).unwrap()
    }

    /// Holds a condition to what a person should see.
    pub(crate) fn expect(&self, kind: &str, status: &str, reason: &str, words: &str) {
        let (found, found_reason, message) = self.condition(kind);
        assert_eq!((found.as_str(), found_reason.as_str()), (status, reason), "{kind}: {message}");
        assert!(message.contains(words), "{kind} says `{message}` and not `{words}`");
    }

    /// Texts of all Events so far.
    pub(crate) fn events(&self) -> Vec<String> {
        self.cluster.told().into_iter().map(|(_, told)| format!("{}: {}", told.reason, told.note)).collect()
    }

    /// A value of the App's own Secret.
    pub(crate) fn own_value(&self, key: &str) -> Option<String> {
        let secret = self.cluster.object(&self.key(Kind::Secret, "millrace-shop"))?;
        Some(unbase64(secret.data["data"][key].as_str()?))
    }
}

pub(crate) fn base64(text: &str) -> String {
    serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec()))
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

fn unbase64(text: &str) -> String {
    let bytes: k8s_openapi::ByteString = serde_json::from_value(text.into()).unwrap();
    String::from_utf8(bytes.0).unwrap()
}
