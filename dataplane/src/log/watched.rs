//! A log whose bad states are told: calls in, the same answers out. What failed on the way is named in the log, counted,
//! and shown to who asks whether the process is ready.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;

use super::trouble::{Standing, Trouble};
use super::{
    Commit, Committed, Consumer, GroupHandle, Log, LogError, LogRecord, NewRecord, Polled, ReadLimits,
    TopicInfo, TopicPartition, Transaction, Transactor, Watermarks,
};
use crate::metrics::Metrics;
use crate::telemetry;

/// The bad states a process met.
pub struct Troubles {
    standing: Mutex<Standing>,
    metrics: Arc<Metrics>,
}

impl Troubles {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { standing: Mutex::default(), metrics }
    }

    /// Where they are counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What stands, with the fixes; `None` when all is well.
    pub fn text(&self) -> Option<String> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).text(Instant::now())
    }

    /// Notes what a failure says about the log, if it says anything.
    pub fn met(&self, subject: &str, error: &LogError) {
        let Some(trouble) = Trouble::of(error) else { return };
        self.metrics.log_troubles.with_label_values(&[trouble.name(), subject]).inc();
        let cause = telemetry::chain(error);
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if standing.note(trouble, subject, cause.clone(), Instant::now()) {
            tracing::error!(state = trouble.name(), subject, cause, "the log needs help: {}", trouble.fix());
        }
    }

    fn note<T>(&self, subject: &str, answer: Result<T, LogError>) -> Result<T, LogError> {
        answer.inspect_err(|error| self.met(subject, error))
    }
}

/// A log with an eye on it.
pub struct Watched {
    log: Arc<dyn Log>,
    troubles: Arc<Troubles>,
}

impl Watched {
    /// Watches `log`.
    pub fn new(log: Arc<dyn Log>, troubles: Arc<Troubles>) -> Self {
        Self { log, troubles }
    }
}

#[async_trait]
impl Log for Watched {
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
        let topic = records.first().map(|record| Arc::clone(&record.to.topic));
        let appended = self.log.append(records).await;
        self.troubles.note(topic.as_deref().unwrap_or_default(), appended)
    }

    async fn subscribe(&self, group: &str, topics: &[Arc<str>]) -> Result<Box<dyn Consumer>, LogError> {
        let consumer = self.troubles.note(group, self.log.subscribe(group, topics).await)?;
        Ok(Box::new(WatchedConsumer {
            consumer,
            group: group.to_owned(),
            troubles: Arc::clone(&self.troubles),
        }))
    }

    async fn committed(
        &self,
        group: &str,
        of: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, LogError> {
        self.troubles.note(group, self.log.committed(group, of).await)
    }

    async fn transactor(&self, id: &str) -> Result<Box<dyn Transactor>, LogError> {
        let transactor = self.troubles.note(id, self.log.transactor(id).await)?;
        Ok(Box::new(WatchedTransactor {
            transactor,
            id: id.to_owned(),
            troubles: Arc::clone(&self.troubles),
        }))
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, LogError> {
        self.troubles.note(name, self.log.topic(name).await)
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        self.troubles.note(&of.topic, self.log.watermarks(of).await)
    }

    async fn settled_end(&self, of: &TopicPartition) -> Result<u64, LogError> {
        self.troubles.note(&of.topic, self.log.settled_end(of).await)
    }

    async fn read(
        &self,
        of: &TopicPartition,
        from: u64,
        limits: ReadLimits,
    ) -> Result<Vec<LogRecord>, LogError> {
        self.troubles.note(&of.topic, self.log.read(of, from, limits).await)
    }
}

struct WatchedConsumer {
    consumer: Box<dyn Consumer>,
    group: String,
    troubles: Arc<Troubles>,
}

impl WatchedConsumer {
    /// A group that went on without a member is daily life.
    fn note<T>(&self, answer: Result<T, LogError>) -> Result<T, LogError> {
        match answer {
            Err(LogError::Fenced { .. }) => answer,
            _ => self.troubles.note(&self.group, answer),
        }
    }
}

#[async_trait]
impl Consumer for WatchedConsumer {
    async fn next(&mut self, limits: ReadLimits) -> Result<Polled, LogError> {
        let polled = self.consumer.next(limits).await;
        self.note(polled)
    }

    async fn seek(&mut self, of: &TopicPartition, offset: u64) -> Result<(), LogError> {
        self.consumer.seek(of, offset).await
    }

    async fn commit(&mut self, positions: Vec<Commit>) -> Result<(), LogError> {
        let committed = self.consumer.commit(positions).await;
        self.note(committed)
    }

    fn group(&self) -> GroupHandle {
        self.consumer.group()
    }
}

struct WatchedTransactor {
    transactor: Box<dyn Transactor>,
    id: String,
    troubles: Arc<Troubles>,
}

#[async_trait]
impl Transactor for WatchedTransactor {
    async fn commit(&mut self, transaction: Transaction) -> Result<(), LogError> {
        match self.transactor.commit(transaction).await {
            Err(LogError::Fenced { id }) if id != self.id => Err(LogError::Fenced { id }),
            answer => self.troubles.note(&self.id, answer),
        }
    }
}
