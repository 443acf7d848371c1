//! A log whose clients are replaced while it is in use: new credentials in, the same log out. What is underway ends on
//! the clients it began with.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use crate::log::{
    Committed, Consumer, Log, LogError, LogRecord, NewRecord, ReadLimits, TopicInfo, TopicPartition,
    Transactor, Watermarks,
};

/// The log as it is now.
pub struct LiveLog(ArcSwap<Arc<dyn Log>>);

impl LiveLog {
    /// Begins with this one.
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self(ArcSwap::from_pointee(log))
    }

    /// Uses another one from the next call on. Members of groups stay on the old one until they join again.
    pub fn replace(&self, log: Arc<dyn Log>) {
        self.0.store(Arc::new(log));
    }

    fn now(&self) -> Arc<dyn Log> {
        Arc::clone(&self.0.load())
    }
}

#[async_trait]
impl Log for LiveLog {
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
        self.now().append(records).await
    }

    async fn subscribe(&self, group: &str, topics: &[Arc<str>]) -> Result<Box<dyn Consumer>, LogError> {
        self.now().subscribe(group, topics).await
    }

    async fn transactor(&self, id: &str) -> Result<Box<dyn Transactor>, LogError> {
        self.now().transactor(id).await
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, LogError> {
        self.now().topic(name).await
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        self.now().watermarks(of).await
    }

    async fn settled_end(&self, of: &TopicPartition) -> Result<u64, LogError> {
        self.now().settled_end(of).await
    }

    async fn committed(
        &self,
        group: &str,
        of: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, LogError> {
        self.now().committed(group, of).await
    }

    async fn read(
        &self,
        of: &TopicPartition,
        from: u64,
        limits: ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError> {
        self.now().read(of, from, limits).await
    }
}
