//! A log that lives in one process: what the embedded and the memory log have in common.
//! Operations come in one after another, are decided here against [`state`] and leave as one write set per group;
//! where the bytes go, and when they are durable, is the engine's business.

pub(crate) mod chunk;
pub(crate) mod durable;
pub(crate) mod member;
pub(crate) mod plan;
pub(crate) mod retention;
pub(crate) mod state;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::log::local::chunk::{ChunkKey, PartitionId};
use crate::log::local::durable::Entry;
use crate::log::local::member::{LocalTransactor, Member};
use crate::log::local::plan::{Operation, Outcome, TopicWanted, Write};
use crate::log::local::state::{Retention, State};
use crate::log::{
    Committed, Consumer, LogError, LogRecord, NewRecord, ReadLimits, TopicInfo, TopicPartition, Transactor,
    Watermarks,
};
use millrace_crds::config::Topic;

/// The cause of a failure, shared by all who waited for the same write.
pub(crate) type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// A state entry as the store keeps it.
pub(crate) type KeyValue = (Vec<u8>, Vec<u8>);

/// Why a log cannot be opened.
pub(crate) type OpenCause = Box<dyn std::error::Error + Send + Sync>;

/// Milliseconds since the epoch, UTC.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The clock of the machine.
pub(crate) fn system_clock() -> Clock {
    Arc::new(|| jiff::Timestamp::now().as_millisecond())
}

/// Where chunks and state are kept. Reads may run beside the one writer.
pub(crate) trait Store: Send + Sync + 'static {
    /// Every state entry.
    fn entries(&self) -> Result<Vec<KeyValue>, Cause>;

    /// The last chunk of a partition whose base is at least `low`, and the length of its value.
    fn last_chunk(&self, of: PartitionId, low: u64) -> Result<Option<(ChunkKey, usize)>, Cause>;

    /// The first chunks of a partition whose base is at least `low`, at most `chunks_max`.
    fn chunk_keys(&self, of: PartitionId, low: u64, chunks_max: usize) -> Result<Vec<ChunkKey>, Cause>;

    /// The last chunk whose base is between `low` and `offset`: the one that holds the offset, if any does.
    fn chunk_holding(&self, of: PartitionId, low: u64, offset: u64) -> Result<Option<ChunkKey>, Cause>;

    /// Visits chunks in order, from the first one whose base is at least `low` on.
    fn visit(
        &self,
        of: PartitionId,
        low: u64,
        visitor: &mut dyn FnMut(ChunkKey, Bytes) -> ControlFlow<()>,
    ) -> Result<(), Cause>;
}

/// One kind of local log: a store, and a way to have operations carried out.
#[async_trait]
pub(crate) trait Engine: Send + Sync + 'static {
    /// What readers may see, and what is planned against.
    fn state(&self) -> &Mutex<State>;

    /// An error once the log is closed.
    fn check_open(&self) -> Result<(), LogError>;

    /// Carries an operation out. Durable and visible when it returns `Ok`.
    async fn submit(&self, operation: Operation) -> Result<Outcome, LogError>;

    /// Reads the records of a span, all of which are visible.
    async fn fetch(&self, span: Span) -> Result<Vec<LogRecord>, LogError>;

    /// See [`Store::chunk_keys`].
    fn chunk_keys(&self, of: PartitionId, low: u64, chunks_max: usize) -> Result<Vec<ChunkKey>, LogError>;
}

/// Locks the state. A panic elsewhere does not make it wrong: changes are made after all checks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the state back from a store: what a process finds when it starts.
pub(crate) fn recover<S: Store>(store: &S) -> Result<State, OpenCause> {
    let entries = store.entries()?;
    let entries: Result<Vec<_>, _> = entries.iter().map(|(key, value)| Entry::decode(key, value)).collect();
    State::recover(entries?, |of, low| store.last_chunk(of, low))
}

/// What to read: offsets `from..high` of a partition, at most so much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) of: PartitionId,
    pub(crate) low: u64,
    pub(crate) from: u64,
    pub(crate) high: u64,
    pub(crate) records_max: usize,
    pub(crate) bytes_max: usize,
}

/// Reads whole chunks until a limit is reached: the last chunk is returned in full, so that a reader who keeps
/// what is over need not decode it again.
pub(crate) fn fetch<S: Store>(store: &S, span: Span) -> Result<Vec<LogRecord>, LogError> {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut damaged = None;
    let holding = store.chunk_holding(span.of, span.low, span.from).map_err(read_failed)?;
    let start = holding.map_or(span.low, |chunk| chunk.base);
    store
        .visit(span.of, start, &mut |key, value| {
            if key.base >= span.high {
                return ControlFlow::Break(());
            }
            match chunk::decode(&key, value) {
                Ok(decoded) => {
                    for record in decoded.filter(|record| (span.from..span.high).contains(&record.offset)) {
                        bytes += record.key.len() + record.value.len();
                        records.push(record);
                    }
                }
                Err(error) => {
                    damaged = Some(error);
                    return ControlFlow::Break(());
                }
            }
            if records.len() >= span.records_max || bytes >= span.bytes_max {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .map_err(read_failed)?;
    match damaged {
        Some(error) => Err(read_failed(Arc::new(error))),
        None => Ok(records),
    }
}

/// A read that failed; nothing was changed by it.
pub(crate) fn read_failed(source: Cause) -> LogError {
    LogError::Failed { step: "read", source: Some(source) }
}

/// How many of `records` fit the limits; at least one if there is any.
pub(crate) fn within(records: &[LogRecord], limits: &ReadLimits) -> usize {
    let mut bytes = 0;
    let fitting = records
        .iter()
        .take(limits.records_max)
        .take_while(|record| {
            bytes += record.key.len() + record.value.len();
            bytes <= limits.bytes_max
        })
        .count();
    fitting.max(1).min(records.len())
}

/// [`crate::log::Log::append`].
pub(crate) async fn append<E: Engine>(engine: &E, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
    if records.is_empty() {
        return engine.check_open().map(|()| Vec::new());
    }
    let write = Write { records, positions: Vec::new(), group: None, fence: None };
    Ok(engine.submit(Operation::Write(write)).await?.offsets())
}

/// [`crate::log::Log::subscribe`].
pub(crate) fn subscribe<E: Engine>(
    engine: &Arc<E>,
    group: &str,
    topics: &[Arc<str>],
) -> Result<Box<dyn Consumer>, LogError> {
    engine.check_open()?;
    let joined = lock(engine.state()).join(group, topics)?;
    Ok(Box::new(Member::new(Arc::clone(engine), joined)))
}

/// [`crate::log::Log::transactor`].
pub(crate) async fn transactor<E: Engine>(
    engine: &Arc<E>,
    id: &str,
) -> Result<Box<dyn Transactor>, LogError> {
    let epoch = engine.submit(Operation::Fence { id: id.to_owned() }).await?.epoch();
    Ok(Box::new(LocalTransactor::new(Arc::clone(engine), id, epoch)))
}

/// [`crate::log::Log::topic`].
pub(crate) fn topic<E: Engine>(engine: &E, name: &str) -> Result<TopicInfo, LogError> {
    engine.check_open()?;
    lock(engine.state()).topic(name).map(|topic| topic.info.clone())
}

/// Every topic, by name.
pub(crate) fn topics<E: Engine>(engine: &E) -> Vec<TopicInfo> {
    let mut topics: Vec<_> = lock(engine.state()).topics().map(|topic| topic.info.clone()).collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    topics
}

/// [`crate::log::Log::watermarks`].
pub(crate) fn watermarks<E: Engine>(engine: &E, of: &TopicPartition) -> Result<Watermarks, LogError> {
    engine.check_open()?;
    let state = lock(engine.state());
    let partition = state.partition(state.locate(of)?);
    Ok(Watermarks { low: partition.low, high: partition.high })
}

/// [`crate::log::Log::committed`].
pub(crate) fn committed<E: Engine>(
    engine: &E,
    group: &str,
    of: &[TopicPartition],
) -> Result<Vec<Option<Committed>>, LogError> {
    engine.check_open()?;
    let group = Arc::from(group);
    let state = lock(engine.state());
    of.iter().map(|of| Ok(state.assigned(&group, state.locate(of)?).committed)).collect()
}

/// [`crate::log::Log::read`].
pub(crate) async fn read<E: Engine>(
    engine: &E,
    of: &TopicPartition,
    from: u64,
    limits: ReadLimits,
) -> Result<Vec<LogRecord>, LogError> {
    let started = Instant::now();
    let (id, appended) = {
        let state = lock(engine.state());
        let id = state.locate(of)?;
        (id, state.appended(id))
    };
    loop {
        engine.check_open()?;
        // Registered before looking, so that a commit between the look and the wait still wakes us.
        let mut woken = std::pin::pin!(appended.notified());
        woken.as_mut().enable();
        let span = lock(engine.state()).span(id, from, &limits);
        if let Some(span) = span {
            let mut records = engine.fetch(span).await?;
            records.truncate(within(&records, &limits));
            if !records.is_empty() {
                return Ok(records);
            }
        }
        let left = limits.wait_max.saturating_sub(started.elapsed());
        if left.is_zero() || tokio::time::timeout(left, woken).await.is_err() {
            return Ok(Vec::new());
        }
    }
}

/// Creates topics that are missing, grows those that have fewer partitions, and takes over the retention.
/// A topic never shrinks: its records would have nowhere to go.
pub(crate) async fn ensure_topics<E: Engine>(
    engine: &E,
    topics: &[Topic],
) -> Result<Vec<TopicInfo>, LogError> {
    let wanted = topics
        .iter()
        .map(|topic| TopicWanted {
            name: Arc::from(topic.name.as_str()),
            id_if_new: Uuid::new_v4(),
            partitions: topic.partitions.max(1),
            retention: Retention { age_ms_max: topic.retention_ms, bytes_max: topic.retention_bytes },
        })
        .collect();
    engine.submit(Operation::Ensure { topics: wanted }).await?;
    topics.iter().map(|wanted| topic(engine, &wanted.name)).collect()
}
