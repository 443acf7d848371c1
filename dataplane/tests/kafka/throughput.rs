//! What the log costs over the bare client, in one run on one broker. Prints; fails only when it is far off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_dataplane::log::{Log, NewRecord};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use crate::bench::{Bench, at, events};
use crate::broker;

const RECORDS: usize = 100_000;
const RECORD_BYTES: usize = 600;
const BATCH: usize = 100;
const CALLERS: usize = 64;

#[derive(Clone, Default)]
struct Count(Arc<AtomicU64>);

impl ClientContext for Count {}

impl ProducerContext for Count {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        assert!(delivered.is_ok());
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn value() -> Vec<u8> {
    (0..RECORD_BYTES).map(|n| b'a' + u8::try_from(n * 7 % 26).unwrap()).collect()
}

/// On a thread that may block. The topic belongs to this one.
async fn bare_here() -> f64 {
    let topic = events();
    tokio::task::spawn_blocking(move || bare(topic)).await.unwrap()
}

fn bare(topic: &str) -> f64 {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", broker::shared())
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.codec", "lz4")
        .set("linger.ms", "2")
        .set("queue.buffering.max.messages", "0");
    let count = Count::default();
    let producer: ThreadedProducer<Count> = config.create_with_context(count.clone()).unwrap();
    let (key, value) = ([7_u8; 16], value());
    // Connections and metadata first: the log has had its own for long.
    for partition in 0..2 {
        producer.send(BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(&value[..])).unwrap();
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    count.0.store(0, Ordering::Relaxed);
    let started = Instant::now();
    for n in 0..RECORDS {
        let record =
            BaseRecord::to(topic).partition(i32::try_from(n % 2).unwrap()).key(&key[..]).payload(&value[..]);
        producer.send(record).unwrap();
        // As many on their way as the log has: more would only measure fresh memory.
        while n as u64 >= count.0.load(Ordering::Relaxed) + (CALLERS * BATCH) as u64 {
            std::thread::yield_now();
        }
    }
    // Not by `flush`: it looks only every tenth of a second.
    let deadline = Instant::now() + Duration::from_secs(60);
    while count.0.load(Ordering::Relaxed) < RECORDS as u64 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_micros(200));
    }
    RECORDS as f64 / started.elapsed().as_secs_f64()
}

async fn through_the_log(log: Arc<dyn Log>) -> f64 {
    let value = Bytes::from(value());
    let record = |n: usize| NewRecord {
        to: at(u32::try_from(n % 2).unwrap()),
        key: Bytes::from_static(&[7; 16]),
        value: value.clone(),
    };
    let batch: Vec<NewRecord> = (0..BATCH).map(record).collect();
    let started = Instant::now();
    let caller = |_| {
        let (log, batch) = (Arc::clone(&log), batch.clone());
        tokio::spawn(async move {
            for _ in 0..RECORDS / BATCH / CALLERS {
                assert_eq!(log.append(batch.clone()).await.unwrap().len(), BATCH);
            }
        })
    };
    for caller in (0..CALLERS).map(caller).collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    (RECORDS / BATCH / CALLERS * CALLERS * BATCH) as f64 / started.elapsed().as_secs_f64()
}

#[tokio::test]
async fn appending_costs_little_more_than_the_bare_client() {
    let bench = Bench::new().await;
    let log: Arc<dyn Log> = bench.shared_log();
    // In turn, and the best of each: other tests run beside them.
    let (mut best_bare, mut best_log) = (0_f64, 0_f64);
    for _ in 0..3 {
        best_bare = best_bare.max(bare_here().await);
        best_log = best_log.max(through_the_log(Arc::clone(&log)).await);
    }
    let ratio = best_log / best_bare;
    println!(
        "append of {RECORD_BYTES} B: bare {best_bare:.0} records/s, log {best_log:.0} records/s \
         ({CALLERS} callers of {BATCH}), ratio {ratio:.2}"
    );
    assert!(ratio > 0.2, "{ratio}");
}
