//! A member of a group, and a transactor. In one process a group has one member, which is given every partition
//! of its topics; the next one to join takes over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use crate::log::local::chunk::PartitionId;
use crate::log::local::plan::{Fence, Membership, Operation, Write};
use crate::log::local::state::{Joined, State};
use crate::log::local::{Engine, Span, lock, within};
use crate::log::{
    Assigned, Commit, Consumer, GroupHandle, LogError, LogRecord, Polled, ReadLimits, TopicPartition,
    Transaction, Transactor,
};

/// A partition as its reader stands in it.
struct Reading {
    of: PartitionId,
    name: TopicPartition,
    /// Offset of the next record to hand out.
    next: u64,
    /// Records read but not handed out: the rest of one chunk at most.
    ahead: VecDeque<LogRecord>,
}

/// A member of a group.
pub(crate) struct Member<E> {
    engine: Arc<E>,
    joined: Joined,
    readings: Vec<Reading>,
    /// Where the search for records goes on, so that no partition starves another.
    cursor: usize,
    standing: Standing,
}

/// Whether the member speaks for its group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has not been told its partitions yet: they may be none.
    New,
    Current,
    /// Another took over, and this one was told.
    Replaced,
}

/// What one look at the state shows.
enum Look {
    Tell(Polled),
    /// Records of this reading are at hand.
    Ahead(usize),
    /// Records of this reading are in the store.
    Stored(usize, Span),
    Nothing,
}

impl<E: Engine> Member<E> {
    pub(crate) fn new(engine: Arc<E>, joined: Joined) -> Self {
        Self { engine, joined, readings: Vec::new(), cursor: 0, standing: Standing::New }
    }

    fn look(&mut self, limits: &ReadLimits) -> Result<Look, LogError> {
        self.engine.check_open()?;
        if self.standing == Standing::Replaced {
            return Ok(Look::Nothing);
        }
        let engine = Arc::clone(&self.engine);
        let state = lock(engine.state());
        if !state.is_current(&self.joined.group, self.joined.generation) {
            self.standing = Standing::Replaced;
            let lost = std::mem::take(&mut self.readings);
            return Ok(Look::Tell(Polled::Revoked(lost.into_iter().map(|reading| reading.name).collect())));
        }
        let assigned = self.take_new_partitions(&state);
        if !assigned.is_empty() || self.standing == Standing::New {
            self.standing = Standing::Current;
            return Ok(Look::Tell(Polled::Assigned(assigned)));
        }
        Ok(self.find_records(&state, limits))
    }

    /// Partitions made since the last look: all of them at first, later those by which a topic grew.
    fn take_new_partitions(&mut self, state: &State) -> Vec<Assigned> {
        let mut assigned = Vec::new();
        for of in state.partitions().filter(|of| self.joined.topics.contains(&of.topic)) {
            if self.readings.iter().any(|reading| reading.of == of) {
                continue;
            }
            let given = state.assigned(&self.joined.group, of);
            let low = state.partition(of).low;
            let next = given.committed.as_ref().map_or(low, |committed| committed.offset.max(low));
            let name = given.partition.clone();
            self.readings.push(Reading { of, name, next, ahead: VecDeque::new() });
            assigned.push(given);
        }
        assigned
    }

    fn find_records(&mut self, state: &State, limits: &ReadLimits) -> Look {
        for step in 0..self.readings.len() {
            let index = (self.cursor + step) % self.readings.len();
            let reading = &self.readings[index];
            if !reading.ahead.is_empty() {
                return Look::Ahead(index);
            }
            if let Some(span) = state.span(reading.of, reading.next, limits) {
                return Look::Stored(index, span);
            }
        }
        Look::Nothing
    }

    fn hand_out(&mut self, index: usize, limits: &ReadLimits) -> Polled {
        self.cursor = index + 1;
        let reading = &mut self.readings[index];
        let count = within(reading.ahead.make_contiguous(), limits);
        let records: Vec<_> = reading.ahead.drain(..count).collect();
        if let Some(last) = records.last() {
            reading.next = last.offset + 1;
        }
        Polled::Records(reading.name.clone(), records)
    }
}

#[async_trait]
impl<E: Engine> Consumer for Member<E> {
    async fn next(&mut self, limits: ReadLimits) -> Result<Polled, LogError> {
        let started = Instant::now();
        loop {
            match self.look(&limits)? {
                Look::Tell(polled) => return Ok(polled),
                Look::Ahead(index) => return Ok(self.hand_out(index, &limits)),
                Look::Stored(index, span) => {
                    // Nothing changes before the records are here: dropping this future loses nothing.
                    let records = self.engine.fetch(span).await?;
                    self.readings[index].ahead = records.into();
                    if !self.readings[index].ahead.is_empty() {
                        return Ok(self.hand_out(index, &limits));
                    }
                    // Retention removed them between look and fetch: the next look starts at the new low.
                }
                Look::Nothing => {
                    let left = limits.wait_max.saturating_sub(started.elapsed());
                    let woken = self.joined.wake.notified();
                    if left.is_zero() || tokio::time::timeout(left, woken).await.is_err() {
                        return Ok(Polled::Idle);
                    }
                }
            }
        }
    }

    async fn seek(&mut self, of: &TopicPartition, offset: u64) -> Result<(), LogError> {
        let reading = self.readings.iter_mut().find(|reading| &reading.name == of);
        let reading = reading.ok_or_else(|| LogError::UnknownPartition { partition: of.clone() })?;
        reading.next = offset;
        reading.ahead.clear();
        Ok(())
    }

    async fn commit(&mut self, positions: Vec<Commit>) -> Result<(), LogError> {
        if positions.is_empty() {
            return Ok(());
        }
        let group =
            Membership { group: Arc::clone(&self.joined.group), generation: Some(self.joined.generation) };
        let write = Write { records: Vec::new(), positions, group: Some(group), fence: None };
        self.engine.submit(Operation::Write(write)).await.map(drop)
    }

    fn group(&self) -> GroupHandle {
        GroupHandle {
            name: Arc::clone(&self.joined.group),
            inner: Some(Arc::new(Generation(self.joined.generation))),
        }
    }
}

/// What a [`GroupHandle`] of a local log carries.
struct Generation(u64);

/// A transactor.
pub(crate) struct LocalTransactor<E> {
    engine: Arc<E>,
    fence: Fence,
}

impl<E: Engine> LocalTransactor<E> {
    pub(crate) fn new(engine: Arc<E>, id: &str, epoch: u64) -> Self {
        Self { engine, fence: Fence { id: id.to_owned(), epoch } }
    }
}

#[async_trait]
impl<E: Engine> Transactor for LocalTransactor<E> {
    async fn commit(&mut self, transaction: Transaction) -> Result<(), LogError> {
        let Transaction { records, positions, group } = transaction;
        if records.is_empty() && positions.is_empty() {
            return Ok(());
        }
        let generation = group.inner.and_then(|inner| inner.downcast_ref::<Generation>().map(|g| g.0));
        let group = Some(Membership { group: group.name, generation });
        let write = Write { records, positions, group, fence: Some(self.fence.clone()) };
        self.engine.submit(Operation::Write(write)).await.map(drop)
    }
}
