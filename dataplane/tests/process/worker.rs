//! The worker against a log that fails on order: every raw record has exactly one outcome, whatever happens.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_crds::config::OnUndeclared;
use millrace_crds::names::TopicKind;
use millrace_dataplane::config::Config;
use millrace_dataplane::log::{LogError, Transaction};
use millrace_dataplane::member::Member;
use millrace_dataplane::process::batch::{self, Batch, Rules, Targets};
use millrace_dataplane::process::seen::SeenStore;
use millrace_dataplane::process::{self, ProcessError};
use millrace_dataplane::record::{DeadLetterReason, partition_of};
use serde_json::json;
use uuid::Uuid;

use crate::fixture::{World, app, app_config, app_id, purchase, topic};
use crate::memory_log::Fault;

#[tokio::test]
async fn every_record_has_one_outcome_in_one_transaction_with_its_position() {
    let mut config = app_config();
    config.events.on_undeclared = OnUndeclared::DeadLetter;
    let world = World::new(config);
    let bought = Uuid::new_v4();
    world.send(bought, "purchase", &purchase());
    world.send(bought, "purchase", &purchase());
    world.send(Uuid::new_v4(), "purchase", &json!({}));
    world.send(Uuid::new_v4(), "page_view", &json!({}));
    world.send_bytes(b"no id", b"garbage".to_vec());
    world.process_all().await;

    assert_eq!(world.processed_ids(), BTreeMap::from([(bought, 1)]));
    let mut reasons: Vec<_> = world.dead_letters().iter().map(|letter| letter.reason).collect();
    reasons.sort();
    use DeadLetterReason::{MissingProperty, UndeclaredEvent, UnreadableRecord};
    assert_eq!(reasons, [UnreadableRecord, UndeclaredEvent, MissingProperty]);
    for (outcome, count) in
        [("processed", 1), ("duplicate", 1), ("unreadable_record", 1), ("missing_property", 1)]
    {
        assert_eq!(world.outcome_count(outcome), count, "{outcome}");
    }
    let (partition, record) = world.log.records(&topic(TopicKind::EventsProcessed)).remove(0);
    assert_eq!(*record.key, xxhash_rust::xxh3::xxh3_64(b"ann").to_be_bytes());
    assert_eq!(partition, partition_of(&record.key, 2));
    let seen = world.log.records(&topic(TopicKind::Seen));
    assert_eq!(seen.len(), 1, "only what was processed is seen");
    assert_eq!(*seen[0].1.key, *bought.as_bytes());
}

#[tokio::test]
async fn a_copy_is_recognised_in_the_batch_in_the_next_and_after_restarts() {
    let world = World::new(app_config());
    let id = Uuid::new_v4();
    let send = || world.send(id, "purchase", &purchase());
    send();
    send();
    let running = world.start();
    world.until_consumed().await;
    send();
    world.until_consumed().await;
    running.stop().await;
    send();
    world.process_all().await;
    std::fs::remove_dir_all(world.store_path()).unwrap();
    send();
    world.process_all().await;
    assert_eq!(world.processed_ids(), BTreeMap::from([(id, 1)]));
    assert_eq!(world.outcome_count("duplicate"), 4);
}

#[tokio::test]
async fn a_kill_between_commit_and_apply_neither_loses_nor_doubles() {
    let world = World::new(app_config());
    let id = Uuid::new_v4();
    world.send(id, "purchase", &purchase());
    let running = world.start();
    // At this moment the entry is in the log and in the worker's memory, not in its store.
    world.until_consumed().await;
    running.kill().await;
    world.send(id, "purchase", &purchase());
    let other = Uuid::new_v4();
    world.send(other, "purchase", &purchase());
    world.process_all().await;
    assert_eq!(world.processed_ids(), BTreeMap::from([(id, 1), (other, 1)]));
}

/// What a worker commits, by hand and without telling the store, as one that dies right after does.
#[tokio::test]
async fn a_commit_the_store_never_heard_of_is_restored_before_the_first_decision() {
    let world = World::new(app_config());
    let id = Uuid::new_v4();
    world.send(id, "purchase", &purchase());
    {
        let log = world.shared_log();
        let info = async |kind| log.topic(&topic(kind)).await.unwrap();
        let targets = Targets {
            processed: info(TopicKind::EventsProcessed).await,
            dead_letters: info(TopicKind::DeadLetters).await,
            seen: info(TopicKind::Seen).await,
            ledger: info(TopicKind::Ledger).await,
        };
        let store = SeenStore::open(&world.store_path()).unwrap();
        let seen = store.app(&app_id(), targets.seen.id, 1000).unwrap();
        let mut batch = Batch::default();
        for (partition, record) in world.log.records(&topic(TopicKind::EventsRaw)) {
            batch.push(partition, vec![record]);
        }
        let app = app(app_config());
        let rules = Rules { app: &app, targets: &targets, now_ms: world.now, record_bytes_max: usize::MAX };
        let decided = batch::decide(&batch, &seen, &rules).unwrap();
        let group = Member::only().group(&app_id(), process::STAGE);
        let mut transactor = log.transactor(&group).await.unwrap();
        let positions = batch.positions(&topic(TopicKind::EventsRaw).into());
        let group = millrace_dataplane::log::GroupHandle { name: group.into(), inner: None };
        transactor.commit(Transaction { records: decided.records, positions, group }).await.unwrap();
    }
    world.send(id, "purchase", &purchase());
    world.process_all().await;
    assert_eq!(world.processed_ids(), BTreeMap::from([(id, 1)]));
    assert_eq!(world.outcome_count("duplicate"), 1);
}

#[tokio::test]
async fn a_record_read_again_after_a_lost_position_is_not_its_own_duplicate() {
    let world = World::new(app_config());
    let id = Uuid::new_v4();
    world.send(id, "purchase", &purchase());
    world.process_all().await;
    world.log.with(|state| state.positions.clear());
    world.process_all().await;
    assert_eq!(world.outcome_count("duplicate"), 0);
    assert_eq!(world.outcome_count("processed"), 2);
}

#[tokio::test]
async fn failures_that_pass_change_nothing_in_the_outcome() {
    let unknown = || Fault::Refused(LogError::UnknownOutcome);
    let full = || Fault::Refused(LogError::DiskFull { free_bytes_min: 1 });
    for (case, faults) in
        [vec![unknown()], vec![Fault::UnknownButDone], vec![full(), unknown(), Fault::UnknownButDone]]
            .into_iter()
            .enumerate()
    {
        let world = World::new(app_config());
        let ids: Vec<Uuid> = (0..20).map(|_| Uuid::new_v4()).collect();
        for id in ids.iter().chain(&ids) {
            world.send(*id, "purchase", &purchase());
        }
        world.log.with(|state| state.faults.extend(faults));
        world.process_all().await;
        let expected: BTreeMap<Uuid, usize> = ids.iter().map(|id| (*id, 1)).collect();
        assert_eq!(world.processed_ids(), expected, "case {case}");
    }
}

#[tokio::test]
async fn a_transaction_that_fails_for_good_leaves_nothing_behind_and_stops_the_worker() {
    let world = World::new(app_config());
    world.send(Uuid::new_v4(), "purchase", &purchase());
    let failed = LogError::Failed { step: "fsync", source: None };
    world.log.with(|state| state.faults.push_back(Fault::Refused(failed)));
    let ended = world.start().ended().await;
    assert!(matches!(&ended, Err(error @ ProcessError::Log { .. }) if !error.is_retryable()), "{ended:?}");
    for kind in [TopicKind::EventsProcessed, TopicKind::DeadLetters, TopicKind::Seen] {
        assert!(world.log.records(&topic(kind)).is_empty(), "{kind}");
    }
    assert!(world.log.with(|state| state.positions.is_empty()));
    assert_eq!(world.outcome_count("processed"), 0);
}

#[tokio::test]
async fn what_the_log_does_not_take_is_set_aside_and_stops_nothing() {
    let world = World::new(app_config());
    world.log.with(|state| state.record_bytes_max = 2000);
    let (large, larger, small) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let padded = |bytes: usize| {
        let mut record = crate::fixture::raw_json(large, "page_view", world.now, &json!({"note": ""}));
        let length = record.to_string().len() + 16;
        record["event"]["event_data"]["note"] = json!("x".repeat(bytes - length));
        record
    };
    // Raw takes it; enriched it is over the limit. The second is not even carried by its dead letter.
    world.send_record(large, &padded(1700));
    world.send_record(large, &padded(1700));
    let mut record = padded(1999);
    record["event"]["event_id"] = json!(larger);
    world.send_record(larger, &record);
    world.send(small, "purchase", &purchase());
    world.log.with(|state| state.record_bytes_max = 1750);
    world.process_all().await;
    assert_eq!(world.processed_ids(), BTreeMap::from([(small, 1)]));
    assert_eq!(world.outcome_count("too_large"), 3, "a copy of what was not processed is no duplicate");
    let letters = world.dead_letters();
    assert!(letters.iter().all(|letter| letter.reason == DeadLetterReason::TooLarge));
    assert!(letters.iter().all(|letter| letter.record.is_none() && letter.detail.contains("events-raw")));
}

#[tokio::test]
async fn a_withdrawn_app_stops_its_worker_and_keeps_its_events_in_raw() {
    let world = World::new(app_config());
    let running = world.start();
    let id = Uuid::new_v4();
    world.send(id, "purchase", &purchase());
    world.until_consumed().await;
    world.config.store(Arc::new(Config::empty()));
    world.send(Uuid::new_v4(), "purchase", &purchase());
    running.ended().await.unwrap();
    assert_eq!(world.processed_ids(), BTreeMap::from([(id, 1)]));
    world.set_config(app_config());
    world.process_all().await;
    assert_eq!(world.processed_ids().len(), 2);
}

#[tokio::test]
async fn a_new_configuration_holds_from_the_next_batch_on() {
    let world = World::new(app_config());
    let running = world.start();
    world.send(Uuid::new_v4(), "page_view", &json!({}));
    world.until_consumed().await;
    let mut config = app_config();
    config.events.on_undeclared = OnUndeclared::DeadLetter;
    config.events.dedupe_window_ms *= 2;
    world.set_config(config);
    world.send(Uuid::new_v4(), "page_view", &json!({}));
    world.until_consumed().await;
    running.stop().await;
    assert_eq!((world.processed().len(), world.dead_letters().len()), (1, 1));
}
