use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_crds::config::{Events, OnUndeclared};
use serde_json::json;

use super::*;
use crate::load::rowbinary::RowBinary;
use crate::log::LogRecord;

/// Splits a row by the types the schema gives its columns: name → bytes of the value. Fails when it does not fit.
pub(super) fn values(columns: &[Column], row: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut rest = row;
    let mut values = BTreeMap::new();
    for column in columns {
        let before = rest;
        rest = after_value(&column.kind, rest);
        values.insert(column.name.clone(), before[..before.len() - rest.len()].to_vec());
    }
    assert!(rest.is_empty(), "{} bytes too many", rest.len());
    values
}

fn after_value<'a>(kind: &str, bytes: &'a [u8]) -> &'a [u8] {
    if let Some(inner) = kind.strip_prefix("Nullable(") {
        let inner = inner.strip_suffix(')').unwrap();
        return match bytes[0] {
            0 => after_value(inner, &bytes[1..]),
            1 => &bytes[1..],
            other => panic!("{other} is no NULL flag"),
        };
    }
    match kind {
        "Bool" => &bytes[1..],
        "UInt32" | "DateTime('UTC')" => &bytes[4..],
        "UInt64" | "Int64" | "Float64" | "DateTime64(3, 'UTC')" => &bytes[8..],
        "UUID" | "Decimal(38, 9)" => &bytes[16..],
        _ if kind.contains("String") || kind.starts_with("JSON") => {
            let (mut length, mut shift, mut at) = (0, 0, 0);
            loop {
                length |= usize::from(bytes[at] & 0x7f) << shift;
                at += 1;
                shift += 7;
                if bytes[at - 1] < 0x80 {
                    break;
                }
            }
            &bytes[at + length..]
        }
        other => panic!("unknown type {other}"),
    }
}

fn text(value: &str) -> Vec<u8> {
    let mut out = RowBinary::default();
    out.text(value);
    out.into_bytes()
}

/// The row a record of a topic becomes, by the columns its table has.
fn row(target: Target, key: &[u8], value: serde_json::Value) -> BTreeMap<String, Vec<u8>> {
    let events = Events {
        on_undeclared: OnUndeclared::Keep,
        declared: [].into(),
        revenue: None,
        conversions: [].into(),
        dedupe_window_ms: 1,
    };
    let tables = schema::desired("d", &events, 60).tables;
    let columns = tables.into_iter().find(|table| table.name == target.table()).unwrap().columns;
    let encoder = Encoder::of(target, "default/shop".to_owned(), &events);
    assert_eq!(encoder.columns(), columns);
    let value = value.to_string().into_bytes().into();
    let record = LogRecord { offset: 3, appended_at: 0, key: Bytes::copy_from_slice(key), value };
    let waiting = target.decode(record).unwrap();
    let mut out = RowBinary::default();
    encoder.encode(&waiting.record, Position { epoch: 1, partition: 2, offset: waiting.offset }, &mut out);
    values(&columns, &out.into_bytes())
}

fn raw_record(replay: u32) -> serde_json::Value {
    let event = json!({
        "event_id": "00112233-4455-6677-8899-aabbccddeeff", "event_type": "purchase", "timestamp": 1, "received_at": 2,
    });
    json!({"v": 1, "event": event, "origin": {"instance": "i", "minute": 5, "replay": replay}})
}

fn letter(reason: &str, record: serde_json::Value) -> serde_json::Value {
    json!({"v": 1, "reason": reason, "detail": "why", "dead_lettered_at": 9, "raw_partition": 4, "raw_offset": 6,
           "record": record})
}

const EVENT_ID: &str = "7766554433221100ffeeddccbbaa9988";

#[test]
fn a_dead_letter_tells_what_its_record_says() {
    let row = row(Target::DeadLetters, b"key", letter("missing_property", raw_record(2)));
    for (column, value) in [
        ("app_id", "default/shop"),
        ("entry", "dead_letter"),
        ("reason", "missing_property"),
        ("detail", "why"),
        ("event_type", "purchase"),
        ("bytes", ""),
    ] {
        assert_eq!(row[column], text(value), "{column}");
    }
    assert_eq!(hex::encode(&row["event_id"]), format!("00{EVENT_ID}"));
    assert_eq!(row["record"], text(&raw_record(2).to_string()));
    assert_eq!(row["dead_lettered_at"], 9_i64.to_le_bytes());
    assert_eq!(row["received_at"], 2_i64.to_le_bytes());
    assert_eq!(row["minute"], 300_u32.to_le_bytes());
    assert_eq!(row["replay"], 2_u32.to_le_bytes());
    assert_eq!(
        (&row["raw_partition"][..], &row["raw_offset"][..]),
        (&[4, 0, 0, 0][..], &6_u64.to_le_bytes()[..])
    );
    assert_eq!(
        (&row["log_epoch"][..], &row["log_offset"][..]),
        (&[1, 0, 0, 0][..], &3_u64.to_le_bytes()[..])
    );
}

#[test]
fn a_letter_that_cannot_be_read_has_no_event() {
    for letter in [
        letter("unreadable_record", raw_record(1)),
        letter("too_large", json!(["other"])),
        letter("expired", serde_json::Value::Null),
    ] {
        let row = row(Target::DeadLetters, b"", letter);
        assert_eq!(row["event_id"], [1], "NULL");
        assert_eq!((&row["event_type"], &row["minute"][..]), (&text(""), &[0; 4][..]));
    }
}

#[test]
fn a_replay_mark_bears_the_id_that_its_key_says() {
    let mark = json!({"v": 1, "replayed_at": 9, "replay": 3});
    let by_event =
        row(Target::DeadLetters, &hex::decode("00112233445566778899aabbccddeeff").unwrap(), mark.clone());
    assert_eq!(by_event["entry"], text("replayed"));
    assert_eq!(hex::encode(&by_event["event_id"]), format!("00{EVENT_ID}"));
    assert_eq!(
        (&by_event["replay"][..], &by_event["dead_lettered_at"][..]),
        (&[3, 0, 0, 0][..], &9_i64.to_le_bytes()[..])
    );
    let by_position = row(Target::DeadLetters, &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 6], mark.clone());
    assert_eq!(by_position["event_id"], [1]);
    assert_eq!(
        (&by_position["raw_partition"][..], &by_position["raw_offset"][..]),
        (&[4, 0, 0, 0][..], &6_u64.to_le_bytes()[..])
    );
    assert_eq!(row(Target::DeadLetters, b"odd", mark)["event_id"], [1]);
}

#[test]
fn a_record_of_the_ledger_is_a_row() {
    let record = json!({"v": 1, "minute": 29_000_000, "instance": "pod", "kind": "dead_lettered", "reason": "expired",
                        "count": -1, "sum": u64::MAX, "recorded_at": 7});
    let row = row(Target::Ledger, b"", record);
    for (column, value) in [("instance", "pod"), ("kind", "dead_lettered"), ("reason", "expired")] {
        assert_eq!(row[column], text(value), "{column}");
    }
    assert_eq!(row["minute"], 1_740_000_000_u32.to_le_bytes());
    assert_eq!((&row["count"][..], &row["sum"][..]), (&[0xff; 8][..], &[0xff; 8][..]));
    assert_eq!(row["recorded_at"], 7_i64.to_le_bytes());
}

#[test]
fn minutes_clickhouse_cannot_hold_are_clamped() {
    for (minutes, seconds) in [(-1, 0), (i64::MIN, 0), (i64::MAX, u32::MAX), (71_582_788, 4_294_967_280)] {
        let mut out = RowBinary::default();
        minute(minutes, &mut out);
        assert_eq!(out.into_bytes(), seconds.to_le_bytes(), "{minutes}");
    }
}

#[test]
fn what_a_newer_build_wrote_is_not_read() {
    for (target, value) in [
        (Target::DeadLetters, json!({"v": 2, "replayed_at": 9, "replay": 3})),
        (Target::DeadLetters, letter("a_new_reason", raw_record(0))),
        (
            Target::Ledger,
            json!({"v": 1, "minute": 1, "instance": "", "kind": "new", "count": 0, "sum": 0, "recorded_at": 0}),
        ),
        (Target::Events, json!({"v": 1})),
    ] {
        let value = value.to_string().into_bytes().into();
        let record = LogRecord { offset: 3, appended_at: 0, key: Bytes::new(), value };
        let text = target.decode(record).unwrap_err().to_string();
        assert!(
            text.starts_with("the record at offset 3 is none of version 1") && text.contains("newer build"),
            "{text}"
        );
    }
}
