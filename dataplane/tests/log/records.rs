//! Records, offsets, transactions, retention: on both logs.

use std::sync::Arc;

use millrace_crds::config::Topic;
use millrace_dataplane::log::{GroupHandle, LogError, NewRecord, ReadLimits, TopicPartition, Transaction};

use crate::bench::{EVENTS, LONG, START, assert_error, at, limits, on_both, position, record, topic, value};

fn handle(group: &str) -> GroupHandle {
    GroupHandle { name: Arc::from(group), inner: None }
}

#[tokio::test]
async fn records_come_back_in_order_with_gapless_offsets() {
    on_both(async |bench| {
        let batch = vec![record(0, "a"), record(1, "x"), record(0, "b"), record(0, "")];
        assert_eq!(bench.log().append(batch).await.unwrap(), [0, 0, 1, 2]);
        assert_eq!(bench.append(1, "y").await, 1);
        bench.reopen();
        assert_eq!(bench.append(0, "c").await, 3);
        assert_eq!(bench.values(0).await, ["a", "b", "", "c"]);
        assert_eq!(bench.values(1).await, ["x", "y"]);
        let offsets: Vec<_> = bench.read(0, 1).await.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, [1, 2, 3]);
        assert_eq!(bench.watermarks(0).await, (0, 4));
        assert!(bench.log().read(&at(0), 4, limits(10)).await.unwrap().is_empty());
        assert!(bench.log().append(Vec::new()).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn keys_and_values_come_back_byte_for_byte() {
    on_both(async |bench| {
        let all_bytes: Vec<u8> = (0..=255).collect();
        let sent = NewRecord { to: at(1), key: all_bytes.clone().into(), value: vec![0; 300_000].into() };
        bench.log().append(vec![sent; 3]).await.unwrap();
        bench.reopen();
        let read = bench.read(1, 0).await;
        assert_eq!(read.len(), 3);
        assert!(read.iter().all(|record| record.key == all_bytes && record.value == vec![0; 300_000]));
    })
    .await;
}

#[tokio::test]
async fn many_appends_at_once_share_no_offset_and_lose_none() {
    on_both(async |bench| {
        let appends = (0..200).map(|n| bench.append(0, Box::leak(n.to_string().into_boxed_str())));
        let mut offsets = futures::future::join_all(appends).await;
        offsets.sort_unstable();
        assert_eq!(offsets, (0..200).collect::<Vec<u64>>());
        let mut values: Vec<u32> = bench.values(0).await.iter().map(|v| v.parse().unwrap()).collect();
        values.sort_unstable();
        assert_eq!(values, (0..200).collect::<Vec<u32>>());
    })
    .await;
}

#[tokio::test]
async fn times_never_go_back_though_the_clock_does() {
    on_both(async |bench| {
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
async fn a_transaction_brings_records_and_positions_together() {
    on_both(async |bench| {
        let mut transactor = bench.log().transactor("worker-0").await.unwrap();
        let transaction = Transaction {
            records: vec![record(1, "out")],
            positions: vec![position(0, 7, "intent")],
            group: handle("load"),
        };
        transactor.commit(transaction).await.unwrap();
        drop(transactor);
        bench.reopen();
        assert_eq!(bench.values(1).await, ["out"]);
        let (_, assigned) = bench.join("load").await;
        assert_eq!(assigned[0].committed, Some(position(0, 7, "intent").committed));
        assert_eq!(assigned[1].committed, None);
    })
    .await;
}

#[tokio::test]
async fn a_refused_transaction_leaves_nothing_behind() {
    on_both(async |bench| {
        let mut transactor = bench.log().transactor("worker-0").await.unwrap();
        let good = || vec![record(0, "good")];
        for (records, positions) in [
            (vec![record(0, "good"), record(9, "no such partition")], vec![position(0, 1, "")]),
            (good(), vec![position(0, 1, ""), position(9, 1, "")]),
            (good(), vec![position(0, 1, &"m".repeat(4097))]),
            (vec![record(0, "good"), record(0, &"v".repeat(9 << 20))], vec![position(0, 1, "")]),
        ] {
            let transaction = Transaction { records, positions, group: handle("load") };
            assert_error(transactor.commit(transaction).await, |error| {
                matches!(error, LogError::UnknownPartition { .. } | LogError::TooLarge { .. })
            });
        }
        assert_eq!(bench.append(0, "next").await, 0);
        drop(transactor);
        bench.reopen();
        assert_eq!(bench.values(0).await, ["next"]);
        assert_eq!(bench.join("load").await.1[0].committed, None);
    })
    .await;
}

#[tokio::test]
async fn a_newer_transactor_fences_the_older_also_after_a_restart() {
    on_both(async |bench| {
        let write = |value| Transaction {
            records: vec![record(0, value)],
            positions: Vec::new(),
            group: handle("load"),
        };
        let is_fenced = |error: &LogError| matches!(error, LogError::Fenced { id } if id == "worker-0");
        let mut first = bench.log().transactor("worker-0").await.unwrap();
        let mut other = bench.log().transactor("worker-1").await.unwrap();
        first.commit(write("a")).await.unwrap();
        let mut second = bench.log().transactor("worker-0").await.unwrap();
        assert_error(first.commit(write("no")).await, is_fenced);
        second.commit(write("b")).await.unwrap();
        other.commit(write("c")).await.unwrap();
        assert_error(first.commit(write("no")).await, is_fenced);
        drop((first, second, other));
        bench.reopen();
        let mut third = bench.log().transactor("worker-0").await.unwrap();
        third.commit(write("d")).await.unwrap();
        assert_eq!(bench.values(0).await, ["a", "b", "c", "d"]);
    })
    .await;
}

#[tokio::test]
async fn retention_by_time_removes_the_old_and_never_reuses_an_offset() {
    on_both(async |bench| {
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
    on_both(async |bench| {
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
    on_both(async |bench| {
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
    on_both(async |bench| {
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

#[tokio::test]
async fn what_does_not_exist_is_named_in_the_refusal() {
    on_both(async |bench| {
        let nowhere = TopicPartition { topic: Arc::from("nowhere"), partition: 0 };
        let is_topic = |error: &LogError| matches!(error, LogError::UnknownTopic { topic } if topic == "nowhere");
        let is_partition =
            |error: &LogError| matches!(error, LogError::UnknownPartition { partition } if *partition == at(2));
        let to = |to: &TopicPartition| vec![NewRecord { to: to.clone(), ..record(0, "v") }];
        assert_error(bench.log().append(to(&nowhere)).await, is_topic);
        assert_error(bench.log().append(to(&at(2))).await, is_partition);
        assert_error(bench.log().watermarks(&nowhere).await, is_topic);
        assert_error(bench.log().watermarks(&at(2)).await, is_partition);
        assert_error(bench.log().read(&at(2), 0, limits(1)).await, is_partition);
        assert_error(bench.log().topic("nowhere").await, is_topic);
        assert_error(bench.log().subscribe("g", &[Arc::from("nowhere")]).await.map(drop), is_topic);
    })
    .await;
}

#[tokio::test]
async fn a_record_over_the_limit_is_refused_and_one_at_it_taken() {
    on_both(async |bench| {
        let limit = 8 * 1024 * 1024;
        bench.append(0, &"x".repeat(limit)).await;
        let over = bench.log().append(vec![record(0, "small"), record(0, &"x".repeat(limit + 1))]).await;
        assert_error(over, |error| matches!(error, LogError::TooLarge { bytes_max: 8_388_608, .. }));
        assert_eq!(bench.watermarks(0).await, (0, 1));
    })
    .await;
}

#[tokio::test]
async fn a_read_honours_its_limits_and_waits_for_a_first_record() {
    on_both(async |bench| {
        bench.log().append(vec![record(0, &"x".repeat(100)); 10]).await.unwrap();
        let read = async |records_max, bytes_max| {
            let limits = ReadLimits { records_max, bytes_max, ..limits(0) };
            bench.log().read(&at(0), 0, limits).await.unwrap().len()
        };
        assert_eq!(read(3, 10_000).await, 3);
        assert_eq!(read(1000, 250).await, 2);
        assert_eq!(read(1000, 99).await, 1, "one record comes even if it is larger");
        assert_eq!(read(0, 0).await, 1);
        let at = at(0);
        let waiting = bench.log().read(&at, 10, ReadLimits { wait_max: LONG, ..limits(10) });
        let (read, _) = tokio::join!(waiting, bench.append(0, "late"));
        assert_eq!(value(&read.unwrap()[0]), "late");
    })
    .await;
}

#[tokio::test]
async fn a_closed_log_says_so_and_keeps_what_it_took() {
    on_both(async |bench| {
        let (mut consumer, _) = bench.join("g").await;
        bench.append(0, "kept").await;
        bench.close().await;
        let is_closed = |error: &LogError| matches!(error, LogError::Closed);
        assert_error(bench.log().append(vec![record(0, "no")]).await, is_closed);
        assert_error(bench.log().watermarks(&at(0)).await, is_closed);
        assert_error(consumer.next(limits(1)).await, is_closed);
        assert_error(consumer.commit(vec![position(0, 1, "")]).await, is_closed);
        assert_error(bench.log().transactor("t").await.map(drop), is_closed);
        drop(consumer);
        bench.reopen();
        assert_eq!(bench.values(0).await, ["kept"]);
    })
    .await;
}
