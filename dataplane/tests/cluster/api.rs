//! An API server that knows Revisions, to be listed and watched, and Secrets, to be read by name; and can go away.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The kind that is listed and watched.
const REVISION: &str = "Revision";

/// What is stored, by kind and name.
type Objects = BTreeMap<(&'static str, String), Value>;

pub(crate) struct Api {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Shared {
    stored: Mutex<Stored>,
    /// Changes with every change of what is stored, and with coming and going.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Stored {
    objects: Objects,
    /// Version, kind, type, object.
    events: Vec<(u64, &'static str, &'static str, Value)>,
    away: bool,
}

impl Api {
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared { stored: Mutex::default(), changed: watch::Sender::new(()) });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { addr, shared, serving }
    }

    pub(crate) fn config(&self) -> kube::Config {
        let mut config = kube::Config::new(format!("http://{}", self.addr).parse().unwrap());
        config.default_namespace = "team".to_owned();
        config
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, kind: &'static str, object: Value) {
        self.change(|stored| {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let object = stored.versioned(object);
            let is_new = stored.objects.insert((kind, name), object.clone()).is_none();
            stored.tell(kind, if is_new { "ADDED" } else { "MODIFIED" }, object);
        });
    }

    pub(crate) fn delete(&self, kind: &'static str, name: &str) {
        self.change(|stored| {
            let object = stored.objects.remove(&(kind, name.to_owned())).unwrap();
            let object = stored.versioned(object);
            stored.tell(kind, "DELETED", object);
        });
    }

    /// Answers nothing but errors, and ends every watch.
    pub(crate) fn go_away(&self) {
        self.change(|stored| stored.away = true);
    }

    pub(crate) fn come_back(&self) {
        self.change(|stored| stored.away = false);
    }

    fn change(&self, change: impl FnOnce(&mut Stored)) {
        change(&mut self.shared.stored.lock().unwrap());
        self.shared.changed.send_replace(());
    }
}

impl Stored {
    fn version(&self) -> u64 {
        self.events.len() as u64 + 1
    }

    fn versioned(&self, mut object: Value) -> Value {
        object["metadata"]["resourceVersion"] = (self.version() + 1).to_string().into();
        object
    }

    fn tell(&mut self, kind: &'static str, what: &'static str, object: Value) {
        self.events.push((self.version() + 1, kind, what, object));
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<BTreeMap<String, String>>,
    request: Request,
) -> Response {
    let path = request.uri().path();
    let stored = shared.stored.lock().unwrap();
    if stored.away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if let Some(name) = path.strip_prefix("/api/v1/namespaces/team/secrets/") {
        let found = stored.objects.get(&("Secret", name.to_owned()));
        return found.map_or_else(|| not_found(name), |object| Json(object).into_response());
    }
    if path != "/apis/millrace.dev/v1alpha1/namespaces/team/revisions" {
        return StatusCode::FORBIDDEN.into_response();
    }
    if query.get("watch").is_none_or(|watch| watch == "false") {
        let of_kind = stored.objects.iter().filter(|((of, _), _)| *of == REVISION);
        let items: Vec<&Value> = of_kind.map(|(_, object)| object).collect();
        return Json(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "RevisionList",
            "metadata": { "resourceVersion": stored.version().to_string() }, "items": items,
        }))
        .into_response();
    }
    let from = query["resourceVersion"].parse().unwrap();
    let seconds = query.get("timeoutSeconds").map_or(290, |seconds| seconds.parse().unwrap());
    drop(stored);
    let watching = Watching {
        changed: shared.changed.subscribe(),
        shared,
        from,
        ends: tokio::time::Instant::now() + Duration::from_secs(seconds),
    };
    Body::from_stream(futures::stream::unfold(watching, Watching::next)).into_response()
}

fn not_found(name: &str) -> Response {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404,
        "message": format!("secrets \"{name}\" not found"),
    });
    (StatusCode::NOT_FOUND, Json(status)).into_response()
}

struct Watching {
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    from: u64,
    ends: tokio::time::Instant,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            let lines = self.lines()?;
            if !lines.is_empty() {
                return Some((Ok(lines.into()), self));
            }
            tokio::time::timeout_at(self.ends, self.changed.changed()).await.ok()?.ok()?;
        }
    }

    /// What happened since the last look; `None` when the server is away.
    fn lines(&mut self) -> Option<String> {
        let stored = self.shared.stored.lock().unwrap();
        let mut lines = String::new();
        for (version, kind, what, object) in &stored.events {
            if *version > self.from && *kind == REVISION {
                lines.push_str(&format!("{}\n", json!({ "type": what, "object": object })));
            }
        }
        self.from = stored.version();
        (!stored.away).then_some(lines)
    }
}
