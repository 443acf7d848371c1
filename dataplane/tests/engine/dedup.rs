//! Tokens on plain MergeTree: a repeated block is one block, in the table and in what views make of it.

use crate::support::{Engine, Target, server_url, target};

const WINDOW: &str = "SETTINGS non_replicated_deduplication_window = 100";
const SETTINGS: [(&str, &str); 4] = [
    ("async_insert", "0"),
    ("insert_deduplicate", "1"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    ("max_insert_threads", "1"),
];

async fn tables(target: &Target, name: &str) -> String {
    let database = target.database(name).await;
    target.run(&format!("CREATE TABLE {database}.t (a UInt64) ENGINE = MergeTree ORDER BY a {WINDOW}")).await;
    target
        .run(&format!("CREATE TABLE {database}.sums (n UInt64, s UInt64) ENGINE = SummingMergeTree ORDER BY tuple() {WINDOW}"))
        .await;
    target
        .run(&format!("CREATE MATERIALIZED VIEW {database}.v TO {database}.sums AS SELECT count() AS n, sum(a) AS s FROM {database}.t"))
        .await;
    database
}

async fn insert(target: &Target, database: &str, token: &str, rows: &'static str) {
    let mut pairs = SETTINGS.to_vec();
    pairs.push(("insert_deduplication_token", token));
    let answer = target.insert(&format!("INSERT INTO {database}.t FORMAT CSV"), &pairs, rows).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Rows and sum, in the table and in the view's target.
async fn totals(target: &Target, database: &str) -> String {
    let sql = format!(
        "SELECT (SELECT (count(), sum(a)) FROM {database}.t), (SELECT (sum(n), sum(s)) FROM {database}.sums)"
    );
    target.run(&sql).await
}

#[tokio::test]
async fn a_repeated_token_changes_neither_table_nor_view_target() {
    let target = target();
    let database = tables(&target, "token").await;
    insert(&target, &database, "first", "1\n2\n").await;
    insert(&target, &database, "first", "1\n2\n").await;
    assert_eq!(totals(&target, &database).await, "(2,3)\t(2,3)");
    insert(&target, &database, "second", "1\n2\n").await;
    assert_eq!(totals(&target, &database).await, "(4,6)\t(4,6)");
    insert(&target, &database, "first", "1\n2\n").await;
    assert_eq!(totals(&target, &database).await, "(4,6)\t(4,6)");
}

#[tokio::test]
async fn a_token_in_the_statement_counts_too() {
    let target = target();
    let database = tables(&target, "token_in_statement").await;
    for _ in 0..2 {
        let sql = format!(
            "INSERT INTO {database}.t SETTINGS insert_deduplication_token = 'x', async_insert = 0 FORMAT CSV"
        );
        assert_eq!(target.insert(&sql, &[], "5\n").await.status, 200);
    }
    assert_eq!(totals(&target, &database).await, "(1,5)\t(1,5)");
}

#[tokio::test]
async fn one_insert_is_one_block() {
    let target = target();
    let database = target.database("one_block").await;
    target.run(&format!("CREATE TABLE {database}.t (a UInt64) ENGINE = MergeTree ORDER BY a {WINDOW}")).await;
    let body: Vec<u8> = (0..500_000_u64).flat_map(u64::to_le_bytes).collect();
    let answer = target.insert(&format!("INSERT INTO {database}.t FORMAT RowBinary"), &SETTINGS, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let parts = target.run(&format!("SELECT count(), uniqExact(_part) FROM {database}.t")).await;
    assert_eq!(parts, "500000\t1");
}

#[tokio::test]
async fn tokens_and_rows_outlive_a_killed_engine() {
    if server_url().is_some() {
        return assert!(target().run("SELECT 1").await == "1", "a server that is not ours is not killed");
    }
    let mut engine = Engine::start(&[]);
    let target = engine.target();
    let database = tables(&target, "killed").await;
    target.run(&format!("ALTER TABLE {database}.t MODIFY SETTING fsync_after_insert = 1")).await;
    insert(&target, &database, "first", "1\n2\n").await;
    engine.kill_and_restart();
    let target = engine.target();
    assert_eq!(totals(&target, &database).await, "(2,3)\t(2,3)");
    insert(&target, &database, "first", "1\n2\n").await;
    insert(&target, &database, "second", "3\n").await;
    assert_eq!(totals(&target, &database).await, "(3,6)\t(3,6)");
}
