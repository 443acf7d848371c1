//! The log: durable topics with partitions, positions of consumer groups, and transactions over both.
//! Kafka (the cluster), embedded (one process, fjall) and memory (tests) satisfy the same traits.
//!
//! Guarantees every implementation keeps:
//! - an append that returned `Ok` survives the loss of power; one that returned an error may or may not be there;
//! - records of one partition are read in the order of their offsets; an offset is never reused;
//! - a transaction is visible as a whole or not at all, positions included;
//! - `appended_at` never goes back within a partition, on Kafka as far as its brokers' clocks do not.

pub mod embedded;
pub mod kafka;
mod local;
pub mod memory;
pub mod spill;
pub mod trouble;
pub mod watched;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

/// One partition of one topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Full topic name.
    pub topic: Arc<str>,
    /// From 0.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A record to be appended. The caller chose the partition (`record::partition_of`).
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Where to.
    pub to: TopicPartition,
    /// Key; may be empty.
    pub key: Bytes,
    /// Value.
    pub value: Bytes,
}

/// A record as read.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Offset within the partition.
    pub offset: u64,
    /// When the log took it, UTC epoch milliseconds.
    pub appended_at: i64,
    /// Key; may be empty.
    pub key: Bytes,
    /// Value.
    pub value: Bytes,
}

/// What a topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Full name.
    pub name: Arc<str>,
    /// Identity: a topic deleted and made again has another.
    pub id: Uuid,
    /// Number of partitions.
    pub partitions: u32,
}

/// First offset still there and the one the next record will get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// First offset still there.
    pub low: u64,
    /// Offset of the next record.
    pub high: u64,
}

/// Where a group stands in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Next offset to read.
    pub offset: u64,
    /// Free text of the group; the loader keeps its intent here.
    pub metadata: String,
}

/// A position to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Of which partition.
    pub of: TopicPartition,
    /// Next offset to read, and the group's text.
    pub committed: Committed,
}

/// How much one read may return.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Most records.
    pub records_max: usize,
    /// Most bytes of keys and values; one record is returned even if it is larger.
    pub bytes_max: usize,
    /// Longest wait for a first record.
    pub wait_max: Duration,
}

impl ReadLimits {
    /// One record, at once.
    pub const PEEK: Self = Self { records_max: 1, bytes_max: 1, wait_max: Duration::ZERO };
}

/// What a consumer has to tell.
#[derive(Debug)]
pub enum Polled {
    /// These partitions are ours now, with the group's position; `None` means never committed.
    Assigned(Vec<Assigned>),
    /// These are no longer ours: nothing may be committed for them.
    Revoked(Vec<TopicPartition>),
    /// Records of one partition, in order, never empty.
    Records(TopicPartition, Vec<LogRecord>),
    /// Nothing came within the wait.
    Idle,
}

/// A partition given to a consumer.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// The partition.
    pub partition: TopicPartition,
    /// The topic it belongs to.
    pub topic: TopicInfo,
    /// Where the group stands.
    pub committed: Option<Committed>,
}

/// Proof of membership in a group, needed to commit positions in a transaction.
#[derive(Clone)]
pub struct GroupHandle {
    /// Group name.
    pub name: Arc<str>,
    /// What the implementation needs beside the name (Kafka: the consumer group metadata).
    pub inner: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

/// Records and positions that become visible together.
pub struct Transaction {
    /// Appended in this order within each partition.
    pub records: Vec<NewRecord>,
    /// Kept for `group`.
    pub positions: Vec<Commit>,
    /// Whose positions.
    pub group: GroupHandle,
}

/// Appends that are durable, but not in the log yet: they have the offset [`spill::OFFSET_LATER`]. They are taken in the
/// order of a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Later {
    /// What was answered so far stands before this.
    pub end: u64,
    /// What stands before this is in the log.
    pub taken: u64,
}

/// Records that may stand in the log more often than it said.
#[derive(Debug, Default)]
pub struct Repeated {
    /// Each as often as it may stand there too much.
    pub records: Vec<NewRecord>,
    /// Whether there were more than could be kept.
    pub more: bool,
}

/// Durable topics.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Appends and returns the offsets, in the order given, once every record is durable.
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError>;

    /// How far the log has come with what it said it would take later.
    fn later(&self) -> Later {
        Later::default()
    }

    /// Records that were appended without an answer and then once more, since the last call.
    fn repeated(&self) -> Repeated {
        Repeated::default()
    }

    /// Joins a group. The first thing the consumer tells is `Assigned`, which waits for the group.
    async fn subscribe(&self, group: &str, topics: &[Arc<str>]) -> Result<Box<dyn Consumer>, LogError>;

    /// A transactional producer; a second one with the same id fences the first.
    async fn transactor(&self, id: &str) -> Result<Box<dyn Transactor>, LogError>;

    /// What a topic is.
    async fn topic(&self, name: &str) -> Result<TopicInfo, LogError>;

    /// First and next offset of a partition.
    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError>;

    /// The end of a partition, once everything before it is decided: what a transaction that was open at the call
    /// brought is then either readable or gone. Waits for that where [`Log::watermarks`] stops before it.
    async fn settled_end(&self, of: &TopicPartition) -> Result<u64, LogError> {
        Ok(self.watermarks(of).await?.high)
    }

    /// Where a group stands in these partitions, in their order, asked from outside of it; `None` where it never
    /// committed. What a transaction is about to commit does not count yet.
    async fn committed(&self, group: &str, of: &[TopicPartition])
    -> Result<Vec<Option<Committed>>, LogError>;

    /// Reads outside any group, from an offset on. Empty only at the end, that is when no record between `from` and
    /// the high watermark is left. Starts at the low watermark when `from` is below it: compare the first offset
    /// returned.
    async fn read(
        &self,
        of: &TopicPartition,
        from: u64,
        limits: ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError>;
}

/// A member of a group.
#[async_trait]
pub trait Consumer: Send {
    /// The next thing to know. Safe to cancel.
    async fn next(&mut self, limits: ReadLimits) -> Result<Polled, LogError>;

    /// Continues an assigned partition at an offset.
    async fn seek(&mut self, of: &TopicPartition, offset: u64) -> Result<(), LogError>;

    /// Keeps positions, durable when it returns.
    async fn commit(&mut self, positions: Vec<Commit>) -> Result<(), LogError>;

    /// What a transaction needs to commit positions of this group.
    fn group(&self) -> GroupHandle;
}

/// Commits transactions, one at a time.
#[async_trait]
pub trait Transactor: Send {
    /// Commits; durable and visible when it returns `Ok`. After [`LogError::UnknownOutcome`] the caller must look
    /// at its positions before going on.
    async fn commit(&mut self, transaction: Transaction) -> Result<(), LogError>;
}

/// What went wrong in the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such topic.
    #[error("topic `{topic}` does not exist")]
    UnknownTopic {
        /// Its name.
        topic: String,
    },
    /// No such partition.
    #[error("`{partition}` does not exist")]
    UnknownPartition {
        /// Which.
        partition: TopicPartition,
    },
    /// A record, or the metadata of a position, larger than the log takes.
    #[error("record or metadata of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The bounded queue in front of the log is full.
    #[error("the log's queue is full")]
    QueueFull,
    /// The disk is full or nearly so.
    #[error("the log's disk has less than {free_bytes_min} bytes free; make room on it")]
    DiskFull {
        /// What must stay free.
        free_bytes_min: u64,
    },
    /// What is kept for the log while it is away has reached its bound.
    #[error(
        "the spill has no room for more than its {bytes_max} bytes; see why the log is away, or give it a larger volume"
    )]
    SpillFull {
        /// The bound.
        bytes_max: u64,
    },
    /// The disk of what is kept for the log while it is away took no more, below the bound.
    #[error("the spill's disk is full; make room on it, or give the spill a larger volume")]
    SpillDiskFull {
        /// What the disk said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// A write or fsync failed. Nothing is acknowledged any more until the process is started again.
    #[error("the log failed at `{step}`; check its disk, then restart")]
    Failed {
        /// What failed.
        step: &'static str,
        /// Why, where known.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// Another transactor with the same id, or another member of the same group, took over.
    #[error("`{id}` was fenced by a newer one")]
    Fenced {
        /// The transactor's id, or the group's name.
        id: String,
    },
    /// The commit may or may not have happened.
    #[error("the outcome of the transaction is unknown")]
    UnknownOutcome,
    /// The log answers, and does not let us do this. It may pass: accounts and rights are changed on either side.
    #[error("the log refuses to {step}; check the account, its ACLs and the certificates")]
    Refused {
        /// What was to be done.
        step: &'static str,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The log cannot do what is needed of it.
    #[error("unsupported broker: it cannot {step}; update the brokers to Kafka 3.1 or newer")]
    Unsupported {
        /// What was to be done.
        step: &'static str,
        /// What it said, if anything.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// The log does not answer, or not as it should. It may pass.
    #[error("the log is not available: it cannot {step}")]
    Unavailable {
        /// What was to be done.
        step: &'static str,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The log is shutting down.
    #[error("the log is closed")]
    Closed,
    /// It could not be opened.
    #[error("cannot open the log at `{path}`")]
    Open {
        /// Its folder.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl LogError {
    /// Whether an append that failed so surely left no record behind. Anything else may have left some.
    pub fn took_nothing(&self) -> bool {
        match self {
            Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::QueueFull
            | Self::DiskFull { .. } => true,
            // A broker may refuse one record of a call and take the others; before a spill was full, the log was asked.
            Self::TooLarge { .. }
            | Self::SpillFull { .. }
            | Self::SpillDiskFull { .. }
            | Self::Refused { .. }
            | Self::Unsupported { .. }
            | Self::Failed { .. }
            | Self::Fenced { .. }
            | Self::UnknownOutcome
            | Self::Unavailable { .. }
            | Self::Closed
            | Self::Open { .. } => false,
        }
    }

    /// Whether the same call may succeed later without a change of the input.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::QueueFull
            | Self::DiskFull { .. }
            | Self::SpillFull { .. }
            | Self::SpillDiskFull { .. }
            | Self::UnknownOutcome
            | Self::Refused { .. }
            | Self::Unsupported { .. }
            | Self::Unavailable { .. } => true,
            Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::TooLarge { .. }
            | Self::Failed { .. }
            | Self::Fenced { .. }
            | Self::Closed
            | Self::Open { .. } => false,
        }
    }
}
