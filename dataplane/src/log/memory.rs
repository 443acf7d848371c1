//! A log in memory, for tests: the decisions and the bytes of the embedded log, without disk and thread.
//! It can be told to fail or to hang at the n-th call of a kind.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_crds::config::Topic;
use tokio::sync::Notify;

use crate::log::local::chunk::{ChunkKey, Compression, PartitionId};
use crate::log::local::plan::{Operation, Outcome, Plan, Write, WriteSet};
use crate::log::local::state::State;
use crate::log::local::{self, Cause, Clock, Engine, KeyValue, Span, Store, lock, system_clock};
use crate::log::{
    Committed, Consumer, Log, LogError, LogRecord, NewRecord, ReadLimits, TopicInfo, TopicPartition,
    Transactor, Watermarks,
};

/// Largest record, key and value together; as the embedded log's default.
const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A kind of call that can be scripted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `append`.
    Append,
    /// A transactor's `commit`.
    Transaction,
    /// A consumer's `commit`.
    Commit,
    /// Records read from the store, by a consumer's `next` or by `read`.
    Read,
}

/// What a scripted call does.
#[derive(Debug)]
pub enum Reaction {
    /// Nothing, and returns the error.
    Fail(LogError),
    /// Its work, and returns the error all the same: an outcome the caller cannot know.
    DoAndFail(LogError),
    /// Waits for [`MemoryLog::release`], then its work.
    Hang,
}

/// The log.
pub struct MemoryLog {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    store: Arc<MemoryStore>,
    script: Mutex<Vec<Scripted>>,
    released: Notify,
    closed: AtomicBool,
    clock: Clock,
}

/// A reaction that waits for its call.
struct Scripted {
    call: Call,
    /// Calls of this kind still to pass, the scripted one included.
    countdown: usize,
    reaction: Reaction,
}

impl MemoryLog {
    /// An empty log on the machine's clock.
    pub fn new() -> Arc<Self> {
        Self::with_clock(system_clock())
    }

    /// An empty log on another clock: epoch milliseconds.
    pub fn with_clock(clock: Clock) -> Arc<Self> {
        Self::on(Arc::default(), clock).expect("an empty store holds nothing unreadable")
    }

    /// What a process would find that opened this log after the one before was killed.
    pub fn reopened(&self) -> Result<Arc<Self>, LogError> {
        Self::on(Arc::clone(&self.inner.store), Arc::clone(&self.inner.clock))
    }

    fn on(store: Arc<MemoryStore>, clock: Clock) -> Result<Arc<Self>, LogError> {
        let state =
            local::recover(&*store).map_err(|source| LogError::Open { path: "memory".to_owned(), source })?;
        let inner = Inner {
            state: Mutex::new(state),
            store,
            script: Mutex::default(),
            released: Notify::new(),
            closed: AtomicBool::new(false),
            clock,
        };
        Ok(Arc::new(Self { inner: Arc::new(inner) }))
    }

    /// Makes the `nth` call of a kind from now on (the next one is 1) react so. Later calls are unaffected.
    pub fn script(&self, call: Call, nth: usize, reaction: Reaction) {
        lock(&self.inner.script).push(Scripted { call, countdown: nth.max(1), reaction });
    }

    /// Lets every call go on that hangs now.
    pub fn release(&self) {
        self.inner.released.notify_waiters();
    }

    /// Creates missing topics, grows smaller ones, takes over the retention. Returns them in the order given.
    pub async fn ensure_topics(&self, topics: &[Topic]) -> Result<Vec<TopicInfo>, LogError> {
        local::ensure_topics(&*self.inner, topics).await
    }

    /// Every topic, by name.
    pub fn topics(&self) -> Vec<TopicInfo> {
        local::topics(&*self.inner)
    }

    /// Removes what the topics' retention no longer keeps; returns how many chunks.
    pub async fn enforce_retention(&self) -> Result<usize, LogError> {
        local::retention::enforce(&*self.inner, (self.inner.clock)()).await
    }

    /// Every later call fails with [`LogError::Closed`].
    pub async fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        lock(&self.inner.state).wake_all();
    }
}

impl Inner {
    /// The reaction scripted for this call, if its turn has come.
    fn reaction(&self, call: Call) -> Option<Reaction> {
        let mut script = lock(&self.script);
        let mut due = None;
        for (index, scripted) in script.iter_mut().enumerate().filter(|(_, scripted)| scripted.call == call) {
            scripted.countdown = scripted.countdown.saturating_sub(1);
            if scripted.countdown == 0 {
                due.get_or_insert(index);
            }
        }
        due.map(|index| script.remove(index).reaction)
    }

    /// What the embedded log's writer does for a group, for one operation.
    fn carry_out(&self, operation: Operation) -> Result<Outcome, LogError> {
        let mut state = lock(&self.state);
        let mut plan = Plan::default();
        let outcome = plan.add(&mut state, operation, (self.clock)(), RECORD_BYTES_MAX)?;
        let (writes, publication) = plan.finish(Compression::Lz4);
        self.store.write(writes);
        publication.publish(&mut state);
        Ok(outcome)
    }
}

/// Which call an operation came from; `None` for what cannot be scripted.
fn call_of(operation: &Operation) -> Option<Call> {
    match operation {
        Operation::Write(Write { fence: Some(_), .. }) => Some(Call::Transaction),
        Operation::Write(Write { group: Some(_), .. }) => Some(Call::Commit),
        Operation::Write(Write { .. }) => Some(Call::Append),
        Operation::Fence { .. } | Operation::Ensure { .. } | Operation::Expire { .. } => None,
    }
}

#[async_trait]
impl Engine for Inner {
    fn state(&self) -> &Mutex<State> {
        &self.state
    }

    fn check_open(&self) -> Result<(), LogError> {
        if self.closed.load(Ordering::Acquire) { Err(LogError::Closed) } else { Ok(()) }
    }

    async fn submit(&self, operation: Operation) -> Result<Outcome, LogError> {
        self.check_open()?;
        match call_of(&operation).and_then(|call| self.reaction(call)) {
            Some(Reaction::Fail(error)) => return Err(error),
            Some(Reaction::DoAndFail(error)) => return self.carry_out(operation).and(Err(error)),
            Some(Reaction::Hang) => self.released.notified().await,
            None => {}
        }
        self.carry_out(operation)
    }

    async fn fetch(&self, span: Span) -> Result<Vec<LogRecord>, LogError> {
        match self.reaction(Call::Read) {
            Some(Reaction::Fail(error) | Reaction::DoAndFail(error)) => return Err(error),
            Some(Reaction::Hang) => self.released.notified().await,
            None => {}
        }
        local::fetch(&*self.store, span)
    }

    fn chunk_keys(&self, of: PartitionId, low: u64, chunks_max: usize) -> Result<Vec<ChunkKey>, LogError> {
        self.store.chunk_keys(of, low, chunks_max).map_err(local::read_failed)
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
        local::append(&*self.inner, records).await
    }

    async fn subscribe(&self, group: &str, topics: &[Arc<str>]) -> Result<Box<dyn Consumer>, LogError> {
        local::subscribe(&self.inner, group, topics)
    }

    async fn transactor(&self, id: &str) -> Result<Box<dyn Transactor>, LogError> {
        local::transactor(&self.inner, id).await
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, LogError> {
        local::topic(&*self.inner, name)
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        local::watermarks(&*self.inner, of)
    }

    async fn committed(
        &self,
        group: &str,
        of: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, LogError> {
        local::committed(&*self.inner, group, of)
    }

    async fn read(
        &self,
        of: &TopicPartition,
        from: u64,
        limits: ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError> {
        local::read(&*self.inner, of, from, limits).await
    }
}

/// Chunks and entries in sorted maps.
#[derive(Default)]
struct MemoryStore {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    chunks: BTreeMap<(PartitionId, u64), (ChunkKey, Bytes)>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryStore {
    fn write(&self, writes: WriteSet) {
        let mut kept = lock(&self.kept);
        kept.entries.extend(writes.entries);
        for key in writes.removed {
            kept.chunks.remove(&(key.of, key.base));
        }
        for (key, value) in writes.chunks {
            kept.chunks.insert((key.of, key.base), (key, Bytes::from(value)));
        }
    }
}

impl Store for MemoryStore {
    fn entries(&self) -> Result<Vec<KeyValue>, Cause> {
        Ok(lock(&self.kept).entries.clone().into_iter().collect())
    }

    fn last_chunk(&self, of: PartitionId, low: u64) -> Result<Option<(ChunkKey, usize)>, Cause> {
        let kept = lock(&self.kept);
        let last = kept.chunks.range((of, low)..=(of, u64::MAX)).next_back();
        Ok(last.map(|(_, (key, value))| (*key, value.len())))
    }

    fn chunk_keys(&self, of: PartitionId, low: u64, chunks_max: usize) -> Result<Vec<ChunkKey>, Cause> {
        let kept = lock(&self.kept);
        let chunks = kept.chunks.range((of, low)..=(of, u64::MAX));
        Ok(chunks.take(chunks_max).map(|(_, (key, _))| *key).collect())
    }

    fn chunk_holding(&self, of: PartitionId, low: u64, offset: u64) -> Result<Option<ChunkKey>, Cause> {
        let kept = lock(&self.kept);
        let holding = kept.chunks.range((of, low)..=(of, offset.max(low))).next_back();
        Ok(holding.map(|(_, (key, _))| *key))
    }

    fn visit(
        &self,
        of: PartitionId,
        low: u64,
        visitor: &mut dyn FnMut(ChunkKey, Bytes) -> ControlFlow<()>,
    ) -> Result<(), Cause> {
        for (key, value) in lock(&self.kept).chunks.range((of, low)..=(of, u64::MAX)).map(|(_, chunk)| chunk)
        {
            if visitor(*key, value.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }
}
