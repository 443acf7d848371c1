//! What is true of a local log: topics and their partitions, groups and their positions, transactors. Pure.
//! One writer plans against it and publishes what became durable; readers see only what was published.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::log::local::chunk::{ChunkKey, PartitionId, chunk_bytes};
use crate::log::local::durable::{DurableError, DurableTopic, Entry, FORMAT, Low};
use crate::log::local::{Cause, OpenCause, Span};
use crate::log::{Assigned, Committed, LogError, ReadLimits, TopicInfo, TopicPartition};

/// How long and how much of a partition is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retention {
    /// Age at which a chunk may go, in milliseconds.
    pub(crate) age_ms_max: u64,
    /// Bytes of chunks, as stored, above which the oldest may go.
    pub(crate) bytes_max: Option<u64>,
}

/// A topic.
pub(crate) struct Topic {
    pub(crate) info: TopicInfo,
    pub(crate) retention: Retention,
    pub(crate) partitions: Vec<Partition>,
    /// Wakes readers outside groups.
    appended: Arc<Notify>,
}

/// A partition. `low`, `high` and the bytes are what readers see; `next` and `appended_at` run ahead of them
/// while a write is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) low: u64,
    pub(crate) high: u64,
    pub(crate) bytes_low: u64,
    pub(crate) bytes_high: u64,
    /// Offset the next record is given.
    pub(crate) next: u64,
    /// Newest time given.
    pub(crate) appended_at: i64,
}

impl Partition {
    /// From the durable low watermark and the last chunk, which the store finds by itself.
    fn recovered(low: Low, last: Option<(ChunkKey, usize)>) -> Self {
        let high = last.map_or(low.offset, |(chunk, _)| chunk.end());
        Self {
            low: low.offset,
            high,
            bytes_low: low.bytes_before,
            bytes_high: last.map_or(low.bytes_before, |(chunk, value_bytes)| {
                chunk.bytes_before + chunk_bytes(value_bytes)
            }),
            next: high,
            appended_at: last.map_or(low.appended_at, |(chunk, _)| chunk.appended_at.max(low.appended_at)),
        }
    }
}

/// A group, for as long as the process lives; its positions outlive it.
struct Group {
    /// Rises with every member: an older one is no longer heard.
    generation: u64,
    /// Numbers of the topics of the newest member.
    topics: Vec<u32>,
    /// Wakes the newest member.
    wake: Arc<Notify>,
}

/// Which position is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PositionKey {
    pub(crate) group: Arc<str>,
    pub(crate) of: PartitionId,
}

/// What a new member of a group needs to know.
pub(crate) struct Joined {
    pub(crate) group: Arc<str>,
    pub(crate) generation: u64,
    pub(crate) topics: Vec<u32>,
    pub(crate) wake: Arc<Notify>,
}

/// Everything. A topic's number is its index.
#[derive(Default)]
pub(crate) struct State {
    topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, u32>,
    groups: HashMap<Arc<str>, Group>,
    positions: HashMap<PositionKey, Committed>,
    epochs: HashMap<String, u64>,
}

impl State {
    /// From what the store kept. `last` finds a partition's last chunk at or above an offset, and its length.
    pub(crate) fn recover(
        entries: Vec<Entry>,
        last: impl Fn(PartitionId, u64) -> Result<Option<(ChunkKey, usize)>, Cause>,
    ) -> Result<Self, OpenCause> {
        let mut state = Self::default();
        let (mut topics, mut lows, mut positions) = (Vec::new(), HashMap::new(), Vec::new());
        for entry in entries {
            match entry {
                Entry::Format(found) if found > FORMAT => return Err(DurableError::Format { found }.into()),
                Entry::Format(_) => {}
                Entry::Topic { name, topic } => topics.push((name, topic)),
                Entry::Low { of, low } => drop(lows.insert(of, low)),
                Entry::Position { group, topic_id, partition, committed } => {
                    positions.push((group, topic_id, partition, committed));
                }
                Entry::Epoch { id, epoch } => drop(state.epochs.insert(id, epoch)),
            }
        }
        topics.sort_by_key(|(_, topic)| topic.number);
        for (number, (name, topic)) in topics.into_iter().enumerate() {
            if usize::try_from(topic.number) != Ok(number) {
                return Err(DurableError::TopicNumbers { number }.into());
            }
            state.insert_topic(Arc::from(name), topic);
            for partition in 0..topic.partitions {
                let of = PartitionId { topic: topic.number, partition };
                let low = lows.get(&of).copied().unwrap_or_default();
                *state.partition_mut(of) = Partition::recovered(low, last(of, low.offset)?);
            }
        }
        let numbers: HashMap<Uuid, u32> = state.topics.iter().map(|t| t.info.id).zip(0..).collect();
        for (group, topic_id, partition, committed) in positions {
            if let Some(&topic) = numbers.get(&topic_id) {
                let key = PositionKey { group: Arc::from(group), of: PartitionId { topic, partition } };
                state.positions.insert(key, committed);
            }
        }
        Ok(state)
    }

    /// Adds a topic whose partitions are empty. Its number must be the next one.
    pub(crate) fn insert_topic(&mut self, name: Arc<str>, topic: DurableTopic) {
        self.by_name.insert(Arc::clone(&name), topic.number);
        self.topics.push(Topic {
            info: TopicInfo { name, id: topic.id, partitions: topic.partitions },
            retention: topic.retention,
            partitions: vec![Partition::default(); topic.partitions as usize],
            appended: Arc::default(),
        });
    }

    /// Gives an existing topic its retention and, where it has fewer, its partitions.
    pub(crate) fn update_topic(
        &mut self,
        number: u32,
        partitions: u32,
        retention: Retention,
    ) -> DurableTopic {
        let topic = &mut self.topics[number as usize];
        topic.info.partitions = topic.info.partitions.max(partitions);
        topic.partitions.resize_with(topic.info.partitions as usize, Partition::default);
        topic.retention = retention;
        DurableTopic { id: topic.info.id, number, partitions: topic.info.partitions, retention }
    }

    /// Every topic, by number.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.iter()
    }

    /// Number of a topic, if there is one of that name.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The number the next topic gets.
    pub(crate) fn next_number(&self) -> u32 {
        u32::try_from(self.topics.len()).expect("topics are few")
    }

    /// A topic by name.
    pub(crate) fn topic(&self, name: &str) -> Result<&Topic, LogError> {
        let number = self.number(name).ok_or_else(|| LogError::UnknownTopic { topic: name.to_owned() })?;
        Ok(&self.topics[number as usize])
    }

    /// The topic a partition belongs to.
    pub(crate) fn topic_of(&self, of: PartitionId) -> &Topic {
        &self.topics[of.topic as usize]
    }

    /// Checks that a partition exists.
    pub(crate) fn locate(&self, of: &TopicPartition) -> Result<PartitionId, LogError> {
        let topic =
            self.number(&of.topic).ok_or_else(|| LogError::UnknownTopic { topic: of.topic.to_string() })?;
        if of.partition >= self.topics[topic as usize].info.partitions {
            return Err(LogError::UnknownPartition { partition: of.clone() });
        }
        Ok(PartitionId { topic, partition: of.partition })
    }

    /// A partition that exists.
    pub(crate) fn partition(&self, of: PartitionId) -> &Partition {
        &self.topics[of.topic as usize].partitions[of.partition as usize]
    }

    /// A partition that exists.
    pub(crate) fn partition_mut(&mut self, of: PartitionId) -> &mut Partition {
        &mut self.topics[of.topic as usize].partitions[of.partition as usize]
    }

    /// Every partition, by number.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.topics.iter().zip(0..).flat_map(|(topic, number)| {
            (0..topic.info.partitions).map(move |partition| PartitionId { topic: number, partition })
        })
    }

    /// A partition by its outside name.
    pub(crate) fn name_of(&self, of: PartitionId) -> TopicPartition {
        TopicPartition { topic: Arc::clone(&self.topic_of(of).info.name), partition: of.partition }
    }

    /// What there is to read from an offset on; `None` at the end.
    pub(crate) fn span(&self, of: PartitionId, from: u64, limits: &ReadLimits) -> Option<Span> {
        let partition = self.partition(of);
        let from = from.max(partition.low);
        (from < partition.high).then(|| Span {
            of,
            low: partition.low,
            from,
            high: partition.high,
            records_max: limits.records_max.max(1),
            bytes_max: limits.bytes_max,
        })
    }

    /// Rings when a topic grows by records.
    pub(crate) fn appended(&self, of: PartitionId) -> Arc<Notify> {
        Arc::clone(&self.topic_of(of).appended)
    }

    /// Wakes who waits for records of these topics, or for their new partitions.
    pub(crate) fn wake(&self, topics: impl Fn(u32) -> bool) {
        for (topic, number) in self.topics.iter().zip(0..) {
            if topics(number) {
                topic.appended.notify_waiters();
            }
        }
        for group in self.groups.values() {
            if group.topics.iter().any(|&number| topics(number)) {
                group.wake.notify_one();
            }
        }
    }

    /// Makes a new member the only one of its group. The one before learns of it when it is woken.
    pub(crate) fn join(&mut self, group: &str, topics: &[Arc<str>]) -> Result<Joined, LogError> {
        let mut numbers = Vec::with_capacity(topics.len());
        for name in topics {
            let number = self.number(name);
            numbers.push(number.ok_or_else(|| LogError::UnknownTopic { topic: name.to_string() })?);
        }
        numbers.sort_unstable();
        numbers.dedup();
        let name: Arc<str> = Arc::from(group);
        let wake = Arc::<Notify>::default();
        let before = self.groups.get(group);
        let generation = before.map_or(1, |before| before.generation + 1);
        if let Some(before) = before {
            before.wake.notify_one();
        }
        let member = Group { generation, topics: numbers.clone(), wake: Arc::clone(&wake) };
        self.groups.insert(Arc::clone(&name), member);
        Ok(Joined { group: name, generation, topics: numbers, wake })
    }

    /// Whether this is still the newest member of its group.
    pub(crate) fn is_current(&self, group: &str, generation: u64) -> bool {
        self.groups.get(group).is_some_and(|current| current.generation == generation)
    }

    /// A partition as it is given to a member of a group.
    pub(crate) fn assigned(&self, group: &Arc<str>, of: PartitionId) -> Assigned {
        let key = PositionKey { group: Arc::clone(group), of };
        Assigned {
            partition: self.name_of(of),
            topic: self.topic_of(of).info.clone(),
            committed: self.positions.get(&key).cloned(),
        }
    }

    /// A position became durable.
    pub(crate) fn set_position(&mut self, key: PositionKey, committed: Committed) {
        self.positions.insert(key, committed);
    }

    /// Groups that read a partition now or did before, each with its next offset.
    pub(crate) fn readers(&self, of: PartitionId) -> Vec<(Arc<str>, u64)> {
        let committed = self.positions.iter().filter(|(key, _)| key.of == of);
        let mut readers: Vec<_> =
            committed.map(|(key, committed)| (Arc::clone(&key.group), committed.offset)).collect();
        for (name, group) in &self.groups {
            if group.topics.contains(&of.topic) && !readers.iter().any(|(known, _)| known == name) {
                readers.push((Arc::clone(name), 0));
            }
        }
        readers
    }

    /// The newest epoch of a transactor; 0 when there was none.
    pub(crate) fn epoch(&self, id: &str) -> u64 {
        self.epochs.get(id).copied().unwrap_or(0)
    }

    /// Gives a transactor its next epoch.
    pub(crate) fn next_epoch(&mut self, id: &str) -> u64 {
        let epoch = self.epoch(id) + 1;
        self.epochs.insert(id.to_owned(), epoch);
        epoch
    }

    /// Wakes everyone: the log was closed.
    pub(crate) fn wake_all(&self) {
        self.wake(|_| true);
    }
}
