//! Operations against the state to one write set: who is refused, which offsets are given, what is written. Pure.
//! An operation is checked in full before it changes anything. A change needs no way back: when the write fails
//! the log takes no more of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::log::local::chunk::{self, CHUNK_BYTES_MAX, ChunkKey, Compression, KEY_BYTES, PartitionId};
use crate::log::local::durable::{DurableTopic, Entry, FORMAT, Low};
use crate::log::local::state::{PositionKey, Retention, State};
use crate::log::{Commit, Committed, LogError, NewRecord};

/// Longest metadata of a position, in bytes; Kafka's default (`offset.metadata.max.bytes`).
pub(crate) const METADATA_BYTES_MAX: usize = 4096;

/// Something to be carried out, whole or not at all.
pub(crate) enum Operation {
    /// Records, positions, or both.
    Write(Write),
    /// A new transactor: the ones before with its id are fenced.
    Fence { id: String },
    /// Topics that shall be there.
    Ensure { topics: Vec<TopicWanted> },
    /// Chunks that retention removes, oldest first; not empty.
    Expire { of: PartitionId, chunks: Vec<ChunkKey>, bytes_before: u64 },
}

/// Records and positions that become visible together.
pub(crate) struct Write {
    pub(crate) records: Vec<NewRecord>,
    pub(crate) positions: Vec<Commit>,
    /// Whose positions.
    pub(crate) group: Option<Membership>,
    /// Which transactor asks, if one does.
    pub(crate) fence: Option<Fence>,
}

/// A group, and the member that speaks for it.
#[derive(Clone)]
pub(crate) struct Membership {
    pub(crate) group: Arc<str>,
    /// `None`: positions are set from outside, no member is asked.
    pub(crate) generation: Option<u64>,
}

/// A transactor, and when it was made.
#[derive(Clone)]
pub(crate) struct Fence {
    pub(crate) id: String,
    pub(crate) epoch: u64,
}

/// A topic that shall be there.
pub(crate) struct TopicWanted {
    pub(crate) name: Arc<str>,
    pub(crate) id_if_new: Uuid,
    pub(crate) partitions: u32,
    pub(crate) retention: Retention,
}

/// What an operation gives back.
#[derive(Debug)]
pub(crate) enum Outcome {
    Offsets(Vec<u64>),
    Epoch(u64),
    Done,
}

impl Outcome {
    /// Offsets of the records written.
    pub(crate) fn offsets(self) -> Vec<u64> {
        match self {
            Self::Offsets(offsets) => offsets,
            Self::Epoch(_) | Self::Done => Vec::new(),
        }
    }

    /// The epoch given.
    pub(crate) fn epoch(self) -> u64 {
        match self {
            Self::Epoch(epoch) => epoch,
            Self::Offsets(_) | Self::Done => 0,
        }
    }
}

impl Operation {
    /// Bytes it keeps in memory until it is written: payload and a little for the rest.
    pub(crate) fn bytes(&self) -> usize {
        const OVERHEAD: usize = 64;
        match self {
            Self::Write(write) => {
                let records: usize = write.records.iter().map(chunk::stored_bytes).sum();
                let positions: usize =
                    write.positions.iter().map(|commit| OVERHEAD + commit.committed.metadata.len()).sum();
                OVERHEAD + records + positions
            }
            Self::Fence { .. } => OVERHEAD,
            Self::Ensure { topics } => OVERHEAD * (topics.len() + 1),
            Self::Expire { chunks, .. } => OVERHEAD + chunks.len() * KEY_BYTES,
        }
    }

    /// Whether it adds records: what a full disk must refuse. Everything else is small or frees space.
    pub(crate) fn adds_records(&self) -> bool {
        matches!(self, Self::Write(write) if !write.records.is_empty())
    }
}

/// Records of one partition on their way, from `base` on.
struct Staged {
    base: u64,
    appended_at: i64,
    bytes_before: u64,
    records: Vec<NewRecord>,
}

/// What one group of operations will write.
#[derive(Default)]
pub(crate) struct Plan {
    staged: BTreeMap<PartitionId, Staged>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    positions: Vec<(PositionKey, Committed)>,
    removed: Vec<ChunkKey>,
    lows: BTreeMap<PartitionId, Low>,
    topics: Vec<u32>,
}

/// What the store writes, atomically. Removed chunks are older than all others.
pub(crate) struct WriteSet {
    pub(crate) chunks: Vec<(ChunkKey, Vec<u8>)>,
    pub(crate) removed: Vec<ChunkKey>,
    pub(crate) entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What becomes visible once the write set is durable.
pub(crate) struct Publication {
    /// Next offset and bytes per partition written to.
    highs: Vec<(PartitionId, u64, u64)>,
    positions: Vec<(PositionKey, Committed)>,
    lows: BTreeMap<PartitionId, Low>,
    topics: Vec<u32>,
    /// Records written.
    pub(crate) records: usize,
}

/// Records that retention removed before a group had read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) group: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) records: u64,
}

impl Plan {
    /// Whether nothing would be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.entries.is_empty() && self.removed.is_empty()
    }

    /// Decides one operation. `now` is in epoch milliseconds.
    pub(crate) fn add(
        &mut self,
        state: &mut State,
        operation: Operation,
        now: i64,
        record_bytes_max: usize,
    ) -> Result<Outcome, LogError> {
        match operation {
            Operation::Write(write) => self.write(state, write, now, record_bytes_max),
            Operation::Fence { id } => {
                let epoch = state.next_epoch(&id);
                self.put(Entry::Epoch { id, epoch });
                Ok(Outcome::Epoch(epoch))
            }
            Operation::Ensure { topics } => {
                for topic in topics {
                    self.ensure(state, topic);
                }
                Ok(Outcome::Done)
            }
            Operation::Expire { of, chunks, bytes_before } => {
                self.expire(state, of, chunks, bytes_before);
                Ok(Outcome::Done)
            }
        }
    }

    fn write(
        &mut self,
        state: &mut State,
        write: Write,
        now: i64,
        record_bytes_max: usize,
    ) -> Result<Outcome, LogError> {
        let targets = check_records(state, &write.records, record_bytes_max)?;
        check_speaker(state, &write)?;
        let positions = check_positions(state, write.positions, write.group.as_ref())?;
        let offsets = targets
            .into_iter()
            .zip(write.records)
            .map(|(of, record)| self.stage(state, of, record, now))
            .collect();
        for (key, committed) in positions {
            self.put(Entry::Position {
                group: key.group.to_string(),
                topic_id: state.topic_of(key.of).info.id,
                partition: key.of.partition,
                committed: committed.clone(),
            });
            self.positions.push((key, committed));
        }
        Ok(Outcome::Offsets(offsets))
    }

    fn stage(&mut self, state: &mut State, of: PartitionId, record: NewRecord, now: i64) -> u64 {
        let partition = state.partition_mut(of);
        let offset = partition.next;
        partition.next += 1;
        // All records of one commit carry one time, and no time is before the one given last: clocks jump.
        let staged = self.staged.entry(of).or_insert_with(|| Staged {
            base: offset,
            appended_at: now.max(partition.appended_at),
            bytes_before: partition.bytes_high,
            records: Vec::new(),
        });
        partition.appended_at = staged.appended_at;
        staged.records.push(record);
        offset
    }

    fn ensure(&mut self, state: &mut State, wanted: TopicWanted) {
        let topic = match state.number(&wanted.name) {
            Some(number) => {
                let known = state.topics().nth(number as usize).expect("a number names a topic");
                if known.retention == wanted.retention && known.info.partitions >= wanted.partitions {
                    return;
                }
                state.update_topic(number, wanted.partitions, wanted.retention)
            }
            None => {
                let topic = DurableTopic {
                    id: wanted.id_if_new,
                    number: state.next_number(),
                    partitions: wanted.partitions,
                    retention: wanted.retention,
                };
                state.insert_topic(Arc::clone(&wanted.name), topic);
                self.put(Entry::Format(FORMAT));
                topic
            }
        };
        self.topics.push(topic.number);
        self.put(Entry::Topic { name: wanted.name.to_string(), topic });
    }

    fn expire(&mut self, state: &State, of: PartitionId, chunks: Vec<ChunkKey>, bytes_before: u64) {
        // Chosen before an earlier round was written: what it names is gone already.
        let is_stale = chunks.first().is_none_or(|first| first.base != state.partition(of).low);
        let Some(offset) = chunks.last().map(ChunkKey::end) else { return };
        if is_stale || self.lows.contains_key(&of) {
            return;
        }
        let low = Low { offset, bytes_before, appended_at: state.partition(of).appended_at };
        self.put(Entry::Low { of, low });
        self.lows.insert(of, low);
        self.removed.extend(chunks);
    }

    fn put(&mut self, entry: Entry) {
        let (key, value) = entry.encode();
        self.entries.insert(key, value);
    }

    /// Turns records into chunks. The expensive part, and the only one that needs no state.
    pub(crate) fn finish(self, compression: Compression) -> (WriteSet, Publication) {
        let mut chunks = Vec::with_capacity(self.staged.len());
        let mut highs = Vec::with_capacity(self.staged.len());
        let mut records = 0;
        for (of, staged) in self.staged {
            let (mut base, mut bytes_before) = (staged.base, staged.bytes_before);
            for part in parts(&staged.records) {
                let value = chunk::encode(part, compression);
                let count = u32::try_from(part.len()).expect("a chunk is bounded by its bytes");
                let key = ChunkKey { of, base, count, appended_at: staged.appended_at, bytes_before };
                base = key.end();
                bytes_before += chunk::chunk_bytes(value.len());
                chunks.push((key, value));
            }
            records += staged.records.len();
            highs.push((of, base, bytes_before));
        }
        let publication =
            Publication { highs, positions: self.positions, lows: self.lows, topics: self.topics, records };
        (WriteSet { chunks, removed: self.removed, entries: self.entries }, publication)
    }
}

impl Publication {
    /// Makes it visible, wakes who waits for it, and says who missed what retention removed.
    pub(crate) fn publish(self, state: &mut State) -> Vec<Unread> {
        let mut unread = Vec::new();
        for (of, low) in self.lows {
            let before = state.partition(of).low;
            for (group, next) in state.readers(of) {
                let records = low.offset.saturating_sub(next.max(before));
                if records > 0 {
                    unread.push(Unread { group, topic: Arc::clone(&state.topic_of(of).info.name), records });
                }
            }
            let partition = state.partition_mut(of);
            (partition.low, partition.bytes_low) = (low.offset, low.bytes_before);
        }
        for &(of, high, bytes_high) in &self.highs {
            let partition = state.partition_mut(of);
            (partition.high, partition.bytes_high) = (high, bytes_high);
        }
        for (key, committed) in self.positions {
            state.set_position(key, committed);
        }
        let touched: Vec<u32> =
            self.highs.iter().map(|(of, ..)| of.topic).chain(self.topics.iter().copied()).collect();
        if !touched.is_empty() {
            state.wake(|number| touched.contains(&number));
        }
        unread
    }
}

/// Cuts records into chunks of about [`CHUNK_BYTES_MAX`]; a larger record stands alone.
fn parts(records: &[NewRecord]) -> impl Iterator<Item = &[NewRecord]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest
            .iter()
            .take_while(|record| {
                bytes += chunk::stored_bytes(record);
                bytes <= CHUNK_BYTES_MAX
            })
            .count();
        let (part, later) = rest.split_at(fitting.max(1).min(rest.len()));
        rest = later;
        (!part.is_empty()).then_some(part)
    })
}

fn check_records(
    state: &State,
    records: &[NewRecord],
    record_bytes_max: usize,
) -> Result<Vec<PartitionId>, LogError> {
    let mut targets = Vec::with_capacity(records.len());
    for record in records {
        let bytes = record.key.len() + record.value.len();
        if bytes > record_bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max: record_bytes_max });
        }
        targets.push(state.locate(&record.to)?);
    }
    Ok(targets)
}

fn check_speaker(state: &State, write: &Write) -> Result<(), LogError> {
    if let Some(fence) = &write.fence
        && state.epoch(&fence.id) != fence.epoch
    {
        return Err(LogError::Fenced { id: fence.id.clone() });
    }
    if let Some(Membership { group, generation: Some(generation) }) = &write.group
        && !write.positions.is_empty()
        && !state.is_current(group, *generation)
    {
        return Err(LogError::Fenced { id: group.to_string() });
    }
    Ok(())
}

fn check_positions(
    state: &State,
    positions: Vec<Commit>,
    group: Option<&Membership>,
) -> Result<Vec<(PositionKey, Committed)>, LogError> {
    let Some(Membership { group, .. }) = group else { return Ok(Vec::new()) };
    let mut checked = Vec::with_capacity(positions.len());
    for Commit { of, committed } in positions {
        let bytes = committed.metadata.len();
        if bytes > METADATA_BYTES_MAX {
            return Err(LogError::TooLarge { bytes, bytes_max: METADATA_BYTES_MAX });
        }
        checked.push((PositionKey { group: Arc::clone(group), of: state.locate(&of)? }, committed));
    }
    Ok(checked)
}
