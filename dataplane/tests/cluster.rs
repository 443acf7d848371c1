//! A role against an API server: what it runs, refuses, forgets and tells, and how it ends.

#![expect(clippy::unwrap_used, reason = "a helper that unwraps in vain fails its test")]

#[path = "cluster/api.rs"]
mod api;
#[path = "cluster/contract.rs"]
mod contract;
#[path = "cluster/pod.rs"]
mod pod;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::Api;
use millrace_crds::names::TopicKind;
use millrace_dataplane::cluster::{Duty, Times};
use millrace_dataplane::log::memory::MemoryLog;
use millrace_dataplane::log::{Log, TopicPartition};
use pod::{ADMIN_TOKEN, Operator, Pod, STATE_TOKEN, anywhere, opening, revision, secret, shop, times, until};
use serde_json::json;

const KEY: &str = "mrw_first_key_of_the_shop_0123456789";
const KEY_NEXT: &str = "mrw_second_key_of_the_shop_012345678";

/// An ingest pod that runs the Revision `shop-1` with [`KEY`].
struct World {
    api: Api,
    operator: Operator,
    log: Arc<MemoryLog>,
    opened: Arc<Mutex<Vec<Option<String>>>>,
    pod: Pod,
}

impl World {
    async fn start(times: Times) -> Self {
        let (api, mut operator, log) = (Api::start().await, Operator::new(), MemoryLog::new());
        let built = operator.build(&shop(KEY));
        log.ensure_topics(&built.apps[0].topics).await.unwrap();
        api.put("Secret", secret(&operator.resolved(&built, STATE_TOKEN)));
        api.put("Revision", operator.revision(&shop(KEY), 1));
        let opened = Arc::default();
        let duty =
            Duty::Ingest { listen: anywhere(), log: opening(Arc::clone(&log) as _, &opened), spill: None };
        let pod = Pod::start(&api, duty, times);
        pod.until_ready().await;
        Self { api, operator, log, opened, pod }
    }

    fn apply(&mut self, key: &str, sequence: i64) {
        let revision = self.operator.revision(&shop(key), sequence);
        self.api.put("Revision", revision);
    }
}

#[tokio::test]
async fn a_new_revision_is_in_force_at_once_and_nothing_restarts() {
    let mut world = World::start(times()).await;
    assert_eq!(world.pod.send(KEY).await.0, 200);
    world.apply(KEY_NEXT, 2);
    let applied = Instant::now();
    world.pod.until_running(2).await;
    assert!(applied.elapsed() < Duration::from_secs(2), "{:?}", applied.elapsed());
    assert_eq!(world.pod.send(KEY).await, (401, "key_unknown".to_owned()));
    assert_eq!(world.pod.send(KEY_NEXT).await.0, 200);
    assert_eq!(world.opened.lock().unwrap().len(), 1);
    let state = world.pod.state().await;
    assert_eq!((&state["pod"], &state["role"]), (&json!("mr-shared-test-0"), &json!("ingest")));
    assert_eq!((&state["ready"], &state["formatMax"]), (&json!(true), &json!("v1")));
}

#[tokio::test]
async fn a_refused_revision_is_told_in_words_and_the_last_good_one_stays() {
    let world = World::start(times()).await;
    world.api.put("Revision", revision("shop", 2, "{\"format\":\"v1\"}".to_owned(), None));
    until("the refusal is told", async || {
        let state = world.pod.state().await;
        state["scopes"]["shop"]["refused"]["sequence"] == 2
    })
    .await;
    let state = world.pod.state().await;
    assert_eq!(state["scopes"]["shop"]["running"]["sequence"], 1);
    let reason = state["scopes"]["shop"]["refused"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("cannot be read"), "{reason}");
    assert_eq!(world.pod.send(KEY).await.0, 200);
    assert!(world.pod.is_ready().await);
}

#[tokio::test]
async fn an_object_that_is_no_revision_at_all_disturbs_none() {
    let mut world = World::start(times()).await;
    let mut garbage = revision("shop", 9, "{}".to_owned(), None);
    garbage["spec"] = json!({ "sequence": "nine", "format": 9 });
    world.api.put("Revision", garbage);
    world.apply(KEY_NEXT, 2);
    world.pod.until_running(2).await;
}

#[tokio::test]
async fn an_app_without_revisions_is_withdrawn_and_the_pod_stays_ready() {
    let world = World::start(times()).await;
    world.api.delete("Revision", "shop-1");
    until("the scope is gone", async || world.pod.state().await["scopes"] == json!({})).await;
    assert_eq!(world.pod.send(KEY).await, (401, "key_unknown".to_owned()));
    assert!(world.pod.is_ready().await);
}

#[tokio::test]
async fn a_changed_secret_is_taken_up_by_what_runs() {
    let mut world = World::start(times()).await;
    let built = world.operator.build(&shop(KEY));
    let mut resolved = world.operator.resolved(&built, "mrs_another");
    resolved["kafka"] = json!({ "username": "ingest-2", "password": "hunter2" });
    world.api.put("Secret", secret(&resolved));
    until("the new token opens", async || world.pod.get("/state", "mrs_another").await.0 == 200).await;
    assert_eq!(world.pod.get("/state", STATE_TOKEN).await.0, 401);
    assert_eq!(*world.opened.lock().unwrap(), [None, Some("ingest-2".to_owned())]);
    assert_eq!(world.pod.send(KEY).await.0, 200);
    // One that cannot be read changes nothing.
    world.api.put("Secret", secret(&json!({ "pepper": 7, "stateToken": "mrs_third" })));
    world.apply(KEY_NEXT, 2);
    until("the Revision runs", async || world.pod.send(KEY_NEXT).await.0 == 200).await;
    assert_eq!(world.pod.get("/state", "mrs_another").await.0, 200);
}

#[tokio::test]
async fn while_the_api_server_is_away_known_keys_work_and_unknown_ones_come_back_later() {
    let world = World::start(times()).await;
    until("the watch is fresh", async || world.pod.send(KEY_NEXT).await.0 == 401).await;
    world.api.go_away();
    until("the watch is stale", async || world.pod.send(KEY_NEXT).await.0 == 503).await;
    assert_eq!(world.pod.send(KEY_NEXT).await, (503, "key_unverified".to_owned()));
    assert_eq!(world.pod.send(KEY).await.0, 200);
    assert!(world.pod.is_ready().await);
    world.api.come_back();
    until("the watch is fresh again", async || world.pod.send(KEY_NEXT).await.0 == 401).await;
}

#[tokio::test]
async fn a_pod_that_is_told_to_stop_is_unready_at_once_and_answers_until_it_has_lingered() {
    let world = World::start(Times { linger: Duration::from_secs(2), ..times() }).await;
    let told = Instant::now();
    world.pod.stop.cancel();
    until("the pod is unready", async || !world.pod.is_ready().await).await;
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    assert_eq!(world.pod.send(KEY).await.0, 200);
    assert_eq!(world.pod.state().await["ready"], false);
    world.pod.ended().await.unwrap();
    assert!(told.elapsed() >= Duration::from_secs(2), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_pod_is_not_ready_before_it_has_its_secret_and_its_revisions() {
    let (api, mut operator, log) = (Api::start().await, Operator::new(), MemoryLog::new());
    let duty = Duty::Ingest { listen: anywhere(), log: opening(log, &Arc::default()), spill: None };
    let pod = Pod::start(&api, duty, times());
    until("the pod says what it waits for", async || {
        let (status, report) = pod.get("/readyz", "").await;
        assert_eq!(status, 503);
        report["checks"]["configuration"]["reason"] == "the resolved Secret was not seen yet"
    })
    .await;
    // Nothing opens `/state` while no token is known.
    assert_eq!(pod.get("/state", "").await.0, 401);
    let built = operator.build(&shop(KEY));
    api.put("Secret", secret(&operator.resolved(&built, STATE_TOKEN)));
    // A namespace without Apps is a configuration too.
    pod.until_ready().await;
    pod.stop.cancel();
    pod.ended().await.unwrap();
}

#[tokio::test]
async fn a_worker_processes_what_ingest_took_and_ends_after_its_batch() {
    let world = World::start(times()).await;
    let folder = tempfile::tempdir().unwrap();
    let duty = Duty::Worker {
        log: opening(Arc::clone(&world.log) as _, &Arc::default()),
        // Nobody listens there: loading waits.
        clickhouse_url: "http://127.0.0.1:9".to_owned(),
        data_dir: folder.path().to_owned(),
    };
    let worker = Pod::start(&world.api, duty, times());
    worker.until_ready().await;
    assert_eq!(worker.state().await["role"], "worker");
    for _ in 0..10 {
        assert_eq!(world.pod.send(KEY).await.0, 200);
    }
    until("everything is processed", async || processed(&world.log).await == 10).await;
    worker.stop.cancel();
    worker.ended().await.unwrap();
}

async fn processed(log: &MemoryLog) -> u64 {
    let name = format!("millrace.team.shop.{}", TopicKind::EventsProcessed);
    let topic = log.topic(&name).await.unwrap();
    let mut records = 0;
    for partition in 0..topic.partitions {
        records +=
            log.watermarks(&TopicPartition { topic: name.as_str().into(), partition }).await.unwrap().high;
    }
    records
}

#[tokio::test]
async fn a_gateway_is_ready_once_clickhouse_answered_and_stays_so_when_it_goes() {
    let (api, mut operator) = (Api::start().await, Operator::new());
    let built = operator.build(&shop(KEY));
    api.put("Secret", secret(&operator.resolved(&built, STATE_TOKEN)));
    api.put("Revision", operator.revision(&shop(KEY), 1));
    let clickhouse = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let clickhouse_url = format!("http://{}", clickhouse.local_addr().unwrap());
    let gateway = Pod::start(&api, Duty::Gateway { listen: anywhere(), clickhouse_url }, times());
    until("the token is known", async || gateway.get("/state", STATE_TOKEN).await.0 == 200).await;
    gateway.until_running(1).await;
    assert!(!gateway.is_ready().await);
    assert_eq!(gateway.ask("/api/apps", ADMIN_TOKEN).await, 200);
    assert_eq!(gateway.ask("/api/apps", STATE_TOKEN).await, 401);

    clickhouse.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(clickhouse).unwrap();
    // One row of one column, as RowBinaryWithNamesAndTypes.
    let version = || async { "\u{1}\u{9}version()\u{6}String\u{8}26.5.1.1" };
    let server =
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(version)).await });
    gateway.until_ready().await;
    server.abort();
    assert!(gateway.is_ready().await);
    gateway.stop.cancel();
    gateway.ended().await.unwrap();
}
