//! Events in a log in memory and a ClickHouse that takes everything in, what the loader uses of a processor out, beside what
//! its three steps use by themselves. All on one thread, whose time on a processor is what is counted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use bytes::Bytes;
use millrace_crds::config::AppConfig;
use millrace_crds::names::TopicKind;
use millrace_dataplane::config::{Config, Current, PrivacyKeys};
use millrace_dataplane::load::block::{Limits, Waiting};
use millrace_dataplane::load::native::Native;
use millrace_dataplane::load::row::{Encoder, Position};
use millrace_dataplane::load::target::Target;
use millrace_dataplane::load::{self, Loader};
use millrace_dataplane::log::memory::MemoryLog;
use millrace_dataplane::log::{Log, LogRecord, NewRecord, Polled, ReadLimits, TopicPartition};
use millrace_dataplane::member::Member;
use millrace_dataplane::metrics::Metrics;
use millrace_dataplane::secret::Secret;
use millrace_dataplane::store::{ClickHouse, Endpoint};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::sink::Sink;

/// An App that declares nothing.
const APP: &str = include_str!("../../../crds/tests/golden/v1-minimal-hello.json");
/// As the loader reads.
const READ: ReadLimits =
    ReadLimits { records_max: 10_000, bytes_max: 4 << 20, wait_max: Duration::from_millis(10) };
/// Records appended at once.
const APPEND: usize = 1_000;
/// Pause between two looks at how far the loader is.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// µs on a processor per event.
pub(super) struct Cost {
    pub(super) consume: f64,
    pub(super) decode: f64,
    pub(super) encode: f64,
    pub(super) loader: f64,
}

/// Measures the parts, then the whole.
pub(super) fn measure(events: u64) -> Result<Cost> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measured(events))
}

async fn measured(events: u64) -> Result<Cost> {
    let app: AppConfig = serde_json::from_str(APP)?;
    let log = MemoryLog::new();
    log.ensure_topics(&app.topics).await?;
    let topic =
        app.topics.iter().find(|topic| topic.kind == TopicKind::EventsProcessed).context("a topic")?;
    let (name, partitions): (Arc<str>, _) = (Arc::from(topic.name.as_str()), topic.partitions);
    fill(log.as_ref(), &name, partitions, events).await?;

    let mut watch = Watch::start();
    let read = consume(log.as_ref(), &name, events).await?;
    let consume = watch.lap(events);
    let decoded: Vec<Waiting> =
        read.into_iter().map(|record| Target::Events.decode(record)).collect::<Result<_, _>>()?;
    let decode = watch.lap(events);
    encode(&app, &decoded);
    let encode = watch.lap(events);
    drop(decoded);

    let sink = Sink::start()?;
    watch.lap(events);
    load(app, Arc::clone(&log), &sink, events).await?;
    Ok(Cost { consume, decode, encode, loader: watch.lap(events) })
}

/// Like what clients send: some 600 bytes each as they stand in the log.
async fn fill(log: &dyn Log, topic: &Arc<str>, partitions: u32, events: u64) -> Result<()> {
    let mut batch = Vec::with_capacity(APPEND);
    for id in 0..events {
        let timestamp = 1_790_000_000_000 + i64::try_from(id)?;
        let kind = ["page_view", "click", "search"][usize::try_from(id % 3)?];
        let record = json!({
            "v": 1,
            "event": {
                "event_id": Uuid::from_u128(u128::from(id) * 0x9e37_79b9_7f4a_7c15_f39c_c060),
                "event_type": kind,
                "timestamp": timestamp,
                "received_at": timestamp,
                "user_id": format!("{:032x}", id % 10_007),
                "session_id": format!("session-{}", id % 5_003),
                "platform": "web",
                "app_version": "4.12.0",
                "event_data": {"path": format!("/products/{}", id % 501), "position": id % 17, "list": "search results",
                    "query": "red shoes", "experiment": "b", "elapsed_ms": id % 997},
            },
            "origin": {"instance": "ingest-0", "minute": 29_833_333, "replay": 0},
            "derived": {"created_at": timestamp, "user_key": id % 10_007, "platform": "web", "browser": "Firefox",
                "os": "Linux", "device_type": "desktop", "revenue": null, "currency": "", "is_conversion": false},
        });
        let to = TopicPartition { topic: Arc::clone(topic), partition: u32::try_from(id)? % partitions };
        batch.push(NewRecord { to, key: Bytes::new(), value: serde_json::to_vec(&record)?.into() });
        if batch.len() == APPEND || id + 1 == events {
            log.append(std::mem::take(&mut batch)).await?;
        }
    }
    Ok(())
}

async fn consume(log: &dyn Log, topic: &Arc<str>, events: u64) -> Result<Vec<LogRecord>> {
    let mut consumer = log.subscribe("bare", &[Arc::clone(topic)]).await?;
    let mut read = Vec::with_capacity(usize::try_from(events)?);
    while (read.len() as u64) < events {
        match consumer.next(READ).await? {
            Polled::Assigned(assigned) => {
                for one in assigned {
                    consumer.seek(&one.partition, 0).await?;
                }
            }
            Polled::Records(_, records) => read.extend(records),
            Polled::Revoked(_) | Polled::Idle => {}
        }
    }
    Ok(read)
}

/// In blocks as large as the loader makes them.
fn encode(app: &AppConfig, decoded: &[Waiting]) {
    let encoder = Encoder::new(Target::Events, app);
    for block in decoded.chunks(Limits::default().rows_max) {
        let mut out = Native::new(encoder.columns());
        for waiting in block {
            let position = Position { epoch: 1, partition: 0, offset: waiting.offset };
            encoder.encode(&waiting.record, position, &mut out);
        }
        std::hint::black_box(out.into_bytes());
    }
}

async fn load(app: AppConfig, log: Arc<MemoryLog>, sink: &Sink, events: u64) -> Result<()> {
    let id = app.app.clone();
    let topics: Vec<_> = app.topics.iter().filter(|topic| topic.kind == TopicKind::EventsProcessed).collect();
    let topic = topics.first().context("a topic")?;
    let partitions: Vec<TopicPartition> = (0..topic.partitions)
        .map(|partition| TopicPartition { topic: Arc::from(topic.name.as_str()), partition })
        .collect();
    let keys = PrivacyKeys { epoch: 1, hash: Secret::new([0; 32]), encrypt: Secret::new([0; 64]) };
    let config: Current = Arc::new(ArcSwap::from_pointee(Config::empty()));
    config.store(Arc::new(Config::build(vec![(app, keys)], vec![], Secret::new(vec![]))?));
    let member = Member::only();
    let group = member.group(&id, Target::Events.stage());
    let endpoint = Endpoint { url: sink.url(), user: "default".to_owned(), password: None };
    let loader = Loader {
        app: id,
        target: Target::Events,
        config,
        log: Arc::clone(&log) as Arc<dyn Log>,
        store: ClickHouse::new(endpoint),
        member,
        metrics: Arc::new(Metrics::new()?),
        limits: Limits::default(),
    };
    let cancel = CancellationToken::new();
    let running = tokio::spawn(load::run(loader, cancel.clone()));
    loop {
        let standing = log.committed(&group, &partitions).await?;
        let loaded: u64 =
            standing.into_iter().flatten().filter(|at| at.metadata.is_empty()).map(|at| at.offset).sum();
        if loaded >= events {
            break;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    cancel.cancel();
    Ok(running.await??)
}

/// Time of this thread on a processor.
struct Watch {
    at: Duration,
}

impl Watch {
    fn start() -> Self {
        Self { at: Self::read() }
    }

    /// µs per event since the last call.
    fn lap(&mut self, events: u64) -> f64 {
        let before = std::mem::replace(&mut self.at, Self::read());
        (self.at - before).as_secs_f64() * 1e6 / events as f64
    }

    fn read() -> Duration {
        let at = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(at.tv_sec.unsigned_abs(), u32::try_from(at.tv_nsec).unwrap_or(0))
    }
}
