//! Rollups that are made anew while loaders insert: whatever dies in between, every event is in the table and in the
//! rollups once.

use std::sync::Arc;
use std::time::Duration;

use clickhouse::Client;
use millrace_crds::schema::{Schema, Statement};
use millrace_dataplane::load::{self, LoadError};
use millrace_dataplane::log::LogError;
use millrace_dataplane::store::ClickHouse;
use millrace_provision::clickhouse::{self as provision, ProvisionError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::engine::{self, OwnEngine, store_at};
use crate::fixture::{Fixture, PARTITIONS, owner};
use crate::log::CommitFate::{Crash, Kept};
use crate::proxy::{Fault, Proxy};

const EVENTS: u64 = 120;

/// With rollups as an older build made them: they count other things.
async fn older(test: &str, store: ClickHouse) -> Fixture {
    let fixture = Fixture::at(test, store.clone()).await;
    let mut older = fixture.schema();
    for view in &mut older.views {
        view.select =
            view.select.replace("min(timestamp)", "max(timestamp)").replace("count()", "count() + 1");
    }
    provision::apply(&store.client(), &older, &owner("u1")).await.unwrap();
    fixture
}

async fn plan(client: &Client, desired: &Schema) -> Vec<Statement> {
    provision::plan(client, desired, &owner("u1")).await.unwrap()
}

async fn loaded(fixture: &Fixture, count: u64) {
    for partition in 0..PARTITIONS {
        fixture.log.loaded_up_to(partition, count / u64::from(PARTITIONS)).await;
    }
}

/// Rollups of an older build with events in them, and a loader that goes on.
struct Underway {
    fixture: Fixture,
    client: Arc<Client>,
    desired: Schema,
    cancel: CancellationToken,
    running: JoinHandle<Result<(), LoadError>>,
}

impl Underway {
    async fn start(test: &str) -> Self {
        let fixture = older(test, engine::store()).await;
        fixture.push(0..EVENTS);
        fixture.load_all(engine::store(), EVENTS).await;
        let cancel = CancellationToken::new();
        let running = tokio::spawn(load::run(fixture.loader(engine::store()), cancel.clone()));
        let desired = fixture.schema();
        Self { fixture, client: engine::store().client(), desired, cancel, running }
    }

    /// Everything that was pushed is in the table and in rollups as they are wanted, once.
    async fn end(self, pushed: u64) {
        loaded(&self.fixture, pushed).await;
        self.fixture.assert_stored_once(pushed).await;
        assert_eq!(plan(&self.client, &self.desired).await, []);
        self.cancel.cancel();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_view_is_applied_while_loaders_insert() {
    let underway = Underway::start("rebuild_live").await;
    let Underway { fixture, client, desired, .. } = &underway;
    let mut pushed = EVENTS;
    // Events come before and behind every statement.
    for statement in plan(client, desired).await {
        fixture.push(pushed..pushed + 20);
        pushed += 20;
        provision::carry_out(client, std::slice::from_ref(&statement)).await.unwrap();
    }
    loaded(fixture, pushed).await;
    assert!(fixture.inserts("paused") > 0, "a loader met the fence");
    assert_eq!(fixture.inserts("permanent"), 0);
    assert_eq!(fixture.inserts("repeated"), 0, "what the fence refuses is not stored: it need not be proven");
    underway.end(pushed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_dies_behind_any_statement_is_made_good_by_the_next() {
    let underway = Underway::start("rebuild_dies").await;
    let Underway { fixture, client, desired, .. } = &underway;
    let mut pushed = EVENTS;
    let mut before_death = 0;
    loop {
        let statements = provision::plan_rebuild(client, desired, &owner("u1")).await.unwrap();
        if before_death > statements.len() {
            break;
        }
        fixture.push(pushed..pushed + 20);
        pushed += 20;
        provision::carry_out(client, &statements[..before_death]).await.unwrap();
        before_death += 1;
    }
    assert!(before_death > 15, "{before_death} statements");
    provision::apply(client, desired, &owner("u1")).await.unwrap();
    underway.end(pushed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_killed_behind_any_statement_keeps_what_was_done() {
    let mut engine = OwnEngine::start();
    let fixture = older("rebuild_engine", store_at(&engine.url())).await;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(load::run(fixture.loader(store_at(&engine.url())), cancel.clone()));
    let desired = fixture.schema();
    let mut pushed = 0;
    let mut behind = 0;
    loop {
        fixture.push(pushed..pushed + 20);
        pushed += 20;
        let client = store_at(&engine.url()).client();
        let statements = plan(&client, &desired).await;
        let Some(some) = statements.get(..=behind) else { break };
        provision::carry_out(&client, some).await.unwrap();
        engine.kill_and_start_again();
        behind += 3;
    }
    let client = store_at(&engine.url()).client();
    provision::apply(&client, &desired, &owner("u1")).await.unwrap();
    loaded(&fixture, pushed).await;
    fixture.assert_stored_once(pushed).await;
    cancel.cancel();
    running.await.unwrap().unwrap();
}

/// Blocks of so many rows are stored, and the loader dies before it can write that down.
async fn stored_but_not_committed(fixture: &Fixture, rows: u64) {
    fixture.push(0..EVENTS);
    fixture.log.script([Kept, Crash]);
    let mut loader = fixture.loader(engine::store());
    loader.limits.rows_max = usize::try_from(rows).unwrap();
    loader.limits.age_max = Duration::from_secs(60);
    let ended = load::run(loader, CancellationToken::new()).await;
    assert!(matches!(ended, Err(LoadError::Log { source: LogError::Closed, .. })), "{ended:?}");
}

#[tokio::test]
async fn a_block_that_was_stored_before_and_is_repeated_behind_is_counted_once() {
    let fixture = older("rebuild_repeated", engine::store()).await;
    stored_but_not_committed(&fixture, 20).await;
    let client = engine::store().client();
    provision::apply(&client, &fixture.schema(), &owner("u1")).await.unwrap();
    fixture.load_all(engine::store(), EVENTS).await;
    fixture.assert_stored_once(EVENTS).await;
    assert!(fixture.inserts("repeated") >= 1);
    assert_eq!(fixture.findings("rollups_differ"), 0);
}

#[tokio::test]
async fn a_block_of_which_one_month_was_stored_before_is_completed_behind() {
    let fixture = older("rebuild_months", engine::store()).await;
    stored_but_not_committed(&fixture, EVENTS / u64::from(PARTITIONS)).await;
    let client = engine::store().client();
    // As if the server had died between the parts of two months of a block, before the views ran.
    let months: Vec<serde_json::Value> = fixture
        .all("SELECT toYYYYMM(timestamp) AS month, count() AS rows FROM {db:Identifier}.events GROUP BY month ORDER BY month")
        .await;
    assert!(months.len() > 1, "{months:?}");
    let lost = format!("ALTER TABLE {}.events DROP PARTITION {}", fixture.database, months[0]["month"]);
    client.query_raw(&lost).execute().await.unwrap();
    provision::apply(&client, &fixture.schema(), &owner("u1")).await.unwrap();
    fixture.load_all(engine::store(), EVENTS).await;
    fixture.assert_stored_once(EVENTS).await;
    assert_eq!(fixture.findings("rollups_differ"), 0);
}

#[tokio::test]
async fn a_block_whose_answer_is_lost_around_the_rebuild_is_counted_once() {
    let fixture = older("rebuild_lost_answer", engine::store()).await;
    let mut proxy = Proxy::start(engine::url(), [Fault::LoseAnswer; 2]).await;
    fixture.push(0..EVENTS);
    let cancel = CancellationToken::new();
    let running = tokio::spawn(load::run(fixture.loader(store_at(&proxy.url)), cancel.clone()));
    proxy.inserts(2).await;
    provision::apply(&engine::store().client(), &fixture.schema(), &owner("u1")).await.unwrap();
    loaded(&fixture, EVENTS).await;
    fixture.assert_stored_once(EVENTS).await;
    assert_eq!(fixture.findings("rollups_differ"), 0);
    cancel.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_that_runs_when_the_fence_comes_is_waited_for() {
    let fixture = older("rebuild_underway", engine::store()).await;
    fixture.push(0..40);
    fixture.load_all(engine::store(), 40).await;
    let client = engine::store().client();
    for sql in [
        "CREATE TABLE {db}.copy AS {db}.events",
        "INSERT INTO {db}.copy SELECT * FROM {db}.events",
        "TRUNCATE TABLE {db}.events",
        "TRUNCATE TABLE {db}.dashboard_stats",
        "TRUNCATE TABLE {db}.user_retention",
    ] {
        client.query_raw(&sql.replace("{db}", &fixture.database)).execute().await.unwrap();
    }
    // Takes 50 ms for each row, and stores them all at its end.
    let insert = "INSERT INTO `{db}`.`events` SELECT * FROM {db}.copy WHERE sleepEachRow(0.05) = 0 SETTINGS max_threads = 1";
    let insert = insert.replace("{db}", &fixture.database);
    let inserting = tokio::spawn(async move { engine::store().client().query_raw(&insert).execute().await });
    let underway = "SELECT count() AS inserts FROM system.processes WHERE query_kind = 'Insert' \
                    AND position(query, concat('INSERT INTO `', {db:String})) > 0";
    let seen = async {
        loop {
            let seen: serde_json::Value = fixture.one(underway).await;
            if seen["inserts"].as_u64() > Some(0) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("an insert is underway");
    let rows: serde_json::Value = fixture.one("SELECT count() AS rows FROM {db:Identifier}.events").await;
    assert_eq!(rows["rows"], 0, "none of it is stored yet");
    provision::apply(&client, &fixture.schema(), &owner("u1")).await.unwrap();
    inserting.await.unwrap().unwrap();
    fixture.assert_stored_once(40).await;
}

#[tokio::test]
async fn an_overtaken_attempt_neither_replaces_rollups_nor_lifts_the_fence() {
    let fixture = older("rebuild_overtaken", engine::store()).await;
    fixture.push(0..EVENTS);
    fixture.load_all(engine::store(), EVENTS).await;
    let client = engine::store().client();
    let desired = fixture.schema();
    let slow = plan(&client, &desired).await;
    let is_exchange = |statement: &Statement| statement.text.starts_with("EXCHANGE");
    let at = slow.iter().position(is_exchange).unwrap();
    provision::carry_out(&client, &slow[..at]).await.unwrap();
    let next = plan(&client, &desired).await;
    let half = next.iter().position(is_exchange).unwrap();
    provision::carry_out(&client, &next[..half]).await.unwrap();
    let refused = provision::carry_out(&client, &slow[at..]).await.unwrap_err();
    assert!(matches!(refused, ProvisionError::Statement { .. }) && refused.is_retryable(), "{refused:?}");
    let lift = slow.iter().filter(|statement| statement.text.contains("DROP CONSTRAINT"));
    for statement in lift {
        provision::carry_out(&client, std::slice::from_ref(statement)).await.unwrap();
    }
    let fenced: serde_json::Value = fixture
        .one("SELECT position(create_table_query, 'CONSTRAINT millrace_paused_2') > 0 AS fenced FROM system.tables \
              WHERE database = {db:String} AND name = 'events'")
        .await;
    assert_eq!(fenced["fenced"], 1, "the fence of the newer attempt stands");
    provision::carry_out(&client, &next[half..]).await.unwrap();
    fixture.assert_stored_once(EVENTS).await;
    assert_eq!(plan(&client, &desired).await, []);
}

#[tokio::test]
async fn a_rollup_that_lost_rows_is_mended_by_a_rebuild() {
    let fixture = Fixture::new("rebuild_mended").await;
    fixture.push(0..EVENTS);
    fixture.load_all(engine::store(), EVENTS).await;
    let client = engine::store().client();
    let desired = fixture.schema();
    for table in ["dashboard_stats", "user_retention"] {
        let lost = format!("TRUNCATE TABLE {}.{table}", fixture.database);
        client.query_raw(&lost).execute().await.unwrap();
    }
    assert_eq!(plan(&client, &desired).await, [], "nobody sees it in the definitions");
    let statements = provision::plan_rebuild(&client, &desired, &owner("u1")).await.unwrap();
    provision::carry_out(&client, &statements).await.unwrap();
    fixture.assert_stored_once(EVENTS).await;
}
