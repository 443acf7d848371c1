//! Records in, offsets out once the brokers acknowledged all of them: one idempotent producer for everybody, one
//! completion per call, and a bound in bytes on what waits.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::vec;

use millrace_provision::kafka::Renewed;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use tokio::sync::oneshot;

use super::error::unavailable;
use super::handover::{Deliverer, Slot};
use super::topics::Topics;
use crate::log::{LogError, NewRecord};
use crate::metrics::Metrics;

/// What a waiting record costs beside key and value, measured by `millrace-bench ingest-memory`: librdkafka's own record
/// with the key it copied (200 bytes), the slot that lends the value, and what ingest keeps of an event until the answer: 400
/// bytes. The rest is for what the allocator loses and for bodies under way, which small events at a small queue feel most.
const RECORD_OVERHEAD_BYTES: usize = 450;

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

    /// A record got this offset.
    pub(super) fn delivered(&self, index: usize, offset: i64) {
        // Negative means that the broker did not say it, which acks=all excludes.
        self.offsets[index].store(u64::try_from(offset).unwrap_or(0), Ordering::Relaxed);
        self.decided(1);
    }

    /// So many records got none.
    pub(super) fn failed(&self, count: usize, error: KafkaError) {
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

/// The records of one call before a producer has them. What is not handed over when it is dropped is given up: what
/// follows would overtake it.
pub(super) struct Shipment {
    call: Arc<Call>,
    left: vec::IntoIter<NewRecord>,
    count: usize,
    /// Why the first that is left was not taken.
    refusal: Option<KafkaError>,
}

impl Shipment {
    /// The receiver fires when every record is decided.
    pub(super) fn new(records: Vec<NewRecord>, held: Option<Held>) -> (Self, oneshot::Receiver<()>) {
        let count = records.len();
        let (call, decided) = Call::new(count, held);
        (Self { call, left: records.into_iter(), count, refusal: None }, decided)
    }

    /// Hands over what is left, also to what the library has not heard of yet: partitions that were added, a topic that
    /// was made. Blocks while the brokers are asked.
    pub(super) fn hand_over_learning(&mut self, producer: &Deliverer) {
        let mut learned: Option<Arc<str>> = None;
        loop {
            self.hand_over(producer);
            match self.unknown_topic() {
                Some(topic) if learned.as_ref() != Some(&topic) => {
                    producer.learn(&topic);
                    learned = Some(topic);
                }
                Some(_) | None => return,
            }
        }
    }

    /// The topic of the first record that is left, if it was refused because of what the library does not know.
    fn unknown_topic(&self) -> Option<Arc<str>> {
        let first = self.left.as_slice().first()?;
        let code = self.refusal.as_ref()?.rdkafka_error_code()?;
        is_unknown(code).then(|| Arc::clone(&first.to.topic))
    }

    /// What becomes of the records.
    pub(super) fn call(&self) -> Arc<Call> {
        Arc::clone(&self.call)
    }

    /// Hands over what is left, in order; stops at the first record that is not taken.
    pub(super) fn hand_over(&mut self, producer: &Deliverer) {
        while let Some(NewRecord { to, key, value }) = self.left.as_slice().first() {
            let index = self.count - self.left.len();
            let slot = Slot { call: Arc::clone(&self.call), index, value: value.clone() };
            if let Err((error, _)) = producer.lend(to, key, Box::new(slot)) {
                self.refusal = Some(error);
                return;
            }
            self.left.next();
        }
    }
}

impl Drop for Shipment {
    fn drop(&mut self) {
        if self.left.len() > 0 {
            let error = self.refusal.take().unwrap_or(KafkaError::Canceled);
            self.call.failed(self.left.len(), error);
        }
    }
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
    producer: Renewed<Deliverer>,
    waiting: Arc<AtomicUsize>,
    queue_bytes_max: usize,
    learning: tokio::sync::Mutex<()>,
    metrics: Arc<Metrics>,
}

impl Appender {
    pub(super) fn new(
        config: ClientConfig,
        queue_bytes_max: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let producer = Renewed::new(Deliverer::new(&config)?);
        Ok(Self {
            config,
            producer,
            waiting: Arc::default(),
            queue_bytes_max,
            learning: tokio::sync::Mutex::default(),
            metrics,
        })
    }

    /// Appends what the topics take.
    pub(super) async fn append(
        &self,
        topics: &Topics,
        records: Vec<NewRecord>,
    ) -> Result<Vec<u64>, LogError> {
        let bytes = topics.check(&records).await? + records.len() * RECORD_OVERHEAD_BYTES;
        let held = self.hold(bytes)?;
        let sent = Sent::of(&records);
        let started = Instant::now();
        let producer = self.producer.get();
        let (mut shipment, decided) = Shipment::new(records, Some(held));
        let call = shipment.call();
        shipment.hand_over(&producer);
        if shipment.unknown_topic().is_some() {
            self.hand_over_learning(shipment, Arc::clone(&producer)).await;
        } else {
            drop(shipment);
        }
        // The sender lives in the call until every record is decided.
        let _ = decided.await;
        let outcome = call.outcome();
        let label = if outcome.is_ok() { "ok" } else { "failed" };
        self.metrics.log_commit_seconds.with_label_values(&[label]).observe(started.elapsed().as_secs_f64());
        outcome.map_err(|error| self.explain(topics, &sent, &producer, error))
    }

    /// One asks at a time: what it learns, the others that wait find known.
    async fn hand_over_learning(&self, mut shipment: Shipment, producer: Arc<Deliverer>) {
        let _only_one = self.learning.lock().await;
        let learning = tokio::task::spawn_blocking(move || shipment.hand_over_learning(&producer));
        if let Err(error) = learning.await {
            tracing::error!(error = &error as &dyn std::error::Error, "handing records over panicked");
        }
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
        sent: &Sent,
        producer: &Arc<Deliverer>,
        error: KafkaError,
    ) -> LogError {
        if producer.producer().client().fatal_error().is_some() {
            self.replace(producer);
        }
        match error.rdkafka_error_code() {
            Some(Code::QueueFull) => LogError::QueueFull,
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                sent.topics.iter().for_each(|name| topics.forget(name));
                sent.too_large()
            }
            // The next append asks the brokers anew.
            Some(code) if is_unknown(code) => {
                sent.topics.iter().for_each(|name| topics.forget(name));
                unavailable("append records", error)
            }
            _ => unavailable("append records", error),
        }
    }

    /// A producer that ended for good never acknowledges anything again.
    fn replace(&self, ended: &Arc<Deliverer>) {
        match self.producer.replace(ended, || Deliverer::new(&self.config)) {
            Ok(true) => tracing::warn!("the Kafka producer ended and was replaced"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot make a new Kafka producer");
            }
        }
    }

    /// Waits until nothing is on its way, at most for `time_max`. Blocks.
    pub(super) fn flush(&self, time_max: Duration) {
        let producer = self.producer.get();
        if let Err(error) = producer.producer().flush(time_max) {
            tracing::warn!(error = &error as &dyn std::error::Error, "records were not acknowledged in time");
        }
    }
}

/// Whether somebody has not heard of a topic or a partition, us or the broker.
fn is_unknown(code: Code) -> bool {
    matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
}

/// What is remembered of records that were handed over, for the reason should they not arrive.
pub(super) struct Sent {
    /// Their topics.
    topics: Vec<Arc<str>>,
    /// Key and value of the largest.
    bytes_max: usize,
}

impl Sent {
    pub(super) fn of(records: &[NewRecord]) -> Self {
        let mut topics: Vec<Arc<str>> = Vec::new();
        for NewRecord { to, .. } in records {
            if !topics.contains(&to.topic) {
                topics.push(Arc::clone(&to.topic));
            }
        }
        let bytes = records.iter().map(|record| record.key.len() + record.value.len());
        Self { topics, bytes_max: bytes.max().unwrap_or(0) }
    }

    /// The brokers take less than was known.
    pub(super) fn too_large(&self) -> LogError {
        LogError::TooLarge { bytes: self.bytes_max, bytes_max: self.bytes_max.saturating_sub(1) }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
