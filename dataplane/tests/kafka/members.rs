//! Members that share a group: what is taken away is told first, and nothing more is committed for it.

use std::sync::Arc;
use std::time::Duration;

use millrace_dataplane::log::kafka::Options;
use millrace_dataplane::log::{Consumer, GroupHandle, Log, LogError, Polled, ReadLimits, Transaction};

use crate::bench::{Bench, LONG, assert_error, at, events, limits, own, position, record, take};

fn wait(time: Duration) -> ReadLimits {
    ReadLimits { wait_max: time, ..limits(10) }
}

/// Asks both in turn until the second has been given something; returns what the first lost.
async fn share(first: &mut Box<dyn Consumer>, second: &mut Box<dyn Consumer>) -> (Vec<u32>, Vec<u32>) {
    let (mut lost, mut given) = (Vec::new(), Vec::new());
    let both = async {
        while given.is_empty() {
            let turn = wait(Duration::from_millis(50));
            let (one, other) = tokio::join!(first.next(turn), second.next(turn));
            if let Polled::Revoked(partitions) = one.unwrap() {
                lost.extend(partitions.iter().map(|of| of.partition));
            }
            if let Polled::Assigned(assigned) = other.unwrap() {
                given.extend(assigned.iter().map(|given| given.partition.partition));
            }
        }
    };
    tokio::time::timeout(LONG, both).await.expect("the second member gets its share");
    (lost, given)
}

fn moves(partition: u32, group: GroupHandle) -> Transaction {
    Transaction { records: vec![record(0, "out")], positions: vec![position(partition, 1, "")], group }
}

#[tokio::test]
async fn what_a_second_member_took_is_refused_to_the_first_and_the_rest_is_not() {
    let bench = Bench::new().await;
    let (mut first, _) = bench.join(&own("g")).await;
    let mut transactor = bench.log().transactor(&own("t")).await.unwrap();
    let mut second = bench.log().subscribe(&own("g"), &[Arc::from(events())]).await.unwrap();
    let (lost, given) = share(&mut first, &mut second).await;
    assert_eq!(lost, given);
    let [taken] = lost[..] else { panic!("one of two partitions moves, not {lost:?}") };
    let kept = 1 - taken;

    let is_fenced = |error: &LogError| matches!(error, LogError::Fenced { id } if *id == own("g"));
    assert_error(first.commit(vec![position(taken, 1, "no")]).await, is_fenced);
    assert_error(first.commit(vec![position(kept, 1, "no"), position(taken, 1, "no")]).await, is_fenced);
    assert_error(transactor.commit(moves(taken, first.group())).await, is_fenced);
    assert_error(first.seek(&at(taken), 0).await, |e| matches!(e, LogError::UnknownPartition { .. }));
    assert_eq!(bench.watermarks(0).await, (0, 0), "nothing of the refused transaction is there");
    first.commit(vec![position(kept, 1, "kept")]).await.unwrap();
    transactor.commit(moves(taken, second.group())).await.unwrap();
    drop((first, second));
    let (_, assigned) = bench.join(&own("g")).await;
    assert_eq!(assigned[kept as usize].committed, Some(position(kept, 1, "kept").committed));
    assert_eq!(assigned[taken as usize].committed, Some(position(taken, 1, "").committed));
}

#[tokio::test]
async fn a_member_that_was_at_work_for_too_long_has_lost_its_place() {
    let bench = Bench::new().await;
    let brief = Duration::from_secs(2);
    let options = Options { session_max: brief, batch_max: brief, ..bench.options() };
    let log = bench.open(options);
    let mut zombie = log.subscribe(&own("g"), &[Arc::from(events())]).await.unwrap();
    assert!(matches!(zombie.next(wait(LONG)).await.unwrap(), Polled::Assigned(given) if given.len() == 2));
    let mut transactor = log.transactor(&own("t")).await.unwrap();
    let stale = zombie.group();
    // It calls `next` no more, and the group waits for it no longer than it may.
    let (mut heir, given) = bench.join(&own("g")).await;
    assert_eq!(given.len(), 2);
    let is_fenced = |error: &LogError| matches!(error, LogError::Fenced { id } if *id == own("g"));
    assert_error(transactor.commit(moves(1, stale)).await, is_fenced);
    assert_error(zombie.commit(vec![position(1, 7, "no")]).await, is_fenced);
    assert!(bench.values(0).await.is_empty(), "what the brokers refused was undone");
    heir.commit(vec![position(1, 1, "")]).await.unwrap();
    // One by one or together: the group may have asked for one of them before it gave the member up.
    let mut lost = Vec::new();
    while lost.len() < 2 {
        match zombie.next(wait(LONG)).await.unwrap() {
            Polled::Revoked(partitions) => lost.extend(partitions),
            other => panic!("expected to be told of what is lost, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_member_with_a_name_of_its_own_gets_its_partitions_back_without_a_rebalance() {
    let bench = Bench::new().await;
    let named = |name: &str| bench.open(Options { instance_id: Some(name.to_owned()), ..bench.options() });
    let log = named("worker-0");
    let mut first = log.subscribe(&own("g"), &[Arc::from(events())]).await.unwrap();
    assert!(matches!(first.next(wait(LONG)).await.unwrap(), Polled::Assigned(given) if given.len() == 2));
    bench.append(0, "a").await;
    assert_eq!(take(&mut first, 1).await.1, ["a"]);
    // The same name again: the older process is fenced, as it must be.
    let mut again = named("worker-0").subscribe(&own("g"), &[Arc::from(events())]).await.unwrap();
    assert!(matches!(again.next(wait(LONG)).await.unwrap(), Polled::Assigned(given) if given.len() == 2));
    let fenced = first.commit(vec![position(0, 1, "")]).await;
    assert_error(fenced, |error| matches!(error, LogError::Fenced { .. }));
    again.commit(vec![position(0, 1, "")]).await.unwrap();
}
