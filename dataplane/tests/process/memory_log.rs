//! A log in memory with a clock and faults to order.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use millrace_dataplane::log::{
    Assigned, Commit, Committed, Consumer, GroupHandle, Log, LogError, LogRecord, NewRecord, Polled,
    ReadLimits, TopicInfo, TopicPartition, Transaction, Transactor, Watermarks,
};
use tokio::sync::watch;
use uuid::Uuid;

/// What becomes of a transaction.
pub(crate) enum Fault {
    /// Nothing happens, and this is said.
    Refused(LogError),
    /// It happens, and its outcome is called unknown.
    UnknownButDone,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) topics: BTreeMap<Arc<str>, (TopicInfo, Vec<Vec<LogRecord>>)>,
    pub(crate) positions: HashMap<(String, TopicPartition), Committed>,
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) record_bytes_max: usize,
    pub(crate) now: i64,
}

#[derive(Clone)]
pub(crate) struct MemoryLog {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
}

impl MemoryLog {
    pub(crate) fn new(topics: &[(String, u32)], now: i64) -> Self {
        let mut state = State { record_bytes_max: usize::MAX, now, ..State::default() };
        for (name, partitions) in topics {
            let name: Arc<str> = name.as_str().into();
            let info = TopicInfo { name: Arc::clone(&name), id: Uuid::new_v4(), partitions: *partitions };
            state.topics.insert(name, (info, vec![Vec::new(); *partitions as usize]));
        }
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(watch::channel(()).0) }
    }

    pub(crate) fn with<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        action(&mut self.state.lock().unwrap())
    }

    /// Every record of a topic, by partition and offset.
    pub(crate) fn records(&self, topic: &str) -> Vec<(u32, LogRecord)> {
        let of_partition = |(partition, records): (usize, &Vec<LogRecord>)| {
            records
                .iter()
                .map(|record| (u32::try_from(partition).unwrap(), record.clone()))
                .collect::<Vec<_>>()
        };
        self.with(|state| state.topics[topic].1.iter().enumerate().flat_map(of_partition).collect())
    }

    /// Waits until something holds; panics when it does not within ten seconds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let mut changes = self.changed.subscribe();
        let wait = async {
            while !self.with(|state| holds(state)) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Waits until a group has consumed a topic.
    pub(crate) async fn until_consumed(&self, group: &str, topic: &str) {
        self.until("everything consumed", |state| {
            let (info, partitions) = &state.topics[topic];
            (0..info.partitions).zip(partitions).all(|(partition, records)| {
                let of = TopicPartition { topic: Arc::clone(&info.name), partition };
                let at = state.positions.get(&(group.to_owned(), of)).map_or(0, |committed| committed.offset);
                at == records.len() as u64
            })
        })
        .await;
    }

    pub(crate) fn put(&self, record: NewRecord) -> u64 {
        let offset = self.with(|state| state.append(record).unwrap());
        self.changed.send_replace(());
        offset
    }
}

impl State {
    fn append(&mut self, new: NewRecord) -> Result<u64, LogError> {
        let bytes = new.key.len() + new.value.len();
        if bytes > self.record_bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max: self.record_bytes_max });
        }
        let appended_at = self.now;
        let records = self.partition(&new.to)?;
        let offset = records.len() as u64;
        records.push(LogRecord { offset, appended_at, key: new.key, value: new.value });
        Ok(offset)
    }

    fn partition(&mut self, of: &TopicPartition) -> Result<&mut Vec<LogRecord>, LogError> {
        let unknown = || LogError::UnknownPartition { partition: of.clone() };
        let (_, partitions) = self.topics.get_mut(&of.topic).ok_or_else(unknown)?;
        partitions.get_mut(of.partition as usize).ok_or_else(unknown)
    }

    fn transact(&mut self, transaction: Transaction) -> Result<(), LogError> {
        let sizes = transaction.records.iter().map(|record| record.key.len() + record.value.len());
        if let Some(bytes) = sizes.max().filter(|bytes| *bytes > self.record_bytes_max) {
            return Err(LogError::TooLarge { bytes, bytes_max: self.record_bytes_max });
        }
        for record in transaction.records {
            self.append(record)?;
        }
        for Commit { of, committed } in transaction.positions {
            self.positions.insert((transaction.group.name.to_string(), of), committed);
        }
        Ok(())
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
        Ok(records.into_iter().map(|record| self.put(record)).collect())
    }

    async fn subscribe(&self, group: &str, topics: &[Arc<str>]) -> Result<Box<dyn Consumer>, LogError> {
        let mut next = BTreeMap::new();
        let mut assigned = Vec::new();
        for topic in topics {
            let topic = self.topic(topic).await?;
            for partition in 0..topic.partitions {
                let of = TopicPartition { topic: Arc::clone(&topic.name), partition };
                let committed =
                    self.with(|state| state.positions.get(&(group.to_owned(), of.clone())).cloned());
                next.insert(of.clone(), committed.as_ref().map_or(0, |committed| committed.offset));
                assigned.push(Assigned { partition: of, topic: topic.clone(), committed });
            }
        }
        let changes = self.changed.subscribe();
        Ok(Box::new(Member {
            log: self.clone(),
            group: group.into(),
            assigned: Some(assigned),
            next,
            changes,
        }))
    }

    async fn transactor(&self, _id: &str) -> Result<Box<dyn Transactor>, LogError> {
        Ok(Box::new(self.clone()))
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, LogError> {
        let found = self.with(|state| state.topics.get(name).map(|(info, _)| info.clone()));
        found.ok_or_else(|| LogError::UnknownTopic { topic: name.to_owned() })
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        self.with(|state| Ok(Watermarks { low: 0, high: state.partition(of)?.len() as u64 }))
    }

    async fn committed(
        &self,
        group: &str,
        of: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, LogError> {
        let at = |of: &TopicPartition| {
            self.with(|state| state.positions.get(&(group.to_owned(), of.clone())).cloned())
        };
        Ok(of.iter().map(at).collect())
    }

    async fn read(
        &self,
        of: &TopicPartition,
        from: u64,
        limits: ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError> {
        self.with(|state| {
            let records = state.partition(of)?;
            let from = usize::try_from(from).unwrap();
            Ok(records.iter().skip(from).take(limits.records_max).cloned().collect())
        })
    }
}

#[async_trait]
impl Transactor for MemoryLog {
    async fn commit(&mut self, transaction: Transaction) -> Result<(), LogError> {
        let outcome = self.with(|state| match state.faults.pop_front() {
            None => state.transact(transaction),
            Some(Fault::Refused(error)) => Err(error),
            Some(Fault::UnknownButDone) => {
                state.transact(transaction)?;
                Err(LogError::UnknownOutcome)
            }
        });
        self.changed.send_replace(());
        outcome
    }
}

struct Member {
    log: MemoryLog,
    group: Arc<str>,
    assigned: Option<Vec<Assigned>>,
    next: BTreeMap<TopicPartition, u64>,
    changes: watch::Receiver<()>,
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self, limits: ReadLimits) -> Result<Polled, LogError> {
        if let Some(assigned) = self.assigned.take() {
            return Ok(Polled::Assigned(assigned));
        }
        loop {
            self.changes.mark_unchanged();
            for (of, next) in &mut self.next {
                let records = self.log.read(of, *next, limits).await?;
                if let Some(last) = records.last() {
                    *next = last.offset + 1;
                    return Ok(Polled::Records(of.clone(), records));
                }
            }
            if tokio::time::timeout(limits.wait_max, self.changes.changed()).await.is_err() {
                return Ok(Polled::Idle);
            }
        }
    }

    async fn seek(&mut self, of: &TopicPartition, offset: u64) -> Result<(), LogError> {
        self.next.insert(of.clone(), offset);
        Ok(())
    }

    async fn commit(&mut self, positions: Vec<Commit>) -> Result<(), LogError> {
        self.log.with(|state| {
            for Commit { of, committed } in positions {
                state.positions.insert((self.group.to_string(), of), committed);
            }
        });
        Ok(())
    }

    fn group(&self) -> GroupHandle {
        GroupHandle { name: Arc::clone(&self.group), inner: None }
    }
}
