//! Failpoints: named steps of the protocols at which a test makes this process die, fail, wait or stand still, and
//! defects it may be given, so that checks can be seen to catch them; and a clock by which the ledger's minutes pass in
//! no time. Only the cargo feature `failpoints` compiles them in; without it every call here is empty, and nothing reads
//! the settings.

use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;

use crate::log::LogError;

#[cfg(feature = "failpoints")]
mod active;
#[cfg(feature = "failpoints")]
mod clock;
#[cfg(feature = "failpoints")]
mod plan;

#[cfg(feature = "failpoints")]
pub use active::{Args, install};

/// A step. What has happened when it is reached is in its name; `value_variants` lists all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Point {
    /// The events of a request are decided; nothing is written.
    IngestAdmitted,
    /// The log acknowledged them; the client knows nothing.
    IngestAppended,
    /// The embedded log has planned a group; nothing is written.
    EmbeddedPlanned,
    /// The group is written and synced; nobody was told.
    EmbeddedSynced,
    /// Ingest gathered what it spills; nothing is written.
    SpillGrouped,
    /// It is written and synced; nobody was told.
    SpillSynced,
    /// The log took everything of a spilled segment; it is still there.
    SpillReplayed,
    /// The segment is removed.
    SpillRemoved,
    /// Process got partitions; nothing of the changelog is read.
    ProcessAssigned,
    /// What was seen is restored.
    ProcessRestored,
    /// A batch is decided; its transaction has not begun.
    ProcessDecided,
    /// The transaction is committed; its event ids do not count as seen.
    ProcessCommitted,
    /// They count as seen.
    ProcessApplied,
    /// A Kafka transaction has begun and is empty.
    TransactionBegun,
    /// Its records are with the brokers.
    TransactionRecords,
    /// Its positions too; it is not committed.
    TransactionPositions,
    /// It is committed; the caller was not told.
    TransactionCommitted,
    /// The loader got a partition, perhaps with an intent.
    LoadAssigned,
    /// Blocks are cut; their intents are not committed.
    LoadCut,
    /// The intents are committed; nothing is inserted.
    LoadIntended,
    /// Every block is inserted; no end is committed.
    LoadInserted,
    /// The ends are committed.
    LoadCommitted,
    /// An intent was found and its block read again; it is not inserted.
    LoadFound,
    /// The block that was found is inserted; its end is not committed.
    LoadRepeated,
    /// Its end is committed.
    LoadFinished,
}

/// A mistake this process is made to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Defect {
    /// Ingest acknowledges an event that it does not append.
    IngestLosesEvent,
    /// Process commits its position without one of the records.
    ProcessLosesRecord,
    /// Process does not remember what it has seen.
    ProcessForgetsSeen,
    /// The loader leaves an event out of its block.
    LoadLosesRow,
    /// The loader inserts a block of events twice, under two tokens.
    LoadDoublesBlock,
}

/// Stops here as configured. The error, where that is configured, is one that may pass.
#[cfg(feature = "failpoints")]
pub async fn reach(point: Point) -> Result<(), LogError> {
    active::reach(point).await
}

/// Nothing, without the feature.
#[cfg(not(feature = "failpoints"))]
pub async fn reach(_: Point) -> Result<(), LogError> {
    Ok(())
}

/// [`reach`] on a thread that may block.
#[cfg(feature = "failpoints")]
pub fn reach_blocking(point: Point) -> Result<(), LogError> {
    active::reach_blocking(point)
}

/// Nothing, without the feature.
#[cfg(not(feature = "failpoints"))]
pub fn reach_blocking(_: Point) -> Result<(), LogError> {
    Ok(())
}

/// Whether this time the process has the defect.
#[cfg(feature = "failpoints")]
pub fn has(defect: Defect) -> bool {
    active::has(defect)
}

/// Never, without the feature.
#[cfg(not(feature = "failpoints"))]
pub fn has(_: Defect) -> bool {
    false
}

/// The time by which ingest and the ledger tell minutes.
#[cfg(feature = "failpoints")]
pub fn now() -> Timestamp {
    active::clock().at(Timestamp::now())
}

/// The time, without the feature.
#[cfg(not(feature = "failpoints"))]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// A pause of the ledger, which keeps step with [`now`].
#[cfg(feature = "failpoints")]
pub fn pause(pause: Duration) -> Duration {
    active::clock().pause(pause)
}

/// The pause itself, without the feature.
#[cfg(not(feature = "failpoints"))]
pub fn pause(pause: Duration) -> Duration {
    pause
}
