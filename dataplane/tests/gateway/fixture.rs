//! A gateway without sockets: three Apps in two namespaces, an admin, three people, a scripted store.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, HeaderMap};
use axum::http::{Request, StatusCode};
use millrace_crds::config::{AccessConfig, AppConfig};
use millrace_dataplane::access::{Identity, Principal};
use millrace_dataplane::config::{Config, Current, PrivacyKeys};
use millrace_dataplane::gateway::guard::{BootstrapToken, Tokens};
use millrace_dataplane::gateway::{GatewayState, Limits, router};
use millrace_dataplane::metrics::Metrics;
use millrace_dataplane::query::scripted::{Answer, Scripted};
use millrace_dataplane::query::{Row, Statement};
use millrace_dataplane::secret::Secret;
use serde_json::{Map, Value, json};
use tower::ServiceExt as _;

/// The bootstrap admin's token.
pub(crate) const ADMIN: &str = "mra_0123456789abcdef";
/// Token of someone who may read everything about `default/shop`.
pub(crate) const ANN: &str = "ann";
/// Token of someone who may read the dashboard of `default/blog` and of `team-a/shop`, and list neither.
pub(crate) const BOB: &str = "bob";
/// Token of someone to whom nothing was given.
pub(crate) const EVE: &str = "eve";
/// Digest of the write key of `default/shop`.
pub(crate) const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee01";

/// The admin's real check, and people who stand for accounts.
struct Known {
    admin: BootstrapToken,
    people: BTreeMap<Vec<u8>, Principal>,
}

impl Tokens for Known {
    fn principal(&self, token: &[u8]) -> Option<Principal> {
        self.admin.principal(token).or_else(|| self.people.get(token).cloned())
    }
}

/// Everyone who has a token.
pub(crate) fn tokens() -> Arc<dyn Tokens> {
    let person = |name: &str| {
        let identity = Identity {
            issuer: "local".to_owned(),
            subject: name.to_owned(),
            verified_email: None,
            claims: Map::new(),
        };
        (name.as_bytes().to_vec(), Principal::Subject(identity))
    };
    let admin = BootstrapToken::new(Secret::new(ADMIN.to_owned()));
    Arc::new(Known { admin, people: [ANN, BOB, EVE].map(person).into() })
}

/// Everything the process logs. One for all tests, and set before any of them logs: whether a place logs at all
/// is decided once, when it is first reached, by whichever thread is there.
pub(crate) fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let kept = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || kept.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        log
    })
}

/// Lines of JSON.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The lines about one request.
    pub(crate) fn of(&self, id: &str) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["span"]["request.id"] == id).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A gateway, and what a test looks at behind it.
pub(crate) struct Fixture {
    pub(crate) router: Router,
    pub(crate) config: Current,
    pub(crate) store: Arc<Scripted>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A gateway whose store answers every question.
pub(crate) fn gateway() -> Fixture {
    gateway_with(Limits::default(), |_, statement| Answer::Rows(figures(statement)))
}

/// A gateway whose store answers by the script.
pub(crate) fn gateway_with(
    limits: Limits,
    script: impl Fn(usize, &Statement) -> Answer + Send + Sync + 'static,
) -> Fixture {
    log();
    let config = Arc::new(ArcSwap::from_pointee(config(rules())));
    let store = Arc::new(Scripted::new(script));
    let metrics = Arc::new(Metrics::new().unwrap());
    let state = GatewayState {
        config: Arc::clone(&config),
        store: store.clone(),
        tokens: tokens(),
        metrics: Arc::clone(&metrics),
        limits,
    };
    Fixture { router: router(state), config, store, metrics }
}

/// Rows that fit the statement.
pub(crate) fn figures(statement: &Statement) -> Vec<Row> {
    if !statement.sql().contains("AS converted_users") {
        return Vec::new();
    }
    let row = json!({
        "total_events": "1234", "active_users": 8, "conversions": 3, "converted_users": 2,
        "revenue": [["EUR", "1299.95"], ["USD", "0.5"]],
    });
    vec![row.as_object().unwrap().clone()]
}

/// The three Apps under these access rules.
pub(crate) fn config(access: Vec<AccessConfig>) -> Config {
    let apps = [("default/shop", DIGEST), ("default/blog", ""), ("team-a/shop", "")];
    let apps = apps.map(|(id, digest)| {
        let keys = PrivacyKeys { epoch: 1, hash: Secret::new([7; 32]), encrypt: Secret::new([7; 64]) };
        (app(id, digest), keys)
    });
    Config::build(apps.into(), access, Secret::new(b"pepper".to_vec())).unwrap()
}

/// Ann and Bob have what the constants say.
pub(crate) fn rules() -> Vec<AccessConfig> {
    let of = |namespace: &str, bindings: Value| {
        let rules = json!({
            "format": "v1", "namespace": namespace, "issuers": {},
            "roles": {
                "reader": ["dashboard:read", "analytics:read", "apps:read"],
                "watcher": ["dashboard:read"],
            },
            "bindings": bindings, "maskedFields": {}, "rateLimits": {},
        });
        serde_json::from_value(rules).unwrap()
    };
    let binding = |role: &str, who: &str, app: &str| {
        let subject = json!({ "issuer": "local", "matches": { "subject": who } });
        json!({ "role": role, "subjects": [subject], "apps": [app] })
    };
    vec![
        of(
            "default",
            json!([binding("reader", ANN, "default/shop"), binding("watcher", BOB, "default/blog")]),
        ),
        of("team-a", json!([binding("watcher", BOB, "team-a/shop")])),
    ]
}

fn app(id: &str, digest: &str) -> AppConfig {
    let key = json!({ "digest": digest, "allowedOrigins": [], "dialect": null });
    let property = json!({ "type": "Decimal", "required": true });
    let app = json!({
        "format": "v1", "app": id,
        "ingest": {
            "dialects": ["native"], "writeKeys": if digest.is_empty() { json!({}) } else { json!({ "web": key }) },
            "rateLimit": null, "maxBodyBytes": 1, "maxEventBytes": 1, "maxBatchEvents": 1,
            "trustForwardedClient": false,
        },
        "events": {
            "onUndeclared": "Keep", "declared": { "purchase": { "properties": { "revenue": property } } },
            "revenue": null, "conversions": ["purchase"], "dedupeWindowMs": 86_400_000,
        },
        "privacy": {
            "userIds": "Hash", "deviceIds": "Encrypt", "ip": "Truncate", "fields": [], "requiredConsent": [],
        },
        "storage": {
            "database": format!("millrace_{}", id.replace('-', "_").replace('/', "__")),
            "retentionSeconds": 63_072_000, "schemaHash": "5c4e",
        },
        "topics": [], "integrations": {},
    });
    serde_json::from_value(app).unwrap()
}

/// An answer as a client sees it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The `code` of a problem.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

impl Fixture {
    /// A request without a body.
    pub(crate) async fn send(&self, method: &str, url: &str, token: Option<&str>) -> Seen {
        let mut request = Request::builder().method(method).uri(url);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        self.send_request(request.body(Body::empty()).unwrap()).await
    }

    /// A GET.
    pub(crate) async fn get(&self, url: &str, token: Option<&str>) -> Seen {
        self.send("GET", url, token).await
    }

    /// Any request.
    pub(crate) async fn send_request(&self, request: Request<Body>) -> Seen {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap().to_vec();
        Seen { status: parts.status, headers: parts.headers, body }
    }
}
