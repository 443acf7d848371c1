//! The `seen` topic: the truth behind the dedupe store. Entries in, records out, and back again; and the one way
//! by which entries reach the store: reading the topic up to its high watermark.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::{Entry, Position, Seen, SeenError, SharedSeen};
use crate::log::{Log, LogError, LogRecord, NewRecord, ReadLimits, TopicInfo, TopicPartition};
use crate::record::partition_of;

/// First byte of a value.
const VALUE_VERSION: u8 = 1;
/// Version, partition, offset, append time.
const VALUE_BYTES: usize = 1 + 4 + 8 + 8;
/// Most entries applied at once: some milliseconds of work between two awaits.
const PAGE: ReadLimits =
    ReadLimits { records_max: 4096, bytes_max: 1 << 20, wait_max: Duration::from_millis(50) };

/// The changelog as one worker uses it.
#[derive(Clone, Debug)]
pub struct Changelog {
    /// The `seen` topic.
    pub topic: TopicInfo,
    /// Partitions to keep up with.
    pub partitions: BTreeSet<u32>,
}

impl Changelog {
    /// The part that the holder of some raw partitions needs. Entries stand where their event id puts them, as
    /// raw records do. So when the raw count is a multiple of the changelog's, one raw partition needs exactly
    /// one changelog partition, and still does after raw grew by an integer multiple; otherwise it needs all.
    pub fn new(topic: TopicInfo, raw_assigned: &BTreeSet<u32>, raw_partitions: u32) -> Self {
        let count = topic.partitions.max(1);
        let partitions = if raw_partitions.is_multiple_of(count) {
            raw_assigned.iter().map(|partition| partition % count).collect()
        } else if raw_assigned.is_empty() {
            BTreeSet::new()
        } else {
            (0..count).collect()
        };
        Self { topic, partitions }
    }

    /// Brings the store up to the high watermark; afterwards it knows everything committed before the call.
    /// `oldest_pending` is the append time of the oldest raw record still to be decided: what lies outside its
    /// window is skipped. Returns how many entries were read.
    pub async fn catch_up(
        &self,
        log: &dyn Log,
        seen: &SharedSeen,
        oldest_pending: Option<i64>,
    ) -> Result<u64, CatchUpError> {
        let mut read = 0;
        let mut newest = None;
        for partition in self.partitions.iter().copied() {
            let of = TopicPartition { topic: Arc::clone(&self.topic.name), partition };
            // Another worker's transaction may still be open here, though its positions are decided.
            let high =
                log.settled_end(&of).await.map_err(|source| CatchUpError::log("watermarks", source))?;
            let mut next = seen.with(|seen| seen.mark(partition)).await;
            while next < high {
                let page =
                    log.read(&of, next, PAGE).await.map_err(|source| CatchUpError::log("read", source))?;
                // Nothing below the watermark but markers of transactions.
                next = page.last().map_or(high, |last| last.offset + 1);
                let entries: Vec<Entry> = page.iter().filter_map(decode).collect();
                newest = entries.iter().map(|entry| Some(entry.at.appended_at)).fold(newest, Option::max);
                read += entries.len() as u64;
                let needed_from = oldest_pending.or(newest);
                seen.run(move |seen| {
                    seen.apply(partition, &entries, next)?;
                    needed_from.map_or(Ok(()), |needed_from| seen.retire(needed_from))
                })
                .await?;
            }
        }
        seen.with(Seen::forget_recent).await;
        Ok(read)
    }
}

/// The changelog record of an entry.
pub fn encode(topic: &TopicInfo, entry: &Entry) -> NewRecord {
    let mut value = Vec::with_capacity(VALUE_BYTES);
    value.push(VALUE_VERSION);
    value.extend(entry.at.partition.to_be_bytes());
    value.extend(entry.at.offset.to_be_bytes());
    value.extend(entry.at.appended_at.to_be_bytes());
    let partition = partition_of(entry.event_id.as_bytes(), topic.partitions);
    NewRecord {
        to: TopicPartition { topic: Arc::clone(&topic.name), partition },
        key: Bytes::copy_from_slice(entry.event_id.as_bytes()),
        value: value.into(),
    }
}

/// `None` for what is not an entry of a version this build knows.
fn decode(record: &LogRecord) -> Option<Entry> {
    let value = <&[u8; VALUE_BYTES]>::try_from(record.value.as_ref()).ok()?;
    let (version, rest) = value.split_first()?;
    let (partition, rest) = rest.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    let at = Position {
        partition: u32::from_be_bytes(*partition),
        offset: u64::from_be_bytes(*offset),
        appended_at: i64::from_be_bytes(rest.try_into().ok()?),
    };
    let event_id = Uuid::from_slice(&record.key).ok()?;
    (*version == VALUE_VERSION).then_some(Entry { event_id, at })
}

/// Why the store could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum CatchUpError {
    /// The changelog could not be read.
    #[error("cannot read the dedupe changelog at `{step}`")]
    Log {
        /// What was done.
        step: &'static str,
        /// Why.
        source: LogError,
    },
    /// The store could not be read or written.
    #[error(transparent)]
    Seen(#[from] SeenError),
}

impl CatchUpError {
    fn log(step: &'static str, source: LogError) -> Self {
        Self::Log { step, source }
    }
}
