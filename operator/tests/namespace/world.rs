//! A namespace with an operator, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use kube::core::DynamicObject;
use millrace_crds::labels;
use millrace_crds::names::AppId;
use millrace_crds::resolved::{Credentials, Resolved, Role, Sensitive};
use millrace_crds::state::{PodState, RunningRevision, ScopeState, SpillState};
use millrace_operator::cluster::ObjectKey;
use millrace_operator::cluster::memory::{Memory, Write};
use millrace_operator::context::{Accounts, Context, Next, ReconcileError};
use millrace_operator::installation::Installation;
use millrace_operator::kind::Kind;
use millrace_operator::metrics::Metrics;
use millrace_operator::reports::{Report, Reports};
use millrace_operator::{backends, namespace};
use serde_json::{Value, json};

pub(crate) const NAMESPACE: &str = "default";

pub(crate) struct World {
    pub(crate) cluster: Arc<Memory>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) context: Context,
    pub(crate) now: Timestamp,
}

/// Other bytes at every call.
static CALLS: AtomicU8 = AtomicU8::new(1);

fn changing(bytes: &mut [u8]) {
    bytes.fill(CALLS.fetch_add(1, Ordering::Relaxed));
}

pub(crate) fn installation(more: Value) -> Installation {
    let mut settings = json!({
        "image": {"reference": "millrace/millrace-dataplane:0.1.0"},
        "kafka": {"brokers": "kafka:9092", "saslMechanism": "SCRAM-SHA-512"},
        "clickhouse": {"url": "http://clickhouse:8123"},
    });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(settings).unwrap()
}

fn account(user: &str) -> Credentials {
    Credentials { username: user.to_owned(), password: Sensitive::new(format!("hush-{user}")) }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(installation(json!({})))
    }

    pub(crate) fn with(installation: Installation) -> Self {
        let cluster = Arc::new(Memory::new());
        let reports = Arc::new(Reports::default());
        let accounts = Accounts {
            kafka: [(Role::Ingest, account("kafka-ingest")), (Role::Worker, account("kafka-worker"))].into(),
            clickhouse: [(Role::Worker, account("ch-worker")), (Role::Gateway, account("ch-gateway"))].into(),
            ..Accounts::default()
        };
        let context = Context {
            cluster: Arc::<Memory>::clone(&cluster),
            backends: Arc::new(backends::memory::Memory::new()),
            reports: Arc::clone(&reports),
            installation: Arc::new(installation),
            accounts: Arc::new(accounts),
            cluster_id: "test".to_owned(),
            operator_namespace: "millrace-system".to_owned(),
            random: changing,
            metrics: Arc::new(Metrics::new().unwrap()),
            settled: Arc::default(),
        };
        Self { cluster, reports, context, now: "2026-01-01T00:10:00Z".parse().unwrap() }
    }

    pub(crate) fn put(&self, kind: Kind, name: &str, object: &Value) -> Arc<DynamicObject> {
        self.cluster.put(&key(kind, name), object)
    }

    /// An App, and the Secret that its own reconcile would have made.
    pub(crate) fn app(&self, name: &str, spec: Value) {
        self.put(Kind::App, name, &json!({"spec": spec}));
        let keys =
            json!({"epoch": 1, "hash": format!("hash-of-{name}"), "encrypt": format!("encrypt-of-{name}")});
        let app = AppId::new(NAMESPACE, name).unwrap();
        self.secret(&labels::app_secret(&app), &[(labels::PRIVACY_KEYS, &keys.to_string())], &json!({}));
    }

    pub(crate) fn secret(&self, name: &str, values: &[(&str, &str)], labels: &Value) {
        let data: BTreeMap<_, _> = values.iter().map(|(key, value)| (key, STANDARD.encode(value))).collect();
        self.put(Kind::Secret, name, &json!({"metadata": {"labels": labels}, "data": data}));
    }

    pub(crate) fn policy(&self, name: &str, spec: Value) {
        self.put(Kind::RolePolicy, name, &json!({"spec": spec}));
    }

    /// A Revision of an App, as its own reconcile would have published it.
    pub(crate) fn revision(&self, app: &str, sequence: i64, plane: &str) {
        let labels = json!({
            labels::MANAGED_BY: labels::MANAGER, labels::SCOPE: app, labels::DATA_PLANE: plane,
        });
        let spec = json!({"sequence": sequence, "format": "v1", "config": "{}"});
        self.put(
            Kind::Revision,
            &labels::revision(app, sequence),
            &json!({"metadata": {"labels": labels}, "spec": spec}),
        );
    }

    /// A pod of a role, as its workload's controller would have made it, that runs these sequences.
    pub(crate) fn pod(&self, plane: &str, role: Role, scopes: &[(&str, i64)]) {
        let scopes = scopes.iter().map(|(scope, sequence)| {
            let running = RunningRevision { sequence: *sequence, hash: String::new() };
            ((*scope).to_owned(), ScopeState { running: Some(running), refused: None })
        });
        let name = format!("{}-0", labels::role_object(plane, role));
        let pod = self.pod_of(plane, role, &name);
        self.says(&name, &pod, scopes.collect(), None);
    }

    /// A pod of a set of ingest that says how many bytes wait on its volume.
    pub(crate) fn pod_with_spill(&self, plane: &str, number: u32, bytes: u64) {
        let name = format!("{}-{number}", labels::role_object(plane, Role::Ingest));
        let pod = self.pod_of(plane, Role::Ingest, &name);
        self.says(&name, &pod, BTreeMap::new(), Some(SpillState { bytes, ..SpillState::default() }));
    }

    fn pod_of(&self, plane: &str, role: Role, name: &str) -> Arc<DynamicObject> {
        let labels = json!({
            labels::MANAGED_BY: labels::MANAGER, labels::NAME: labels::PRODUCT,
            labels::DATA_PLANE: plane, labels::COMPONENT: role.as_str(),
        });
        self.put(Kind::Pod, name, &json!({"metadata": {"labels": labels}}))
    }

    pub(crate) fn says(
        &self,
        name: &str,
        pod: &DynamicObject,
        scopes: BTreeMap<String, ScopeState>,
        spill: Option<SpillState>,
    ) {
        let role = Role::ALL.into_iter().find(|role| name.contains(role.as_str())).unwrap();
        let format_max = serde_json::from_value(json!("v1")).unwrap();
        let version = "0.1.0".to_owned();
        let uid = pod.metadata.uid.clone().unwrap();
        let (pod, ledger) = (name.to_owned(), BTreeMap::new());
        let said = Ok(PodState { pod, role, version, format_max, ready: true, scopes, spill, ledger });
        let report = Report { uid, at: self.now, said };
        self.reports.keep(NAMESPACE, name, report);
    }

    pub(crate) async fn reconcile(&self) -> Next {
        namespace::reconcile(&self.context, NAMESPACE, self.now).await.unwrap()
    }

    /// Rounds for as long as each asks for another at once: what is shared waits one for its anchor.
    pub(crate) async fn bring(&self) -> Result<(), ReconcileError> {
        const ROUNDS_MAX: usize = 3;
        for _ in 0..ROUNDS_MAX {
            if namespace::reconcile(&self.context, NAMESPACE, self.now).await? != Next::After(Duration::ZERO)
            {
                return Ok(());
            }
        }
        panic!("{ROUNDS_MAX} rounds were not enough");
    }

    /// Writes what there is to write; one more round must find nothing left.
    pub(crate) async fn settle(&self) -> Vec<Write> {
        self.cluster.forget_writes();
        self.bring().await.unwrap();
        let writes = self.cluster.writes();
        self.cluster.forget_writes();
        self.reconcile().await;
        assert_eq!(self.cluster.writes(), [], "a second round found something left to write");
        writes
    }

    pub(crate) fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.cluster.set_now(self.now);
    }

    pub(crate) fn object(&self, kind: Kind, name: &str) -> Option<Value> {
        self.cluster.object(&key(kind, name)).map(|object| serde_json::to_value(&*object).unwrap())
    }

    /// Names of all objects of a kind.
    pub(crate) fn names(&self, kind: Kind) -> Vec<String> {
        self.cluster.objects().into_keys().filter(|key| key.kind == kind).map(|key| key.name).collect()
    }

    pub(crate) fn secret_text(&self, name: &str, key: &str) -> Option<String> {
        let secret = self.object(Kind::Secret, name)?;
        let bytes = STANDARD.decode(secret["data"][key].as_str()?).unwrap();
        Some(String::from_utf8(bytes).unwrap())
    }

    pub(crate) fn resolved(&self, plane: &str, role: Role) -> Resolved {
        let text = self.secret_text(&labels::resolved_secret(plane, role), labels::RESOLVED).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Status, reason and message of a condition.
    pub(crate) fn condition(&self, kind: Kind, name: &str, condition: &str) -> (String, String, String) {
        let object = self.object(kind, name).unwrap();
        let conditions = object["status"]["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|found| found["type"] == condition).unwrap();
        let text = |field: &str| found[field].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }
}

pub(crate) fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, NAMESPACE, name)
}
