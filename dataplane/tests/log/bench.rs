//! A log under test, its clock, and the words the tests are written in.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millrace_crds::config::Topic;
use millrace_crds::names::TopicKind;
use millrace_dataplane::log::embedded::{Clock, EmbeddedLog, Environment, Options};
use millrace_dataplane::log::memory::MemoryLog;
use millrace_dataplane::log::{
    Assigned, Commit, Committed, Consumer, Log, LogError, LogRecord, NewRecord, Polled, ReadLimits,
    TopicInfo, TopicPartition,
};
use millrace_dataplane::metrics::Metrics;

/// The topic most tests use.
pub(crate) const EVENTS: &str = "millrace.default.shop.events-raw";
/// Where the clock starts.
pub(crate) const START: i64 = 1_800_000_000_000;
/// Longer than any test should take.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Which log.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Embedded,
    Memory,
}

/// A log under test.
pub(crate) struct Bench {
    pub(crate) kind: Kind,
    pub(crate) metrics: Arc<Metrics>,
    now: Arc<AtomicI64>,
    folder: tempfile::TempDir,
    opened: Option<Opened>,
}

enum Opened {
    Embedded(Arc<EmbeddedLog>),
    Memory(Arc<MemoryLog>),
}

impl Bench {
    pub(crate) fn new(kind: Kind) -> Self {
        let mut bench = Self {
            kind,
            metrics: Arc::new(Metrics::new().unwrap()),
            now: Arc::new(AtomicI64::new(START)),
            folder: tempfile::tempdir().unwrap(),
            opened: None,
        };
        bench.opened = Some(match kind {
            Kind::Embedded => bench.open_embedded(),
            Kind::Memory => Opened::Memory(MemoryLog::with_clock(bench.clock())),
        });
        bench
    }

    fn clock(&self) -> Clock {
        let now = Arc::clone(&self.now);
        Arc::new(move || now.load(Ordering::SeqCst))
    }

    fn open_embedded(&self) -> Opened {
        let environment = Environment { clock: self.clock(), ..Environment::of_machine(self.folder.path()) };
        // Housekeeping would come between the steps of a test.
        let options = Options { housekeeping_interval: LONG, free_bytes_min: 0, ..Options::default() };
        let metrics = Arc::clone(&self.metrics);
        Opened::Embedded(EmbeddedLog::open_in(self.folder.path(), options, metrics, environment).unwrap())
    }

    /// Ends the log without closing it, and opens what it left.
    pub(crate) fn reopen(&mut self) {
        self.opened = Some(match self.opened.take().unwrap() {
            Opened::Embedded(log) => {
                drop(log);
                self.open_embedded()
            }
            Opened::Memory(log) => Opened::Memory(log.reopened().unwrap()),
        });
    }

    pub(crate) fn log(&self) -> &dyn Log {
        match self.opened.as_ref().unwrap() {
            Opened::Embedded(log) => &**log,
            Opened::Memory(log) => &**log,
        }
    }

    pub(crate) async fn ensure(&self, topics: &[Topic]) -> Vec<TopicInfo> {
        match self.opened.as_ref().unwrap() {
            Opened::Embedded(log) => log.ensure_topics(topics).await.unwrap(),
            Opened::Memory(log) => log.ensure_topics(topics).await.unwrap(),
        }
    }

    pub(crate) async fn retain(&self) -> usize {
        match self.opened.as_ref().unwrap() {
            Opened::Embedded(log) => log.enforce_retention().await.unwrap(),
            Opened::Memory(log) => log.enforce_retention().await.unwrap(),
        }
    }

    pub(crate) async fn close(&self) {
        match self.opened.as_ref().unwrap() {
            Opened::Embedded(log) => log.close().await,
            Opened::Memory(log) => log.close().await,
        }
    }

    pub(crate) fn topics(&self) -> Vec<TopicInfo> {
        match self.opened.as_ref().unwrap() {
            Opened::Embedded(log) => log.topics(),
            Opened::Memory(log) => log.topics(),
        }
    }

    pub(crate) fn tick(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    /// Appends one value to a partition of [`EVENTS`].
    pub(crate) async fn append(&self, partition: u32, value: &str) -> u64 {
        self.log().append(vec![record(partition, value)]).await.unwrap()[0]
    }

    /// Everything in a partition of [`EVENTS`] from an offset on.
    pub(crate) async fn read(&self, partition: u32, from: u64) -> Vec<LogRecord> {
        let mut records: Vec<LogRecord> = Vec::new();
        loop {
            let next = records.last().map_or(from, |last| last.offset + 1);
            let more = self.log().read(&at(partition), next, limits(1000)).await.unwrap();
            if more.is_empty() {
                return records;
            }
            records.extend(more);
        }
    }

    /// Values in a partition of [`EVENTS`].
    pub(crate) async fn values(&self, partition: u32) -> Vec<String> {
        self.read(partition, 0).await.iter().map(value).collect()
    }

    pub(crate) async fn watermarks(&self, partition: u32) -> (u64, u64) {
        let watermarks = self.log().watermarks(&at(partition)).await.unwrap();
        (watermarks.low, watermarks.high)
    }

    /// Joins a group on [`EVENTS`] and returns what it was given.
    pub(crate) async fn join(&self, group: &str) -> (Box<dyn Consumer>, Vec<Assigned>) {
        let mut consumer = self.log().subscribe(group, &[Arc::from(EVENTS)]).await.unwrap();
        let Polled::Assigned(assigned) = consumer.next(limits(1)).await.unwrap() else {
            panic!("the first thing a consumer tells is what it was given")
        };
        (consumer, assigned)
    }
}

/// The topic most tests use; the tests of other logs have one each.
pub(crate) fn events() -> &'static str {
    EVENTS
}

/// A name that no other test uses: here every test has a log of its own.
pub(crate) fn own(name: &str) -> String {
    name.to_owned()
}

/// Runs a test on both logs of one process.
pub(crate) async fn on_each(test: impl AsyncFn(&mut Bench)) {
    for kind in [Kind::Embedded, Kind::Memory] {
        let mut bench = Bench::new(kind);
        bench.ensure(&[topic(EVENTS, 2)]).await;
        test(&mut bench).await;
    }
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
    TopicPartition { topic: Arc::from(EVENTS), partition }
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
