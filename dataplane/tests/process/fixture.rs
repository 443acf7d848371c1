//! One App, its configuration and its events; a world with a log and a dedupe store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use millrace_crds::config::{
    AppConfig, DeclaredEvent, DeviceIds, Dialect, Events, Format, Ingest, Ip, OnUndeclared, Privacy,
    Property, PropertyType, Revenue, Storage, Topic, UserIds,
};
use millrace_crds::names::{AppId, TopicKind};
use millrace_dataplane::config::{App, Config, Current, PrivacyKeys};
use millrace_dataplane::log::{Log, NewRecord, TopicPartition};
use millrace_dataplane::member::Member;
use millrace_dataplane::metrics::Metrics;
use millrace_dataplane::process::seen::SeenStore;
use millrace_dataplane::process::{self, ProcessError, Worker};
use millrace_dataplane::record::{DeadLetter, DeadLetterEntry, ProcessedRecord, partition_of};
use millrace_dataplane::secret::Secret;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::memory_log::MemoryLog;

pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const RAW_PARTITIONS: u32 = 4;

pub(crate) fn app_id() -> AppId {
    AppId::new("default", "shop").unwrap()
}

pub(crate) fn topic(kind: TopicKind) -> String {
    app_id().topic("millrace", kind)
}

/// Undeclared events are kept; `purchase` needs an `order_id` and a `price`, and may have more.
pub(crate) fn app_config() -> AppConfig {
    let partitions = |kind| match kind {
        TopicKind::EventsRaw => RAW_PARTITIONS,
        TopicKind::EventsProcessed => 2,
        _ => 1,
    };
    let topics = TopicKind::ALL.map(|kind| Topic {
        kind,
        name: topic(kind),
        partitions: partitions(kind),
        retention_ms: 7 * DAY_MS,
        retention_bytes: None,
    });
    AppConfig {
        format: Format::V1,
        app: app_id(),
        ingest: Ingest {
            dialects: BTreeSet::from([Dialect::Native]),
            write_keys: BTreeMap::new(),
            rate_limit: None,
            max_body_bytes: 1 << 20,
            max_event_bytes: 1 << 16,
            max_batch_events: 1000,
            trust_forwarded_client: false,
        },
        events: events(),
        privacy: Privacy {
            user_ids: UserIds::Keep,
            device_ids: DeviceIds::Keep,
            ip: Ip::Keep,
            fields: Vec::new(),
            required_consent: BTreeSet::new(),
        },
        storage: Storage {
            database: "millrace_default__shop".to_owned(),
            retention_seconds: 730 * 24 * 3600,
            schema_hash: "0".to_owned(),
        },
        topics: topics.to_vec(),
        integrations: BTreeMap::new(),
    }
}

fn events() -> Events {
    let property = |name: &str, kind, required| (name.to_owned(), Property { kind, required });
    let purchase = BTreeMap::from([
        property("order_id", PropertyType::String, true),
        property("price", PropertyType::Decimal, true),
        property("items", PropertyType::Integer, false),
        property("gift", PropertyType::Boolean, false),
    ]);
    Events {
        on_undeclared: OnUndeclared::Keep,
        declared: BTreeMap::from([("purchase".to_owned(), DeclaredEvent { properties: purchase })]),
        revenue: Some(Revenue {
            property: "price".to_owned(),
            currency_property: Some("currency".to_owned()),
        }),
        conversions: BTreeSet::from(["purchase".to_owned()]),
        dedupe_window_ms: DAY_MS,
    }
}

pub(crate) fn config(app: AppConfig) -> Config {
    let keys = PrivacyKeys { epoch: 1, hash: Secret::new([0; 32]), encrypt: Secret::new([0; 64]) };
    Config::build(vec![(app, keys)], Vec::new(), Secret::new(Vec::new())).unwrap()
}

pub(crate) fn app(app: AppConfig) -> Arc<App> {
    Arc::clone(config(app).app(&app_id()).unwrap())
}

/// A raw record as JSON, for a change here and there.
pub(crate) fn raw_json(event_id: Uuid, event_type: &str, timestamp: i64, event_data: &Value) -> Value {
    json!({
        "v": 1,
        "event": {
            "event_id": event_id, "event_type": event_type, "timestamp": timestamp,
            "received_at": timestamp, "user_id": "ann", "event_data": event_data,
        },
        "origin": {"instance": "test", "minute": timestamp / 60_000},
    })
}

/// A log, a dedupe store and a configuration, with a worker that can be started and stopped.
pub(crate) struct World {
    pub(crate) log: MemoryLog,
    pub(crate) config: Current,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) dir: TempDir,
    pub(crate) now: i64,
}

/// A worker at work.
pub(crate) struct Running {
    cancel: CancellationToken,
    task: JoinHandle<Result<(), ProcessError>>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }

    pub(crate) async fn ended(self) -> Result<(), ProcessError> {
        self.task.await.unwrap()
    }

    /// Ends it like a kill does: at an await, without a farewell.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

impl World {
    pub(crate) fn new(app: AppConfig) -> Self {
        let topics: Vec<_> = app.topics.iter().map(|topic| (topic.name.clone(), topic.partitions)).collect();
        let now = jiff::Timestamp::now().as_millisecond();
        Self {
            log: MemoryLog::new(&topics, now),
            config: Arc::new(ArcSwap::from_pointee(config(app))),
            metrics: Arc::new(Metrics::new().unwrap()),
            dir: TempDir::new().unwrap(),
            now,
        }
    }

    pub(crate) fn set_config(&self, app: AppConfig) {
        self.config.store(Arc::new(config(app)));
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.dir.path().join("seen")
    }

    pub(crate) fn shared_log(&self) -> Arc<dyn Log> {
        Arc::new(self.log.clone())
    }

    pub(crate) fn start(&self) -> Running {
        let worker = Worker {
            app: app_id(),
            config: Arc::clone(&self.config),
            log: self.shared_log(),
            seen: Arc::new(SeenStore::open(&self.store_path()).unwrap()),
            member: Member::only(),
            metrics: Arc::clone(&self.metrics),
        };
        let cancel = CancellationToken::new();
        let task = tokio::spawn(process::run(worker, cancel.clone()));
        Running { cancel, task }
    }

    /// Appends an event to raw as ingest would.
    pub(crate) fn send(&self, event_id: Uuid, event_type: &str, event_data: &Value) -> u64 {
        self.send_record(event_id, &raw_json(event_id, event_type, self.now, event_data))
    }

    pub(crate) fn send_record(&self, key: Uuid, record: &Value) -> u64 {
        self.send_bytes(key.as_bytes(), serde_json::to_vec(record).unwrap())
    }

    pub(crate) fn send_bytes(&self, key: &[u8], value: Vec<u8>) -> u64 {
        let to = TopicPartition {
            topic: topic(TopicKind::EventsRaw).into(),
            partition: partition_of(key, RAW_PARTITIONS),
        };
        self.log.put(NewRecord { to, key: Bytes::copy_from_slice(key), value: value.into() })
    }

    pub(crate) async fn until_consumed(&self) {
        self.log
            .until_consumed(&Member::only().group(&app_id(), process::STAGE), &topic(TopicKind::EventsRaw))
            .await;
    }

    /// Runs a worker until everything in raw is consumed.
    pub(crate) async fn process_all(&self) {
        let running = self.start();
        self.until_consumed().await;
        running.stop().await;
    }

    pub(crate) fn processed(&self) -> Vec<ProcessedRecord> {
        let records = self.log.records(&topic(TopicKind::EventsProcessed));
        records.iter().map(|(_, record)| serde_json::from_slice(&record.value).unwrap()).collect()
    }

    /// How often each event was processed.
    pub(crate) fn processed_ids(&self) -> BTreeMap<Uuid, usize> {
        let mut ids = BTreeMap::new();
        for record in self.processed() {
            *ids.entry(record.event.event_id).or_default() += 1;
        }
        ids
    }

    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter> {
        let records = self.log.records(&topic(TopicKind::DeadLetters));
        let letters =
            records.iter().filter_map(|(_, record)| match DeadLetterEntry::parse(&record.value).unwrap() {
                DeadLetterEntry::DeadLetter(letter) => Some(*letter),
                DeadLetterEntry::Replayed(_) => None,
            });
        letters.collect()
    }

    pub(crate) fn outcome_count(&self, outcome: &str) -> u64 {
        self.metrics.process_events.with_label_values(&["default/shop", outcome]).get()
    }
}

/// A valid purchase.
pub(crate) fn purchase() -> Value {
    json!({"order_id": "o-1", "price": 19.99, "currency": "eur"})
}
