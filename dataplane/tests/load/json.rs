//! What `event_data` becomes in ClickHouse: nothing is unstorable, and every silent change is written down here.

use millrace_dataplane::load::native::Native;
use millrace_dataplane::load::row::{Encoder, Position};
use millrace_dataplane::load::target::{Record, Target};
use millrace_dataplane::store::{Format, Insert};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine;
use crate::fixture::{Fixture, record};

/// Documents that come back as they went in, but for spaces, escapes and the order of keys.
const UNCHANGED: &[&str] = &[
    r#"{}"#,
    r#"{"a":1}"#,
    r#"{"a":[]}"#,
    r#"{"a":[[],[]]}"#,
    r#"{"":1}"#,
    r#"{"a.b":1,"a":{"b":2,"b.c":3}}"#,
    r#"{"a":1,"a.b":{"c":[]}}"#,
    r#"{"b":1,"a":2}"#,
    r#"{"a`b":1,"a\\b":2,"a\"b":3}"#,
    r#"{"ü 😀":"ü 😀\n\t\"\\"}"#,
    r#"{"a":"\u0000\u0001\u001f"}"#,
    r#"{"a":"\ud83d\ude00"}"#,
    r#"{"a":[1,"x",2.5,null,{"b":[{"c":1}]}]}"#,
    r#"{"a":[{"b":1},{"c":"x"},2]}"#,
    r#"{"a":[1,2.5]}"#,
    r#"{"a":18446744073709551615,"b":-9223372036854775808,"c":9007199254740993}"#,
    r#"{"a":0.1,"b":0.30000000000000004,"c":1.7976931348623157e308,"d":5e-324}"#,
    r#"{"a":true,"b":false,"c":"true","d":"12"}"#,
    r#"{"a":"2020-01-01","b":"2020-01-01T10:00:00Z","c":["2020-01-01"]}"#,
    r#"{"a":"550e8400-e29b-41d4-a716-446655440000","b":"1.2.3.4"}"#,
];

/// Documents that change, and what they become.
const CHANGED: &[(&str, &str, &str)] = &[
    ("nulls go", r#"{"a":null,"b":{"c":null},"d":1}"#, r#"{"d":1}"#),
    ("empty objects go", r#"{"a":{},"b":{"c":{}},"d":[{}]}"#, r#"{"d":[{}]}"#),
    ("inside arrays too", r#"{"a":[{"b":{}},{"c":null}]}"#, r#"{"a":[{},{}]}"#),
    ("whole floats become integers", r#"{"a":1.0,"b":1e3}"#, r#"{"a":1,"b":1000}"#),
    ("the sign of zero goes", r#"{"a":-0}"#, r#"{"a":0}"#),
    ("digits beyond a double are rounded", r#"{"a":0.12345678901234567890}"#, r#"{"a":0.12345678901234568}"#),
    ("booleans beside numbers", r#"{"a":[1,true]}"#, r#"{"a":[1,1]}"#),
    ("booleans beside texts", r#"{"a":[true,"x"]}"#, r#"{"a":["true","x"]}"#),
    ("an array of floats stays", r#"{"z":[0.5]}"#, r#"{"z":[0.5]}"#),
    ("beside it integers beyond 2^53 do not", r#"{"z":[9007199254740993]}"#, r#"{"z":[9007199254740992]}"#),
    ("an escaped dot in a key", r#"{"a%2Eb":1}"#, r#"{"a.b":1}"#),
    ("of two keys that escape alike the first stays", r#"{"a.b":1,"a%2Eb":2}"#, r#"{"a.b":1}"#),
    ("integers beyond 64 bits", r#"{"a":[18446744073709551616]}"#, r#"{"a":["18446744073709551616"]}"#),
    ("floats beyond a double", r#"{"a":1e400}"#, r#"{"a":"1e400"}"#),
    ("half a surrogate pair", r#"{"a":"\ud83d!"}"#, "{\"a\":\"\u{fffd}!\"}"),
];

#[derive(Deserialize)]
struct Stored {
    event_data: serde_json::Value,
}

/// Stores all documents in one block and reads them back in order.
async fn round_trip(test: &str, documents: &[String]) -> Vec<serde_json::Value> {
    let fixture = Fixture::new(test).await;
    let app = fixture.config.load().apps().values().next().unwrap().clone();
    let encoder = Encoder::new(Target::Events, &app.config);
    let mut out = Native::new(encoder.columns());
    for (offset, document) in (0_u64..).zip(documents) {
        let mut record = record(0);
        record.event.event_data = Some(RawValue::from_string(document.clone()).unwrap());
        encoder.encode(&Record::Event(record), Position { epoch: 1, partition: 0, offset }, &mut out);
    }
    let insert = Insert {
        database: &fixture.database,
        table: "events",
        columns: encoder.columns(),
        token: test,
        format: Format::Native,
        rows: out.into_bytes().into(),
    };
    engine::store().insert(insert).await.unwrap();
    let stored: Vec<Stored> =
        fixture.all("SELECT event_data FROM {db:Identifier}.events ORDER BY log_offset").await;
    stored.into_iter().map(|row| row.event_data).collect()
}

fn value(json: &str) -> serde_json::Value {
    serde_json::from_str(json).unwrap()
}

fn deep(depth: usize, open: &str, close: &str) -> String {
    format!("{{\"a\":{}1{}}}", open.repeat(depth - 1), close.repeat(depth - 1))
}

#[tokio::test]
async fn documents_come_back_as_they_went_in() {
    let many_keys = (0..1000).map(|i| format!("\"k{i}\":{i}")).collect::<Vec<_>>().join(",");
    let mut documents: Vec<String> = UNCHANGED.iter().map(|&document| document.to_owned()).collect();
    documents.push(deep(32, "{\"a\":", "}"));
    documents.push(deep(32, "[", "]"));
    documents.push(format!("{{{many_keys}}}"));
    documents.push(format!("{{\"a\":\"{}\"}}", "x".repeat(1_000_000)));
    let stored = round_trip("json_unchanged", &documents).await;
    assert_eq!(stored.len(), documents.len());
    for (document, stored) in documents.iter().zip(stored) {
        assert_eq!(stored, value(document), "{:.200}", document);
    }
}

#[tokio::test]
async fn every_silent_change_is_known() {
    let documents: Vec<String> = CHANGED.iter().map(|(_, document, _)| (*document).to_owned()).collect();
    let stored = round_trip("json_changed", &documents).await;
    assert_eq!(stored.len(), documents.len());
    for ((name, document, expected), stored) in CHANGED.iter().zip(stored) {
        assert_eq!(stored.to_string(), value(expected).to_string(), "{name}: {document}");
    }
}
