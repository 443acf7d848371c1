//! Records, offsets, transactions: on every log.

use std::sync::Arc;

use millrace_dataplane::log::{GroupHandle, LogError, NewRecord, ReadLimits, TopicPartition, Transaction};

use crate::bench::{LONG, assert_error, at, limits, on_each, own, position, record, value};

fn handle(group: &str) -> GroupHandle {
    GroupHandle { name: Arc::from(group), inner: None }
}

#[tokio::test]
async fn records_come_back_in_order_with_gapless_offsets() {
    on_each(async |bench| {
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
    on_each(async |bench| {
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
    on_each(async |bench| {
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
async fn a_transaction_brings_records_and_positions_together() {
    on_each(async |bench| {
        let mut transactor = bench.log().transactor(&own("worker-0")).await.unwrap();
        let transaction = Transaction {
            records: vec![record(1, "out")],
            positions: vec![position(0, 7, "intent")],
            group: handle(&own("load")),
        };
        transactor.commit(transaction).await.unwrap();
        drop(transactor);
        bench.reopen();
        assert_eq!(bench.values(1).await, ["out"]);
        let (_, assigned) = bench.join(&own("load")).await;
        assert_eq!(assigned[0].committed, Some(position(0, 7, "intent").committed));
        assert_eq!(assigned[1].committed, None);
    })
    .await;
}

#[tokio::test]
async fn a_refused_transaction_leaves_nothing_behind() {
    on_each(async |bench| {
        let mut transactor = bench.log().transactor(&own("worker-0")).await.unwrap();
        let good = || vec![record(0, "good")];
        for (records, positions) in [
            (vec![record(0, "good"), record(9, "no such partition")], vec![position(0, 1, "")]),
            (good(), vec![position(0, 1, ""), position(9, 1, "")]),
            (good(), vec![position(0, 1, &"m".repeat(4097))]),
            (vec![record(0, "good"), record(0, &"v".repeat(9 << 20))], vec![position(0, 1, "")]),
        ] {
            let transaction = Transaction { records, positions, group: handle(&own("load")) };
            assert_error(transactor.commit(transaction).await, |error| {
                matches!(error, LogError::UnknownPartition { .. } | LogError::TooLarge { .. })
            });
        }
        assert_eq!(bench.append(0, "next").await, 0);
        drop(transactor);
        bench.reopen();
        assert_eq!(bench.values(0).await, ["next"]);
        assert_eq!(bench.join(&own("load")).await.1[0].committed, None);
    })
    .await;
}

#[tokio::test]
async fn a_newer_transactor_fences_the_older_also_after_a_restart() {
    on_each(async |bench| {
        let write = |value| Transaction {
            records: vec![record(0, value)],
            positions: Vec::new(),
            group: handle(&own("load")),
        };
        let is_fenced = |error: &LogError| matches!(error, LogError::Fenced { id } if *id == own("worker-0"));
        let mut first = bench.log().transactor(&own("worker-0")).await.unwrap();
        let mut other = bench.log().transactor(&own("worker-1")).await.unwrap();
        first.commit(write("a")).await.unwrap();
        let mut second = bench.log().transactor(&own("worker-0")).await.unwrap();
        assert_error(first.commit(write("no")).await, is_fenced);
        second.commit(write("b")).await.unwrap();
        other.commit(write("c")).await.unwrap();
        assert_error(first.commit(write("no")).await, is_fenced);
        drop((first, second, other));
        bench.reopen();
        let mut third = bench.log().transactor(&own("worker-0")).await.unwrap();
        third.commit(write("d")).await.unwrap();
        assert_eq!(bench.values(0).await, ["a", "b", "c", "d"]);
    })
    .await;
}

#[tokio::test]
async fn what_does_not_exist_is_named_in_the_refusal() {
    on_each(async |bench| {
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
        assert_error(bench.log().subscribe(&own("g"), &[Arc::from("nowhere")]).await.map(drop), is_topic);
    })
    .await;
}

#[tokio::test]
async fn a_record_over_the_limit_is_refused_and_one_at_it_taken() {
    on_each(async |bench| {
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
    on_each(async |bench| {
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
    on_each(async |bench| {
        let (mut consumer, _) = bench.join(&own("g")).await;
        bench.append(0, "kept").await;
        bench.close().await;
        let is_closed = |error: &LogError| matches!(error, LogError::Closed);
        assert_error(bench.log().append(vec![record(0, "no")]).await, is_closed);
        assert_error(bench.log().watermarks(&at(0)).await, is_closed);
        assert_error(consumer.next(limits(1)).await, is_closed);
        assert_error(consumer.commit(vec![position(0, 1, "")]).await, is_closed);
        assert_error(bench.log().transactor(&own("t")).await.map(drop), is_closed);
        drop(consumer);
        bench.reopen();
        assert_eq!(bench.values(0).await, ["kept"]);
    })
    .await;
}
