//! Records in, offsets out once the brokers acknowledged all of them: one idempotent producer for everybody, one
//! completion per call, and a bound in bytes on what waits.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::error::{tell, unavailable};
use super::topics::Topics;
use crate::log::{LogError, NewRecord};
use crate::metrics::Metrics;

/// What a waiting record costs beside key and value.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// A producer that hears what became of its records.
pub(super) type Deliverer = ThreadedProducer<Deliveries>;

/// Hands deliveries to the calls they belong to.
pub(super) struct Deliveries;

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tell(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(error = &error as &dyn std::error::Error, reason, "the Kafka producer has a problem");
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, slot: Box<Slot>) {
        match delivered {
            Ok(message) => slot.call.delivered(slot.index, message.offset()),
            Err((error, _)) => slot.call.failed(1, error.clone()),
        }
    }
}

/// One record of a call.
pub(super) struct Slot {
    call: Arc<Call>,
    index: usize,
}

/// The records of one call on their way.
pub(super) struct Call {
    left: AtomicUsize,
    offsets: Box<[AtomicU64]>,
    failure: Mutex<Option<KafkaError>>,
    done: Mutex<Option<oneshot::Sender<()>>>,
    /// Given back when the last record is decided.
    held: Mutex<Option<Held>>,
}

impl Call {
    fn new(count: usize, held: Option<Held>) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (done, decided) = oneshot::channel();
        let call = Self {
            left: AtomicUsize::new(count),
            offsets: (0..count).map(|_| AtomicU64::new(0)).collect(),
            failure: Mutex::new(None),
            done: Mutex::new(Some(done)),
            held: Mutex::new(held),
        };
        (Arc::new(call), decided)
    }

    fn delivered(&self, index: usize, offset: i64) {
        // Negative means that the broker did not say it, which acks=all excludes.
        self.offsets[index].store(u64::try_from(offset).unwrap_or(0), Ordering::Relaxed);
        self.decided(1);
    }

    fn failed(&self, count: usize, error: KafkaError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.decided(count);
    }

    fn decided(&self, count: usize) {
        if self.left.fetch_sub(count, Ordering::AcqRel) > count {
            return;
        }
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(done) = self.done.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Nobody waits any more when the caller was cancelled.
            let _ = done.send(());
        }
    }

    /// What became of the records; only after the call is decided.
    pub(super) fn outcome(&self) -> Result<Vec<u64>, KafkaError> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(self.offsets.iter().map(|offset| offset.load(Ordering::Relaxed)).collect()),
        }
    }
}

/// Hands records to a producer; the receiver fires when every one of them is decided.
pub(super) fn send(
    producer: &Deliverer,
    records: &[NewRecord],
    held: Option<Held>,
) -> (Arc<Call>, oneshot::Receiver<()>) {
    let (call, decided) = Call::new(records.len(), held);
    for (index, NewRecord { to, key, value }) in records.iter().enumerate() {
        let slot = Box::new(Slot { call: Arc::clone(&call), index });
        let record = BaseRecord::with_opaque_to(&to.topic, slot)
            .partition(i32::try_from(to.partition).unwrap_or(i32::MAX))
            .key(key.as_ref())
            .payload(value.as_ref());
        if let Err((error, _)) = producer.send::<[u8], [u8]>(record) {
            // What follows would overtake it.
            call.failed(records.len() - index, error);
            break;
        }
    }
    (call, decided)
}

/// Bytes counted as waiting.
pub(super) struct Held {
    bytes: usize,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
        self.metrics.log_queue_bytes.sub(signed(self.bytes));
    }
}

/// The producer and its queue.
pub(super) struct Appender {
    config: ClientConfig,
    /// Replaced when it ended for good.
    producer: RwLock<Arc<Deliverer>>,
    waiting: Arc<AtomicUsize>,
    queue_bytes_max: usize,
    metrics: Arc<Metrics>,
}

impl Appender {
    pub(super) fn new(
        config: ClientConfig,
        queue_bytes_max: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let producer = RwLock::new(Arc::new(config.create_with_context(Deliveries)?));
        Ok(Self { config, producer, waiting: Arc::default(), queue_bytes_max, metrics })
    }

    /// Appends what the topics take.
    pub(super) async fn append(
        &self,
        topics: &Topics,
        records: Vec<NewRecord>,
    ) -> Result<Vec<u64>, LogError> {
        let bytes = topics.check(&records).await? + records.len() * RECORD_OVERHEAD_BYTES;
        let held = self.hold(bytes)?;
        let started = Instant::now();
        let producer = Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner));
        let (call, decided) = send(&producer, &records, Some(held));
        // The sender lives in the call until every record is decided.
        let _ = decided.await;
        let outcome = call.outcome();
        let label = if outcome.is_ok() { "ok" } else { "failed" };
        self.metrics.log_commit_seconds.with_label_values(&[label]).observe(started.elapsed().as_secs_f64());
        outcome.map_err(|error| self.explain(topics, &records, &producer, error))
    }

    fn hold(&self, bytes: usize) -> Result<Held, LogError> {
        let bytes_max = self.queue_bytes_max;
        if bytes > bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        let fits = |waiting: usize| waiting.checked_add(bytes).filter(|all| *all <= bytes_max);
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map_err(|_| LogError::QueueFull)?;
        self.metrics.log_queue_bytes.add(signed(bytes));
        Ok(Held { bytes, waiting: Arc::clone(&self.waiting), metrics: Arc::clone(&self.metrics) })
    }

    fn explain(
        &self,
        topics: &Topics,
        records: &[NewRecord],
        producer: &Arc<Deliverer>,
        error: KafkaError,
    ) -> LogError {
        if producer.client().fatal_error().is_some() {
            self.replace(producer);
        }
        let names = || records.iter().map(|record| &record.to.topic);
        match error.rdkafka_error_code() {
            Some(Code::QueueFull) => LogError::QueueFull,
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                names().for_each(|name| topics.forget(name));
                let bytes =
                    records.iter().map(|record| record.key.len() + record.value.len()).max().unwrap_or(0);
                LogError::TooLarge { bytes, bytes_max: bytes.saturating_sub(1) }
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                names().for_each(|name| topics.forget(name));
                unavailable("append records", error)
            }
            _ => unavailable("append records", error),
        }
    }

    /// A producer that ended for good never acknowledges anything again.
    fn replace(&self, ended: &Arc<Deliverer>) {
        let mut producer = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&producer, ended) {
            return;
        }
        match self.config.create_with_context(Deliveries) {
            Ok(new) => {
                tracing::warn!("the Kafka producer ended and was replaced");
                *producer = Arc::new(new);
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot make a new Kafka producer");
            }
        }
    }

    /// Waits until nothing is on its way, at most for `time_max`. Blocks.
    pub(super) fn flush(&self, time_max: Duration) {
        let producer = Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner));
        if let Err(error) = producer.flush(time_max) {
            tracing::warn!(error = &error as &dyn std::error::Error, "records were not acknowledged in time");
        }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
