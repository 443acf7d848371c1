//! A role as a pod runs it, the resources it serves, and a client.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millrace_crds::compile::canonical;
use millrace_crds::config::Format;
use millrace_crds::labels;
use millrace_crds::manifest::Source;
use millrace_crds::revision::{Revision, RevisionSpec};
use millrace_dataplane::cluster::keep::OpenLog;
use millrace_dataplane::cluster::offer::Place;
use millrace_dataplane::cluster::watch::Touch;
use millrace_dataplane::cluster::{self, Cluster, ClusterError, Duty, Times};
use millrace_dataplane::log::Log;
use millrace_dataplane::standalone::build::{self, Built};
use millrace_dataplane::standalone::keys::KeyRing;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;

/// Longest wait for something that must happen; a test that waits so long fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const STATE_TOKEN: &str = "mrs_state";
pub(crate) const ADMIN_TOKEN: &str = "mra_admin";
pub(crate) const SECRET: &str = "millrace.shared.test";

/// An App `team/shop` whose write key is this.
pub(crate) fn shop(key: &str) -> String {
    format!(
        "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {{name: shop, namespace: team}}\nspec:\n  ingest:\n    \
         writeKeys: [{{name: web, secretRef: {{name: keys, key: web}}}}]\n---\napiVersion: v1\nkind: Secret\nmetadata: \
         {{name: keys, namespace: team, labels: {{millrace.dev/app-use: \"true\"}}}}\nstringData: {{web: {key}}}\n"
    )
}

/// What the operator makes of resources.
pub(crate) struct Operator {
    pub(crate) ring: KeyRing,
}

impl Operator {
    pub(crate) fn new() -> Self {
        Self { ring: KeyRing::in_memory() }
    }

    pub(crate) fn build(&mut self, text: &str) -> Built {
        let source = Source { name: "test.yaml".to_owned(), text: text.to_owned() };
        build::build(&[source], &mut self.ring).unwrap()
    }

    /// The Revision of the App in these resources.
    pub(crate) fn revision(&mut self, text: &str, sequence: i64) -> Value {
        let built = self.build(text);
        let app = &built.apps[0];
        let hash = Some(app.storage.schema_hash.clone());
        revision(app.app.name(), sequence, canonical(app), hash)
    }

    /// The Secret with everything, for every role.
    pub(crate) fn resolved(&mut self, built: &Built, state_token: &str) -> Value {
        let privacy: serde_json::Map<String, Value> = built
            .apps
            .iter()
            .map(|app| {
                let keys = self.ring.privacy_keys(&app.app).unwrap();
                let (hash, encrypt) = (hex::encode(keys.hash.expose()), hex::encode(keys.encrypt.expose()));
                (app.app.to_string(), json!({ "epoch": keys.epoch, "hash": hash, "encrypt": encrypt }))
            })
            .collect();
        json!({
            "pepper": hex::encode(self.ring.pepper().expose()), "privacy": privacy,
            "stateToken": state_token, "adminToken": ADMIN_TOKEN,
        })
    }
}

/// A Revision as the operator writes it.
pub(crate) fn revision(scope: &str, sequence: i64, config: String, schema_hash: Option<String>) -> Value {
    let spec =
        RevisionSpec { sequence, format: Format::V1, rollout: Default::default(), schema_hash, config };
    let mut revision = Revision::new(&labels::revision(scope, sequence), spec);
    revision.metadata.namespace = Some("team".to_owned());
    let data_plane = (scope != labels::SCOPE_ACCESS).then_some((labels::DATA_PLANE, labels::SHARED));
    let labels = data_plane.into_iter().chain([(labels::SCOPE, scope)]);
    revision.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
    serde_json::to_value(revision).unwrap()
}

/// A Secret with this as its value.
pub(crate) fn secret(resolved: &Value) -> Value {
    use base64::Engine as _;
    let value = base64::engine::general_purpose::STANDARD.encode(resolved.to_string());
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": SECRET, "namespace": "team" },
        "data": { labels::RESOLVED: value },
    })
}

/// A running role.
pub(crate) struct Pod {
    pub(crate) admin: SocketAddr,
    pub(crate) front: Option<SocketAddr>,
    pub(crate) stop: CancellationToken,
    client: reqwest::Client,
    running: JoinHandle<Result<(), ClusterError>>,
}

/// Port 0 of this machine.
pub(crate) fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A log that is opened as often as its credentials change; says with which.
pub(crate) fn opening(log: Arc<dyn Log>, opened: &Arc<Mutex<Vec<Option<String>>>>) -> OpenLog {
    let opened = Arc::clone(opened);
    Arc::new(move |credentials, _| {
        opened.lock().unwrap().push(credentials.map(|credentials| credentials.username.clone()));
        Ok(Arc::clone(&log))
    })
}

impl Pod {
    pub(crate) fn start(api: &Api, duty: Duty, times: Times) -> Self {
        // The first test of the process installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings = Cluster {
            place: Place { namespace: "team".to_owned(), data_plane: labels::SHARED.to_owned() },
            pod: "mr-shared-test-0".to_owned(),
            resolved_secret: SECRET.to_owned(),
            prefix: "millrace".to_owned(),
            admin_listen: anywhere(),
            duty,
            times,
        };
        let bound = cluster::bind(settings).unwrap();
        let (admin, front) = (bound.admin().unwrap(), bound.front().map(Result::unwrap));
        let stop = CancellationToken::new();
        let running = tokio::spawn(bound.run(api.config(), stop.clone()));
        // One connection per request: nothing is kept from before a change.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        Self { admin, front, stop, client, running }
    }

    /// Status and body of an admin path.
    pub(crate) async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        let asked = self.client.get(format!("http://{}{path}", self.admin)).bearer_auth(token).send().await;
        let answer = asked.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.get("/readyz", "").await.0 == 200
    }

    pub(crate) async fn until_ready(&self) {
        until("the pod is ready", async || self.is_ready().await).await;
    }

    /// The state, as the operator reads it.
    pub(crate) async fn state(&self) -> Value {
        let (status, state) = self.get("/state", STATE_TOKEN).await;
        assert_eq!(status, 200, "{state}");
        state
    }

    pub(crate) async fn until_running(&self, sequence: i64) {
        until("the Revision runs", async || {
            self.state().await["scopes"]["shop"]["running"]["sequence"] == sequence
        })
        .await;
    }

    /// Sends one event with this key; status and code of the answer.
    pub(crate) async fn send(&self, key: &str) -> (u16, String) {
        let url = format!("http://{}/v1/events", self.front.unwrap());
        let event = json!({ "event_type": "purchase", "user_id": "u1" });
        let answer = self.client.post(url).bearer_auth(key).json(&event).send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    }

    /// Asks the API.
    pub(crate) async fn ask(&self, path: &str, token: &str) -> u16 {
        let url = format!("http://{}{path}", self.front.unwrap());
        self.client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Result<(), ClusterError> {
        tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap()
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Quick enough for a test.
pub(crate) fn times() -> Times {
    let touch =
        Touch { watch_s: 1, settle: Duration::from_millis(10), secret_again: Duration::from_millis(500) };
    Times { linger: Duration::from_millis(300), silence_max: Duration::from_secs(3), touch }
}

/// The resources of an example.
pub(crate) fn example(folder: &Path) -> String {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect::<Vec<_>>().join("\n---\n")
}
