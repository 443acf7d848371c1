//! The embedded log: durable topics in one process, on fjall.
//! Appends and transactions of all callers go through one writer thread: group commit. Reads go beside it.

mod housekeeping;
mod journal;
mod queue;
mod store;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use millrace_crds::config::Topic;
use tokio_util::sync::CancellationToken;

use crate::log::embedded::queue::{End, Queue};
use crate::log::embedded::store::FjallStore;
use crate::log::local::chunk::{ChunkKey, PartitionId};
use crate::log::local::plan::{Operation, Outcome};
use crate::log::local::state::State;
use crate::log::local::{self, Engine, OpenCause, Span, Store, lock};
use crate::log::{
    Committed, Consumer, Log, LogError, LogRecord, NewRecord, ReadLimits, TopicInfo, TopicPartition,
    Transactor, Watermarks,
};
use crate::metrics::Metrics;

pub use crate::log::local::Clock;
pub use crate::log::local::chunk::Compression;

/// Limits of the log.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of records that may wait for the writer; beyond it an append is refused with `QueueFull`.
    pub queue_bytes_max: usize,
    /// Largest record, key and value together.
    pub record_bytes_max: usize,
    /// Free bytes on the disk below which records are refused with `DiskFull`. Must leave room for a journal
    /// (64 MiB) and for tables that are being rewritten.
    pub free_bytes_min: u64,
    /// Longest time between two looks at the free space.
    pub disk_check_interval: Duration,
    /// Time between two rounds of retention and metrics.
    pub housekeeping_interval: Duration,
    /// How records lie on disk.
    pub compression: Compression,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 * 1024 * 1024,
            record_bytes_max: 8 * 1024 * 1024,
            free_bytes_min: 256 * 1024 * 1024,
            disk_check_interval: Duration::from_secs(1),
            housekeeping_interval: Duration::from_secs(10),
            compression: Compression::Lz4,
        }
    }
}

/// What the log takes from the machine; tests bring their own.
#[derive(Clone)]
pub struct Environment {
    /// The time records get.
    pub clock: Clock,
    /// Free bytes on the log's disk, for a process without privileges.
    pub free_bytes: Arc<dyn Fn() -> std::io::Result<u64> + Send + Sync>,
}

impl Environment {
    /// The machine's clock, and the disk that holds `path`.
    pub fn of_machine(path: &Path) -> Self {
        let path = path.to_owned();
        Self {
            clock: local::system_clock(),
            free_bytes: Arc::new(move || {
                let disk = rustix::fs::statvfs(&path)?;
                Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
            }),
        }
    }
}

/// The log.
pub struct EmbeddedLog {
    inner: Arc<Inner>,
    stop: CancellationToken,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads and the consumers share.
struct Inner {
    state: Mutex<State>,
    store: FjallStore,
    queue: Queue,
    options: Options,
    environment: Environment,
    metrics: Arc<Metrics>,
}

impl EmbeddedLog {
    /// Opens the log in folder `path`, which is made if it is missing. One process at a time.
    pub fn open(path: &Path, options: Options, metrics: Arc<Metrics>) -> Result<Arc<Self>, LogError> {
        Self::open_in(path, options, metrics, Environment::of_machine(path))
    }

    /// As [`EmbeddedLog::open`], with another clock and disk.
    pub fn open_in(
        path: &Path,
        options: Options,
        metrics: Arc<Metrics>,
        environment: Environment,
    ) -> Result<Arc<Self>, LogError> {
        let cannot_open = |source: OpenCause| LogError::Open { path: path.display().to_string(), source };
        let store = FjallStore::open(path).map_err(|error| cannot_open(Box::new(error)))?;
        let state = Mutex::new(local::recover(&store).map_err(cannot_open)?);
        let queue = Queue::new(options.queue_bytes_max);
        let inner = Arc::new(Inner { state, store, queue, options, environment, metrics });
        let stop = CancellationToken::new();
        let log = Self { inner, stop, threads: Mutex::default() };
        log.start().map_err(|error| cannot_open(Box::new(error)))?;
        Ok(Arc::new(log))
    }

    /// Starts both threads. When the second cannot be started, dropping the log stops the first.
    fn start(&self) -> std::io::Result<()> {
        let inner = Arc::clone(&self.inner);
        self.spawn("log-writer", move || writer::run(&inner))?;
        let inner = Arc::clone(&self.inner);
        let stop = self.stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        self.spawn("log-keeper", move || runtime.block_on(housekeeping::run(&inner, &stop)))
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Creates missing topics, grows smaller ones, takes over the retention; durable when it returns. A topic
    /// never shrinks. Returns the topics as they are, in the order given.
    pub async fn ensure_topics(&self, topics: &[Topic]) -> Result<Vec<TopicInfo>, LogError> {
        local::ensure_topics(&*self.inner, topics).await
    }

    /// Whether records are taken at all; the error says why not, for ever or until there is room.
    pub fn health(&self) -> Result<(), LogError> {
        match self.inner.queue.ended() {
            Some(error) => Err(error),
            None if self.inner.is_disk_low() => Err(self.inner.disk_full()),
            None => Ok(()),
        }
    }

    /// Every topic, by name.
    pub fn topics(&self) -> Vec<TopicInfo> {
        local::topics(&*self.inner)
    }

    /// Removes now what the topics' retention no longer keeps; returns how many chunks. Housekeeping does the same
    /// from time to time.
    pub async fn enforce_retention(&self) -> Result<usize, LogError> {
        local::retention::enforce(&*self.inner, (self.inner.environment.clock)()).await
    }

    /// Writes what is queued, then stops. Every later call fails with [`LogError::Closed`]. The folder is free for
    /// another process when the log and its consumers are dropped.
    pub async fn close(&self) {
        self.stop();
        let threads = std::mem::take(&mut *lock(&self.threads));
        // A thread that panicked has said so; closing has nothing to add.
        let _joined = tokio::task::spawn_blocking(move || join(threads)).await;
    }

    fn stop(&self) {
        self.stop.cancel();
        self.inner.queue.close();
        lock(&self.inner.state).wake_all();
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.stop();
        join(std::mem::take(&mut *lock(&self.threads)));
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        let _panicked = thread.join();
    }
}

impl Inner {
    /// A file system that cannot say how full it is gets the benefit of the doubt: the write itself will tell.
    fn is_disk_low(&self) -> bool {
        (self.environment.free_bytes)().is_ok_and(|free| free < self.options.free_bytes_min)
    }

    fn disk_full(&self) -> LogError {
        LogError::DiskFull { free_bytes_min: self.options.free_bytes_min }
    }

    fn report_queue(&self) {
        self.metrics.log_queue_bytes.set(i64::try_from(self.queue.bytes()).unwrap_or(i64::MAX));
    }
}

#[async_trait]
impl Engine for Inner {
    fn state(&self) -> &Mutex<State> {
        &self.state
    }

    /// A failed log can still be read: what is visible was durable before.
    fn check_open(&self) -> Result<(), LogError> {
        match self.queue.end() {
            Some(End::Closed) => Err(LogError::Closed),
            Some(End::Failed { .. }) | None => Ok(()),
        }
    }

    async fn submit(&self, operation: Operation) -> Result<Outcome, LogError> {
        let answer = self.queue.push(operation)?;
        self.report_queue();
        match answer.await {
            Ok(outcome) => outcome,
            // The writer is gone without an answer: only a panic does that.
            Err(_) => Err(LogError::Failed { step: "writer", source: None }),
        }
    }

    async fn fetch(&self, span: Span) -> Result<Vec<LogRecord>, LogError> {
        // Decoding a chunk takes longer than going to another thread, and the disk may take much longer.
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || local::fetch(&store, span)).await {
            Ok(records) => records,
            Err(_) => Err(LogError::Failed { step: "read", source: None }),
        }
    }

    fn chunk_keys(&self, of: PartitionId, low: u64, chunks_max: usize) -> Result<Vec<ChunkKey>, LogError> {
        self.store.chunk_keys(of, low, chunks_max).map_err(local::read_failed)
    }
}

#[async_trait]
impl Log for EmbeddedLog {
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
