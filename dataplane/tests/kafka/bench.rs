//! The Kafka log under test, and the words the tests shared with the other logs are written in.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millrace_crds::config::Topic;
use millrace_crds::names::TopicKind;
use millrace_crds::topics::diff;
use millrace_dataplane::log::kafka::{KafkaLog, Options};
use millrace_dataplane::log::{
    Assigned, Commit, Committed, Consumer, Log, LogError, LogRecord, NewRecord, Polled, ReadLimits,
    TopicInfo, TopicPartition,
};
use millrace_dataplane::metrics::Metrics;
use millrace_provision::kafka::{Admin, Replication, Settings};

use crate::broker;

/// Longer than any test should take.
pub(crate) const LONG: Duration = Duration::from_secs(60);

thread_local! {
    /// Each test runs on a thread of its own, and everything it names is named after that.
    static OWN: OnceCell<String> = const { OnceCell::new() };
    static EVENTS: OnceCell<&'static str> = const { OnceCell::new() };
}

/// A name that no other test uses, nor an earlier run on the same broker.
pub(crate) fn own(name: &str) -> String {
    static TESTS: AtomicU32 = AtomicU32::new(0);
    let begun = || {
        let now = jiff::Timestamp::now().as_nanosecond();
        format!("test.{now}-{}", TESTS.fetch_add(1, Ordering::Relaxed))
    };
    OWN.with(|own| format!("{}.{name}", own.get_or_init(begun)))
}

/// The topic of this test.
pub(crate) fn events() -> &'static str {
    EVENTS.with(|events| *events.get_or_init(|| Box::leak(own("events-raw").into_boxed_str())))
}

/// A log on a broker.
pub(crate) struct Bench {
    pub(crate) metrics: Arc<Metrics>,
    settings: Settings,
    options: Options,
    admin: Admin,
    log: Arc<KafkaLog>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::at(broker::shared()).await
    }

    pub(crate) async fn at(address: &str) -> Self {
        Self::with(Settings::plain(address)).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let options = Options {
            metadata_interval: Duration::from_millis(250),
            session_max: Duration::from_secs(6),
            ..Options::default()
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let admin = Admin::connect(&settings).await.unwrap();
        let log = KafkaLog::open(&settings, options.clone(), Arc::clone(&metrics)).unwrap();
        let bench = Self { metrics, settings, options, admin, log };
        bench.ensure(&[topic(events(), 2)]).await;
        bench
    }

    pub(crate) fn open(&self, options: Options) -> Arc<KafkaLog> {
        KafkaLog::open(&self.settings, options, Arc::clone(&self.metrics)).unwrap()
    }

    /// The same, under the name of a pod.
    pub(crate) fn open_as(&self, pod: &str, options: Options) -> Arc<KafkaLog> {
        let settings = Settings { client_id: pod.to_owned(), ..self.settings.clone() };
        KafkaLog::open(&settings, options, Arc::clone(&self.metrics)).unwrap()
    }

    pub(crate) fn options(&self) -> Options {
        self.options.clone()
    }

    /// Another client, as another process would have.
    pub(crate) fn reopen(&mut self) {
        self.log = self.open(self.options.clone());
    }

    pub(crate) fn log(&self) -> &dyn Log {
        &*self.log
    }

    pub(crate) fn shared_log(&self) -> Arc<KafkaLog> {
        Arc::clone(&self.log)
    }

    pub(crate) async fn ensure(&self, topics: &[Topic]) -> Vec<TopicInfo> {
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        let observed = self.admin.observe(&names).await.unwrap().into_iter().map(|found| found.topic);
        let changes = diff(&observed.collect::<Vec<_>>(), topics).unwrap();
        self.admin.carry_out(&changes, Replication { factor: 1, min_in_sync: 1 }).await.unwrap();
        let mut infos = Vec::new();
        for topic in topics {
            infos.push(self.log.topic(&topic.name).await.unwrap());
        }
        infos
    }

    pub(crate) async fn close(&self) {
        self.log.close().await;
    }

    /// Appends one value to a partition of the test's topic.
    pub(crate) async fn append(&self, partition: u32, value: &str) -> u64 {
        self.log.append(vec![record(partition, value)]).await.unwrap()[0]
    }

    /// Everything in a partition of the test's topic from an offset on.
    pub(crate) async fn read(&self, partition: u32, from: u64) -> Vec<LogRecord> {
        let mut records: Vec<LogRecord> = Vec::new();
        loop {
            let next = records.last().map_or(from, |last| last.offset + 1);
            let more = self.log.read(&at(partition), next, limits(1000)).await.unwrap();
            if more.is_empty() {
                return records;
            }
            records.extend(more);
        }
    }

    /// Values in a partition of the test's topic.
    pub(crate) async fn values(&self, partition: u32) -> Vec<String> {
        self.read(partition, 0).await.iter().map(value).collect()
    }

    pub(crate) async fn watermarks(&self, partition: u32) -> (u64, u64) {
        let watermarks = self.log.watermarks(&at(partition)).await.unwrap();
        (watermarks.low, watermarks.high)
    }

    /// Joins a group on the test's topic and waits until it has every partition.
    pub(crate) async fn join(&self, group: &str) -> (Box<dyn Consumer>, Vec<Assigned>) {
        let mut consumer = self.log.subscribe(group, &[Arc::from(events())]).await.unwrap();
        let partitions = self.log.topic(events()).await.unwrap().partitions as usize;
        let mut given = Vec::new();
        while given.len() < partitions {
            match consumer.next(ReadLimits { wait_max: LONG, ..limits(1) }).await.unwrap() {
                Polled::Assigned(assigned) => given.extend(assigned),
                other => panic!("expected all partitions first, got {other:?}"),
            }
        }
        (consumer, given)
    }
}

/// Runs a test on Kafka.
pub(crate) async fn on_each(test: impl AsyncFn(&mut Bench)) {
    let mut bench = Bench::new().await;
    test(&mut bench).await;
}

/// A topic that keeps everything.
pub(crate) fn topic(name: &str, partitions: u32) -> Topic {
    Topic {
        kind: TopicKind::EventsRaw,
        name: name.to_owned(),
        partitions,
        retention_ms: u64::MAX,
        retention_bytes: None,
    }
}

pub(crate) fn at(partition: u32) -> TopicPartition {
    TopicPartition { topic: Arc::from(events()), partition }
}

pub(crate) fn record(partition: u32, value: &str) -> NewRecord {
    NewRecord { to: at(partition), key: Bytes::new(), value: Bytes::copy_from_slice(value.as_bytes()) }
}

pub(crate) fn value(record: &LogRecord) -> String {
    String::from_utf8(record.value.to_vec()).unwrap()
}

pub(crate) fn position(partition: u32, offset: u64, metadata: &str) -> Commit {
    Commit { of: at(partition), committed: Committed { offset, metadata: metadata.to_owned() } }
}

/// At most so many records, at once.
pub(crate) fn limits(records_max: usize) -> ReadLimits {
    ReadLimits { records_max, bytes_max: 1 << 20, wait_max: Duration::ZERO }
}

/// Values of the records a consumer hands out next, with their partition.
pub(crate) async fn take(consumer: &mut Box<dyn Consumer>, records_max: usize) -> (u32, Vec<String>) {
    match consumer.next(ReadLimits { wait_max: LONG, ..limits(records_max) }).await.unwrap() {
        Polled::Records(of, records) => (of.partition, records.iter().map(value).collect()),
        other => panic!("expected records, got {other:?}"),
    }
}

pub(crate) async fn assert_idle(consumer: &mut Box<dyn Consumer>) {
    let polled = consumer.next(limits(10)).await.unwrap();
    assert!(matches!(polled, Polled::Idle), "{polled:?}");
}

/// Whether it is the error expected; panics with what came instead.
pub(crate) fn assert_error<T: std::fmt::Debug>(result: Result<T, LogError>, expected: fn(&LogError) -> bool) {
    let error = result.expect_err("it should have been refused");
    assert!(expected(&error), "{error:?}");
}
