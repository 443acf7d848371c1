//! Reads outside any group, and questions about the ends of partitions. A few clients that remember where they
//! stand, so that a reader who goes on does not begin anew.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_provision::kafka::Renewed;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tokio::sync::Semaphore;

use super::error::{Quiet, panicked, unavailable, unavailable_code};
use crate::log::{LogError, LogRecord, ReadLimits, TopicPartition, Watermarks};

/// Most clients, and so most reads at once; each keeps up to [`PREFETCH_KILOBYTES`].
const READERS_MAX: usize = 4;
/// What a client fetches ahead.
const PREFETCH_KILOBYTES: &str = "4096";
/// Longest wait for an answer of the brokers.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long the broker keeps a fetch that finds nothing: the end is known only after it.
const FETCH_WAIT_MS: &str = "20";
/// Longest wait without a look around.
const SLICE: Duration = Duration::from_millis(100);
/// Longest wait for transactions to end: their own time-out and the coordinator's pace.
pub(super) const SETTLE_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether they have.
const SETTLE_LOOK: Duration = Duration::from_millis(10);
/// How often it is looked who leads a partition that is about to move.
const LEADER_LOOK: Duration = Duration::from_millis(50);
/// How often a read begins again when retention overtakes it.
const RESTARTS_MAX: u32 = 3;

/// The clients for reading.
pub(super) struct Readers {
    config: ClientConfig,
    idle: Mutex<Vec<Reader>>,
    free: Semaphore,
    /// Asks for ends up to which transactions are decided.
    committed: Asker,
    /// Asks for ends behind open transactions.
    uncommitted: Asker,
}

impl Readers {
    pub(super) fn new(mut config: ClientConfig) -> Result<Self, KafkaError> {
        // The library reads only in the name of a group, even if it never joins it and keeps no position there.
        let group = format!("{}.reader", config.get("client.id").unwrap_or("millrace"));
        config
            .set_log_level(RDKafkaLogLevel::Critical)
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", FETCH_WAIT_MS)
            .set("queued.max.messages.kbytes", PREFETCH_KILOBYTES);
        let committed = Asker::new(config.clone())?;
        let mut all = config.clone();
        all.set("isolation.level", "read_uncommitted");
        let uncommitted = Asker::new(all)?;
        Ok(Self { config, idle: Mutex::default(), free: Semaphore::new(READERS_MAX), committed, uncommitted })
    }

    pub(super) async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        self.committed.watermarks(of).await
    }

    /// See [`crate::log::Log::settled_end`].
    pub(super) async fn settled_end(&self, of: &TopicPartition) -> Result<u64, LogError> {
        let end = self.uncommitted.watermarks(of).await?.high;
        let deadline = Instant::now() + SETTLE_MAX;
        while self.watermarks(of).await?.high < end {
            if Instant::now() >= deadline {
                return Err(unavailable_code("wait for open transactions", Code::OperationTimedOut));
            }
            tokio::time::sleep(SETTLE_LOOK).await;
        }
        Ok(end)
    }

    /// See [`crate::log::Log::read`].
    pub(super) async fn read(
        &self,
        of: &TopicPartition,
        from: u64,
        limits: ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError> {
        let _free = self.free.acquire().await.map_err(|_| LogError::Closed)?;
        let mut reader = self.reader_at(of, from)?;
        let of = of.clone();
        let (reader, read) = tokio::task::spawn_blocking(move || {
            let read = reader.read(&of, from, &limits);
            (reader, read)
        })
        .await
        .map_err(panicked)?;
        // One that got no answer may never get one again; the next read begins with another.
        if read.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        }
        read
    }

    /// The one that stands there, else the one unused for longest, else a new one.
    fn reader_at(&self, of: &TopicPartition, from: u64) -> Result<Reader, LogError> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = idle.iter().position(|reader| reader.stands_at(of, from)) {
            return Ok(idle.remove(index));
        }
        let spare = idle.iter().position(|reader| reader.at.is_none());
        if let Some(index) = spare.or_else(|| (idle.len() >= READERS_MAX / 2).then_some(0)) {
            return Ok(idle.remove(index));
        }
        drop(idle);
        let consumer =
            self.config.create_with_context(Quiet).map_err(|source| unavailable("make a reader", source))?;
        Ok(Reader { consumer, at: None, ahead: VecDeque::new(), floor: 0, is_at_end: false })
    }

    /// Nobody reads any more.
    pub(super) fn close(&self) {
        self.free.close();
    }
}

/// A client that only asks, replaced when it got no answer.
struct Asker {
    config: ClientConfig,
    client: Renewed<BaseConsumer<Quiet>>,
}

impl Asker {
    fn new(config: ClientConfig) -> Result<Self, KafkaError> {
        let client = Renewed::new(config.create_with_context(Quiet)?);
        Ok(Self { config, client })
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        let client = self.client.get();
        let (asked, of) = (Arc::clone(&client), of.clone());
        let answer = tokio::task::spawn_blocking(move || watermarks(&asked, &of)).await.map_err(panicked)?;
        if matches!(answer, Err(LogError::Unavailable { .. })) {
            let replaced = self.client.replace(&client, || self.config.create_with_context(Quiet));
            replaced.map_err(|source| unavailable("make a client", source))?;
        }
        answer
    }
}

/// Asks for the ends of a partition as this client's isolation sees them. Blocks.
pub(super) fn watermarks<C: rdkafka::consumer::ConsumerContext>(
    consumer: &BaseConsumer<C>,
    of: &TopicPartition,
) -> Result<Watermarks, LogError> {
    let deadline = Instant::now() + ANSWER_MAX;
    let (low, high) = loop {
        match consumer.fetch_watermarks(&of.topic, number(of), ANSWER_MAX) {
            Err(error) if is_moving(&error) && Instant::now() < deadline => std::thread::sleep(LEADER_LOOK),
            asked => break asked.map_err(|source| unavailable("find the ends of a partition", source))?,
        }
    };
    Ok(Watermarks { low: u64::try_from(low).unwrap_or(0), high: u64::try_from(high).unwrap_or(0) })
}

/// Whether the partition has no leader yet, or has a new one that not everybody knows of.
fn is_moving(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::NotLeaderForPartition | Code::LeaderNotAvailable))
}

/// A partition's number as the library takes it.
pub(super) fn number(of: &TopicPartition) -> i32 {
    i32::try_from(of.partition).unwrap_or(i32::MAX)
}

/// An offset as the library takes it.
pub(super) fn offset(offset: u64) -> Offset {
    Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX))
}

/// Copies a record out of the library's memory.
pub(super) fn record(message: &BorrowedMessage<'_>) -> LogRecord {
    LogRecord {
        offset: u64::try_from(message.offset()).unwrap_or(0),
        appended_at: message.timestamp().to_millis().unwrap_or(0),
        key: Bytes::copy_from_slice(message.key().unwrap_or_default()),
        value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    }
}

/// Takes what fits from the front; one record comes even if it is larger.
pub(super) fn take_within(ahead: &mut VecDeque<LogRecord>, limits: &ReadLimits) -> Vec<LogRecord> {
    let mut bytes = 0;
    let fits = |record: &&LogRecord| {
        bytes += record.key.len() + record.value.len();
        bytes <= limits.bytes_max
    };
    let count = ahead.iter().take(limits.records_max).take_while(fits).count().max(1).min(ahead.len());
    ahead.drain(..count).collect()
}

struct Reader {
    consumer: BaseConsumer<Quiet>,
    /// Which partition it reads, and the next offset it will hand out.
    at: Option<(TopicPartition, u64)>,
    ahead: VecDeque<LogRecord>,
    /// Records before it were not asked for.
    floor: u64,
    /// Whether the library said so after the last record.
    is_at_end: bool,
}

/// What one poll brought.
enum Came {
    Record,
    End,
    OutOfRange,
    Nothing,
}

impl Reader {
    fn stands_at(&self, of: &TopicPartition, from: u64) -> bool {
        self.at.as_ref().is_some_and(|(partition, next)| partition == of && *next == from)
    }

    fn read(
        &mut self,
        of: &TopicPartition,
        from: u64,
        limits: &ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError> {
        let read = self.try_read(of, from, limits);
        // At the end nothing is worth keeping, and the brokers are not asked on.
        let has_more = !self.ahead.is_empty() || !self.is_at_end;
        match read.as_ref().map(|records| records.last()) {
            Ok(Some(last)) if has_more => self.at = Some((of.clone(), last.offset + 1)),
            Ok(_) | Err(_) => self.leave(),
        }
        read
    }

    fn leave(&mut self) {
        self.at = None;
        self.ahead.clear();
        if let Err(error) = self.consumer.unassign() {
            tracing::debug!(error = &error as &dyn std::error::Error, "cannot leave a partition");
        }
    }

    fn try_read(
        &mut self,
        of: &TopicPartition,
        from: u64,
        limits: &ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError> {
        let mut end_since =
            if self.stands_at(of, from) { None } else { self.go_to(of, from)?.then(Instant::now) };
        let answer_by = Instant::now() + ANSWER_MAX;
        let mut restarts = 0;
        loop {
            self.gather(limits)?;
            if !self.ahead.is_empty() {
                return Ok(take_within(&mut self.ahead, limits));
            }
            let left = match end_since {
                Some(since) => limits.wait_max.saturating_sub(since.elapsed()),
                None => answer_by.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return match end_since {
                    Some(_) => Ok(Vec::new()),
                    None => Err(unavailable_code("read records", Code::OperationTimedOut)),
                };
            }
            match self.poll(left.min(SLICE))? {
                Came::End => end_since = end_since.or_else(|| Some(Instant::now())),
                Came::Record | Came::Nothing => {}
                // Retention was faster, or the offset lies behind the end.
                Came::OutOfRange if restarts < RESTARTS_MAX => {
                    restarts += 1;
                    end_since = self.go_to(of, from)?.then(Instant::now);
                }
                Came::OutOfRange => return Err(unavailable_code("read records", Code::OffsetOutOfRange)),
            }
        }
    }

    /// Begins at an offset, or at the low watermark if that is higher; true if nothing is there to read yet.
    fn go_to(&mut self, of: &TopicPartition, from: u64) -> Result<bool, LogError> {
        let failed = |source| unavailable("begin to read", source);
        self.ahead.clear();
        (self.floor, self.is_at_end) = (from, false);
        let Watermarks { low, high } = watermarks(&self.consumer, of)?;
        let mut assignment = TopicPartitionList::new();
        // Behind the end there is nothing to wait for but the end itself.
        let start = from.clamp(low, high);
        assignment.add_partition_offset(&of.topic, number(of), offset(start)).map_err(failed)?;
        self.consumer.assign(&assignment).map_err(failed)?;
        Ok(start >= high)
    }

    /// Takes what is at hand, without waiting.
    fn gather(&mut self, limits: &ReadLimits) -> Result<(), LogError> {
        let mut bytes: usize = self.ahead.iter().map(|record| record.key.len() + record.value.len()).sum();
        while !self.ahead.is_empty() && self.ahead.len() < limits.records_max && bytes < limits.bytes_max {
            let Came::Record = self.poll(Duration::ZERO)? else { return Ok(()) };
            bytes += self.ahead.back().map_or(0, |record| record.key.len() + record.value.len());
        }
        Ok(())
    }

    fn poll(&mut self, wait_max: Duration) -> Result<Came, LogError> {
        match self.consumer.poll(wait_max) {
            Some(Ok(message)) => {
                let record = record(&message);
                self.is_at_end = false;
                if record.offset < self.floor {
                    return Ok(Came::Nothing);
                }
                self.ahead.push_back(record);
                Ok(Came::Record)
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {
                self.is_at_end = true;
                Ok(Came::End)
            }
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Ok(Came::OutOfRange),
                // A right that reading does not need.
                Some(Code::GroupAuthorizationFailed) => Ok(Came::Nothing),
                // The library tries again by itself until our patience ends.
                Some(code) if millrace_provision::kafka::is_unreachable(code) => Ok(Came::Nothing),
                _ => Err(unavailable("read records", error)),
            },
            None => Ok(Came::Nothing),
        }
    }
}
