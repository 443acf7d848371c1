//! Transactions: records and positions in, all of them visible or none. Every step of one commit runs on a thread
//! that may block, to its end even if the caller stops waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use tokio::task::JoinHandle;

use super::append::{Sent, Shipment};
use super::error::{Quiet, is_fencing, is_lost_membership, is_outdated_generation, panicked, unavailable};
use super::group::Membership;
use super::handover::Deliverer;
use super::member::{check_metadata, list_of};
use super::topics::Topics;
use crate::failpoint::{self, Point};
use crate::log::{LogError, Transaction, Transactor};

/// After this the coordinator ends a transaction by itself: a worker that died holds readers up no longer.
const TRANSACTION_MS: &str = "10000";
/// What fails when an id cannot be taken over.
const TAKE_OVER: &str = "take a transactional id over";
/// One attempt of one step.
const STEP_MAX: Duration = Duration::from_secs(5);
/// Longest for a whole step with its repeats: the coordinator may have to move.
const STEPS_MAX: Duration = Duration::from_secs(30);
/// Pause before a transaction is begun again for a group that moved on: the leader has to say who gets what.
const REGROUP_PAUSE: Duration = Duration::from_millis(20);

/// A transactional producer.
pub(super) struct KafkaTransactor {
    id: Arc<str>,
    config: ClientConfig,
    topics: Arc<Topics>,
    producer: Arc<Deliverer>,
    standing: Standing,
    /// A commit whose caller stopped waiting.
    running: Option<JoinHandle<Result<(), Failure>>>,
}

/// Whether it can commit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    /// Only a new transactor with this id can find out what became of its transaction.
    Ended,
}

/// How a commit failed.
enum Failure {
    /// Nothing of it is there, and the next one may begin.
    Undone(LogError),
    /// Nothing of it is there, because the group moved on meanwhile.
    Outdated(LogError),
    /// The producer is of no use any more.
    Final(LogError),
}

/// One commit, ready to be carried out.
struct Work {
    id: Arc<str>,
    config: ClientConfig,
    producer: Arc<Deliverer>,
    transaction: Transaction,
}

impl KafkaTransactor {
    /// Takes the id over: what an older one with it had begun is undone, and it can commit no more.
    pub(super) async fn start(
        id: &str,
        mut config: ClientConfig,
        topics: Arc<Topics>,
    ) -> Result<Self, LogError> {
        config.set("transactional.id", id).set("transaction.timeout.ms", TRANSACTION_MS);
        // Batches are handed over whole, so there is nothing to wait for.
        config.set("linger.ms", "0").remove("message.timeout.ms");
        let with_id = config.clone();
        let id: Arc<str> = Arc::from(id);
        let named = Arc::clone(&id);
        let start = move || {
            let failed = |source| unavailable(TAKE_OVER, source);
            let producer = Deliverer::new(&with_id).map_err(failed)?;
            let deadline = Instant::now() + STEPS_MAX;
            repeat(deadline, || producer.producer().init_transactions(STEP_MAX)).map_err(
                |error| match code(&error) {
                    Some(code) if is_fencing(code) => LogError::Fenced { id: named.to_string() },
                    _ => failed(error),
                },
            )?;
            Ok(Arc::new(producer))
        };
        let producer = match tokio::task::spawn_blocking(start).await.map_err(panicked)? {
            Ok(producer) => producer,
            Err(failed @ LogError::Unavailable { .. }) => {
                return Err(topics.reason_of(failed, TAKE_OVER).await);
            }
            Err(failed) => return Err(failed),
        };
        config.remove("transactional.id");
        Ok(Self { id, config, topics, producer, standing: Standing::Good, running: None })
    }

    /// Refuses what the brokers would refuse, before anything is begun.
    async fn check(&self, transaction: &Transaction) -> Result<(), LogError> {
        self.topics.check(&transaction.records).await?;
        check_metadata(&transaction.positions)?;
        for position in &transaction.positions {
            self.topics.of(&position.of).await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), LogError> {
        let Some(running) = self.running.as_mut() else { return Ok(()) };
        let outcome = running.await.map_err(panicked);
        self.running = None;
        match outcome? {
            Ok(()) => Ok(()),
            Err(Failure::Undone(error) | Failure::Outdated(error)) => Err(error),
            Err(Failure::Final(error)) => {
                self.standing = Standing::Ended;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Transactor for KafkaTransactor {
    async fn commit(&mut self, transaction: Transaction) -> Result<(), LogError> {
        // Its caller gave it up, and looks at its positions.
        drop(self.finish().await);
        if self.standing == Standing::Ended {
            return Err(LogError::Fenced { id: self.id.to_string() });
        }
        if transaction.records.is_empty() && transaction.positions.is_empty() {
            return Ok(());
        }
        self.check(&transaction).await?;
        let work = Work {
            id: Arc::clone(&self.id),
            config: self.config.clone(),
            producer: Arc::clone(&self.producer),
            transaction,
        };
        self.running = Some(tokio::task::spawn_blocking(move || work.carry_out()));
        self.finish().await
    }
}

impl Drop for KafkaTransactor {
    fn drop(&mut self) {
        // Ending a producer waits for its threads.
        let producer = Arc::clone(&self.producer);
        let running = self.running.take();
        let ended =
            std::thread::Builder::new().name("kafka-end".to_owned()).spawn(move || drop((running, producer)));
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn std::error::Error, "a Kafka producer ends here");
        }
    }
}

impl Work {
    fn carry_out(self) -> Result<(), Failure> {
        let deadline = Instant::now() + STEPS_MAX;
        loop {
            match self.attempt() {
                Err(Failure::Outdated(_)) if Instant::now() < deadline => std::thread::sleep(REGROUP_PAUSE),
                outcome => return outcome,
            }
        }
    }

    fn attempt(&self) -> Result<(), Failure> {
        self.check_held()?;
        self.producer
            .producer()
            .begin_transaction()
            .map_err(|error| self.ended("begin a transaction", error))?;
        failpoint::reach_blocking(Point::TransactionBegun)
            .map_err(|error| self.undo(Failure::Undone(error)))?;
        self.fill().map_err(|failure| self.undo(failure))?;
        self.commit()
    }

    /// Nothing is begun for partitions that are somebody else's by now.
    fn check_held(&self) -> Result<(), Failure> {
        match &self.transaction.group.inner {
            Some(_) => self.proof().map(drop),
            None => Ok(()),
        }
    }

    /// What proves that positions may be kept for the group.
    fn proof(&self) -> Result<Option<ConsumerGroupMetadata>, Failure> {
        let Transaction { positions, group, .. } = &self.transaction;
        if positions.is_empty() {
            return Ok(None);
        }
        let Some(inner) = &group.inner else { return self.outsider(&group.name).map(Some) };
        let membership = Arc::clone(inner).downcast::<Membership>().ok();
        let proof =
            membership.and_then(|membership| membership.proof(positions.iter().map(|position| &position.of)));
        proof.map(Some).ok_or_else(|| Failure::Undone(self.left_behind()))
    }

    /// The group is without us.
    fn left_behind(&self) -> LogError {
        LogError::Fenced { id: self.transaction.group.name.to_string() }
    }

    /// Kept for a group by name: the brokers take that only while the group has no members.
    fn outsider(&self, name: &str) -> Result<ConsumerGroupMetadata, Failure> {
        let failed = |source| Failure::Undone(unavailable("name a group", source));
        let mut config = self.config.clone();
        let consumer: BaseConsumer<Quiet> =
            config.set("group.id", name).create_with_context(Quiet).map_err(failed)?;
        consumer.group_metadata().ok_or_else(|| failed(KafkaError::Global(Code::UnknownGroup)))
    }

    /// Puts records and positions into the open transaction.
    fn fill(&self) -> Result<(), Failure> {
        let Transaction { records, positions, .. } = &self.transaction;
        if !records.is_empty() {
            // Cloned, because a transaction may have to be begun again; values are shared.
            let (mut shipment, decided) = Shipment::new(records.clone(), None);
            let call = shipment.call();
            shipment.hand_over_learning(&self.producer);
            drop(shipment);
            // Decided within the transaction's own time-out.
            let _ = decided.blocking_recv();
            call.outcome().map_err(|error| self.not_delivered(&Sent::of(records), error))?;
        }
        failpoint::reach_blocking(Point::TransactionRecords).map_err(Failure::Undone)?;
        // Asked for last: the group may have moved on while the records were on their way.
        if let Some(proof) = self.proof()? {
            let list = list_of(positions).map_err(Failure::Undone)?;
            let deadline = Instant::now() + STEPS_MAX;
            let kept = repeat(deadline, || {
                self.producer.producer().send_offsets_to_transaction(&list, &proof, STEP_MAX)
            });
            kept.map_err(|error| match code(&error) {
                Some(code) if is_outdated_generation(code) => Failure::Outdated(self.left_behind()),
                Some(code) if is_lost_membership(code) => Failure::Undone(self.left_behind()),
                _ => self.ended("keep positions in a transaction", error),
            })?;
        }
        failpoint::reach_blocking(Point::TransactionPositions).map_err(Failure::Undone)
    }

    fn not_delivered(&self, sent: &Sent, error: KafkaError) -> Failure {
        if let Some((fatal, _)) = self.producer.producer().client().fatal_error() {
            return self.ended("append in a transaction", KafkaError::Global(fatal));
        }
        match code(&error) {
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => Failure::Undone(sent.too_large()),
            Some(Code::QueueFull) => Failure::Undone(LogError::QueueFull),
            _ => self.ended("append in a transaction", error),
        }
    }

    fn commit(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + STEPS_MAX;
        let error = match repeat(deadline, || self.producer.producer().commit_transaction(STEP_MAX)) {
            Ok(()) => {
                return failpoint::reach_blocking(Point::TransactionCommitted)
                    .map_err(|_| Failure::Final(LogError::UnknownOutcome));
            }
            Err(error) => error,
        };
        if requires_abort(&error) {
            return Err(self.undo(self.ended("commit a transaction", error)));
        }
        tracing::warn!(id = &*self.id, error = &error as &dyn std::error::Error, "a commit has no answer");
        Err(Failure::Final(LogError::UnknownOutcome))
    }

    /// Takes everything back that the open transaction holds.
    fn undo(&self, failure: Failure) -> Failure {
        if let Failure::Final(_) = failure {
            return failure;
        }
        let deadline = Instant::now() + STEPS_MAX;
        let Err(undoing) = repeat(deadline, || self.producer.producer().abort_transaction(STEP_MAX)) else {
            return failure;
        };
        let undoing = &undoing as &dyn std::error::Error;
        tracing::warn!(id = &*self.id, error = undoing, "a transaction could not be undone");
        match failure {
            // Without an end it is undone by the coordinator, or by the next transactor.
            Failure::Undone(error) | Failure::Outdated(error) | Failure::Final(error) => {
                Failure::Final(error)
            }
        }
    }

    /// What an error before the commit means. Nothing is committed; whether the producer lives on is in the error.
    fn ended(&self, step: &'static str, error: KafkaError) -> Failure {
        let is_fatal = self.producer.producer().client().fatal_error().is_some()
            || matches!(&error, KafkaError::Transaction(error) if error.is_fatal());
        let is_fenced = code(&error).into_iter().chain(self.fatal_code()).any(is_fencing);
        let told =
            if is_fenced { LogError::Fenced { id: self.id.to_string() } } else { unavailable(step, error) };
        if is_fatal || is_fenced { Failure::Final(told) } else { Failure::Undone(told) }
    }

    fn fatal_code(&self) -> Option<Code> {
        self.producer.producer().client().fatal_error().map(|(code, _)| code)
    }
}

fn code(error: &KafkaError) -> Option<Code> {
    error.rdkafka_error_code()
}

fn requires_abort(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.txn_requires_abort())
}

/// Repeats a step while the library says that it may be repeated; a repeat goes on where the last one stopped.
fn repeat(deadline: Instant, mut step: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    loop {
        match step() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                tracing::debug!(%error, "a step of a transaction is repeated");
            }
            Err(KafkaError::Flush(_)) if Instant::now() < deadline => {}
            other => return other,
        }
    }
}
