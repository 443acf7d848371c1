//! A log in memory whose commits can be made to fail, and whose commits can be waited for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_dataplane::log::{
    Assigned, Commit, Committed, Consumer, GroupHandle, Log, LogError, LogRecord, NewRecord, Polled,
    ReadLimits, TopicInfo, TopicPartition, Transactor, Watermarks,
};
use tokio::sync::watch;
use uuid::Uuid;

/// How one commit goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CommitFate {
    /// Kept and answered.
    Kept,
    /// Kept, but answered with an error that may pass.
    KeptAnswerLost,
    /// Not kept; an error that may pass.
    Refused,
    /// Not kept, and the loader ends: a crash right before this commit.
    Crash,
}

/// A topic with its records and one group's positions.
pub(crate) struct ScriptedLog {
    topic: TopicInfo,
    state: Mutex<State>,
    committed: watch::Sender<BTreeMap<u32, Committed>>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<u32, Vec<LogRecord>>,
    fates: VecDeque<CommitFate>,
}

impl ScriptedLog {
    pub(crate) fn new(topic: &str, partitions: u32) -> Arc<Self> {
        let topic = TopicInfo { name: topic.into(), id: Uuid::new_v4(), partitions };
        let (committed, _) = watch::channel(BTreeMap::new());
        Arc::new(Self { topic, state: Mutex::new(State::default()), committed })
    }

    /// The next commits go like this; later ones are kept.
    pub(crate) fn script(&self, fates: impl IntoIterator<Item = CommitFate>) {
        self.state.lock().unwrap().fates = fates.into_iter().collect();
    }

    /// Appends a record to a partition.
    pub(crate) fn push(&self, partition: u32, value: Vec<u8>) {
        self.push_with_key(partition, Bytes::new(), value);
    }

    /// Appends a record whose key says something.
    pub(crate) fn push_with_key(&self, partition: u32, key: Bytes, value: Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        let records = state.records.entry(partition).or_default();
        let offset = records.last().map_or(0, |last| last.offset + 1);
        records.push(LogRecord { offset, appended_at: 0, key, value: value.into() });
    }

    /// Takes a record away, as retention or a transaction marker would.
    pub(crate) fn remove(&self, partition: u32, offset: u64) {
        let mut state = self.state.lock().unwrap();
        state.records.entry(partition).or_default().retain(|record| record.offset != offset);
    }

    /// Puts a position there, as another build would have.
    pub(crate) fn plant(&self, partition: u32, offset: u64, metadata: &str) {
        let committed = Committed { offset, metadata: metadata.to_owned() };
        self.committed.send_modify(|all| drop(all.insert(partition, committed)));
    }

    /// Forgets where the group stands, as a log does with an idle one.
    pub(crate) fn forget(&self) {
        self.committed.send_modify(BTreeMap::clear);
    }

    /// Where the group stands.
    pub(crate) fn committed(&self, partition: u32) -> Option<Committed> {
        self.committed.borrow().get(&partition).cloned()
    }

    /// Waits until the group stands there with nothing begun.
    pub(crate) async fn loaded_up_to(&self, partition: u32, offset: u64) {
        self.wait(|all| all.get(&partition).is_some_and(|c| c.offset == offset && !is_begun(c))).await;
    }

    /// Waits until an intent stands in a partition.
    pub(crate) async fn intended(&self, partition: u32) {
        self.wait(|all| all.get(&partition).is_some_and(is_begun)).await;
    }

    async fn wait(&self, reached: impl FnMut(&BTreeMap<u32, Committed>) -> bool) {
        let mut changes = self.committed.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(60), changes.wait_for(reached)).await;
        assert!(waited.is_ok(), "the group stands at {:?}", self.committed.borrow());
    }

    fn partition(&self, partition: u32) -> TopicPartition {
        TopicPartition { topic: Arc::clone(&self.topic.name), partition }
    }

    fn after(&self, partition: u32, from: u64, limits: ReadLimits) -> Vec<LogRecord> {
        let state = self.state.lock().unwrap();
        let records = state.records.get(&partition).into_iter().flatten();
        records.filter(|record| record.offset >= from).take(limits.records_max).cloned().collect()
    }

    fn commit(&self, positions: Vec<Commit>) -> Result<(), LogError> {
        let fate = self.state.lock().unwrap().fates.pop_front().unwrap_or(CommitFate::Kept);
        if matches!(fate, CommitFate::Kept | CommitFate::KeptAnswerLost) {
            self.committed.send_modify(|all| {
                all.extend(positions.into_iter().map(|commit| (commit.of.partition, commit.committed)));
            });
        }
        match fate {
            CommitFate::Kept => Ok(()),
            CommitFate::KeptAnswerLost => Err(LogError::UnknownOutcome),
            CommitFate::Refused => Err(LogError::QueueFull),
            CommitFate::Crash => Err(LogError::Closed),
        }
    }
}

/// Whether an intent stands there; a version and an epoch are none.
fn is_begun(committed: &Committed) -> bool {
    committed.metadata.split(';').count() > 2
}

/// The log as the loader sees it.
pub(crate) struct Handle(pub(crate) Arc<ScriptedLog>);

#[async_trait]
impl Log for Handle {
    async fn append(&self, _records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
        Err(LogError::Closed)
    }

    async fn subscribe(&self, _group: &str, _topics: &[Arc<str>]) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(Member { log: Arc::clone(&self.0), assigned: false, next: BTreeMap::new() }))
    }

    async fn transactor(&self, _id: &str) -> Result<Box<dyn Transactor>, LogError> {
        Err(LogError::Closed)
    }

    async fn topic(&self, _name: &str) -> Result<TopicInfo, LogError> {
        Ok(self.0.topic.clone())
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        let state = self.0.state.lock().unwrap();
        let records = state.records.get(&of.partition);
        let low = records.and_then(|r| r.first()).map_or(0, |first| first.offset);
        let high = records.and_then(|r| r.last()).map_or(0, |last| last.offset + 1);
        Ok(Watermarks { low, high })
    }

    async fn committed(
        &self,
        _group: &str,
        of: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, LogError> {
        Ok(of.iter().map(|of| self.0.committed(of.partition)).collect())
    }

    async fn read(
        &self,
        of: &TopicPartition,
        from: u64,
        limits: ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError> {
        // Short reads, so that a block takes several.
        let limits = ReadLimits { records_max: limits.records_max.min(7), ..limits };
        Ok(self.0.after(of.partition, from, limits))
    }
}

struct Member {
    log: Arc<ScriptedLog>,
    assigned: bool,
    next: BTreeMap<u32, u64>,
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self, limits: ReadLimits) -> Result<Polled, LogError> {
        if !self.assigned {
            self.assigned = true;
            let assigned = |partition| Assigned {
                partition: self.log.partition(partition),
                topic: self.log.topic.clone(),
                committed: self.log.committed(partition),
            };
            return Ok(Polled::Assigned((0..self.log.topic.partitions).map(assigned).collect()));
        }
        for (&partition, next) in &mut self.next {
            let records = self.log.after(partition, *next, limits);
            if let Some(last) = records.last() {
                *next = last.offset + 1;
                return Ok(Polled::Records(self.log.partition(partition), records));
            }
        }
        tokio::time::sleep(limits.wait_max.min(Duration::from_millis(20))).await;
        Ok(Polled::Idle)
    }

    async fn seek(&mut self, of: &TopicPartition, offset: u64) -> Result<(), LogError> {
        self.next.insert(of.partition, offset);
        Ok(())
    }

    async fn commit(&mut self, positions: Vec<Commit>) -> Result<(), LogError> {
        self.log.commit(positions)
    }

    fn group(&self) -> GroupHandle {
        GroupHandle { name: "load".into(), inner: None }
    }
}
