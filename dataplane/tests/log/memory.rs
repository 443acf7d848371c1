//! The memory log's scripted failures.

use futures::FutureExt;
use millrace_dataplane::log::memory::{Call, MemoryLog, Reaction};
use millrace_dataplane::log::{GroupHandle, Log, LogError, Polled, Transaction};

use crate::bench::{EVENTS, assert_error, at, limits, position, record, topic};

#[tokio::test]
async fn only_the_nth_call_of_its_kind_fails() {
    let log = MemoryLog::new();
    log.ensure_topics(&[topic(EVENTS, 1)]).await.unwrap();
    log.script(Call::Append, 2, Reaction::Fail(LogError::QueueFull));
    log.script(Call::Append, 3, Reaction::DoAndFail(LogError::UnknownOutcome));
    let append = async || log.append(vec![record(0, "v")]).await;
    assert_eq!(append().await.unwrap(), [0]);
    assert_error(append().await, |error| matches!(error, LogError::QueueFull));
    assert_error(append().await, |error| matches!(error, LogError::UnknownOutcome));
    assert_eq!(append().await.unwrap(), [2], "the third was written all the same");
}

#[tokio::test]
async fn transactions_commits_and_reads_are_counted_apart() {
    let log = MemoryLog::new();
    log.ensure_topics(&[topic(EVENTS, 1)]).await.unwrap();
    for call in [Call::Transaction, Call::Commit, Call::Read] {
        log.script(call, 1, Reaction::Fail(LogError::UnknownOutcome));
    }
    log.append(vec![record(0, "v")]).await.unwrap();
    let mut consumer = log.subscribe("g", &[EVENTS.into()]).await.unwrap();
    assert!(matches!(consumer.next(limits(1)).await.unwrap(), Polled::Assigned(_)));
    let is_scripted = |error: &LogError| matches!(error, LogError::UnknownOutcome);
    assert_error(consumer.next(limits(1)).await, is_scripted);
    assert!(matches!(consumer.next(limits(1)).await.unwrap(), Polled::Records(..)));
    assert_error(consumer.commit(vec![position(0, 1, "")]).await, is_scripted);
    consumer.commit(vec![position(0, 1, "")]).await.unwrap();
    let mut transactor = log.transactor("t").await.unwrap();
    let transaction = || Transaction {
        records: vec![record(0, "v")],
        positions: Vec::new(),
        group: GroupHandle { name: "g".into(), inner: None },
    };
    assert_error(transactor.commit(transaction()).await, is_scripted);
    transactor.commit(transaction()).await.unwrap();
    assert_eq!(log.watermarks(&at(0)).await.unwrap().high, 2);
}

#[tokio::test]
async fn a_hanging_call_goes_on_when_released_and_may_be_given_up() {
    let log = MemoryLog::new();
    log.ensure_topics(&[topic(EVENTS, 1)]).await.unwrap();
    log.script(Call::Append, 1, Reaction::Hang);
    log.script(Call::Append, 2, Reaction::Hang);
    assert!(log.append(vec![record(0, "given up")]).now_or_never().is_none());
    let mut hanging = log.append(vec![record(0, "released")]);
    assert!((&mut hanging).now_or_never().is_none());
    log.release();
    assert_eq!(hanging.await.unwrap(), [0], "what was given up was never written");
}
