//! A broker that is killed, and one that never was: what was acknowledged is there once, and callers are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millrace_dataplane::log::kafka::{KafkaLog, Options};
use millrace_dataplane::log::{Log, LogError};
use millrace_dataplane::metrics::Metrics;
use millrace_provision::kafka::Settings;

use crate::bench::{Bench, LONG, assert_error, at, limits, record, value};
use crate::broker::Broker;

/// Appends pairs until it is told to stop; returns what was acknowledged where.
async fn append_pairs(
    log: Arc<KafkaLog>,
    writer: usize,
    acknowledged: &AtomicUsize,
    enough: usize,
) -> Vec<(u64, String)> {
    let mut kept = Vec::new();
    for n in 0.. {
        if acknowledged.load(Ordering::SeqCst) >= enough {
            break;
        }
        let values = [format!("{writer}-{n}-a"), format!("{writer}-{n}-b")];
        let records = values.iter().map(|value| record(0, value)).collect();
        match log.append(records).await {
            Ok(offsets) => {
                acknowledged.fetch_add(1, Ordering::SeqCst);
                kept.extend(offsets.into_iter().zip(values));
            }
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    kept
}

#[tokio::test]
async fn what_was_acknowledged_is_there_once_after_the_broker_was_killed() {
    let broker = Broker::start();
    let bench = Bench::at(&broker.address).await;
    let acknowledged = AtomicUsize::new(0);
    let until = async |count: usize| {
        while acknowledged.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let fault = async {
        until(200).await;
        let broker = tokio::task::spawn_blocking(move || {
            broker.kill();
            broker.restart();
            broker
        })
        .await
        .unwrap();
        until(600).await;
        broker
    };
    let writers = (0..4).map(|writer| append_pairs(bench.shared_log(), writer, &acknowledged, 600));
    let (_broker, kept) = tokio::join!(fault, futures::future::join_all(writers));

    let found: Vec<_> = bench.read(0, 0).await.iter().map(|record| (record.offset, value(record))).collect();
    let kept: Vec<_> = kept.into_iter().flatten().collect();
    assert!(kept.len() >= 1200);
    for (offset, value) in &kept {
        let places: Vec<_> = found.iter().filter(|(_, found)| found == value).map(|(at, _)| at).collect();
        assert_eq!(places, [offset], "{value}");
    }
    let mut values: Vec<_> = found.iter().map(|(_, value)| value).collect();
    values.sort();
    values.dedup();
    assert_eq!(values.len(), found.len(), "what was not acknowledged is there at most once");
}

#[tokio::test]
async fn nobody_at_the_port_is_an_error_in_bounded_time_and_the_queue_stays_bounded() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = Settings::plain(format!("127.0.0.1:{port}"));
    let log = KafkaLog::open(&settings, Options::default(), Arc::new(Metrics::new().unwrap())).unwrap();
    let started = Instant::now();
    let (appended, asked) = tokio::join!(log.append(vec![record(0, "v")]), log.topic("nowhere"));
    assert_error(asked, |error| matches!(error, LogError::Unavailable { .. }) && error.is_retryable());
    let error = appended.unwrap_err();
    let chain: Vec<_> =
        std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source()).collect();
    let text = chain.iter().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(text.contains(&port.to_string()) && text.contains("refused"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_while_the_broker_is_away_and_takes_again_later() {
    let broker = Broker::start();
    let bench = Bench::at(&broker.address).await;
    let options = Options { queue_bytes_max: 3000, append_max: LONG, ..bench.options() };
    let log = bench.open(options);
    log.append(vec![record(0, "before")]).await.unwrap();
    broker.kill();
    let kilobyte = || vec![record(0, &"x".repeat(1000))];
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let log = Arc::clone(&log);
            let records = kilobyte();
            tokio::spawn(async move { log.append(records).await })
        })
        .collect();
    while bench.metrics.log_queue_bytes.get() < 2000 {
        tokio::task::yield_now().await;
    }
    assert_error(log.append(kilobyte()).await, |error| matches!(error, LogError::QueueFull));
    let broker = tokio::task::spawn_blocking(move || {
        broker.restart();
        broker
    });
    let _broker = broker.await.unwrap();
    for append in waiting {
        append.await.unwrap().unwrap();
    }
    log.append(kilobyte()).await.unwrap();
    assert_eq!(bench.metrics.log_queue_bytes.get(), 0);
    assert_eq!(log.read(&at(0), 0, limits(10)).await.unwrap().len(), 4);
}
