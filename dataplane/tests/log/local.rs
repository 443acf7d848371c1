//! Retention, clocks and take-over: on both logs of one process. Kafka has its own ways of these.

use millrace_crds::config::Topic;
use millrace_dataplane::log::{LogError, Polled, ReadLimits, Transaction};

use crate::bench::{
    EVENTS, LONG, START, assert_error, assert_idle, at, limits, on_each, position, record, take, topic, value,
};

#[tokio::test]
async fn a_position_that_retention_passed_resumes_at_the_low_watermark() {
    on_each(async |bench| {
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
async fn a_waiting_consumer_is_woken_by_take_over_growth_and_close() {
    on_each(async |bench| {
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
    on_each(async |bench| {
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
async fn no_partition_starves_another_and_limits_hold() {
    on_each(async |bench| {
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
async fn an_offset_behind_the_end_is_waited_for() {
    on_each(async |bench| {
        bench.append(0, "a").await;
        let (mut consumer, _) = bench.join("g").await;
        consumer.seek(&at(0), 9).await.unwrap();
        assert_idle(&mut consumer).await;
    })
    .await;
}

#[tokio::test]
async fn times_never_go_back_though_the_clock_does() {
    on_each(async |bench| {
        bench.ensure(&[Topic { retention_ms: 5000, ..topic(EVENTS, 2) }]).await;
        bench.append(0, "a").await;
        bench.tick(-100_000);
        bench.append(0, "b").await;
        bench.reopen();
        bench.append(0, "c").await;
        let times: Vec<_> = bench.read(0, 0).await.iter().map(|record| record.appended_at).collect();
        assert_eq!(times, [START; 3]);
        // Also when nothing is left to remember the time by.
        bench.tick(200_000);
        assert!(bench.retain().await > 0);
        bench.tick(-200_000);
        bench.reopen();
        bench.append(0, "d").await;
        assert_eq!(bench.read(0, 0).await[0].appended_at, START);
    })
    .await;
}

#[tokio::test]
async fn retention_by_time_removes_the_old_and_never_reuses_an_offset() {
    on_each(async |bench| {
        bench.ensure(&[Topic { retention_ms: 1000, ..topic(EVENTS, 2) }]).await;
        for value in ["a", "b", "c"] {
            bench.append(0, value).await;
            bench.tick(400);
        }
        assert_eq!(bench.retain().await, 1, "only `a` is older than a second");
        assert_eq!(bench.watermarks(0).await, (1, 3));
        let from_low = bench.log().read(&at(0), 0, limits(10)).await.unwrap();
        assert_eq!((from_low[0].offset, value(&from_low[0])), (1, "b".to_owned()));
        bench.tick(10_000);
        assert_eq!(bench.retain().await, 2);
        assert_eq!(bench.retain().await, 0);
        bench.reopen();
        assert_eq!(bench.watermarks(0).await, (3, 3));
        assert_eq!(bench.append(0, "d").await, 3);
        assert_eq!(bench.values(0).await, ["d"]);
    })
    .await;
}

#[tokio::test]
async fn retention_by_size_keeps_the_newest() {
    on_each(async |bench| {
        // Values that do not compress: 1000 bytes each, and a little for key and head.
        let noise = |seed: u64| -> String {
            let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = || {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                char::from(b'!' + u8::try_from(x % 90).unwrap())
            };
            (0..1000).map(|_| next()).collect()
        };
        for seed in 0..10 {
            bench.append(0, &noise(seed)).await;
            bench.append(1, "small").await;
        }
        bench.ensure(&[Topic { retention_bytes: Some(3500), ..topic(EVENTS, 2) }]).await;
        assert_eq!(bench.retain().await, 7);
        assert_eq!(bench.watermarks(0).await, (7, 10));
        assert_eq!(bench.watermarks(1).await, (0, 10), "size is counted per partition");
        bench.reopen();
        bench.append(0, &noise(10)).await;
        assert_eq!(bench.retain().await, 1, "sizes survive a restart");
        bench.ensure(&[Topic { retention_bytes: Some(1), ..topic(EVENTS, 2) }]).await;
        bench.retain().await;
        assert_eq!(bench.watermarks(0).await, (10, 11), "the newest chunk stays");
    })
    .await;
}

#[tokio::test]
async fn more_chunks_than_one_round_removes_are_all_removed() {
    on_each(async |bench| {
        bench.ensure(&[Topic { retention_ms: 1000, ..topic(EVENTS, 2) }]).await;
        // Each record is a chunk of its own: it is larger than a chunk should be.
        let large = vec![record(0, &"x".repeat(300_000)); 1100];
        for batch in large.chunks(100) {
            bench.log().append(batch.to_vec()).await.unwrap();
        }
        bench.tick(2000);
        assert_eq!(bench.retain().await, 1100);
        assert_eq!(bench.watermarks(0).await, (1100, 1100));
    })
    .await;
}

#[tokio::test]
async fn topics_keep_their_identity_and_never_shrink() {
    on_each(async |bench| {
        let other = "millrace.default.shop.seen";
        let made = bench.ensure(&[topic(EVENTS, 2), topic(other, 1)]).await;
        assert_eq!(made.iter().map(|topic| topic.partitions).collect::<Vec<_>>(), [2, 1]);
        assert_ne!(made[0].id, made[1].id);
        let grown = bench.ensure(&[topic(EVENTS, 4), topic(other, 1)]).await;
        assert_eq!((grown[0].id, grown[0].partitions), (made[0].id, 4));
        bench.append(3, "in a new partition").await;
        assert_eq!(bench.ensure(&[topic(EVENTS, 1)]).await[0].partitions, 4);
        bench.reopen();
        assert_eq!(bench.topics(), bench.ensure(&[topic(EVENTS, 4), topic(other, 1)]).await);
        assert_eq!(bench.log().topic(EVENTS).await.unwrap(), grown[0]);
        assert_eq!(bench.values(3).await, ["in a new partition"]);
    })
    .await;
}
