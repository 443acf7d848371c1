//! The admin port without sockets: what probes, scrapers and operators read.

use arc_swap::ArcSwap;
use axum::body::{Body, to_bytes};
use axum::http::header::AUTHORIZATION;
use jiff::Timestamp;
use millrace_crds::config::{AccessConfig, AppConfig};
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::config::{Config, Current, PrivacyKeys};
use crate::gateway::guard::BootstrapToken;
use crate::secret::Secret;
use changes::{Changes, History, RefusedProblem};
use readiness::Need;

const TOKEN: &str = "mra_0123456789abcdef";
/// A digest, a token and a pepper that must not be shown.
const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee01";

fn app(retention_seconds: u64) -> AppConfig {
    let app = json!({
        "format": "v1", "app": "default/shop",
        "ingest": {
            "dialects": ["native"],
            "writeKeys": { "web": { "digest": DIGEST, "allowedOrigins": [], "dialect": null } },
            "rateLimit": null, "maxBodyBytes": 1, "maxEventBytes": 1, "maxBatchEvents": 1,
            "trustForwardedClient": false,
        },
        "events": {
            "onUndeclared": "Keep", "declared": {}, "revenue": null, "conversions": [], "dedupeWindowMs": 1,
        },
        "privacy": {
            "userIds": "Hash", "deviceIds": "Hash", "ip": "Drop", "fields": [], "requiredConsent": [],
        },
        "storage": { "database": "d", "retentionSeconds": retention_seconds, "schemaHash": "" },
        "topics": [], "integrations": {},
    });
    serde_json::from_value(app).unwrap()
}

fn config(retention_seconds: u64) -> Config {
    let access = json!({
        "format": "v1", "namespace": "default", "issuers": {}, "roles": {}, "bindings": [], "maskedFields": {},
        "rateLimits": {},
    });
    let access: AccessConfig = serde_json::from_value(access).unwrap();
    let keys = PrivacyKeys { epoch: 1, hash: Secret::new([7; 32]), encrypt: Secret::new([7; 64]) };
    let pepper = Secret::new(b"pepper".to_vec());
    Config::build(vec![(app(retention_seconds), keys)], vec![access], pepper).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

struct Fixture {
    router: Router,
    config: Current,
    changes: Arc<Changes>,
    readiness: Arc<Readiness>,
}

fn admin() -> Fixture {
    let config = Arc::new(ArcSwap::from_pointee(config(1)));
    let (changes, readiness) = (Arc::<Changes>::default(), Arc::<Readiness>::default());
    let state = AdminState {
        state: Arc::new(History {
            config: Arc::clone(&config),
            changes: Arc::clone(&changes),
            standing: Arc::default(),
            started_at: at(1),
        }),
        readiness: Arc::clone(&readiness),
        metrics: Arc::new(Metrics::new().unwrap()),
        tokens: Arc::new(BootstrapToken::new(Secret::new(TOKEN.to_owned()))),
    };
    Fixture { router: router(state), config, changes, readiness }
}

impl Fixture {
    async fn send(&self, method: &str, path: &str, token: &str) -> (u16, String) {
        let request =
            Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {token}"));
        let response = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert!(response.headers().contains_key("x-request-id"));
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.send("GET", path, TOKEN).await;
        (status, serde_json::from_str(&body).unwrap())
    }
}

#[tokio::test]
async fn ready_is_when_every_required_part_said_so() {
    let admin = admin();
    assert_eq!(admin.get("/readyz").await, (503, json!({ "ready": false, "checks": {} })));

    let log = admin.readiness.part("log", Need::Required);
    let config = admin.readiness.part("config", Need::Required);
    let engine = admin.readiness.part("engine", Need::Shown);
    log.up();
    config.down("no App compiles yet");
    engine.up();
    let waiting = json!({ "ready": false, "checks": {
        "config": { "ready": false, "required": true, "reason": "no App compiles yet" },
        "engine": { "ready": true, "required": false },
        "log": { "ready": true, "required": true },
    } });
    assert_eq!(admin.get("/readyz").await, (503, waiting));

    config.up();
    assert_eq!(admin.get("/readyz").await.0, 200);
    engine.down("exited with signal 9");
    let (status, report) = admin.get("/readyz").await;
    assert_eq!((status, &report["checks"]["engine"]["reason"]), (200, &json!("exited with signal 9")));
    log.down("disk full");
    assert_eq!(admin.get("/readyz").await.0, 503, "what was up can go down");
}

#[tokio::test]
async fn nothing_required_is_never_ready() {
    let admin = admin();
    admin.readiness.part("engine", Need::Shown).up();
    assert_eq!(admin.get("/readyz").await.0, 503);
}

#[tokio::test]
async fn alive_is_not_ready() {
    let admin = admin();
    admin.readiness.part("log", Need::Required).down("still opening");
    assert_eq!(admin.get("/livez").await, (200, json!({ "alive": true })));
}

#[tokio::test]
async fn metrics_tell_of_the_process_and_its_tasks() {
    let admin = admin();
    let task = tokio::spawn(std::future::pending::<()>());
    let (status, text) = admin.send("GET", "/metrics", "").await;
    task.abort();
    assert_eq!(status, 200);
    for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
        assert!(text.contains(&format!("\n{name} ")), "{name}");
    }
    let tasks = text.lines().find_map(|line| line.strip_prefix("millrace_tokio_tasks ")).unwrap();
    assert!(tasks.parse::<u64>().unwrap() >= 1, "{tasks}");
}

#[tokio::test]
async fn state_is_for_the_admin_and_shows_no_secret() {
    let admin = admin();
    for token in ["", "wrong", &TOKEN[1..]] {
        let (status, body) = admin.send("GET", "/state", token).await;
        assert_eq!(status, 401, "{token}");
        assert!(body.contains("\"code\":\"not_authenticated\"") && !body.contains("revisions"));
    }
    let (status, body) = admin.send("GET", "/state", TOKEN).await;
    assert_eq!(status, 200);
    for secret in [DIGEST, TOKEN, "pepper", "Secret"] {
        assert!(!body.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn state_tells_since_when_each_part_is_in_force() {
    let admin = admin();
    let times = async || {
        let (_, state) = admin.get("/state").await;
        let of = |revision: &Value| (revision["scope"].clone(), revision["applied_at"].clone());
        state["revisions"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let (shop, access) = (json!("default/shop"), json!("default/access"));
    assert_eq!(times().await, [(shop.clone(), Value::Null), (access.clone(), Value::Null)]);

    admin.changes.applied(&admin.config.load(), at(10));
    let ten = json!("1970-01-01T00:00:10Z");
    assert_eq!(times().await, [(shop.clone(), ten.clone()), (access.clone(), ten.clone())]);

    admin.config.store(config(2).into());
    admin.changes.applied(&admin.config.load(), at(20));
    assert_eq!(
        times().await,
        [(shop, json!("1970-01-01T00:00:20Z")), (access, ten)],
        "access did not change"
    );
}

#[tokio::test]
async fn state_shows_a_refusal_until_something_is_applied() {
    let admin = admin();
    let problem = |path: &str| RefusedProblem {
        source: Some("shop/app.yaml, document 1, line 7".to_owned()),
        object: "App default/shop".to_owned(),
        path: path.to_owned(),
        message: "is not a duration".to_owned(),
        fix: "write it like `730d`".to_owned(),
    };
    let problems = (0..150).map(|index| problem(&format!("spec.x[{index}]"))).collect();
    admin.changes.refused(problems, at(30));
    let (_, state) = admin.get("/state").await;
    let refused = &state["refused"];
    assert_eq!(
        (&refused["refused_at"], &refused["problems_total"]),
        (&json!("1970-01-01T00:00:30Z"), &json!(150))
    );
    assert_eq!(refused["problems"].as_array().unwrap().len(), 100);
    assert_eq!(refused["problems"][99]["path"], "spec.x[99]");
    assert_eq!(state["revisions"].as_array().unwrap().len(), 2, "the last good one stays in force");

    admin.changes.applied(&admin.config.load(), at(40));
    assert_eq!(admin.get("/state").await.1.get("refused"), None);
}

#[tokio::test]
async fn a_hash_is_over_canonical_json() {
    let value = json!({ "b": [1, { "d": null, "c": "x" }], "a": true });
    let expected = hex::encode(sha2::Digest::finalize(sha2::Digest::chain_update(
        <sha2::Sha256 as sha2::Digest>::new(),
        br#"{"a":true,"b":[1,{"c":"x","d":null}]}"#,
    )));
    assert_eq!(millrace_crds::compile::revision_hash(&value), expected);
}

#[tokio::test]
async fn anything_else_is_a_problem() {
    let admin = admin();
    let (status, problem) = admin.get("/nothing").await;
    assert_eq!((status, &problem["code"]), (404, &json!("unknown_path")));
    let (status, _) = admin.send("POST", "/state", TOKEN).await;
    assert_eq!(status, 405);
}
