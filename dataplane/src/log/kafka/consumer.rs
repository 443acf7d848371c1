//! The caller's side of a member of a group: the trait in, requests to its thread out.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use tokio::sync::oneshot;

use super::group::{Group, Held, Membership};
use super::member::{Machine, Request, Results, State};
use super::topics::Topics;
use crate::log::{Commit, Consumer, GroupHandle, LogError, Polled, ReadLimits, TopicPartition};
use crate::metrics::Metrics;

/// What a new member is given.
pub(super) struct Joining {
    pub(super) group: Arc<str>,
    pub(super) config: ClientConfig,
    pub(super) topics: Arc<Topics>,
    pub(super) is_closed: Arc<AtomicBool>,
    pub(super) metrics: Arc<Metrics>,
}

/// A member of a group.
pub(super) struct KafkaConsumer {
    group: Arc<str>,
    requests: Sender<Request>,
    results: Arc<Results>,
    held: Arc<Held>,
    /// The thread's; it ends with the thread.
    consumer: Weak<BaseConsumer<Group>>,
}

impl KafkaConsumer {
    /// Starts a member; it joins during the first `next`.
    pub(super) fn start(joining: Joining, topics: &[Arc<str>]) -> Result<Self, KafkaError> {
        let Joining { group, config, topics: known, is_closed, metrics } = joining;
        let held = Arc::new(Held::default());
        let context = Group {
            held: Arc::clone(&held),
            topics: known,
            runtime: tokio::runtime::Handle::current(),
            told: std::sync::Mutex::default(),
        };
        let consumer: Arc<BaseConsumer<Group>> = Arc::new(config.create_with_context(context)?);
        let names: BTreeSet<&str> = topics.iter().map(AsRef::as_ref).collect();
        consumer.subscribe(&names.into_iter().collect::<Vec<_>>())?;
        let (requests, asked) = channel();
        let results = Arc::new(Results::default());
        let machine = Machine {
            name: Arc::clone(&group),
            consumer: Arc::clone(&consumer),
            results: Arc::clone(&results),
            is_closed,
            metrics,
            state: State::default(),
        };
        let weak = Arc::downgrade(&consumer);
        drop(consumer);
        std::thread::Builder::new()
            .name("kafka-member".to_owned())
            .spawn(move || machine.run(&asked))
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { group, requests, results, held, consumer: weak })
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), LogError>>) -> Request,
    ) -> Result<(), LogError> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).map_err(|_| LogError::Closed)?;
        answer.await.unwrap_or(Err(LogError::Closed))
    }
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn next(&mut self, limits: ReadLimits) -> Result<Polled, LogError> {
        if let Some(result) = self.results.pop() {
            return result;
        }
        let (done, answer) = oneshot::channel();
        self.requests.send(Request::Next(limits, done)).map_err(|_| LogError::Closed)?;
        // Results are taken from the queue alone: one that a cancelled call asked for comes first.
        answer.await.map_err(|_| LogError::Closed)?;
        self.results.pop().unwrap_or(Ok(Polled::Idle))
    }

    async fn seek(&mut self, of: &TopicPartition, offset: u64) -> Result<(), LogError> {
        self.ask(|done| Request::Seek(of.clone(), offset, done)).await
    }

    async fn commit(&mut self, positions: Vec<Commit>) -> Result<(), LogError> {
        self.ask(|done| Request::Commit(positions, done)).await
    }

    fn group(&self) -> GroupHandle {
        let membership = Membership { consumer: Weak::clone(&self.consumer), held: Arc::clone(&self.held) };
        GroupHandle { name: Arc::clone(&self.group), inner: Some(Arc::new(membership)) }
    }
}
