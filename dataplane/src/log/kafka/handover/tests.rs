use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::sync::oneshot::Receiver;

use super::*;
use crate::log::NewRecord;
use crate::log::kafka::append::Shipment;

const TOPIC: &str = "events";
const RECORDS: usize = 50;

/// Values that are alive.
#[derive(Clone, Default)]
struct Alive(Arc<AtomicUsize>);

/// The bytes of one value, counted as long as they are there. Dropped twice, the count would be wrong.
struct Value {
    bytes: Vec<u8>,
    alive: Alive,
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // What is read after this is not what was sent.
        self.bytes.fill(b'!');
        self.alive.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Alive {
    fn value(&self, text: String) -> Bytes {
        self.0.fetch_add(1, Ordering::SeqCst);
        Bytes::from_owner(Value { bytes: text.into_bytes(), alive: self.clone() })
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn records(&self, partition: u32) -> Vec<NewRecord> {
        let to = TopicPartition { topic: TOPIC.into(), partition };
        let record = |n| NewRecord {
            to: to.clone(),
            key: Bytes::from_static(b"key"),
            value: self.value(format!("value {n}")),
        };
        (0..RECORDS).map(record).collect()
    }

    /// Until as many are left.
    fn falls_to(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.count() != count {
            assert!(Instant::now() < deadline, "{} values are alive, not {count}", self.count());
            std::thread::yield_now();
        }
    }
}

fn producer(brokers: &str) -> Deliverer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("enable.idempotence", "true").set("linger.ms", "1");
    Deliverer::new(&config).unwrap()
}

/// Records that were handed over, and live nowhere else.
struct Lent {
    call: Arc<Call>,
    decided: Receiver<()>,
}

impl Lent {
    fn to(producer: &Deliverer, records: Vec<NewRecord>) -> Self {
        let (mut shipment, decided) = Shipment::new(records, None);
        shipment.hand_over(producer);
        Self { call: shipment.call(), decided }
    }

    /// Once every record is decided.
    fn outcome(self) -> Result<Vec<u64>, KafkaError> {
        self.decided.blocking_recv().unwrap();
        self.call.outcome()
    }

    /// Why none of them is in the log.
    fn failure(self) -> Option<Code> {
        self.outcome().unwrap_err().rdkafka_error_code()
    }
}

/// A broker that has the topic, and a producer for it.
fn served() -> (MockCluster<'static, rdkafka::producer::DefaultProducerContext>, Deliverer) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let producer = producer(&cluster.bootstrap_servers());
    (cluster, producer)
}

/// Records that wait for a broker that nobody stands behind.
fn waiting(alive: &Alive) -> (Deliverer, Lent) {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let producer = producer(&nobody.to_string());
    let lent = Lent::to(&producer, alive.records(0));
    assert_eq!(alive.count(), RECORDS, "they wait");
    (producer, lent)
}

#[test]
fn values_live_until_they_are_delivered_and_arrive_as_they_were() {
    let (cluster, producer) = served();
    let alive = Alive::default();
    let lent = Lent::to(&producer, alive.records(0));
    assert_eq!(lent.outcome().unwrap(), (0..RECORDS as u64).collect::<Vec<_>>());
    alive.falls_to(0);
    assert_eq!(
        stored(&cluster.bootstrap_servers()),
        (0..RECORDS).map(|n| format!("value {n}")).collect::<Vec<_>>()
    );
}

/// The values in the topic.
fn stored(brokers: &str) -> Vec<String> {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "reader").create().unwrap();
    let mut from = rdkafka::TopicPartitionList::new();
    from.add_partition_offset(TOPIC, 0, rdkafka::Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    (0..RECORDS)
        .map(|_| {
            let message = consumer.poll(Duration::from_secs(20)).unwrap().unwrap();
            String::from_utf8(message.payload().unwrap().to_vec()).unwrap()
        })
        .collect()
}

#[test]
fn values_are_let_go_of_when_the_broker_refuses_them() {
    let (cluster, producer) = served();
    cluster
        .request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 100]);
    let alive = Alive::default();
    let lent = Lent::to(&producer, alive.records(0));
    assert_eq!(lent.failure(), Some(Code::MessageSizeTooLarge));
    alive.falls_to(0);
}

#[test]
fn what_is_not_taken_comes_back_and_the_rest_of_the_call_is_given_up() {
    let (_cluster, producer) = served();
    let alive = Alive::default();
    // The partitions are known from now on.
    Lent::to(&producer, alive.records(0)).outcome().unwrap();
    let mut records = alive.records(0);
    records[RECORDS / 2].to.partition = 7;
    assert_eq!(Lent::to(&producer, records).failure(), Some(Code::UnknownPartition));
    alive.falls_to(0);
}

#[test]
fn values_are_let_go_of_when_what_waits_is_given_up() {
    let alive = Alive::default();
    let (producer, lent) = waiting(&alive);
    producer.producer().purge(PurgeConfig::default().queue().inflight());
    assert_eq!(lent.failure(), Some(Code::PurgeQueue));
    alive.falls_to(0);
}

#[test]
fn values_are_let_go_of_and_callers_told_when_the_producer_is_dropped_with_what_waits() {
    let alive = Alive::default();
    let (producer, lent) = waiting(&alive);
    drop(producer);
    assert_eq!(lent.failure(), Some(Code::PurgeQueue));
    assert_eq!(alive.count(), 0);
}

#[test]
fn values_are_let_go_of_and_callers_told_when_the_producer_is_dropped_with_what_is_on_its_way() {
    let (cluster, producer) = served();
    let alive = Alive::default();
    Lent::to(&producer, alive.records(0)).outcome().unwrap();
    alive.falls_to(0);
    // The broker's next answer comes too late for this test.
    cluster.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    let lent = Lent::to(&producer, alive.records(0));
    // Sent by this, and not answered.
    producer.producer().flush(Duration::from_millis(300)).unwrap_err();
    assert_eq!(alive.count(), RECORDS, "they are on their way");
    drop(producer);
    assert_eq!(lent.failure(), Some(Code::PurgeInflight));
    assert_eq!(alive.count(), 0);
}
