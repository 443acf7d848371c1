//! Who owns the topics of an App: a record per App in the compacted topic `<prefix>.owners` in, its owner out. It lies in
//! Kafka itself, because several installations may share one, and none can see the objects of the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use millrace_crds::names::AppId;
use millrace_crds::schema::Owner;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::admin::{Admin, Replication};
use super::error::KafkaError;

/// Longest wait for one read to the end, or one write.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a read answers the next question too: many Apps ask at once when an operator starts.
const FRESH_MAX: Duration = Duration::from_secs(5);
/// How long the broker waits for one more record at the end of the topic: none is awaited, and every change of an App
/// waits for this read.
const END_WAIT_MS: &str = "10";
/// The topic has one partition: records of all Apps are few and small.
const PARTITION: i32 = 0;

/// The owners of all Apps on one Kafka. Cheap to clone.
#[derive(Clone)]
pub struct Owners {
    inner: Arc<Inner>,
}

struct Inner {
    admin: Admin,
    topic: String,
    replication: Replication,
    read: Mutex<Option<(Instant, BTreeMap<AppId, Owner>)>>,
}

impl Owners {
    /// The owners under this prefix. Asks nothing yet.
    pub fn new(admin: Admin, prefix: &str, replication: Replication) -> Self {
        let topic = format!("{prefix}.owners");
        Self { inner: Arc::new(Inner { admin, topic, replication, read: Mutex::new(None) }) }
    }

    /// The owner of an App's topics; `None` when nobody claimed them.
    pub async fn of(&self, app: &AppId) -> Result<Option<Owner>, KafkaError> {
        if let Some((at, owners)) = &*self.read_before()
            && at.elapsed() < FRESH_MAX
        {
            return Ok(owners.get(app).cloned());
        }
        Ok(self.read().await?.get(app).cloned())
    }

    /// Writes an owner down, and gives who it is then: another one, if somebody wrote at the same moment.
    pub async fn set(&self, app: &AppId, owner: &Owner) -> Result<Option<Owner>, KafkaError> {
        let Inner { admin, topic, replication, .. } = &*self.inner;
        admin.create_compacted(topic, *replication).await?;
        let value = serde_json::to_vec(owner).expect("a struct of strings always serializes");
        self.write(app, Some(value)).await?;
        Ok(self.read().await?.get(app).cloned())
    }

    /// Removes the record of an App; one that is not there is no error.
    pub async fn clear(&self, app: &AppId) -> Result<(), KafkaError> {
        if !self.read().await?.contains_key(app) {
            return Ok(());
        }
        self.write(app, None).await?;
        self.forget();
        Ok(())
    }

    /// All of them, read to the end of the topic as it is now.
    async fn read(&self) -> Result<BTreeMap<AppId, Owner>, KafkaError> {
        let Inner { admin, topic, .. } = &*self.inner;
        let owners = if admin.describe(&[topic]).await?.is_empty() {
            BTreeMap::new()
        } else {
            let (config, topic) = (admin.config().clone(), topic.clone());
            let reader = admin.clone();
            super::admin::blocking(move || {
                read_to_end(config, &topic)
                    .map_err(|source| reader.failed("read the owners of topics", source))
            })
            .await?
        };
        *self.read_before() = Some((Instant::now(), owners.clone()));
        Ok(owners)
    }

    /// One record, acknowledged by every replica that is in sync; no value removes what is there.
    async fn write(&self, app: &AppId, value: Option<Vec<u8>>) -> Result<(), KafkaError> {
        self.forget();
        let Inner { admin, topic, .. } = &*self.inner;
        tracing::info!(topic, app = %app, "writing an owner of topics");
        let (config, topic, key) = (admin.config().clone(), topic.clone(), app.to_string());
        let writer = admin.clone();
        super::admin::blocking(move || {
            write_one(config, &topic, &key, value.as_deref())
                .map_err(|source| writer.failed("write the owner of topics", source))
        })
        .await
    }

    fn read_before(&self) -> MutexGuard<'_, Option<(Instant, BTreeMap<AppId, Owner>)>> {
        self.inner.read.lock().expect("no holder of this lock panics")
    }

    fn forget(&self) {
        *self.read_before() = None;
    }
}

/// The end of the topic is what a reader waits for, and the library tells it as an error; what is wrong is returned.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: ClientError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Quiet {}

/// Blocks, at most [`ANSWER_MAX`].
fn read_to_end(mut config: ClientConfig, topic: &str) -> Result<BTreeMap<AppId, Owner>, ClientError> {
    // The library wants a group to assign partitions by hand; nothing is ever committed to it.
    config.set("group.id", topic).set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    // That the end is reached is told by an empty answer, which the broker would keep back for half a second.
    config.set("fetch.wait.max.ms", END_WAIT_MS);
    let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet)?;
    let mut from_start = TopicPartitionList::new();
    from_start.add_partition_offset(topic, PARTITION, Offset::Beginning)?;
    consumer.assign(&from_start)?;
    let deadline = Instant::now() + ANSWER_MAX;
    let mut owners = BTreeMap::new();
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(record)) => keep(&mut owners, record.key(), record.payload()),
            Some(Err(ClientError::PartitionEOF(_))) => return Ok(owners),
            // The library tries again by itself; what stays wrong ends with the deadline.
            Some(Err(error)) if error.rdkafka_error_code().is_some_and(super::is_unreachable) => {}
            Some(Err(error)) => return Err(error),
        }
    }
    Err(ClientError::MessageConsumption(Code::OperationTimedOut))
}

/// A record that nobody can read owns nothing, and hides nothing that was there before it.
fn keep(owners: &mut BTreeMap<AppId, Owner>, key: Option<&[u8]>, value: Option<&[u8]>) {
    let app = key.and_then(|key| std::str::from_utf8(key).ok()).and_then(|text| text.parse::<AppId>().ok());
    let Some(app) = app else { return };
    match value.map(serde_json::from_slice::<Owner>) {
        Some(Ok(owner)) => _ = owners.insert(app, owner),
        Some(Err(error)) => tracing::warn!(app = %app, %error, "an owner of topics cannot be read"),
        None => _ = owners.remove(&app),
    }
}

/// Blocks, at most [`ANSWER_MAX`].
fn write_one(
    mut config: ClientConfig,
    topic: &str,
    key: &str,
    value: Option<&[u8]>,
) -> Result<(), ClientError> {
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", ANSWER_MAX.as_millis().to_string());
    let producer: BaseProducer<Delivery> = config.create_with_context(Delivery::default())?;
    let mut record = BaseRecord::to(topic).partition(PARTITION).key(key);
    if let Some(value) = value {
        record = record.payload(value);
    }
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(ANSWER_MAX)?;
    let delivered = producer.context().outcome.lock().expect("no holder of this lock panics").take();
    delivered.unwrap_or(Err(ClientError::MessageProduction(Code::OperationTimedOut)))
}

/// What became of the one record.
#[derive(Default)]
struct Delivery {
    outcome: Mutex<Option<Result<(), ClientError>>>,
}

impl ClientContext for Delivery {}

impl ProducerContext for Delivery {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let outcome = result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone());
        *self.outcome.lock().expect("no holder of this lock panics") = Some(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_record_of_an_app_counts_and_one_without_a_value_removes_it() {
        let owner = |uid: &str| {
            let text = |text: &str| text.to_owned();
            Owner { cluster: text("c"), namespace: text("default"), app: text("shop"), uid: text(uid) }
        };
        let json = |uid: &str| serde_json::to_vec(&owner(uid)).unwrap();
        let mut owners = BTreeMap::new();
        let app = AppId::new("default", "shop").unwrap();
        for (key, value, expected) in [
            (Some(&b"default/shop"[..]), Some(json("1")), Some("1")),
            (Some(b"default/shop"), Some(json("2")), Some("2")),
            (Some(b"default/shop"), Some(b"garbage".to_vec()), Some("2")),
            (Some(b"no app"), Some(json("3")), Some("2")),
            (None, Some(json("3")), Some("2")),
            (Some(b"default/shop"), None, None),
        ] {
            keep(&mut owners, key, value.as_deref());
            assert_eq!(owners.get(&app).map(|owner| owner.uid.as_str()), expected);
        }
    }
}
