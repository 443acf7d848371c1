use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::load::row::{MOMENT_MAX, MOMENT_MIN, tests::values};
use crate::load::rowbinary::RowBinary;
use millrace_crds::config::{DeclaredEvent, Events, OnUndeclared, Property};
use millrace_crds::schema::Column;

fn encoder(properties: &[(&str, PropertyType)]) -> Columns {
    let properties = properties
        .iter()
        .map(|&(name, kind)| (name.to_owned(), Property { kind, required: false }))
        .collect();
    let events = Events {
        on_undeclared: OnUndeclared::Keep,
        declared: [("purchase".to_owned(), DeclaredEvent { properties })].into(),
        revenue: None,
        conversions: [].into(),
        dedupe_window_ms: 1,
    };
    Columns::new(&events)
}

const POSITION: Position = Position { epoch: 1, partition: 2, offset: 3 };

fn record(value: serde_json::Value) -> ProcessedRecord {
    let mut whole = json!({
        "v": 1,
        "event": {
            "event_id": "00112233-4455-6677-8899-aabbccddeeff",
            "event_type": "purchase", "timestamp": 1_700_000_000_123_i64, "received_at": 1,
        },
        "origin": {"instance": "i", "minute": 0},
        "derived": {"created_at": 2, "user_key": 7, "is_conversion": true, "revenue": "19.99", "currency": "EUR"},
    });
    for (key, part) in value.as_object().unwrap() {
        for (name, value) in part.as_object().unwrap() {
            whole[key][name] = value.clone();
        }
    }
    serde_json::from_str(&whole.to_string()).unwrap()
}

/// Reads a row back by the types the schema gives its columns: name → bytes of the value.
fn read(encoder: &Columns, record: &ProcessedRecord) -> BTreeMap<String, Vec<u8>> {
    let mut out = RowBinary::default();
    encoder.encode("default/shop", record, POSITION, &mut out);
    let columns: Vec<Column> = encoder.columns.iter().map(EventColumn::column).collect();
    values(&columns, &out.into_bytes())
}

fn text(value: &str) -> Vec<u8> {
    let mut out = RowBinary::default();
    out.text(value);
    out.into_bytes()
}

#[test]
fn every_column_gets_the_value_of_the_record() {
    let encoder = encoder(&[]);
    let data = r#"{"b":1,"a":[true,null]}"#;
    let mut record = record(json!({"event": {
        "user_id": "u", "session_id": "s", "app_version": "1.2", "ip": "192.0.2.0", "user_agent": "ua",
        "trace_id": "t", "platform": "as sent", "attribution": {"campaign": "c", "term": "x"},
    }, "derived": {"platform": "web", "browser": "Firefox"}}));
    record.event.event_data = Some(serde_json::from_str(data).unwrap());
    let row = read(&encoder, &record);
    for (column, value) in [
        ("app_id", "default/shop"),
        ("event_type", "purchase"),
        ("user_id", "u"),
        ("anonymous_id", ""),
        ("session_id", "s"),
        ("platform", "web"),
        ("browser", "Firefox"),
        ("app_version", "1.2"),
        ("campaign", "c"),
        ("source", ""),
        ("term", "x"),
        ("currency", "EUR"),
        ("event_data", data),
        ("ip", "192.0.2.0"),
        ("user_agent", "ua"),
        ("trace_id", "t"),
    ] {
        assert_eq!(row[column], text(value), "{column}");
    }
    assert_eq!(row["timestamp"], 1_700_000_000_123_i64.to_le_bytes());
    assert_eq!(row["received_at"], 1_i64.to_le_bytes());
    assert_eq!(row["created_at"], 2_i64.to_le_bytes());
    assert_eq!(row["user_key"], 7_u64.to_le_bytes());
    assert_eq!(row["is_conversion"], [1]);
    assert_eq!(row["revenue"], [vec![0], 19_990_000_000_i128.to_le_bytes().to_vec()].concat());
    assert_eq!(row["log_epoch"], 1_u32.to_le_bytes());
    assert_eq!(row["log_partition"], 2_u32.to_le_bytes());
    assert_eq!(row["log_offset"], 3_u64.to_le_bytes());
}

#[test]
fn a_property_fills_its_column_and_a_misfit_leaves_it_null() {
    let kinds = [
        ("string", PropertyType::String, json!("x"), text("x"), json!(1)),
        ("integer", PropertyType::Integer, json!(-5), (-5_i64).to_le_bytes().to_vec(), json!("5")),
        ("float", PropertyType::Float, json!(0.5), 0.5_f64.to_le_bytes().to_vec(), json!([])),
        ("decimal", PropertyType::Decimal, json!("0.1"), 100_000_000_i128.to_le_bytes().to_vec(), json!("x")),
        ("boolean", PropertyType::Boolean, json!(true), vec![1], json!(1)),
        (
            "timestamp",
            PropertyType::Timestamp,
            json!("1970-01-01T00:00:01Z"),
            1000_i64.to_le_bytes().to_vec(),
            json!("soon"),
        ),
    ];
    for (name, kind, fits, bytes, misfit) in kinds {
        let encoder = encoder(&[(name, kind)]);
        let column = format!("p_{name}");
        let with = |value: serde_json::Value| {
            read(&encoder, &record(json!({"event": {"event_data": {name: value}}})))
        };
        assert_eq!(with(fits)[&column], [vec![0], bytes].concat(), "{name}");
        assert_eq!(with(misfit)[&column], [1], "{name}");
        assert_eq!(with(json!(null))[&column], [1], "{name}");
        assert_eq!(read(&encoder, &record(json!({})))[&column], [1], "{name} absent");
    }
}

#[test]
fn times_clickhouse_cannot_hold_are_clamped() {
    let row =
        |time: i64| read(&encoder(&[]), &record(json!({"event": {"timestamp": time}})))["timestamp"].clone();
    assert_eq!(row(i64::MAX), MOMENT_MAX.to_le_bytes());
    assert_eq!(row(i64::MIN), MOMENT_MIN.to_le_bytes());
}

proptest! {
    #[test]
    fn any_record_makes_one_whole_row_and_always_the_same(
        texts in prop::collection::vec(".{0,200}", 6),
        time: i64,
        revenue in "[-+0-9.eE]{0,12}",
        // Never `a`, which is declared beside it.
        name in "[b-z`\\\\ ]{1,5}",
        data in r#"\{("[a-z`]{1,3}":(1e999|-?[0-9]{1,30}|"\\\\ud800"|"[a-z]{0,9}"|null|\[\]),?)?\}"#,
    ) {
        let encoder = encoder(&[(&name, PropertyType::Decimal), ("a", PropertyType::Timestamp)]);
        let mut record = record(json!({
            "event": {"timestamp": time, "event_type": texts[0], "user_id": texts[1], "ip": texts[2],
                      "attribution": {"source": texts[3]}, "user_agent": texts[4]},
            "derived": {"created_at": time, "revenue": revenue, "os": texts[5]},
        }));
        record.event.event_data = serde_json::from_str(&data).ok();
        prop_assert_eq!(read(&encoder, &record), read(&encoder, &record));
        prop_assert_eq!(encoder.columns.len(), 33);
    }
}
