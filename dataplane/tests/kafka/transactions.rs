//! Transactions that are not finished: invisible, waited for where that matters, undone by the next transactor.

use std::mem::ManuallyDrop;
use std::time::Duration;

use millrace_dataplane::log::{GroupHandle, ReadLimits, Transaction};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

use crate::bench::{Bench, at, events, limits, own, record, value};
use crate::broker;

type Bare = ThreadedProducer<rdkafka::producer::DefaultProducerContext>;

/// A process that dies between its records and its commit: its client is never ended.
async fn dies_in_mid_transaction(id: String, topic: &'static str) {
    tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker::shared()).set("transactional.id", id).set("linger.ms", "0");
        let producer: ManuallyDrop<Bare> = ManuallyDrop::new(config.create().unwrap());
        producer.init_transactions(Duration::from_secs(30)).unwrap();
        producer.begin_transaction().unwrap();
        let lost = BaseRecord::<[u8], str>::to(topic).partition(0).payload("lost");
        producer.send(lost).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_a_dead_worker_left_open_is_invisible_and_undone_by_its_successor() {
    let bench = Bench::new().await;
    bench.append(0, "before").await;
    dies_in_mid_transaction(own("worker-0"), events()).await;
    bench.append(0, "behind").await;
    assert_eq!(bench.watermarks(0).await, (0, 1), "readers stop in front of it");
    assert_eq!(bench.values(0).await, ["before"]);
    let of = at(0);
    let mut settled = bench.log().settled_end(&of);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut settled).await;
    assert!(early.is_err(), "the end is not settled while a transaction is open: {early:?}");

    let mut transactor = bench.log().transactor(&own("worker-0")).await.unwrap();
    let end = settled.await.unwrap();
    assert_eq!(end, 3, "both records and the open one; the marker that undid it came later");
    assert_eq!(bench.values(0).await, ["before", "behind"]);
    let group = GroupHandle { name: own("g").into(), inner: None };
    let records = vec![record(0, "after"), record(1, "after")];
    transactor.commit(Transaction { records, positions: Vec::new(), group }).await.unwrap();
    assert_eq!(bench.values(0).await, ["before", "behind", "after"]);
    let last = bench.read(0, 0).await.pop().unwrap();
    assert!(last.offset > 3, "markers take offsets of their own");
}

#[tokio::test]
async fn the_end_is_found_behind_markers_too() {
    let bench = Bench::new().await;
    let mut transactor = bench.log().transactor(&own("t")).await.unwrap();
    for n in 0..3 {
        let group = GroupHandle { name: own("g").into(), inner: None };
        let records = vec![record(0, &n.to_string())];
        transactor.commit(Transaction { records, positions: Vec::new(), group }).await.unwrap();
    }
    // A commit is decided a moment before its marker is in the partition.
    bench.log().settled_end(&at(0)).await.unwrap();
    let (_, high) = bench.watermarks(0).await;
    assert_eq!(high, 6);
    // From the last marker on there is nothing: not an error, and not a wait.
    let of = at(0);
    let read = bench.log().read(&of, 5, ReadLimits { wait_max: Duration::ZERO, ..limits(10) });
    let read = tokio::time::timeout(Duration::from_secs(5), read).await.expect("answers at once");
    assert!(read.unwrap().is_empty());
    assert_eq!(bench.values(0).await, ["0", "1", "2"]);
    let (mut consumer, _) = bench.join(&own("g")).await;
    let (_, taken) = crate::bench::take(&mut consumer, 10).await;
    assert_eq!(taken, ["0", "1", "2"]);
    assert_eq!(value(&bench.read(0, 2).await[0]), "1", "a read may begin at a marker's neighbour");
}
