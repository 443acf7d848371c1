//! A log that keeps appends on its own disk while the log behind it is away: records in, durable there or here, and
//! later there. Only `append` differs; everything else is the log's own.
//!
//! An append tries the log first, unless it is known to be away. What the log does not take in time is written to the
//! spill and is durable when `append` returns; a task appends it to the log, oldest first, and takes it away when the
//! log acknowledged it. What was cut off in between goes in twice, under the same event ids, which dedupe knows.

mod frame;
mod replay;
mod store;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use millrace_crds::state::SpillState;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use self::replay::Replay;
use self::store::Store;
use self::writer::Ticket;
use super::watched::Troubles;
use super::{
    Committed, Consumer, Later, Log, LogError, LogRecord, NewRecord, ReadLimits, Repeated, TopicInfo,
    TopicPartition, Transactor, Watermarks,
};
use crate::metrics::Metrics;

/// What stands for the offset of a record that the log will take later.
pub const OFFSET_LATER: u64 = u64::MAX;

/// Most records that are kept because they may be in the log twice.
const REPEATED_MAX: usize = 10_000;

/// Appends that wait for the spill's writer; beyond it clients are told to come back.
const WAITING_MAX: usize = 4096;

/// How the spill behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most bytes on disk; beyond it appends are refused. By default four fifths of the file system, so that a
    /// volume that is all its own is never filled to the end.
    pub bytes_max: Option<u64>,
    /// Longest wait for the log before a record is spilled. Clients wait as long, so it is well below their patience.
    pub direct_max: Duration,
    /// Largest record the log takes: one that is larger would never leave the spill.
    pub record_bytes_max: usize,
}

/// The log with a spill in front.
pub struct SpillLog {
    inner: Arc<dyn Log>,
    options: Options,
    shared: Arc<Shared>,
    tickets: mpsc::Sender<Ticket>,
    _replaying: AbortOnDropHandle<()>,
}

/// What appending, writing and replaying know of each other.
struct Shared {
    store: Store,
    /// The log did not take the last thing it was given.
    is_away: AtomicBool,
    /// Something was spilled.
    spilled: Notify,
    /// What was appended without an answer, and will be again.
    repeated: Mutex<Repeated>,
    metrics: Arc<Metrics>,
    /// Where it is told that there is no room.
    troubles: Arc<Troubles>,
}

impl SpillLog {
    /// Takes the folder for this process, and begins to replay what an earlier one left in it.
    pub fn open(
        inner: Arc<dyn Log>,
        folder: &Path,
        options: Options,
        troubles: Arc<Troubles>,
    ) -> Result<Arc<Self>, SpillError> {
        let store = Store::open(folder, options.bytes_max)?;
        let shared = Arc::new(Shared {
            store,
            is_away: AtomicBool::new(false),
            spilled: Notify::new(),
            repeated: Mutex::default(),
            metrics: Arc::clone(troubles.metrics()),
            troubles,
        });
        shared.report();
        let (tickets, waiting) = mpsc::channel(WAITING_MAX);
        let writing = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("spill".to_owned())
            .spawn(move || writer::run(&writing, waiting))
            .map_err(|source| SpillError::Folder { path: folder.to_owned(), source })?;
        let replay = Replay::new(Arc::clone(&inner), Arc::clone(&shared));
        let _replaying = AbortOnDropHandle::new(tokio::spawn(replay.run()));
        Ok(Arc::new(Self { inner, options, shared, tickets, _replaying }))
    }

    /// What waits on disk.
    pub fn state(&self) -> SpillState {
        self.shared.store.report(Timestamp::now().as_millisecond())
    }

    /// Whether the log is known to be away: the replay is trying it, so nobody else has to wait for it.
    fn is_known_away(&self) -> bool {
        self.shared.is_away.load(Ordering::Relaxed) && !self.shared.store.is_empty()
    }

    async fn spill(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
        let bytes_max = self.options.record_bytes_max;
        let largest = records.iter().map(|record| record.key.len() + record.value.len()).max().unwrap_or(0);
        if largest > bytes_max {
            return Err(LogError::TooLarge { bytes: largest, bytes_max });
        }
        let count = records.len();
        let (answer, answered) = oneshot::channel();
        self.tickets.try_send(Ticket { records, answer }).map_err(|_| LogError::QueueFull)?;
        answered.await.map_err(|_| LogError::Closed)??;
        Ok(vec![OFFSET_LATER; count])
    }
}

impl Shared {
    fn report(&self) {
        let SpillState { bytes, oldest_milliseconds, set_aside } =
            self.store.report(Timestamp::now().as_millisecond());
        self.metrics.spill_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.metrics.spill_oldest_milliseconds.set(i64::try_from(oldest_milliseconds).unwrap_or(i64::MAX));
        self.metrics.spill_set_aside_files.set(i64::try_from(set_aside).unwrap_or(i64::MAX));
    }

    /// Notes records that the log may have taken and will be given again.
    fn repeat(&self, records: &[NewRecord]) {
        let mut repeated = self.repeated.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = records.len().min(REPEATED_MAX - repeated.records.len());
        repeated.records.extend_from_slice(&records[..fits]);
        repeated.more |= fits < records.len();
    }

    fn count(&self, outcome: &str, records: usize) {
        self.metrics.spill_records.with_label_values(&[outcome]).inc_by(records as u64);
    }
}

#[async_trait]
impl Log for SpillLog {
    /// The offset of a spilled record is [`OFFSET_LATER`].
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
        let mut may_be_there = false;
        if !self.is_known_away() {
            let direct = self.inner.append(records.clone());
            match tokio::time::timeout(self.options.direct_max, direct).await {
                Ok(Err(error)) if error.is_retryable() => {
                    may_be_there = !error.took_nothing();
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "the log does not take events; they are spilled");
                }
                Ok(decided) => return decided,
                Err(_) => {
                    may_be_there = true;
                    tracing::debug!("the log does not answer in time; events are spilled");
                }
            }
            if !self.shared.is_away.swap(true, Ordering::Relaxed) {
                tracing::warn!("the log is away; events are kept on this disk and appended when it is back");
            }
        }
        if may_be_there {
            self.shared.repeat(&records);
        }
        match self.spill(records).await {
            // What this disk did not take, the log may have taken all the same.
            Err(error) if may_be_there && error.took_nothing() => Err(LogError::UnknownOutcome),
            spilled => spilled,
        }
    }

    fn later(&self) -> Later {
        self.shared.store.later()
    }

    fn repeated(&self) -> Repeated {
        std::mem::take(&mut *self.shared.repeated.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn committed(
        &self,
        group: &str,
        of: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, LogError> {
        self.inner.committed(group, of).await
    }

    async fn subscribe(&self, group: &str, topics: &[Arc<str>]) -> Result<Box<dyn Consumer>, LogError> {
        self.inner.subscribe(group, topics).await
    }

    async fn transactor(&self, id: &str) -> Result<Box<dyn Transactor>, LogError> {
        self.inner.transactor(id).await
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, LogError> {
        self.inner.topic(name).await
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        self.inner.watermarks(of).await
    }

    async fn settled_end(&self, of: &TopicPartition) -> Result<u64, LogError> {
        self.inner.settled_end(of).await
    }

    async fn read(
        &self,
        of: &TopicPartition,
        from: u64,
        limits: ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError> {
        self.inner.read(of, from, limits).await
    }
}

/// Why there is no spill.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// Two processes would take each other's records away.
    #[error("another process spills to `{}`; give each process a folder of its own", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder or a file in it cannot be used.
    #[error("the spill `{}` cannot be used; check that it exists and is writable", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
