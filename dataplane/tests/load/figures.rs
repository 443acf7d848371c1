//! Hashes and figures that Rust and SQL must compute alike.

use millrace_dataplane::record;
use serde::Deserialize;
use uuid::Uuid;

use crate::engine;
use crate::fixture::Fixture;
use millrace_dataplane::store::{QueryLimits, Question};

#[derive(Deserialize)]
struct Hash {
    hash: u64,
}

async fn xxh3(sql: &str, value: &str) -> u64 {
    let params = [("value", value.to_owned())];
    let question = Question { sql, params: &params };
    let rows: Vec<Hash> = engine::store().rows(question, QueryLimits::default()).await.unwrap();
    rows[0].hash
}

#[tokio::test]
async fn the_ledger_hash_is_the_same_in_rust_and_sql() {
    for (id, vector) in [
        (Uuid::nil(), None),
        (Uuid::max(), None),
        ("00112233-4455-6677-8899-aabbccddeeff".parse().unwrap(), None),
        (Uuid::from_u128(0xFEDC_BA98_7654_3210_FEDC_BA98_7654_3210), None),
    ] as [(Uuid, Option<u64>); 4]
    {
        let ours = record::event_hash(&id);
        let theirs = xxh3("SELECT xxh3(toString({value:UUID})) AS hash", &id.to_string()).await;
        assert_eq!(ours, theirs, "{id}");
        assert!(vector.is_none_or(|vector| vector == ours), "{id}");
    }
}

#[tokio::test]
async fn the_user_key_is_the_same_in_rust_and_sql() {
    let fixture = Fixture::new("user_key").await;
    fixture.push(0..20);
    fixture.load_all(engine::store(), 20).await;
    let different: serde_json::Value = fixture
        .one("SELECT countIf(user_key != xxh3(user_id)) AS different, count() AS rows FROM {db:Identifier}.events")
        .await;
    assert_eq!((&different["different"], &different["rows"]), (&0.into(), &20.into()));
}
