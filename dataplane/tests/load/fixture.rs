//! An App with its own database, events for it, and a loader over a scripted log.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use millrace_crds::config::{
    AppConfig, DeclaredEvent, DeviceIds, Events, Format, Ingest, Ip, OnUndeclared, Privacy, Property,
    PropertyType, Storage, Topic, UserIds,
};
use millrace_crds::names::{AppId, TopicKind};
use millrace_crds::schema::{self, Owner, Schema};
use millrace_dataplane::config::{Config, Current, PrivacyKeys};
use millrace_dataplane::load::target::Target;
use millrace_dataplane::load::{self, Loader, block::Limits};
use millrace_dataplane::member::Member;
use millrace_dataplane::metrics::Metrics;
use millrace_dataplane::record::{self, Derived, Event, Origin, ProcessedRecord, RECORD_VERSION};
use millrace_dataplane::secret::Secret;
use millrace_dataplane::store::{ClickHouse, QueryLimits, Question};
use millrace_provision::clickhouse;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::engine;
use crate::log::{Handle, ScriptedLog};

pub(crate) const PARTITIONS: u32 = 2;

/// An App of a test: its database bears the test's name.
pub(crate) struct Fixture {
    pub(crate) database: String,
    pub(crate) config: Current,
    pub(crate) log: Arc<ScriptedLog>,
    target: Target,
    pub(crate) metrics: Arc<Metrics>,
    store: ClickHouse,
}

impl Fixture {
    /// With a fresh database and the schema applied.
    pub(crate) async fn new(test: &str) -> Self {
        Self::at(test, engine::store()).await
    }

    /// On a ClickHouse of its own.
    pub(crate) async fn at(test: &str, store: ClickHouse) -> Self {
        Self::of(Target::Events, test, store).await
    }

    /// Whose log is the topic of that target.
    pub(crate) async fn of(target: Target, test: &str, store: ClickHouse) -> Self {
        let database = format!("test_{test}");
        drop_database(&store, &database).await;
        let fixture = Self {
            config: Arc::new(ArcSwap::from_pointee(Config::empty())),
            log: ScriptedLog::new(&topic(target.topic()).name, PARTITIONS),
            target,
            metrics: Arc::new(Metrics::new().unwrap()),
            database,
            store,
        };
        fixture.declare(&[]).await;
        fixture
    }

    /// Applies the schema for these properties, then puts the configuration into force.
    pub(crate) async fn declare(&self, properties: &[(&str, PropertyType)]) {
        let app = app_config(&self.database, properties);
        let desired = schema::of_app(&app);
        clickhouse::apply(&self.store.client(), &desired, &owner("u1")).await.unwrap();
        let keys = PrivacyKeys { epoch: 1, hash: Secret::new([0; 32]), encrypt: Secret::new([0; 64]) };
        let config = Config::build(vec![(app, keys)], vec![], Secret::new(vec![])).unwrap();
        self.config.store(Arc::new(config));
    }

    /// Appends events `from..to`, each with its own id, over partitions, hours, users and currencies.
    pub(crate) fn push(&self, ids: std::ops::Range<u64>) {
        for id in ids {
            let partition = u32::try_from(id % u64::from(PARTITIONS)).unwrap();
            self.log.push(partition, serde_json::to_vec(&record(id)).unwrap());
        }
    }

    pub(crate) fn loader(&self, store: ClickHouse) -> Loader {
        Loader {
            app: app_id(),
            target: self.target,
            config: Arc::clone(&self.config),
            log: Arc::new(Handle(Arc::clone(&self.log))),
            store,
            member: Member::only(),
            metrics: Arc::clone(&self.metrics),
            limits: Limits { rows_max: 20, age_max: Duration::from_millis(30), ..Limits::default() },
        }
    }

    /// Runs a loader until every partition has loaded what was pushed as `count` events.
    pub(crate) async fn load_all(&self, store: ClickHouse, count: u64) {
        let cancel = CancellationToken::new();
        let running = tokio::spawn(load::run(self.loader(store), cancel.clone()));
        for partition in 0..PARTITIONS {
            self.log.loaded_up_to(partition, count / u64::from(PARTITIONS)).await;
        }
        cancel.cancel();
        running.await.unwrap().unwrap();
    }

    /// Every event is there once, and every rollup says what a recount says.
    pub(crate) async fn assert_stored_once(&self, count: u64) {
        let counts: Counts =
            self.one("SELECT count() AS rows, uniqExact(event_id) AS ids FROM {db:Identifier}.events").await;
        assert_eq!(counts, Counts { rows: count, ids: count });
        let sum: Sum = self
            .one("SELECT sumWithOverflow(xxh3(toString(event_id))) AS ids FROM {db:Identifier}.events")
            .await;
        let expected = (0..count).map(|id| record::event_hash(&event_id(id))).fold(0, u64::wrapping_add);
        assert_eq!(sum.ids, expected, "the ids themselves");
        for (recounted, rolled_up) in ROLLUPS {
            let recounted: Vec<serde_json::Value> = self.all(recounted).await;
            let rolled_up: Vec<serde_json::Value> = self.all(rolled_up).await;
            assert!(!recounted.is_empty());
            assert_eq!(rolled_up, recounted);
        }
    }

    /// What the App's database has to be.
    pub(crate) fn schema(&self) -> Schema {
        schema::of_app(&app_config(&self.database, &[]))
    }

    pub(crate) async fn one<T: for<'de> Deserialize<'de>>(&self, sql: &str) -> T {
        self.all(sql).await.pop().unwrap()
    }

    pub(crate) async fn all<T: for<'de> Deserialize<'de>>(&self, sql: &str) -> Vec<T> {
        let params = [("db", self.database.clone())];
        self.store.rows(Question { sql, params: &params }, QueryLimits::default()).await.unwrap()
    }

    /// Value of `load_inserts_total` for an outcome.
    pub(crate) fn inserts(&self, outcome: &str) -> u64 {
        self.metrics.load_inserts.with_label_values(&["default/shop", self.target.table(), outcome]).get()
    }

    /// Value of `load_findings_total` for a finding.
    pub(crate) fn findings(&self, finding: &str) -> u64 {
        self.metrics.load_findings.with_label_values(&["default/shop", self.target.table(), finding]).get()
    }

    /// The topic is deleted and another of its name is made.
    pub(crate) fn make_topic_anew(&mut self) {
        self.log = ScriptedLog::new(&topic(self.target.topic()).name, PARTITIONS);
    }

    pub(crate) fn stopped_partitions(&self) -> i64 {
        self.metrics.load_stopped_partitions.with_label_values(&["default/shop", self.target.table()]).get()
    }
}

#[derive(Debug, PartialEq, Deserialize)]
struct Counts {
    rows: u64,
    ids: u64,
}

#[derive(Deserialize)]
struct Sum {
    ids: u64,
}

const ROLLUPS: [(&str, &str); 2] = [
    (
        "SELECT toStartOfHour(timestamp) AS hour, currency, count() AS events, uniqExact(user_key) AS users, \
         sum(ifNull(revenue, 0)) AS revenue, countIf(is_conversion) AS conversions, \
         uniqExactIf(user_key, is_conversion) AS converted_users \
         FROM {db:Identifier}.events GROUP BY hour, currency ORDER BY hour, currency",
        "SELECT hour, currency, sum(events) AS events, uniqMerge(users) AS users, sum(revenue) AS revenue, \
         sum(conversions) AS conversions, uniqMerge(converted_users) AS converted_users \
         FROM {db:Identifier}.dashboard_stats GROUP BY hour, currency ORDER BY hour, currency",
    ),
    (
        "SELECT user_key, toDate(timestamp) AS day, min(timestamp) AS first_seen \
         FROM {db:Identifier}.events GROUP BY user_key, day ORDER BY user_key, day",
        "SELECT user_key, day, min(first_seen) AS first_seen \
         FROM {db:Identifier}.user_retention GROUP BY user_key, day ORDER BY user_key, day",
    ),
];

pub(crate) fn app_id() -> AppId {
    AppId::new("default", "shop").unwrap()
}

pub(crate) fn owner(uid: &str) -> Owner {
    let text = |text: &str| text.to_owned();
    Owner { cluster: text("test"), namespace: text("default"), app: text("shop"), uid: text(uid) }
}

pub(crate) async fn drop_database(store: &ClickHouse, database: &str) {
    let drop = format!("DROP DATABASE IF EXISTS {}", schema::identifier(database));
    store.client().query_raw(&drop).execute().await.unwrap();
}

pub(crate) fn event_id(id: u64) -> Uuid {
    Uuid::from_u128(0x1000 + u128::from(id))
}

/// Events spread over three months, ten users and two currencies; every fifth is a purchase.
pub(crate) fn record(id: u64) -> ProcessedRecord {
    let purchase = id.is_multiple_of(5);
    let hour_ms = 3_600_000;
    let timestamp = 1_760_000_000_000 + i64::try_from(id).unwrap() * 13 * hour_ms;
    let event: Event = serde_json::from_value(serde_json::json!({
        "event_id": event_id(id),
        "event_type": if purchase { "purchase" } else { "view" },
        "timestamp": timestamp,
        "received_at": timestamp,
        "user_id": format!("user-{}", id % 10),
        "event_data": {"colour": "red", "size": id},
    }))
    .unwrap();
    let derived = Derived {
        created_at: timestamp,
        user_key: record::user_key(&event),
        platform: "web".to_owned(),
        browser: String::new(),
        os: String::new(),
        device_type: String::new(),
        revenue: purchase.then(|| "19.99".to_owned()),
        currency: if purchase {
            ["EUR", "USD"][usize::from(id.is_multiple_of(2))].to_owned()
        } else {
            String::new()
        },
        is_conversion: purchase,
    };
    let origin = Origin { instance: "i".to_owned(), minute: 0, replay: 0 };
    ProcessedRecord { v: RECORD_VERSION, event, origin, derived }
}

pub(crate) fn app_config(database: &str, properties: &[(&str, PropertyType)]) -> AppConfig {
    let events = events(properties);
    let retention_seconds = 20 * 365 * 86_400;
    let schema_hash = schema::desired(database, &events, retention_seconds).hash();
    AppConfig {
        format: Format::V1,
        app: app_id(),
        ingest: Ingest {
            dialects: [].into(),
            write_keys: [].into(),
            rate_limit: None,
            max_body_bytes: 1,
            max_event_bytes: 1,
            max_batch_events: 1,
            trust_forwarded_client: false,
        },
        events,
        privacy: Privacy {
            user_ids: UserIds::Keep,
            device_ids: DeviceIds::Keep,
            ip: Ip::Keep,
            fields: vec![],
            required_consent: [].into(),
        },
        storage: Storage { database: database.to_owned(), retention_seconds, schema_hash },
        topics: Target::ALL.map(|target| topic(target.topic())).into(),
        integrations: [].into(),
    }
}

fn topic(kind: TopicKind) -> Topic {
    let name = app_id().topic("millrace", kind);
    Topic { kind, name, partitions: PARTITIONS, retention_ms: 1, retention_bytes: None }
}

pub(crate) fn events(properties: &[(&str, PropertyType)]) -> Events {
    let properties = properties
        .iter()
        .map(|&(name, kind)| (name.to_owned(), Property { kind, required: false }))
        .collect();
    Events {
        on_undeclared: OnUndeclared::Keep,
        declared: [("view".to_owned(), DeclaredEvent { properties })].into(),
        revenue: None,
        conversions: ["purchase".to_owned()].into(),
        dedupe_window_ms: 1,
    }
}
