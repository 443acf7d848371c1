//! The schema on the real engine: made, found unchanged, added to in place, refused.

use millrace_crds::config::PropertyType;
use millrace_crds::schema;
use millrace_provision::clickhouse::{self, ProvisionError};
use serde::Deserialize;

use crate::engine;
use crate::fixture::{Fixture, drop_database, events, owner};

fn desired(database: &str, properties: &[(&str, PropertyType)], retention_seconds: u64) -> schema::Schema {
    schema::desired(database, &events(properties), retention_seconds)
}

const YEAR: u64 = 365 * 86_400;

#[tokio::test]
async fn a_schema_that_was_made_shows_no_difference() {
    let database = "test_schema_made";
    drop_database(&engine::store(), database).await;
    let kinds = [
        PropertyType::String,
        PropertyType::Integer,
        PropertyType::Float,
        PropertyType::Decimal,
        PropertyType::Boolean,
        PropertyType::Timestamp,
    ];
    let names = ["a", "b_c", "order id", "we`ird", "back\\slash", "ünï?"];
    let properties: Vec<(&str, PropertyType)> = names.into_iter().zip(kinds).collect();
    let schema = desired(database, &properties, YEAR);
    let client = engine::store().client();
    let made = clickhouse::apply(&client, &schema, &owner("u1")).await.unwrap();
    assert_eq!(made.statements.len(), 1 + 6 + 2, "the database, six tables, two views");
    let again = clickhouse::apply(&client, &schema, &owner("u1")).await.unwrap();
    assert_eq!(again.statements, []);
    let observed = clickhouse::observe(&client, database).await.unwrap();
    assert_eq!(schema::diff(Some(&observed), &schema), Ok(vec![]));
    for view in [schema::DASHBOARD_STATS_MV, schema::USER_RETENTION_MV] {
        let definition = &observed.tables[view].create_table_query;
        assert!(definition.contains("SQL SECURITY DEFINER"), "{definition}");
    }
}

#[tokio::test]
async fn a_declared_property_is_added_in_place_and_keeps_the_rows() {
    let fixture = Fixture::new("schema_added").await;
    fixture.push(0..10);
    fixture.load_all(engine::store(), 10).await;
    fixture.declare(&[("size", PropertyType::Integer)]).await;
    fixture.push(10..20);
    fixture.load_all(engine::store(), 20).await;
    fixture.assert_stored_once(20).await;
    let sizes: Sizes =
        fixture.one("SELECT count(p_size) AS filled, sum(p_size) AS sum FROM {db:Identifier}.events").await;
    assert_eq!(sizes, Sizes { filled: 10, sum: (10..20).sum() });

    // The property leaves: its column and values stay, and loading goes on without it.
    fixture.declare(&[]).await;
    fixture.push(20..30);
    fixture.load_all(engine::store(), 30).await;
    let sizes: Sizes =
        fixture.one("SELECT count(p_size) AS filled, sum(p_size) AS sum FROM {db:Identifier}.events").await;
    assert_eq!(sizes, Sizes { filled: 10, sum: (10..20).sum() });
    fixture.assert_stored_once(30).await;
}

#[derive(Debug, PartialEq, Deserialize)]
struct Sizes {
    filled: u64,
    sum: u64,
}

#[tokio::test]
async fn a_database_made_before_the_ledger_gets_its_tables_and_columns() {
    let database = "test_schema_before_ledger";
    drop_database(&engine::store(), database).await;
    let client = engine::store().client();
    let schema = desired(database, &[], YEAR);
    let mut before = schema.clone();
    before.tables.retain(|table| table.name != schema::LEDGER);
    let letters = before.tables.iter_mut().find(|table| table.name == schema::DEAD_LETTERS).unwrap();
    let new = ["entry", "event_type", "received_at", "minute", "replay"];
    letters.columns.retain(|column| !new.contains(&column.name.as_str()));
    clickhouse::apply(&client, &before, &owner("u1")).await.unwrap();
    let changed = clickhouse::apply(&client, &schema, &owner("u1")).await.unwrap();
    assert_eq!(changed.statements.len(), new.len() + 1, "{:#?}", changed.statements);
    let again = clickhouse::apply(&client, &schema, &owner("u1")).await.unwrap();
    assert_eq!(again.statements, []);
}

#[tokio::test]
async fn retention_and_settings_change_in_place() {
    let database = "test_schema_altered";
    drop_database(&engine::store(), database).await;
    let client = engine::store().client();
    clickhouse::apply(&client, &desired(database, &[], YEAR), &owner("u1")).await.unwrap();
    let mut other = desired(database, &[], 2 * YEAR);
    other.tables[0].settings.insert("non_replicated_deduplication_window".to_owned(), "77".to_owned());
    other.tables[0].columns[0].codec = None;
    let changed = clickhouse::apply(&client, &other, &owner("u1")).await.unwrap();
    assert_eq!(changed.statements.len(), 6 + 1 + 1, "{:#?}", changed.statements);
    let again = clickhouse::apply(&client, &other, &owner("u1")).await.unwrap();
    assert_eq!(again.statements, []);
    let forever = desired(database, &[], u64::MAX);
    clickhouse::apply(&client, &forever, &owner("u1")).await.unwrap();
    let again = clickhouse::apply(&client, &forever, &owner("u1")).await.unwrap();
    assert_eq!(again.statements, []);
}

#[tokio::test]
async fn another_type_is_refused_with_both_definitions() {
    let database = "test_schema_refused";
    drop_database(&engine::store(), database).await;
    let client = engine::store().client();
    let before = desired(database, &[("price", PropertyType::Decimal)], YEAR);
    clickhouse::apply(&client, &before, &owner("u1")).await.unwrap();
    let after = desired(database, &[("price", PropertyType::String), ("new", PropertyType::String)], YEAR);
    let refused = clickhouse::apply(&client, &after, &owner("u1")).await.unwrap_err();
    assert!(!refused.is_retryable());
    let ProvisionError::Incompatible { source } = refused else { panic!("{refused:?}") };
    let text = source.to_string();
    let line = text.lines().find(|line| line.starts_with('!')).unwrap();
    assert!(line.contains("Nullable(Decimal(38, 9))") && line.ends_with("Nullable(String)"), "{text}");
    let observed = clickhouse::observe(&client, database).await.unwrap();
    assert_eq!(schema::diff(Some(&observed), &before), Ok(vec![]), "nothing was changed");
}

#[tokio::test]
async fn a_database_of_somebody_else_is_refused_and_the_same_app_adopts() {
    let database = "test_schema_owned";
    drop_database(&engine::store(), database).await;
    let client = engine::store().client();
    let schema = desired(database, &[], YEAR);
    clickhouse::apply(&client, &schema, &owner("u1")).await.unwrap();
    let mut stranger = owner("u9");
    "it's \"mine\"".clone_into(&mut stranger.cluster);
    let refused = clickhouse::apply(&client, &schema, &stranger).await.unwrap_err();
    let ProvisionError::Taken { source } = refused else { panic!("{refused:?}") };
    let text = source.to_string();
    assert!(text.contains("(uid `u1`) of cluster `test`"), "{text}");
    assert!(text.contains("(uid `u9`) of cluster `it's \"mine\"`"), "{text}");
    let adopted = clickhouse::apply(&client, &schema, &owner("u2")).await.unwrap();
    assert_eq!(adopted.statements.len(), 1);
    let held = clickhouse::apply(&client, &schema, &owner("u2")).await.unwrap();
    assert_eq!(held.statements, []);
}

#[tokio::test]
async fn a_failed_statement_is_named_with_its_object() {
    let database = "test_schema_failed";
    drop_database(&engine::store(), database).await;
    let mut schema = desired(database, &[], YEAR);
    "Nonsense(1)".clone_into(&mut schema.tables[1].columns[0].kind);
    let error = clickhouse::apply(&engine::store().client(), &schema, &owner("u1")).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("on `dashboard_stats`") && text.contains("CREATE TABLE"), "{text}");
}
