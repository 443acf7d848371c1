//! One connection for questions about topics and changes of them. Every call ends within a bounded time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_crds::config::Topic;
use millrace_crds::topics::{Change, Observed};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewPartitions, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};
use uuid::Uuid;

use super::error::{KafkaError, code_of, is_refusal, is_unreachable};
use super::native::{self, Cluster, Described, GroupPosition};
use super::renewed::Renewed;
use super::settings::Settings;

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a first answer: whoever asks for a connection can try again.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait until every broker knows of a new topic or partition.
const SPREAD_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether they do.
const SPREAD_LOOK: Duration = Duration::from_millis(50);
/// Largest record a topic takes, key and value together; the other logs have the same limit.
pub const RECORD_BYTES_MAX: usize = 8 << 20;
/// What a batch of one record has beside key and value.
const BATCH_OVERHEAD_BYTES: usize = 1024;
/// What brokers take where nothing else is said.
const BATCH_BYTES_DEFAULT: usize = 1_048_588;

/// How many copies of a topic there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replication {
    /// Copies of each partition.
    pub factor: u16,
    /// How many of them must have a record before it counts as written.
    pub min_in_sync: u16,
}

/// A topic as it is: what plans are made of, and what tells whether it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedTopic {
    /// What `millrace_crds::topics::diff` compares.
    pub topic: Observed,
    /// Its identity: a topic deleted and made again has another.
    pub id: Uuid,
    /// Copies of the partition that has the fewest, and how many must have a record.
    pub replication: Replication,
    /// Largest record it takes, key and value together.
    pub record_bytes_max: usize,
    /// Whether records carry the time at which the broker took them, as Millrace needs it.
    pub has_append_times: bool,
}

/// A connection to the brokers, for administration. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

struct Inner {
    client: Renewed<AdminClient<Heard>>,
    config: ClientConfig,
    brokers: String,
}

impl Admin {
    /// Connects, and returns only when a broker answered.
    pub async fn connect(settings: &Settings) -> Result<Self, KafkaError> {
        let config = quiet(settings)?;
        let brokers = settings.brokers.clone();
        blocking(move || {
            probe(&config, &brokers, "connect")?;
            Self::unconnected(config, brokers)
        })
        .await
    }

    /// The same without waiting for a broker: the first call does.
    pub fn lazy(settings: &Settings) -> Result<Self, KafkaError> {
        let config = quiet(settings)?;
        Self::unconnected(config, settings.brokers.clone())
    }

    fn unconnected(config: ClientConfig, brokers: String) -> Result<Self, KafkaError> {
        let client = Renewed::new(set_up(&config)?);
        Ok(Self { inner: Arc::new(Inner { client, config, brokers }) })
    }

    /// Id of the cluster and number of its brokers.
    pub async fn cluster(&self) -> Result<Cluster, KafkaError> {
        let admin = self.clone();
        blocking(move || {
            let asked = native::describe_cluster(native(&admin.client()), ANSWER_MAX);
            asked.map_err(|code| admin.failed("describe the cluster", ClientError::AdminOp(code)))
        })
        .await
    }

    /// Identity and size of the topics that exist among those named.
    pub async fn describe(&self, names: &[&str]) -> Result<Vec<Described>, KafkaError> {
        let admin = self.clone();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        blocking(move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let asked = native::describe_topics(native(&admin.client()), &names, ANSWER_MAX);
            asked.map_err(|code| admin.failed("describe topics", ClientError::AdminOp(code)))
        })
        .await
    }

    /// Where a group stands in those of these partitions in which it ever committed. Its members are not disturbed.
    pub async fn group_positions(
        &self,
        group: &str,
        partitions: Vec<(String, u32)>,
    ) -> Result<Vec<GroupPosition>, KafkaError> {
        let admin = self.clone();
        let group = group.to_owned();
        blocking(move || {
            let asked = native::group_positions(native(&admin.client()), &group, &partitions, ANSWER_MAX);
            asked.map_err(|code| admin.failed("find where a group stands", ClientError::AdminOp(code)))
        })
        .await
    }

    /// The topics that exist among those named, with their settings.
    pub async fn observe(&self, names: &[&str]) -> Result<Vec<ObservedTopic>, KafkaError> {
        let found = self.describe(names).await?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let topics: Vec<_> = found.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
        let asked = self.client().describe_configs(&topics, &options()).await;
        let answers = self.answered("read settings of topics", asked).await?;
        let mut observed = Vec::new();
        for answer in answers {
            let settings =
                self.answered("read settings of topics", answer.map_err(ClientError::AdminOp)).await?;
            let OwnedResourceSpecifier::Topic(name) = &settings.specifier else { continue };
            if let Some(described) = found.iter().find(|topic| topic.name == *name) {
                observed.push(observed_topic(described, &settings));
            }
        }
        Ok(observed)
    }

    /// Carries out what was planned, in order; each change may be repeated. Returns when every broker knows of it.
    pub async fn carry_out(&self, changes: &[Change], replication: Replication) -> Result<(), KafkaError> {
        for change in changes {
            match change {
                Change::Create(topic) => self.create(topic, replication).await?,
                Change::Grow { name, from: _, to } => self.grow(name, *to).await?,
                Change::SetRetention { name, retention_ms, retention_bytes } => {
                    self.set(name, retention_settings(*retention_ms, *retention_bytes)).await?;
                    self.until_kept(name, (*retention_ms, *retention_bytes)).await?;
                }
            }
        }
        Ok(())
    }

    /// Deletes topics with everything in them; those that do not exist count as deleted.
    pub async fn delete(&self, names: &[&str]) -> Result<(), KafkaError> {
        if names.is_empty() {
            return Ok(());
        }
        tracing::info!(topics = ?names, "deleting topics");
        let asked = self.client().delete_topics(names, &options()).await;
        for result in self.answered("delete topics", asked).await? {
            match result {
                Ok(_) | Err((_, Code::UnknownTopicOrPartition)) => {}
                Err((topic, code)) => return Err(self.topic_failed(topic, "delete", code).await),
            }
        }
        Ok(())
    }

    async fn create(&self, topic: &Topic, replication: Replication) -> Result<(), KafkaError> {
        let settings = settings_of_new(topic, replication);
        self.make(&topic.name, topic.partitions, replication, &settings).await
    }

    /// A topic of one partition that keeps the last record of each key; one that is there stays as it is.
    pub(super) async fn create_compacted(
        &self,
        name: &str,
        replication: Replication,
    ) -> Result<(), KafkaError> {
        let settings = [
            ("cleanup.policy", "compact".to_owned()),
            ("min.insync.replicas", replication.min_in_sync.to_string()),
            ("unclean.leader.election.enable", "false".to_owned()),
        ];
        if self.describe(&[name]).await?.is_empty() {
            self.make(name, 1, replication, &settings).await?;
        }
        Ok(())
    }

    async fn make(
        &self,
        name: &str,
        partitions: u32,
        replication: Replication,
        settings: &[(&'static str, String)],
    ) -> Result<(), KafkaError> {
        tracing::info!(topic = name, partitions, "creating a topic");
        let copies = TopicReplication::Fixed(replication.factor.into());
        let mut new = NewTopic::new(name, signed(partitions), copies);
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let asked = self.client().create_topics([&new], &options()).await;
        match one(self.answered("create topics", asked).await?) {
            Ok(()) | Err(Code::TopicAlreadyExists) => self.until_known(name, partitions).await,
            Err(Code::InvalidReplicationFactor) => {
                Err(KafkaError::TooFewBrokers { topic: name.to_owned(), wanted: replication.factor })
            }
            Err(code) => Err(self.topic_failed(name.to_owned(), "create", code).await),
        }
    }

    async fn grow(&self, name: &str, to: u32) -> Result<(), KafkaError> {
        tracing::info!(topic = name, partitions = to, "adding partitions");
        let new = NewPartitions::new(name, usize::try_from(to).unwrap_or(usize::MAX));
        let asked = self.client().create_partitions([&new], &options()).await;
        match one(self.answered("add partitions", asked).await?) {
            Ok(()) => self.until_known(name, to).await,
            // Repeated: it has them already. Otherwise this ends with the refusal.
            Err(code @ Code::InvalidPartitions) => {
                let has = self.describe(&[name]).await?.first().map_or(0, |topic| topic.partitions);
                if has >= to { Ok(()) } else { Err(self.topic_failed(name.to_owned(), "grow", code).await) }
            }
            Err(code) => Err(self.topic_failed(name.to_owned(), "grow", code).await),
        }
    }

    async fn set(&self, name: &str, settings: Vec<(&'static str, String)>) -> Result<(), KafkaError> {
        tracing::info!(topic = name, ?settings, "changing settings of a topic");
        let (admin, topic) = (self.clone(), name.to_owned());
        let set = blocking(move || {
            Ok(native::set_topic_settings(native(&admin.client()), &topic, &settings, ANSWER_MAX))
        });
        match set.await? {
            Ok(()) => Ok(()),
            Err(code) => Err(self.topic_failed(name.to_owned(), "change the settings of", code).await),
        }
    }

    /// Until a topic has so many partitions, each with a leader.
    async fn until_known(&self, name: &str, partitions: u32) -> Result<(), KafkaError> {
        let deadline = Instant::now() + SPREAD_MAX;
        loop {
            let found = self.describe(&[name]).await?;
            if found.iter().any(|topic| topic.has_leaders && topic.partitions >= partitions) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let source = Code::LeaderNotAvailable;
                return Err(KafkaError::Topic { topic: name.to_owned(), step: "find leaders for", source });
            }
            tokio::time::sleep(SPREAD_LOOK).await;
        }
    }

    /// Until a broker says that a topic has this retention: the controller answers before the brokers have heard of it.
    async fn until_kept(&self, name: &str, retention: (u64, Option<u64>)) -> Result<(), KafkaError> {
        let deadline = Instant::now() + SPREAD_MAX;
        loop {
            let found = self.observe(&[name]).await?;
            let has =
                |found: &ObservedTopic| (found.topic.retention_ms, found.topic.retention_bytes) == retention;
            if found.iter().any(has) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let source = Code::RequestTimedOut;
                return Err(KafkaError::Topic {
                    topic: name.to_owned(),
                    step: "change the settings of",
                    source,
                });
            }
            tokio::time::sleep(SPREAD_LOOK).await;
        }
    }

    /// What every other client of these brokers starts from.
    pub(super) fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    fn client(&self) -> Arc<AdminClient<Heard>> {
        self.inner.client.get()
    }

    async fn answered<T>(&self, step: &'static str, result: Result<T, ClientError>) -> Result<T, KafkaError> {
        let source = match result {
            Ok(answer) => return Ok(answer),
            Err(source) => source,
        };
        let admin = self.clone();
        Err(blocking(move || Ok(admin.failed(step, source))).await.unwrap_or_else(|panicked| panicked))
    }

    async fn topic_failed(&self, topic: String, step: &'static str, code: Code) -> KafkaError {
        if is_unreachable(code) || is_refusal(code) {
            let failed: Result<(), _> = self.answered(step, Err(ClientError::AdminOp(code))).await;
            if let Err(failed) = failed {
                return failed;
            }
        }
        KafkaError::Topic { topic, step, source: code }
    }

    /// Which failure it is. The library repeats refused connections until the time is up, so "too late" asks once
    /// more, with ears open. Blocks.
    pub(super) fn failed(&self, step: &'static str, source: ClientError) -> KafkaError {
        let code = code_of(&source);
        if code.is_some_and(is_refusal) {
            return KafkaError::Refused { step, reason: code.map_or(String::new(), |code| code.to_string()) };
        }
        if code.is_some_and(is_unreachable) {
            let Inner { client, config, brokers } = &*self.inner;
            let unanswered = client.get();
            return match probe(config, brokers, step) {
                Err(error) => error,
                // They answer, only not this client.
                Ok(()) => match client.replace(&unanswered, || set_up(config)) {
                    Err(error) => error,
                    Ok(_) => KafkaError::Unreachable { brokers: brokers.clone(), reason: source.to_string() },
                },
            };
        }
        KafkaError::Failed { step, source }
    }
}

fn set_up(config: &ClientConfig) -> Result<AdminClient<Heard>, KafkaError> {
    let made = config.create_with_context(Heard::default());
    made.map_err(|source| KafkaError::Failed { step: "set up a client", source })
}

/// For calls that the crate does not have. The client has to outlive them.
fn native(client: &AdminClient<Heard>) -> *mut rdkafka::types::RDKafka {
    client.inner().native_ptr()
}

/// Nobody polls an admin client's log, so what it would say would pile up: errors come with the answers.
fn quiet(settings: &Settings) -> Result<ClientConfig, KafkaError> {
    let mut config = settings.client_config().map_err(|source| KafkaError::Settings { source })?;
    config.set_log_level(RDKafkaLogLevel::Critical);
    Ok(config)
}

fn one(results: Vec<TopicResult>) -> Result<(), Code> {
    results.into_iter().next().map_or(Err(Code::NoEnt), |result| result.map(drop).map_err(|(_, code)| code))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX / 2))
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// What a new topic gets beside its partitions: nothing of it is left to the brokers' defaults that matters.
fn settings_of_new(topic: &Topic, replication: Replication) -> Vec<(&'static str, String)> {
    let mut settings = retention_settings(topic.retention_ms, topic.retention_bytes);
    settings.extend([
        ("cleanup.policy", "delete".to_owned()),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("min.insync.replicas", replication.min_in_sync.to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
        ("max.message.bytes", (RECORD_BYTES_MAX + BATCH_OVERHEAD_BYTES).to_string()),
    ]);
    settings
}

/// Kafka writes "no limit" as -1.
fn retention_settings(retention_ms: u64, retention_bytes: Option<u64>) -> Vec<(&'static str, String)> {
    let limit =
        |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(-1).to_string();
    vec![("retention.ms", limit(Some(retention_ms))), ("retention.bytes", limit(retention_bytes))]
}

fn observed_topic(described: &Described, settings: &ConfigResource) -> ObservedTopic {
    let text = |name: &str| settings.get(name).and_then(|entry| entry.value.as_deref());
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
    let batch_bytes = number("max.message.bytes").and_then(|bytes| usize::try_from(bytes).ok());
    let min_in_sync = number("min.insync.replicas").and_then(|count| u16::try_from(count).ok());
    ObservedTopic {
        topic: Observed {
            name: described.name.clone(),
            partitions: described.partitions,
            retention_ms: number("retention.ms").unwrap_or(u64::MAX),
            retention_bytes: number("retention.bytes"),
        },
        id: described.id,
        replication: Replication {
            factor: described.replication_factor,
            min_in_sync: min_in_sync.unwrap_or(1),
        },
        record_bytes_max: batch_bytes
            .unwrap_or(BATCH_BYTES_DEFAULT)
            .saturating_sub(BATCH_OVERHEAD_BYTES)
            .min(RECORD_BYTES_MAX),
        has_append_times: text("message.timestamp.type") == Some("LogAppendTime"),
    }
}

/// Runs what waits for brokers off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(work).await.map_err(|source| KafkaError::Panicked { source })?
}

/// Asks the brokers for anything, and says why nobody answers. Blocks, at most [`CONNECT_MAX`].
fn probe(config: &ClientConfig, brokers: &str, step: &'static str) -> Result<(), KafkaError> {
    let failed = |source| KafkaError::Failed { step, source };
    let consumer: BaseConsumer<Heard> = config.create_with_context(Heard::default()).map_err(failed)?;
    let deadline = Instant::now() + CONNECT_MAX;
    loop {
        // In slices, because a refusal is only heard between them.
        let slice = CONNECT_MAX.min(Duration::from_millis(500));
        let asked = consumer.fetch_metadata(Some("__consumer_offsets"), slice);
        let heard_until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < heard_until {
            // Errors are told to `Heard` on the way.
            drop(consumer.poll(Duration::from_millis(5)));
        }
        let heard = consumer.context().last();
        let source = match asked {
            Ok(_) => return Ok(()),
            Err(source) => source,
        };
        if let Some((_, reason)) = heard.clone().filter(|(code, _)| is_refusal(*code)) {
            return Err(KafkaError::Refused { step, reason });
        }
        if source.rdkafka_error_code().is_some_and(is_refusal) {
            return Err(KafkaError::Refused { step, reason: source.to_string() });
        }
        if Instant::now() >= deadline {
            let reason = heard.map_or_else(|| source.to_string(), |(_, reason)| reason);
            return Err(KafkaError::Unreachable { brokers: brokers.to_owned(), reason });
        }
    }
}

/// Listens to what the library says beside its answers: the only place where refused connections are told.
#[derive(Default)]
struct Heard {
    last: Mutex<Option<(Code, String)>>,
}

impl Heard {
    fn last(&self) -> Option<(Code, String)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Heard {
    fn error(&self, error: ClientError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers are down" follows what brought them down, and says less.
        let is_weaker = code == Code::AllBrokersDown && last.is_some();
        let is_settled = last.as_ref().is_some_and(|(code, _)| is_refusal(*code));
        if !is_weaker && !is_settled {
            *last = Some((code, reason.to_owned()));
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }
}

impl ConsumerContext for Heard {}
