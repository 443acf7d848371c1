//! Raw events through the process worker on Kafka: each processed once, whatever ends the worker in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use millrace_crds::config::{
    AppConfig, DeviceIds, Dialect, Events, Format, Ingest, Ip, OnUndeclared, Privacy, Storage, Topic, UserIds,
};
use millrace_crds::names::{AppId, TopicKind};
use millrace_dataplane::config::{Config, Current, PrivacyKeys};
use millrace_dataplane::lag::Lag;
use millrace_dataplane::log::{GroupHandle, LogRecord, NewRecord, ReadLimits, TopicPartition, Transaction};
use millrace_dataplane::member::Member;
use millrace_dataplane::process::seen::SeenStore;
use millrace_dataplane::process::{self, Worker};
use millrace_dataplane::record::{ProcessedRecord, partition_of};
use millrace_dataplane::secret::Secret;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::bench::{Bench, LONG, limits, own};

const RAW_PARTITIONS: u32 = 2;

fn app_config(app: &AppId, raw_partitions: u32) -> AppConfig {
    let topics = TopicKind::ALL.map(|kind| Topic {
        kind,
        name: own(&kind.to_string()),
        partitions: match kind {
            TopicKind::EventsRaw | TopicKind::Seen => raw_partitions,
            _ => 1,
        },
        retention_ms: 7 * 86_400_000,
        retention_bytes: None,
    });
    AppConfig {
        format: Format::V1,
        app: app.clone(),
        ingest: Ingest {
            dialects: BTreeSet::from([Dialect::Native]),
            write_keys: BTreeMap::new(),
            rate_limit: None,
            max_body_bytes: 1 << 20,
            max_event_bytes: 1 << 16,
            max_batch_events: 1000,
            trust_forwarded_client: false,
        },
        events: Events {
            on_undeclared: OnUndeclared::Keep,
            declared: BTreeMap::new(),
            revenue: None,
            conversions: BTreeSet::new(),
            dedupe_window_ms: 86_400_000,
        },
        privacy: Privacy {
            user_ids: UserIds::Keep,
            device_ids: DeviceIds::Keep,
            ip: Ip::Keep,
            fields: Vec::new(),
            required_consent: BTreeSet::new(),
        },
        storage: Storage {
            database: "unused".to_owned(),
            retention_seconds: 86_400,
            schema_hash: "0".to_owned(),
        },
        topics: topics.to_vec(),
        integrations: BTreeMap::new(),
    }
}

/// An App whose topics are on the broker.
pub(crate) struct World {
    pub(crate) bench: Bench,
    pub(crate) app: AppId,
    pub(crate) config: Current,
    pub(crate) folder: tempfile::TempDir,
    raw_partitions: u32,
}

impl World {
    async fn new() -> Self {
        Self::with_raw_partitions(RAW_PARTITIONS).await
    }

    pub(crate) async fn with_raw_partitions(raw_partitions: u32) -> Self {
        let bench = Bench::new().await;
        let mark = Uuid::new_v4().simple().to_string();
        let app = AppId::new("default", &format!("shop-{}", &mark[..12])).unwrap();
        let config = app_config(&app, raw_partitions);
        bench.ensure(&config.topics).await;
        let keys = PrivacyKeys { epoch: 1, hash: Secret::new([0; 32]), encrypt: Secret::new([0; 64]) };
        let config = Config::build(vec![(config, keys)], Vec::new(), Secret::new(Vec::new())).unwrap();
        let config = Arc::new(ArcSwap::from_pointee(config));
        Self { bench, app, config, folder: tempfile::tempdir().unwrap(), raw_partitions }
    }

    fn raw(&self, id: Uuid) -> NewRecord {
        let now = jiff::Timestamp::now().as_millisecond();
        let raw = json!({
            "v": 1,
            "event": {
                "event_id": id, "event_type": "page_view", "timestamp": now,
                "received_at": now, "user_id": "ann", "event_data": {},
            },
            "origin": {"instance": "test", "minute": now / 60_000},
        });
        let partition = partition_of(id.as_bytes(), self.raw_partitions);
        NewRecord {
            to: TopicPartition { topic: own(&TopicKind::EventsRaw.to_string()).into(), partition },
            key: Bytes::copy_from_slice(id.as_bytes()),
            value: raw.to_string().into(),
        }
    }

    pub(crate) async fn send(&self, ids: &[Uuid]) {
        self.bench.log().append(ids.iter().map(|id| self.raw(*id)).collect()).await.unwrap();
    }

    /// A worker with its own clients and an empty dedupe store, as one on another machine would have.
    fn worker(&self) -> Worker {
        Worker {
            app: self.app.clone(),
            config: Arc::clone(&self.config),
            log: self.bench.open(self.bench.options()),
            seen: Arc::new(SeenStore::open(&self.folder.path().join(Uuid::new_v4().to_string())).unwrap()),
            member: Member::new("millrace", &Uuid::new_v4().to_string()),
            metrics: Arc::clone(&self.bench.metrics),
        }
    }

    pub(crate) async fn processed(&self) -> Vec<Uuid> {
        let of = TopicPartition { topic: own(&TopicKind::EventsProcessed.to_string()).into(), partition: 0 };
        let mut records: Vec<LogRecord> = Vec::new();
        loop {
            let from = records.last().map_or(0, |last| last.offset + 1);
            let limits = ReadLimits { records_max: 1000, ..limits(0) };
            let more = self.bench.log().read(&of, from, limits).await.unwrap();
            if more.is_empty() {
                break;
            }
            records.extend(more);
        }
        let id = |record: &LogRecord| {
            serde_json::from_slice::<ProcessedRecord>(&record.value).unwrap().event.event_id
        };
        records.iter().map(id).collect()
    }

    async fn until_processed(&self, count: usize) {
        let deadline = Instant::now() + LONG;
        while self.processed().await.len() < count {
            assert!(Instant::now() < deadline, "{} of {count}", self.processed().await.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn every_raw_event_is_processed_once_though_the_worker_dies_in_between() {
    let world = World::new().await;
    let ids: Vec<Uuid> = (0..600).map(|_| Uuid::new_v4()).collect();
    world.send(&ids[..300]).await;
    world.send(&ids[200..300]).await;
    let first = tokio::spawn(process::run(world.worker(), CancellationToken::new()));
    world.until_processed(300).await;
    // Dropped at whatever it does, with a batch on its way.
    world.send(&ids[300..]).await;
    first.abort();
    assert!(first.await.is_err_and(|ended| ended.is_cancelled()));
    world.send(&ids[100..400]).await;

    let cancel = CancellationToken::new();
    let second = tokio::spawn(process::run(world.worker(), cancel.clone()));
    world.until_processed(600).await;
    let extra = Uuid::new_v4();
    world.send(&[ids[0], ids[599], extra]).await;
    world.until_processed(601).await;
    cancel.cancel();
    second.await.unwrap().unwrap();
    let mut processed = world.processed().await;
    processed.sort();
    let mut expected = ids;
    expected.push(extra);
    expected.sort();
    assert_eq!(processed, expected);
}

#[tokio::test]
async fn workers_that_come_and_go_share_an_app_and_process_every_event_once() {
    let world = World::new().await;
    let ids: Vec<Uuid> = (0..900).map(|_| Uuid::new_v4()).collect();
    let start = || {
        let cancel = CancellationToken::new();
        let (worker, stop) = (world.worker(), cancel.clone());
        // As the stages of a pod do: what was refused to who no longer owns it is begun again.
        let name = worker.member.transactor(&world.app, process::STAGE);
        let worker = move || Worker {
            app: worker.app.clone(),
            config: Arc::clone(&worker.config),
            log: Arc::clone(&worker.log),
            seen: Arc::clone(&worker.seen),
            member: worker.member.clone(),
            metrics: Arc::clone(&worker.metrics),
        };
        let task = tokio::spawn(async move {
            while let Err(error) = process::run(worker(), stop.clone()).await {
                println!("{name}: {error:?}");
            }
        });
        (cancel, task)
    };
    world.send(&ids[..300]).await;
    let (stop_first, first) = start();
    world.until_processed(300).await;
    let (stop_second, second) = start();
    // While the group makes room for the second, with copies of what the first has seen.
    for events in ids[300..600].chunks(10) {
        world.send(events).await;
        world.send(&ids[..10]).await;
    }
    world.until_processed(600).await;
    stop_first.cancel();
    first.await.unwrap();
    // What the first processed, the second must know.
    world.send(&ids[..600]).await;
    world.send(&ids[600..]).await;
    world.until_processed(900).await;
    let last = Uuid::new_v4();
    world.send(&ids[300..]).await;
    world.send(&[last]).await;
    world.until_processed(901).await;
    stop_second.cancel();
    second.await.unwrap();
    let mut processed = world.processed().await;
    processed.sort();
    let mut expected = ids;
    expected.push(last);
    expected.sort();
    assert_eq!(processed, expected);
}

#[tokio::test]
async fn a_marker_of_a_transaction_at_the_end_is_no_lag() {
    let world = World::new().await;
    // As the replay of a dead letter does.
    let mut transactor = world.bench.log().transactor(&own("replay")).await.unwrap();
    let group = GroupHandle { name: own("replay").into(), inner: None };
    let raw = world.raw(Uuid::new_v4());
    transactor.commit(Transaction { records: vec![raw], positions: Vec::new(), group }).await.unwrap();
    let cancel = CancellationToken::new();
    let worker = tokio::spawn(process::run(world.worker(), cancel.clone()));
    world.until_processed(1).await;
    let (log, metrics) = (world.bench.shared_log(), Arc::clone(&world.bench.metrics));
    let mut lag =
        Lag::new(Arc::clone(&world.config), log, Member::new("millrace", "lag"), Arc::clone(&metrics));
    let records = metrics.stage_lag_records.with_label_values(&[&world.app.to_string(), process::STAGE]);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        lag.round().await;
        if records.get() == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "the lag is {}", records.get());
    }
    cancel.cancel();
    worker.await.unwrap().unwrap();
}
