//! What the load survives beside lost answers: events of many months, a forgotten position, another topic of the same
//! name, tables that forget too early, rows that a server lost though it remembers them, too little memory.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use millrace_crds::config::PropertyType;
use millrace_crds::schema;
use millrace_dataplane::load::{self, LoadError};
use millrace_dataplane::log::LogError;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::engine::{self, OwnEngine, store_at};
use crate::fixture::{Fixture, PARTITIONS, record};
use crate::log::CommitFate::{self, Crash, Kept};
use crate::proxy::{Fault, Proxy};

const EVENTS: u64 = 120;
const MONTH_MS: i64 = 31 * 86_400_000;

async fn execute(fixture: &Fixture, sql: &str) {
    let sql = sql.replace("{db}", &schema::identifier(&fixture.database));
    engine::store().client().query_raw(&sql).execute().await.unwrap();
}

#[tokio::test]
async fn late_events_of_two_hundred_months_are_stored() {
    let fixture = Fixture::new("hardened_months").await;
    for id in 0..200 {
        let mut record = record(id);
        record.event.timestamp = 1_760_000_000_000 - i64::try_from(id).unwrap() * MONTH_MS;
        let partition = u32::try_from(id).unwrap() % PARTITIONS;
        fixture.log.push(partition, serde_json::to_vec(&record).unwrap());
    }
    // One block by rows; only its months cut it.
    let mut loader = fixture.loader(engine::store());
    loader.limits.rows_max = 1_000;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(load::run(loader, cancel.clone()));
    for partition in 0..PARTITIONS {
        fixture.log.loaded_up_to(partition, 100).await;
    }
    cancel.cancel();
    running.await.unwrap().unwrap();
    fixture.assert_stored_once(200).await;
    assert!(fixture.inserts("inserted") >= 8, "{}", fixture.inserts("inserted"));
    assert_eq!(fixture.inserts("permanent"), 0);
}

#[tokio::test]
async fn a_property_is_added_while_old_and_new_pods_take_blocks_from_each_other() {
    let fixture = Fixture::new("hardened_old_and_new").await;
    let old = Arc::new(ArcSwap::new(fixture.config.load_full()));
    fixture.declare(&[("size", PropertyType::Integer)]).await;
    fixture.push(0..EVENTS);
    // Each repeats the block of the one before, and dies behind its own insert: old, new, old.
    let deaths: [(_, &[CommitFate]); 3] =
        [(&old, &[Kept, Crash]), (&fixture.config, &[Kept, Kept, Crash]), (&old, &[Kept, Kept, Crash])];
    for (config, fates) in deaths {
        fixture.log.script(fates.iter().copied());
        let mut loader = fixture.loader(engine::store());
        loader.config = Arc::clone(config);
        let ended = load::run(loader, CancellationToken::new()).await;
        assert!(matches!(ended, Err(LoadError::Log { source: LogError::Closed, .. })), "{ended:?}");
    }
    fixture.load_all(engine::store(), EVENTS).await;
    fixture.assert_stored_once(EVENTS).await;
    assert_eq!(fixture.inserts("repeated"), 3);
    // A block that an old pod stored keeps NULL there: its repeat by a new one is dropped.
    let filled: serde_json::Value =
        fixture.one("SELECT count(p_size) AS filled FROM {db:Identifier}.events").await;
    assert_eq!(filled["filled"], EVENTS - 2 * 20);
}

#[tokio::test]
async fn a_forgotten_position_is_found_in_the_table() {
    let fixture = Fixture::new("hardened_forgotten").await;
    fixture.push(0..EVENTS);
    fixture.load_all(engine::store(), EVENTS).await;
    let before = fixture.inserts("inserted");
    fixture.log.forget();
    // Other blocks than before: their tokens are new, so nothing but the positions keeps rows from coming twice.
    fixture.push(EVENTS..EVENTS + 10);
    fixture.load_all(engine::store(), EVENTS + 10).await;
    fixture.assert_stored_once(EVENTS + 10).await;
    assert_eq!(fixture.inserts("inserted"), before + u64::from(PARTITIONS), "only what is new was inserted");
}

#[tokio::test]
async fn another_topic_of_the_same_name_is_loaded_from_its_start() {
    let mut fixture = Fixture::new("hardened_other_topic").await;
    fixture.push(0..EVENTS);
    fixture.load_all(engine::store(), EVENTS).await;
    fixture.make_topic_anew();
    fixture.push(EVENTS..3 * EVENTS);
    let cancel = CancellationToken::new();
    let running = tokio::spawn(load::run(fixture.loader(engine::store()), cancel.clone()));
    for partition in 0..PARTITIONS {
        fixture.log.loaded_up_to(partition, EVENTS).await;
    }
    cancel.cancel();
    running.await.unwrap().unwrap();
    fixture.assert_stored_once(3 * EVENTS).await;
    assert_eq!(fixture.log.committed(0).unwrap().metadata, "v1;2", "an epoch of its own");
}

#[tokio::test]
async fn a_table_that_forgets_too_early_is_not_loaded_until_it_is_mended() {
    let fixture = Fixture::new("hardened_window").await;
    fixture.push(0..EVENTS);
    let setting = "MODIFY SETTING non_replicated_deduplication_window";
    execute(&fixture, &format!("ALTER TABLE {{db}}.dashboard_stats {setting} = 100")).await;
    let refused = load::run(fixture.loader(engine::store()), CancellationToken::new()).await.unwrap_err();
    let LoadError::Window { source, .. } = &refused else { panic!("{refused:?}") };
    assert!(!refused.is_retryable());
    let fix = format!("ALTER TABLE {}.dashboard_stats {setting} = 3600", fixture.database);
    assert!(source.to_string().contains(&fix), "{source}");
    assert_eq!(fixture.inserts("inserted"), 0);
    execute(&fixture, &fix.replace(&fixture.database, "{db}")).await;
    fixture.load_all(engine::store(), EVENTS).await;
    fixture.assert_stored_once(EVENTS).await;
}

#[tokio::test]
async fn rows_that_a_server_lost_though_it_remembers_them_go_in_again() {
    let fixture = Fixture::new("hardened_lost_rows").await;
    fixture.push(0..EVENTS);
    fixture.log.script([Kept, Crash]);
    let ended = load::run(fixture.loader(engine::store()), CancellationToken::new()).await;
    assert!(ended.is_err(), "the first blocks are stored and not committed");
    let lost = "DELETE WHERE log_offset < 5 SETTINGS mutations_sync = 2";
    execute(&fixture, &format!("ALTER TABLE {{db}}.events {lost}")).await;
    fixture.load_all(engine::store(), EVENTS).await;
    let rows: serde_json::Value =
        fixture.one("SELECT count() AS rows, uniqExact(event_id) AS ids FROM {db:Identifier}.events").await;
    assert_eq!(rows, json!({"rows": EVENTS, "ids": EVENTS}));
    assert_eq!(fixture.findings("rows_missing"), 1, "five rows of the one block that was repeated");
    // The rollups had them: now they have them twice, and that is told.
    assert_eq!(fixture.findings("rollups_differ"), 1);
}

#[tokio::test]
async fn a_block_that_needs_too_much_memory_is_planned_smaller_in_a_new_epoch() {
    let fixture = Fixture::new("hardened_memory").await;
    fixture.push(0..EVENTS);
    let proxy = Proxy::start(engine::url(), [Fault::OutOfMemory; 6]).await;
    fixture.load_all(store_at(&proxy.url), EVENTS).await;
    assert!(proxy.is_used_up());
    fixture.assert_stored_once(EVENTS).await;
    let rows: Vec<serde_json::Value> = fixture
        .all("SELECT log_epoch AS epoch, count() AS rows FROM {db:Identifier}.events GROUP BY epoch ORDER BY epoch")
        .await;
    assert!(rows.iter().any(|row| row["epoch"].as_u64() > Some(1)), "{rows:?}");
    assert_eq!(fixture.inserts("overloaded"), 6);
    // A new loader goes on in the epoch that the position tells.
    fixture.push(EVENTS..EVENTS + 20);
    fixture.load_all(engine::store(), EVENTS + 20).await;
    fixture.assert_stored_once(EVENTS + 20).await;
}

#[tokio::test]
async fn what_an_engine_with_too_little_memory_refuses_is_repeated_until_it_is_stored() {
    let fixture = Fixture::new("hardened_memory_engine").await;
    fixture.push(0..EVENTS);
    // From too little for anything to enough for the table and too little for its views.
    let limits = [1_000, 3_400_000, 3_700_000, 4_000_000, 4_300_000, 4_600_000, 5_000_000, 6_000_000];
    let proxy = Proxy::start(engine::url(), limits.map(Fault::Memory)).await;
    fixture.load_all(store_at(&proxy.url), EVENTS).await;
    assert!(proxy.is_used_up());
    fixture.assert_stored_once(EVENTS).await;
    let refused = fixture.inserts("overloaded");
    assert!(refused > 0, "the engine refused none");
    assert_eq!((fixture.inserts("permanent"), fixture.inserts("ambiguous")), (0, 0));
}

/// With tables that take no part more, a loader waits; when they do again, the same blocks go in.
#[tokio::test]
async fn what_an_engine_with_too_many_parts_refuses_is_repeated_until_it_is_stored() {
    for table in ["events", "dashboard_stats", "user_retention"] {
        let fixture = Fixture::new(&format!("hardened_parts_{table}")).await;
        fixture.push(0..40);
        fixture.load_all(engine::store(), 40).await;
        let settings = "parts_to_throw_insert = 1, parts_to_delay_insert = 1";
        execute(&fixture, &format!("ALTER TABLE {{db}}.{table} MODIFY SETTING {settings}")).await;
        fixture.push(40..EVENTS);
        let cancel = CancellationToken::new();
        let running = tokio::spawn(load::run(fixture.loader(engine::store()), cancel.clone()));
        let refused = async {
            while fixture.inserts("overloaded") < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), refused).await.expect("the engine refuses");
        let reset = "parts_to_throw_insert, parts_to_delay_insert";
        execute(&fixture, &format!("ALTER TABLE {{db}}.{table} RESET SETTING {reset}")).await;
        for partition in 0..PARTITIONS {
            fixture.log.loaded_up_to(partition, EVENTS / u64::from(PARTITIONS)).await;
        }
        cancel.cancel();
        running.await.unwrap().unwrap();
        fixture.assert_stored_once(EVENTS).await;
        assert_eq!((fixture.inserts("permanent"), fixture.inserts("ambiguous")), (0, 0), "{table}");
        let epochs: serde_json::Value =
            fixture.one("SELECT max(log_epoch) AS epoch FROM {db:Identifier}.events").await;
        assert_eq!(epochs["epoch"], 1, "{table}: nothing was planned anew");
    }
}

#[tokio::test]
async fn a_block_of_which_something_is_stored_is_never_planned_anew() {
    let fixture = Fixture::new("hardened_memory_stored").await;
    fixture.push(0..EVENTS);
    // Each is carried out and answered as if it were not.
    let proxy = Proxy::start(engine::url(), [Fault::StoredButOutOfMemory; 8]).await;
    fixture.load_all(store_at(&proxy.url), EVENTS).await;
    assert!(proxy.is_used_up());
    fixture.assert_stored_once(EVENTS).await;
    let epochs: serde_json::Value =
        fixture.one("SELECT max(log_epoch) AS epoch FROM {db:Identifier}.events").await;
    assert_eq!(epochs["epoch"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_killed_between_the_tables_part_and_a_views_part_stores_both_once() {
    let mut engine = OwnEngine::start();
    let fixture = Fixture::at("between", store_at(&engine.url())).await;
    // A view that takes its time: 50 ms for each of twenty rows.
    for sql in [
        "CREATE TABLE test_between.slow (id UUID) ENGINE = MergeTree ORDER BY id \
         SETTINGS non_replicated_deduplication_window = 20000, fsync_after_insert = 1",
        "CREATE MATERIALIZED VIEW test_between.slow_mv TO test_between.slow AS \
         SELECT event_id AS id FROM test_between.events WHERE sleepEachRow(0.05) = 0",
    ] {
        store_at(&engine.url()).client().query_raw(sql).execute().await.unwrap();
    }
    fixture.push(0..EVENTS);
    let cancel = CancellationToken::new();
    let running = tokio::spawn(load::run(fixture.loader(store_at(&engine.url())), cancel.clone()));
    let counts = "SELECT (SELECT count() FROM {db:Identifier}.events) AS rows, \
                  (SELECT count() FROM {db:Identifier}.slow) AS slow";
    let between = async {
        loop {
            let seen: serde_json::Value = fixture.one(counts).await;
            if seen["rows"].as_u64() > seen["slow"].as_u64() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), between).await.expect("the table is ahead of the view");
    engine.kill_and_start_again();
    let seen: serde_json::Value = fixture.one(counts).await;
    assert!(seen["rows"].as_u64() > seen["slow"].as_u64(), "killed between the two: {seen}");
    for partition in 0..PARTITIONS {
        fixture.log.loaded_up_to(partition, EVENTS / u64::from(PARTITIONS)).await;
    }
    cancel.cancel();
    running.await.unwrap().unwrap();
    fixture.assert_stored_once(EVENTS).await;
    let slow: serde_json::Value =
        fixture.one("SELECT count() AS rows, uniqExact(id) AS ids FROM {db:Identifier}.slow").await;
    assert_eq!(slow, json!({"rows": EVENTS, "ids": EVENTS}));
    assert!(fixture.inserts("repeated") >= 1);
}
