//! The log on Kafka: the traits of `log` in, the client library's calls out. Topics are made elsewhere
//! (`millrace_provision::kafka`); a topic that does not exist is refused, never made.
//!
//! What Kafka has of its own: transactions leave gaps between offsets; partitions of a group are shared among its
//! members, so a second member takes over some of them instead of all; a member's place is lost when it does not
//! call `next` for [`Options::batch_max`]; an offset behind the end is an error instead of silence.

mod append;
mod consumer;
mod error;
mod group;
mod handover;
mod member;
mod reader;
mod topics;
mod transactor;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use millrace_provision::kafka::{Admin, KafkaError, RECORD_BYTES_MAX, Settings};
use rdkafka::ClientConfig;

use self::append::Appender;
use self::consumer::{Joining, KafkaConsumer};
use self::error::{panicked, unavailable};
use self::reader::Readers;
use self::topics::Topics;
use self::transactor::KafkaTransactor;
use crate::log::{
    Committed, Consumer, Log, LogError, LogRecord, NewRecord, ReadLimits, TopicInfo, TopicPartition,
    Transactor, Watermarks,
};
use crate::metrics::Metrics;

/// Room for a record's frame beside its largest key and value.
const FRAME_BYTES: usize = 4096;
/// Longest wait for records on their way when the log is closed.
const FLUSH_MAX: Duration = Duration::from_secs(10);

/// How the client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most bytes waiting for acknowledgement; beyond it appends are refused at once.
    pub queue_bytes_max: usize,
    /// How long a record waits for others of its batch: latency against batch size.
    pub linger: Duration,
    /// Longest wait for the acknowledgement of a record; then it may or may not be there.
    pub append_max: Duration,
    /// What a member of a group fetches ahead, in KiB.
    pub prefetch_kilobytes: u32,
    /// How long the group waits for a member that is silent, one that died without a word too.
    pub session_max: Duration,
    /// How long a member may work between two calls of `next`.
    pub batch_max: Duration,
    /// How soon members notice new partitions.
    pub metadata_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 << 20,
            linger: Duration::from_millis(2),
            append_max: Duration::from_secs(20),
            prefetch_kilobytes: 16 * 1024,
            session_max: Duration::from_secs(15),
            batch_max: Duration::from_secs(300),
            metadata_interval: Duration::from_secs(30),
        }
    }
}

/// The log on Kafka.
pub struct KafkaLog {
    base: ClientConfig,
    options: Options,
    topics: Arc<Topics>,
    appender: Arc<Appender>,
    readers: Arc<Readers>,
    metrics: Arc<Metrics>,
    is_closed: Arc<AtomicBool>,
}

impl KafkaLog {
    /// Makes the clients. No broker is asked yet: while none answers, calls fail with
    /// [`LogError::Unavailable`], and succeed when one does.
    pub fn open(settings: &Settings, options: Options, metrics: Arc<Metrics>) -> Result<Arc<Self>, LogError> {
        let opened =
            |source: KafkaError| LogError::Open { path: settings.brokers.clone(), source: Box::new(source) };
        let made = |source| opened(KafkaError::Failed { step: "set up a client", source });
        let base = settings.client_config().map_err(|source| opened(KafkaError::Settings { source }))?;
        let admin = Admin::lazy(settings).map_err(opened)?;
        let producing = producing(&base, &options);
        let appender =
            Appender::new(producing, options.queue_bytes_max, Arc::clone(&metrics)).map_err(made)?;
        Ok(Arc::new(Self {
            readers: Arc::new(Readers::new(base.clone()).map_err(made)?),
            topics: Arc::new(Topics::new(admin)),
            appender: Arc::new(appender),
            base,
            options,
            metrics,
            is_closed: Arc::default(),
        }))
    }

    /// Takes nothing more, and waits until what it took is acknowledged.
    pub async fn close(&self) {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.readers.close();
        let appender = Arc::clone(&self.appender);
        if let Err(error) = tokio::task::spawn_blocking(move || appender.flush(FLUSH_MAX)).await {
            tracing::error!(error = &error as &dyn std::error::Error, "closing the log panicked");
        }
    }

    fn check_open(&self) -> Result<(), LogError> {
        if self.is_closed.load(Ordering::Acquire) { Err(LogError::Closed) } else { Ok(()) }
    }

    fn joining(&self, group: &str) -> Joining {
        let Options { prefetch_kilobytes, session_max, batch_max, metadata_interval, .. } = &self.options;
        let mut config = self.base.clone();
        config
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            // Never with `group.instance.id`: see "Workers join their groups anew" in ARCHITECTURE.md.
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", milliseconds(*session_max))
            .set("heartbeat.interval.ms", milliseconds(*session_max / 10))
            .set("max.poll.interval.ms", milliseconds((*batch_max).max(*session_max)))
            .set("topic.metadata.refresh.interval.ms", milliseconds(*metadata_interval))
            // A fetch that waits keeps seeks and new partitions waiting.
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", prefetch_kilobytes.to_string());
        Joining {
            group: Arc::from(group),
            config,
            topics: Arc::clone(&self.topics),
            is_closed: Arc::clone(&self.is_closed),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
        self.check_open()?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        self.appender.append(&self.topics, records).await
    }

    async fn subscribe(&self, group: &str, topics: &[Arc<str>]) -> Result<Box<dyn Consumer>, LogError> {
        self.check_open()?;
        for name in topics {
            self.topics.ask(name).await?;
        }
        let joining = self.joining(group);
        let topics = topics.to_vec();
        let handle = tokio::runtime::Handle::current();
        let start = move || {
            let _entered = handle.enter();
            KafkaConsumer::start(joining, &topics).map_err(|source| unavailable("join a group", source))
        };
        Ok(Box::new(tokio::task::spawn_blocking(start).await.map_err(panicked)??))
    }

    async fn transactor(&self, id: &str) -> Result<Box<dyn Transactor>, LogError> {
        self.check_open()?;
        let config = producing(&self.base, &self.options);
        Ok(Box::new(KafkaTransactor::start(id, config, Arc::clone(&self.topics)).await?))
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, LogError> {
        self.check_open()?;
        Ok(self.topics.ask(name).await?.info)
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        self.check_open()?;
        self.topics.of(of).await?;
        self.readers.watermarks(of).await
    }

    async fn settled_end(&self, of: &TopicPartition) -> Result<u64, LogError> {
        self.check_open()?;
        self.topics.of(of).await?;
        self.readers.settled_end(of).await
    }

    async fn committed(
        &self,
        group: &str,
        of: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, LogError> {
        self.check_open()?;
        self.topics.committed(group, of).await
    }

    async fn read(
        &self,
        of: &TopicPartition,
        from: u64,
        limits: ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError> {
        self.check_open()?;
        self.topics.of(of).await?;
        self.readers.read(of, from, limits).await
    }
}

fn producing(base: &ClientConfig, options: &Options) -> ClientConfig {
    let queue_kilobytes = (options.queue_bytes_max / 1024).saturating_mul(2).max(2 * RECORD_BYTES_MAX / 1024);
    let mut config = base.clone();
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("max.in.flight.requests.per.connection", "5")
        .set("compression.codec", "lz4")
        .set("linger.ms", milliseconds(options.linger))
        .set("message.timeout.ms", milliseconds(options.append_max))
        .set("message.max.bytes", (RECORD_BYTES_MAX + FRAME_BYTES).to_string())
        // Our own bound comes first; the library's must not surprise a batch half-way.
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", queue_kilobytes.to_string());
    config
}

fn milliseconds(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

#[cfg(test)]
mod tests;
