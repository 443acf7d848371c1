//! What a member of a group holds: which partitions are its own, and what happened to them that nobody was told yet.
//! The callbacks of rebalances run here, on the thread that polls, so they run only inside of `next`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::error::{tell, unavailable};
use super::reader::{SETTLE_MAX, number, offset, watermarks};
use super::topics::Topics;
use crate::log::{Assigned, Committed, LogError, TopicPartition};

/// Something the caller has to be told before anything else.
pub(super) enum Told {
    Assigned(Vec<Start>),
    Revoked(Vec<TopicPartition>),
    Failed(LogError),
}

/// A partition that is ours now.
pub(super) struct Start {
    pub(super) assigned: Assigned,
    /// Where reading begins.
    pub(super) next: u64,
}

/// Which partitions are ours. Shared with the handles that transactions carry.
#[derive(Default)]
pub(super) struct Held(Mutex<BTreeSet<TopicPartition>>);

impl Held {
    pub(super) fn has_all<'a>(&self, mut partitions: impl Iterator<Item = &'a TopicPartition>) -> bool {
        let held = self.lock();
        partitions.all(|partition| held.contains(partition))
    }

    pub(super) fn all(&self) -> Vec<TopicPartition> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<TopicPartition>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a [`crate::log::GroupHandle`] of this log carries.
pub(super) struct Membership {
    /// The member's thread owns it; it ends with the thread.
    pub(super) consumer: Weak<BaseConsumer<Group>>,
    pub(super) held: Arc<Held>,
}

impl Membership {
    /// What the brokers take positions of these partitions on, as of now; `None` once one of them is no longer ours.
    /// The group may move on at any time without taking away what is held: that waits for a call of `next`.
    pub(super) fn proof<'a>(
        &self,
        partitions: impl Iterator<Item = &'a TopicPartition>,
    ) -> Option<ConsumerGroupMetadata> {
        let consumer = self.consumer.upgrade()?;
        let metadata = consumer.group_metadata()?;
        // After the metadata: those of a member that lost its place name no member at all, and the brokers would
        // take them without a check. It stays lost until its partitions are no longer held.
        (!consumer.assignment_lost() && self.held.has_all(partitions)).then_some(metadata)
    }
}

/// The context of a member's client.
pub(super) struct Group {
    pub(super) held: Arc<Held>,
    pub(super) topics: Arc<Topics>,
    /// To ask the brokers about topics from the thread that polls.
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) told: Mutex<VecDeque<Told>>,
}

impl Group {
    pub(super) fn pop(&self) -> Option<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn push(&self, told: Told) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push_back(told);
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, given: &TopicPartitionList) -> Result<(), LogError> {
        let failed = |source| unavailable("take partitions over", source);
        let starts = self.starts(consumer, given)?;
        let mut positions = TopicPartitionList::new();
        for Start { assigned, next } in &starts {
            let of = &assigned.partition;
            positions.add_partition_offset(&of.topic, number(of), offset(*next)).map_err(failed)?;
        }
        consumer.incremental_assign(&positions).map_err(failed)?;
        self.held.lock().extend(starts.iter().map(|start| start.assigned.partition.clone()));
        self.push(Told::Assigned(starts));
        Ok(())
    }

    /// Where the group stands in what it was given. Waits for transactions that are about to move it.
    fn starts(
        &self,
        consumer: &BaseConsumer<Self>,
        given: &TopicPartitionList,
    ) -> Result<Vec<Start>, LogError> {
        if given.count() == 0 {
            return Ok(Vec::new());
        }
        let asked = consumer.committed_offsets(given.clone(), SETTLE_MAX);
        let committed = asked.map_err(|source| unavailable("find where the group stands", source))?;
        let mut topics = BTreeMap::new();
        let mut starts = Vec::new();
        for element in committed.elements() {
            element.error().map_err(|source| unavailable("find where the group stands", source))?;
            let topic = match topics.get(element.topic()) {
                Some(topic) => topic,
                None => {
                    let known = self.runtime.block_on(self.topics.ask(element.topic()))?;
                    topics.entry(element.topic().to_owned()).or_insert(known.info)
                }
            };
            let partition = TopicPartition {
                topic: Arc::clone(&topic.name),
                partition: u32::try_from(element.partition()).unwrap_or(u32::MAX),
            };
            let low = watermarks(consumer, &partition)?.low;
            let committed = match element.offset() {
                Offset::Offset(offset) => {
                    let offset = u64::try_from(offset).unwrap_or(0);
                    Some(Committed { offset, metadata: element.metadata().to_owned() })
                }
                _ => None,
            };
            let next = committed.as_ref().map_or(low, |committed| committed.offset.max(low));
            starts.push(Start { assigned: Assigned { partition, topic: topic.clone(), committed }, next });
        }
        starts.sort_by(|one, other| one.assigned.partition.cmp(&other.assigned.partition));
        Ok(starts)
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, taken: &TopicPartitionList) {
        let taken: Vec<TopicPartition> = taken
            .elements()
            .iter()
            .map(|element| TopicPartition {
                topic: Arc::from(element.topic()),
                partition: u32::try_from(element.partition()).unwrap_or(u32::MAX),
            })
            .collect();
        let mut held = self.held.lock();
        let lost: Vec<_> = taken.into_iter().filter(|partition| held.remove(partition)).collect();
        drop(held);
        if consumer.assignment_lost() {
            tracing::warn!(?lost, "the group went on without this member");
        }
        if !lost.is_empty() {
            self.push(Told::Revoked(lost));
        }
    }
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tell(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(error = &error as &dyn std::error::Error, reason, "the Kafka consumer has a problem");
    }
}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let done = if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, list)
        } else {
            self.revoke(consumer, list);
            let unassigned = consumer.incremental_unassign(list);
            return match unassigned {
                Ok(()) => (),
                Err(source) => self.push(Told::Failed(unavailable("give partitions up", source))),
            };
        };
        if let Err(error) = done {
            self.push(Told::Failed(error));
            // The group waits for an answer; what is taken without being held is never handed out.
            let nothing = TopicPartitionList::new();
            if let Err(error) = consumer.incremental_assign(&nothing) {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot answer the group");
            }
        }
    }
}
