//! Every event once in the table and in the rollups, whatever fails between the log and ClickHouse.

use std::time::Duration;

use millrace_crds::config::PropertyType;
use millrace_dataplane::load;
use millrace_dataplane::log::LogError;
use tokio_util::sync::CancellationToken;

use crate::engine;
use crate::fixture::Fixture;
use crate::log::CommitFate::{self, Crash, Kept, KeptAnswerLost, Refused};
use crate::proxy::{Fault, Proxy};

const EVENTS: u64 = 120;

/// Loads events while inserts and commits go wrong as told; a loader that ends is started again.
async fn check(test: &str, faults: &[Fault], fates: &[CommitFate]) -> Fixture {
    let fixture = Fixture::new(test).await;
    let proxy = Proxy::start(engine::url(), faults.iter().copied()).await;
    fixture.log.script(fates.iter().copied());
    fixture.push(0..EVENTS);
    for _ in fates.iter().filter(|fate| matches!(fate, Crash)) {
        let loader = fixture.loader(engine::store_at(&proxy.url));
        let ended = load::run(loader, CancellationToken::new()).await;
        assert!(matches!(ended, Err(load::LoadError::Log { source: LogError::Closed, .. })), "{ended:?}");
    }
    fixture.load_all(engine::store_at(&proxy.url), EVENTS).await;
    assert!(proxy.is_used_up());
    fixture.assert_stored_once(EVENTS).await;
    fixture
}

#[tokio::test]
async fn when_nothing_fails() {
    let fixture = check("once_calm", &[], &[]).await;
    assert_eq!(fixture.inserts("inserted"), EVENTS / 20, "blocks of twenty rows");
    assert_eq!(fixture.inserts("repeated"), 0);
}

#[tokio::test]
async fn when_the_answer_of_an_insert_is_lost() {
    let fixture = check("once_answer_lost", &[Fault::LoseAnswer; 3], &[]).await;
    assert_eq!(fixture.inserts("ambiguous"), 3);
    assert!(fixture.inserts("repeated") >= 1);
}

#[tokio::test]
async fn when_an_insert_is_reported_as_failed_though_it_happened() {
    let fixture = check("once_reported_failed", &[Fault::FailAnswer; 3], &[]).await;
    assert_eq!(fixture.inserts("overloaded"), 3);
}

#[tokio::test]
async fn when_a_body_is_cut_short() {
    check("once_body_cut", &[Fault::CutBody; 3], &[]).await;
}

#[tokio::test]
async fn when_the_intent_is_not_kept() {
    check("once_intent_refused", &[], &[Refused, Refused]).await;
}

#[tokio::test]
async fn when_the_intent_is_kept_but_not_answered() {
    check("once_intent_unanswered", &[], &[KeptAnswerLost]).await;
}

#[tokio::test]
async fn when_the_loader_dies_between_insert_and_commit() {
    let fixture = check("once_crash_after_insert", &[], &[Kept, Crash]).await;
    assert_eq!(fixture.inserts("repeated"), 1, "the intent found was carried out again");
}

#[tokio::test]
async fn when_commits_after_inserts_fail_again_and_again() {
    check("once_commit_fails", &[], &[Kept, Refused, Refused, Kept, KeptAnswerLost, Kept, Crash]).await;
}

#[tokio::test]
async fn when_everything_fails_at_once() {
    let faults = [Fault::LoseAnswer, Fault::CutBody, Fault::FailAnswer, Fault::Refuse, Fault::LoseAnswer];
    check("once_all", &faults, &[Kept, Crash, KeptAnswerLost, Kept, Refused, Crash]).await;
}

#[tokio::test]
async fn when_the_loader_dies_between_intent_and_insert_and_the_schema_grows_meanwhile() {
    let fixture = Fixture::new("once_crash_before_insert").await;
    fixture.push(0..EVENTS);
    let mut proxy = Proxy::start(engine::url(), [Fault::Refuse; 64]).await;
    let dying =
        tokio::spawn(load::run(fixture.loader(engine::store_at(&proxy.url)), CancellationToken::new()));
    fixture.log.intended(0).await;
    proxy.inserts(1).await;
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());
    let intent = fixture.log.committed(0).unwrap().metadata;

    fixture.declare(&[("size", PropertyType::Integer)]).await;
    fixture.load_all(engine::store(), EVENTS).await;
    fixture.assert_stored_once(EVENTS).await;
    let hash = intent.split(';').nth(4).unwrap().to_owned();
    assert_ne!(hash, fixture.config.load().apps().values().next().unwrap().config.storage.schema_hash);
    let filled: serde_json::Value =
        fixture.one("SELECT count(p_size) AS filled FROM {db:Identifier}.events").await;
    assert_eq!(filled["filled"], EVENTS, "encoded under the schema in force");
}

#[tokio::test]
async fn a_block_that_does_not_reproduce_stops_its_partition_and_no_other() {
    let fixture = Fixture::new("once_differs").await;
    fixture.push(0..EVENTS);
    fixture.log.script([Kept, Crash]);
    let ended = load::run(fixture.loader(engine::store()), CancellationToken::new()).await;
    assert!(ended.is_err());
    fixture.log.remove(0, 3);

    let cancel = CancellationToken::new();
    let running = tokio::spawn(load::run(fixture.loader(engine::store()), cancel.clone()));
    fixture.log.loaded_up_to(1, EVENTS / 2).await;
    let left = fixture.log.committed(0).unwrap();
    assert!(left.offset == 0 && !left.metadata.is_empty(), "the intent stays: {left:?}");
    assert_eq!(fixture.stopped_partitions(), 1);
    cancel.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_intent_of_another_version_or_split_rule_stops_its_partition() {
    for metadata in ["v2;20;20;1;h;1;1", "v1;20;20;1;h;2;1", "something else"] {
        let fixture = Fixture::new("once_foreign_intent").await;
        fixture.push(0..EVENTS);
        fixture.log.plant(0, 0, metadata);
        let cancel = CancellationToken::new();
        let running = tokio::spawn(load::run(fixture.loader(engine::store()), cancel.clone()));
        fixture.log.loaded_up_to(1, EVENTS / 2).await;
        assert_eq!(fixture.log.committed(0).unwrap().metadata, metadata);
        assert_eq!(fixture.stopped_partitions(), 1);
        cancel.cancel();
        running.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_record_of_a_newer_build_is_not_stepped_over() {
    let fixture = Fixture::new("once_newer_record").await;
    fixture.push(0..10);
    fixture.log.push(0, br#"{"v":99}"#.to_vec());
    fixture.push(10..20);
    let cancel = CancellationToken::new();
    let running = tokio::spawn(load::run(fixture.loader(engine::store()), cancel.clone()));
    fixture.log.loaded_up_to(1, 10).await;
    fixture.log.loaded_up_to(0, 5).await;
    assert_eq!(fixture.stopped_partitions(), 1);
    cancel.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn gaps_in_the_offsets_are_harmless() {
    let fixture = Fixture::new("once_gaps").await;
    fixture.push(0..EVENTS);
    for offset in [0, 7, 8, EVENTS / 2 - 2] {
        fixture.log.remove(0, offset);
    }
    fixture.log.script([Kept, Crash]);
    let ended = load::run(fixture.loader(engine::store()), CancellationToken::new()).await;
    assert!(ended.is_err());
    fixture.load_all(engine::store(), EVENTS).await;
    let rows: serde_json::Value =
        fixture.one("SELECT count() AS rows, uniqExact(event_id) AS ids FROM {db:Identifier}.events").await;
    assert_eq!((&rows["rows"], &rows["ids"]), (&(EVENTS - 4).into(), &(EVENTS - 4).into()));
}

#[tokio::test]
async fn while_clickhouse_is_away_the_lag_is_seen_to_grow() {
    let fixture = Fixture::new("once_away").await;
    fixture.push(0..EVENTS);
    fixture.log.plant(0, 0, "");
    fixture.log.plant(1, 0, "");
    let cancel = CancellationToken::new();
    let nobody = engine::store_at("http://127.0.0.1:9");
    let running = tokio::spawn(load::run(fixture.loader(nobody), cancel.clone()));
    let labels = ["default/shop", "events"];
    let lag = fixture.metrics.load_oldest_unloaded_seconds.with_label_values(&labels);
    let seen = async {
        let mut first = 0.0;
        while first == 0.0 || lag.get() <= first || fixture.inserts("ambiguous") == 0 {
            first = if first == 0.0 { lag.get() } else { first };
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("the lag is shown");
    cancel.cancel();
    running.await.unwrap().unwrap();
    fixture.load_all(engine::store(), EVENTS).await;
    fixture.assert_stored_once(EVENTS).await;
}
