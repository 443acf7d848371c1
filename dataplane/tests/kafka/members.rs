//! Members that share a group: what is taken away is told first, and nothing more is committed for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_dataplane::log::kafka::Options;
use millrace_dataplane::log::{Consumer, GroupHandle, Log, LogError, Polled, ReadLimits, Transaction};

use crate::bench::{Bench, LONG, assert_error, at, events, limits, own, position, record};

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
    // What it is to the group by now is nobody, and from nobody the brokers would take positions unseen.
    assert_error(transactor.commit(moves(1, zombie.group())).await, is_fenced);
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
async fn what_a_member_leaves_behind_is_taken_over_at_once() {
    let bench = Bench::new().await;
    let (first, _) = bench.join(&own("g")).await;
    let left = Instant::now();
    drop(first);
    let (_, given) = bench.join(&own("g")).await;
    assert_eq!(given.len(), 2);
    let session_max = bench.options().session_max;
    assert!(left.elapsed() < session_max, "the group waited for who had left: {:?}", left.elapsed());
}

#[tokio::test]
async fn a_member_at_work_commits_though_the_group_moves_on_meanwhile() {
    let bench = Bench::new().await;
    let (mut first, _) = bench.join(&own("g")).await;
    let mut transactor = bench.log().transactor(&own("t")).await.unwrap();
    let begun_with = first.group();
    let mut second = bench.log().subscribe(&own("g"), &[Arc::from(events())]).await.unwrap();
    // The second is a member: the group is another one now, and the first has heard nothing of it.
    assert!(matches!(second.next(wait(LONG)).await.unwrap(), Polled::Assigned(given) if given.is_empty()));
    transactor.commit(moves(0, begun_with)).await.unwrap();
    first.commit(vec![position(1, 1, "kept")]).await.unwrap();
    let (lost, given) = share(&mut first, &mut second).await;
    assert_eq!(lost, given, "it gives up its share when it looks, and not before");
}

/// What a member holds, as it is told.
fn note(held: &mut BTreeSet<u32>, polled: Polled) {
    match polled {
        Polled::Assigned(assigned) => held.extend(assigned.iter().map(|one| one.partition.partition)),
        Polled::Revoked(revoked) => held.retain(|held| revoked.iter().all(|of| of.partition != *held)),
        Polled::Records(..) | Polled::Idle => {}
    }
}

#[tokio::test]
async fn a_member_that_ends_while_the_group_makes_room_for_another_leaves_no_partition_to_nobody() {
    let bench = Bench::new().await;
    let topic: Arc<str> = own("twelve").into();
    bench.ensure(&[crate::bench::topic(&topic, 12)]).await;
    // Each with clients of its own, as pods have.
    let join =
        async || bench.open(bench.options()).subscribe(&own("g"), &[Arc::clone(&topic)]).await.unwrap();
    let mut first = join().await;
    assert!(matches!(first.next(wait(LONG)).await.unwrap(), Polled::Assigned(given) if given.len() == 12));
    let mut second = join().await;
    // The first is at work and hears of nothing. The group has decided what it will give to the second, and waits for
    // the first to let go of it.
    assert!(matches!(second.next(wait(LONG)).await.unwrap(), Polled::Assigned(given) if given.is_empty()));
    drop(first);
    let mut again = join().await;
    let mut held = [BTreeSet::new(), BTreeSet::new()];
    let all = async {
        while held[0].union(&held[1]).count() < 12 {
            let turn = wait(Duration::from_millis(50));
            let (one, other) = tokio::join!(again.next(turn), second.next(turn));
            note(&mut held[0], one.unwrap());
            note(&mut held[1], other.unwrap());
        }
    };
    let in_time = tokio::time::timeout(LONG, all).await;
    assert!(in_time.is_ok(), "{held:?}");
    assert!(held[0].is_disjoint(&held[1]), "{held:?}");
}
