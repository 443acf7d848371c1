//! Consumers and their groups: on both logs.

use std::sync::Arc;

use millrace_crds::config::Topic;
use millrace_dataplane::log::{LogError, Polled, ReadLimits, Transaction};

use crate::bench::{
    EVENTS, LONG, assert_error, assert_idle, at, limits, on_both, position, record, take, topic,
};

#[tokio::test]
async fn a_new_group_starts_at_the_first_record_there_is() {
    on_both(async |bench| {
        bench.append(0, "a").await;
        let (mut consumer, assigned) = bench.join("g").await;
        let given: Vec<_> = assigned.iter().map(|given| given.partition.clone()).collect();
        assert_eq!(given, [at(0), at(1)]);
        assert!(assigned.iter().all(|given| given.committed.is_none() && given.topic.partitions == 2));
        assert_eq!(take(&mut consumer, 10).await, (0, vec!["a".to_owned()]));
        assert_idle(&mut consumer).await;
    })
    .await;
}

#[tokio::test]
async fn a_group_resumes_where_it_committed_with_its_metadata() {
    on_both(async |bench| {
        let text = "v1;9;3;17;ü;".to_owned() + &"m".repeat(4000);
        bench.log().append(vec![record(0, "a"), record(0, "b"), record(0, "c")]).await.unwrap();
        let (mut consumer, _) = bench.join("g").await;
        assert_eq!(take(&mut consumer, 2).await.1, ["a", "b"]);
        consumer.commit(vec![position(0, 1, "older"), position(0, 2, &text)]).await.unwrap();
        consumer.commit(Vec::new()).await.unwrap();
        drop(consumer);
        bench.reopen();
        let (mut consumer, assigned) = bench.join("g").await;
        assert_eq!(assigned[0].committed, Some(position(0, 2, &text).committed));
        assert_eq!(take(&mut consumer, 10).await.1, ["c"]);
        let (_, others) = bench.join("another").await;
        assert_eq!(others[0].committed, None, "positions belong to one group");
        let over = consumer.commit(vec![position(0, 3, &"m".repeat(4097))]).await;
        assert_error(over, |error| matches!(error, LogError::TooLarge { bytes_max: 4096, .. }));
    })
    .await;
}

#[tokio::test]
async fn a_position_that_retention_passed_resumes_at_the_low_watermark() {
    on_both(async |bench| {
        bench.ensure(&[Topic { retention_ms: 1000, ..topic(EVENTS, 2) }]).await;
        bench.append(0, "a").await;
        bench.append(0, "b").await;
        let (mut consumer, _) = bench.join("g").await;
        consumer.commit(vec![position(0, 1, "seen a")]).await.unwrap();
        bench.tick(5000);
        bench.append(0, "c").await;
        bench.retain().await;
        assert_eq!(take(&mut consumer, 10).await.1, ["c"], "a consumer at work goes on at the low watermark");
        let (mut consumer, assigned) = bench.join("g").await;
        assert_eq!(
            assigned[0].committed,
            Some(position(0, 1, "seen a").committed),
            "it is told all the same"
        );
        assert_eq!(take(&mut consumer, 10).await.1, ["c"]);
        let unread = bench.metrics.log_unread_removed_records.with_label_values(&["g", EVENTS]).get();
        assert!(matches!((bench.kind, unread), (crate::bench::Kind::Embedded, 1) | (_, 0)), "{unread}");
    })
    .await;
}

#[tokio::test]
async fn a_waiting_consumer_is_woken_by_a_commit() {
    on_both(async |bench| {
        let (mut consumer, _) = bench.join("g").await;
        let (taken, _) = tokio::join!(take(&mut consumer, 10), bench.append(1, "now"));
        assert_eq!(taken, (1, vec!["now".to_owned()]));
    })
    .await;
}

#[tokio::test]
async fn a_waiting_consumer_is_woken_by_take_over_growth_and_close() {
    on_both(async |bench| {
        let wait = ReadLimits { wait_max: LONG, ..limits(10) };
        let (mut first, _) = bench.join("g").await;
        let (polled, (mut second, _)) = tokio::join!(first.next(wait), bench.join("g"));
        assert!(matches!(polled.unwrap(), Polled::Revoked(_)));
        let grow = [topic(EVENTS, 3)];
        let (polled, _) = tokio::join!(second.next(wait), bench.ensure(&grow));
        assert!(matches!(polled.unwrap(), Polled::Assigned(_)));
        let (polled, ()) = tokio::join!(second.next(wait), bench.close());
        assert_error(polled, |error| matches!(error, LogError::Closed));
    })
    .await;
}

#[tokio::test]
async fn a_second_member_takes_over_and_the_first_is_no_longer_heard() {
    on_both(async |bench| {
        bench.append(0, "a").await;
        let (mut first, _) = bench.join("g").await;
        let mut transactor = bench.log().transactor("t").await.unwrap();
        let stale = first.group();
        let (mut second, assigned) = bench.join("g").await;
        assert_eq!(assigned.len(), 2);
        let Polled::Revoked(lost) = first.next(limits(10)).await.unwrap() else { panic!("not revoked") };
        assert_eq!(lost, [at(0), at(1)]);
        assert_idle(&mut first).await;
        let is_fenced = |error: &LogError| matches!(error, LogError::Fenced { id } if id == "g");
        assert_error(first.commit(vec![position(0, 1, "")]).await, is_fenced);
        assert_error(first.seek(&at(0), 0).await, |e| matches!(e, LogError::UnknownPartition { .. }));
        let transaction = |group| Transaction {
            records: vec![record(1, "out")],
            positions: vec![position(0, 1, "")],
            group,
        };
        assert_error(transactor.commit(transaction(stale)).await, is_fenced);
        assert_eq!(bench.watermarks(1).await, (0, 0));
        assert_eq!(take(&mut second, 10).await.1, ["a"]);
        transactor.commit(transaction(second.group())).await.unwrap();
        assert_eq!(take(&mut second, 10).await, (1, vec!["out".to_owned()]));
    })
    .await;
}

#[tokio::test]
async fn groups_do_not_disturb_each_other() {
    on_both(async |bench| {
        let (mut one, _) = bench.join("one").await;
        let (mut two, _) = bench.join("two").await;
        bench.append(0, "a").await;
        assert_eq!(take(&mut one, 1).await.1, ["a"]);
        one.commit(vec![position(0, 1, "")]).await.unwrap();
        assert_eq!(take(&mut two, 1).await.1, ["a"]);
    })
    .await;
}

#[tokio::test]
async fn new_partitions_are_given_to_who_reads_the_topic() {
    on_both(async |bench| {
        let other = "millrace.default.shop.seen";
        let (mut consumer, _) = bench.join("g").await;
        bench.ensure(&[topic(EVENTS, 4), topic(other, 3)]).await;
        let Polled::Assigned(new) = consumer.next(limits(10)).await.unwrap() else { panic!("not assigned") };
        let given: Vec<_> = new.iter().map(|given| given.partition.clone()).collect();
        assert_eq!(given, [at(2), at(3)]);
        assert!(new.iter().all(|given| given.topic.partitions == 4));
        bench.append(3, "there").await;
        assert_eq!(take(&mut consumer, 1).await, (3, vec!["there".to_owned()]));
        bench.ensure(&[topic(EVENTS, 4)]).await;
        assert_idle(&mut consumer).await;
    })
    .await;
}

#[tokio::test]
async fn no_partition_starves_another_and_limits_hold() {
    on_both(async |bench| {
        for partition in 0..2 {
            let records = (0..6).map(|n| record(partition, &format!("{partition}{n}"))).collect();
            bench.log().append(records).await.unwrap();
        }
        let (mut consumer, _) = bench.join("g").await;
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(take(&mut consumer, 3).await);
        }
        assert_eq!(taken.iter().map(|(partition, _)| *partition).collect::<Vec<_>>(), [0, 1, 0, 1]);
        assert_eq!(taken[0].1, ["00", "01", "02"]);
        assert_eq!(taken[3].1, ["13", "14", "15"]);
        assert_idle(&mut consumer).await;
    })
    .await;
}

#[tokio::test]
async fn seek_goes_back_and_forth() {
    on_both(async |bench| {
        bench.log().append(vec![record(0, "a"), record(0, "b"), record(0, "c")]).await.unwrap();
        let (mut consumer, _) = bench.join("g").await;
        assert_eq!(take(&mut consumer, 1).await.1, ["a"]);
        consumer.seek(&at(0), 2).await.unwrap();
        assert_eq!(take(&mut consumer, 10).await.1, ["c"]);
        consumer.seek(&at(0), 0).await.unwrap();
        assert_eq!(take(&mut consumer, 2).await.1, ["a", "b"]);
        consumer.seek(&at(0), 9).await.unwrap();
        assert_idle(&mut consumer).await;
        assert_error(consumer.seek(&at(7), 0).await, |e| matches!(e, LogError::UnknownPartition { .. }));
    })
    .await;
}

#[tokio::test]
async fn dropping_next_half_way_loses_no_record() {
    on_both(async |bench| {
        let (mut consumer, _) = bench.join("g").await;
        for n in 0..50_u32 {
            bench.append(0, &n.to_string()).await;
        }
        let mut read: Vec<String> = Vec::new();
        while read.len() < 50 {
            // Polled once and dropped: where it stands then depends on how fast the read is.
            let dropped = futures::FutureExt::now_or_never(consumer.next(limits(3)));
            if let Some(Ok(Polled::Records(_, records))) = dropped {
                read.extend(records.iter().map(crate::bench::value));
            } else {
                read.extend(take(&mut consumer, 3).await.1);
            }
        }
        assert_eq!(read, (0..50).map(|n: u32| n.to_string()).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_member_may_read_several_topics() {
    on_both(async |bench| {
        let other = "millrace.default.shop.dead-letters";
        bench.ensure(&[topic(other, 1)]).await;
        let topics: Vec<Arc<str>> = vec![Arc::from(other), Arc::from(EVENTS), Arc::from(other)];
        let mut consumer = bench.log().subscribe("g", &topics).await.unwrap();
        let Polled::Assigned(given) = consumer.next(limits(1)).await.unwrap() else { panic!("not assigned") };
        assert_eq!(given.len(), 3);
        bench.append(1, "a").await;
        assert_eq!(take(&mut consumer, 1).await.1, ["a"]);
    })
    .await;
}
