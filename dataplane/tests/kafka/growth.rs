//! Topics that grow while records come: new partitions take records, and nobody is refused meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use millrace_dataplane::log::{GroupHandle, Log, Transaction};

use crate::bench::{Bench, LONG, events, own, record, topic};

const FEW: u32 = 2;
const MANY: u32 = 12;
/// Records of each writer in each of the partitions.
const EACH: usize = 20;

/// Appends to all partitions there are, in turn, until the last of the new ones has had its share.
async fn write(log: Arc<dyn Log>, partitions: &AtomicU32, written: &AtomicU32) {
    let mut rounds_with_many = 0;
    while rounds_with_many < EACH {
        let count = partitions.load(Ordering::SeqCst);
        for partition in 0..count {
            log.append(vec![record(partition, "while it grows")]).await.unwrap();
            written.fetch_add(1, Ordering::SeqCst);
        }
        rounds_with_many += usize::from(count == MANY);
    }
}

#[tokio::test]
async fn partitions_that_are_added_while_records_come_take_records_without_an_error() {
    let bench = Bench::new().await;
    let (partitions, written) = (AtomicU32::new(FEW), AtomicU32::new(0));
    let grow = async {
        while written.load(Ordering::SeqCst) < 100 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bench.ensure(&[topic(events(), MANY)]).await;
        partitions.store(MANY, Ordering::SeqCst);
    };
    let writers = (0..4).map(|_| write(bench.shared_log(), &partitions, &written));
    let all = async { tokio::join!(grow, futures::future::join_all(writers)) };
    tokio::time::timeout(2 * LONG, all).await.expect("all is written in time");
    for partition in FEW..MANY {
        assert_eq!(bench.watermarks(partition).await, (0, 4 * EACH as u64), "partition {partition}");
    }
}

#[tokio::test]
async fn a_transaction_reaches_a_partition_that_its_producer_has_not_seen() {
    let bench = Bench::new().await;
    let mut transactor = bench.log().transactor(&own("worker-0")).await.unwrap();
    let to = |partition| Transaction {
        records: vec![record(0, "known"), record(partition, "in a transaction")],
        positions: Vec::new(),
        group: GroupHandle { name: own("g").into(), inner: None },
    };
    transactor.commit(to(1)).await.unwrap();
    bench.ensure(&[topic(events(), MANY)]).await;
    transactor.commit(to(MANY - 1)).await.unwrap();
    assert_eq!(bench.values(MANY - 1).await, ["in a transaction"]);
}
