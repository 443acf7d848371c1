use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use millrace_crds::compile::{AppInput, Installation, WRITE_KEY_DEFAULT, compile_app};
use millrace_crds::config::AppConfig;
use prometheus::core::Collector;

use super::*;
use crate::config::{Config, PrivacyKeys};
use crate::log::memory::{Call, MemoryLog, Reaction};
use crate::log::{Commit, Committed, Consumer, NewRecord, Polled};
use crate::secret::Secret;

const STAGES: [&str; 4] = ["process", "load", "load-dead-letters", "load-ledger"];

struct World {
    log: Arc<MemoryLog>,
    now_ms: Arc<AtomicI64>,
    app: AppConfig,
    config: Current,
    metrics: Arc<Metrics>,
    lag: Lag,
}

impl World {
    async fn new() -> Self {
        let now_ms = Arc::new(AtomicI64::new(Timestamp::now().as_millisecond()));
        let clock = Arc::clone(&now_ms);
        let log = MemoryLog::with_clock(Arc::new(move || clock.load(Ordering::SeqCst)));
        let app = app();
        log.ensure_topics(&app.topics).await.unwrap();
        let config: Current = Arc::new(ArcSwap::from_pointee(config(Some(app.clone()))));
        let metrics = Arc::new(Metrics::new().unwrap());
        let member = Member::only();
        let lag = Lag::new(Arc::clone(&config), Arc::clone(&log) as _, member, Arc::clone(&metrics));
        Self { log, now_ms, app, config, metrics, lag }
    }

    fn topic(&self, kind: TopicKind) -> &str {
        &self.app.topics.iter().find(|topic| topic.kind == kind).unwrap().name
    }

    /// Appends to a partition, as long ago.
    async fn append(&self, kind: TopicKind, partition: u32, seconds_ago: i64) {
        let now = Timestamp::now().as_millisecond();
        self.now_ms.store(now - seconds_ago * 1000, Ordering::SeqCst);
        let to = TopicPartition { topic: self.topic(kind).into(), partition };
        self.log.append(vec![NewRecord { to, key: Bytes::new(), value: "v".into() }]).await.unwrap();
    }

    /// Joins the group of a stage, commits a position, and leaves.
    async fn commit(&self, stage: &str, kind: TopicKind, partition: u32, offset: u64) {
        let group = Member::only().group(&self.app.app, stage);
        let topic: Arc<str> = self.topic(kind).into();
        let mut consumer: Box<dyn Consumer> =
            self.log.subscribe(&group, &[Arc::clone(&topic)]).await.unwrap();
        assert!(matches!(consumer.next(ReadLimits::PEEK).await.unwrap(), Polled::Assigned(_)));
        let of = TopicPartition { topic, partition };
        let committed = Committed { offset, metadata: String::new() };
        consumer.commit(vec![Commit { of, committed }]).await.unwrap();
    }

    /// Records and whole seconds that are told of a stage; `None` if nothing is.
    fn told(&self, stage: &str) -> Option<(i64, i64)> {
        let of = |collector: &dyn Collector| {
            let families = collector.collect();
            let is_it = |metric: &&prometheus::proto::Metric| {
                metric.get_label().iter().any(|label| label.name() == "stage" && label.value() == stage)
            };
            let metric = families.first()?.get_metric().iter().find(is_it)?;
            Some(metric.get_gauge().get_value() as i64)
        };
        of(&self.metrics.stage_lag_records).zip(of(&self.metrics.stage_lag_seconds))
    }
}

/// An App as it is by default.
fn app() -> AppConfig {
    let digests = [(WRITE_KEY_DEFAULT.to_owned(), "ab".repeat(32))].into();
    let input = AppInput {
        id: &AppId::new("default", "shop").unwrap(),
        spec: &serde_json::from_str("{}").unwrap(),
        integrations: &[],
        key_digests: &digests,
        installation: &Installation::cluster(),
    };
    compile_app(&input).unwrap()
}

fn config(app: Option<AppConfig>) -> Config {
    let keys = || PrivacyKeys { epoch: 1, hash: Secret::new([1; 32]), encrypt: Secret::new([2; 64]) };
    let apps = app.into_iter().map(|app| (app, keys())).collect();
    Config::build(apps, Vec::new(), Secret::new(b"pepper".to_vec())).unwrap()
}

#[tokio::test]
async fn every_stage_is_told_and_none_is_behind_where_nothing_came() {
    let mut world = World::new().await;
    world.lag.round().await;
    for stage in STAGES {
        assert_eq!(world.told(stage), Some((0, 0)), "{stage}");
    }
}

#[tokio::test]
async fn records_of_partitions_without_an_owner_count_until_they_are_passed() {
    let mut world = World::new().await;
    world.append(TopicKind::EventsRaw, 3, 50).await;
    world.append(TopicKind::EventsRaw, 3, 40).await;
    world.append(TopicKind::EventsRaw, 7, 20).await;
    world.append(TopicKind::EventsProcessed, 0, 10).await;
    // Nobody was ever a member of any group.
    world.lag.round().await;
    assert_eq!(world.told("process"), Some((3, 50)));
    assert_eq!(world.told("load"), Some((1, 10)));
    assert_eq!(world.told("load-dead-letters"), Some((0, 0)));

    // A member passed two of them and is gone.
    world.commit("process", TopicKind::EventsRaw, 3, 2).await;
    world.lag.round().await;
    assert_eq!(world.told("process"), Some((1, 20)));
    world.commit("process", TopicKind::EventsRaw, 7, 1).await;
    world.lag.round().await;
    assert_eq!(world.told("process"), Some((0, 0)));
}

#[tokio::test]
async fn what_cannot_be_found_out_or_is_withdrawn_is_not_told_any_more() {
    let mut world = World::new().await;
    world.append(TopicKind::EventsRaw, 0, 5).await;
    world.lag.round().await;
    assert!(world.told("process").is_some());
    world.log.script(Call::Read, 1, Reaction::Fail(LogError::QueueFull));
    world.lag.round().await;
    assert_eq!(world.told("process"), None);
    assert_eq!(world.told("load"), Some((0, 0)), "what went well is told");
    world.lag.round().await;
    assert!(world.told("process").is_some(), "and it comes back");

    world.config.store(Arc::new(config(None)));
    world.lag.round().await;
    for stage in STAGES {
        assert_eq!(world.told(stage), None, "{stage}");
    }
}
