//! Blocks in `Native` hold what the same rows in `RowBinary` hold, for every table and type.

use millrace_crds::config::PropertyType;
use millrace_dataplane::load::native::Native;
use millrace_dataplane::load::row::{Encoder, Position};
use millrace_dataplane::load::rowbinary::RowBinary;
use millrace_dataplane::load::target::{Record, Target};
use millrace_dataplane::record::{LedgerKind, LedgerRecord};
use millrace_dataplane::store::{Format, Insert};
use serde_json::json;
use serde_json::value::RawValue;

use crate::engine;
use crate::fixture::{Fixture, record};

const PROPERTIES: [(&str, PropertyType); 6] = [
    ("s", PropertyType::String),
    ("i", PropertyType::Integer),
    ("f", PropertyType::Float),
    ("d", PropertyType::Decimal),
    ("b", PropertyType::Boolean),
    ("t", PropertyType::Timestamp),
];

/// Rows of many values: few and many different texts, NULLs, documents of every kind.
fn events(count: u64) -> Vec<Record> {
    let event = |id: u64| {
        let mut record = record(id);
        record.event.event_type = format!("type-{}", id % 300);
        record.event.session_id = id.is_multiple_of(3).then(|| format!("ü-{id}"));
        record.event.ip = Some("x".repeat(usize::try_from(id % 200).unwrap()));
        let data = match id % 4 {
            0 => {
                json!({"s": format!("text {id}"), "i": id, "f": 0.5, "d": "12.5", "b": true, "t": 1_700_000_000_000_u64})
            }
            1 => json!({"a.b": {"c": [1, "x", null]}, "s": 7}),
            2 => json!({}),
            _ => json!({"nested": {"k": id, "z": "2020-01-01"}}),
        };
        record.event.event_data = Some(RawValue::from_string(data.to_string()).unwrap());
        Record::Event(record)
    };
    (0..count).map(event).collect()
}

fn ledger(count: u64) -> Vec<Record> {
    let row = |id: u64| {
        Record::Ledger(LedgerRecord {
            v: 1,
            minute: 29_000_000 + i64::try_from(id).unwrap(),
            instance: format!("pod-{}", id % 3),
            kind: LedgerKind::ALL[usize::try_from(id % 12).unwrap()],
            reason: String::new(),
            count: -1,
            sum: u64::MAX - id,
            recorded_at: 7,
        })
    };
    (0..count).map(row).collect()
}

async fn insert(fixture: &Fixture, target: Target, format: Format, records: &[Record]) {
    let app = fixture.config.load().apps().values().next().unwrap().clone();
    let encoder = Encoder::new(target, &app.config);
    let (mut native, mut rows) = (Native::new(encoder.columns()), RowBinary::default());
    for (offset, record) in (0_u64..).zip(records) {
        let position = Position { epoch: 1, partition: 2, offset };
        match format {
            Format::Native => encoder.encode(record, position, &mut native),
            Format::RowBinary => encoder.encode(record, position, &mut rows),
        }
    }
    let bytes = match format {
        Format::Native => native.into_bytes(),
        Format::RowBinary => rows.into_bytes(),
    };
    let insert = Insert {
        database: &fixture.database,
        table: target.table(),
        columns: encoder.columns(),
        token: &format!("{}-{format:?}", fixture.database),
        format,
        rows: bytes.into(),
    };
    engine::store().insert(insert).await.unwrap();
}

async fn check(test: &str, target: Target, records: &[Record]) {
    let mut tables = Vec::new();
    for (format, name) in [(Format::Native, "native"), (Format::RowBinary, "rowbinary")] {
        let fixture = Fixture::new(&format!("format_{test}_{name}")).await;
        fixture.declare(&PROPERTIES).await;
        insert(&fixture, target, format, records).await;
        let sql = format!("SELECT * FROM {{db:Identifier}}.{} ORDER BY log_offset", target.table());
        let rows: Vec<serde_json::Value> = fixture.all(&sql).await;
        assert_eq!(rows.len(), records.len());
        tables.push(rows);
    }
    for (native, oracle) in tables[0].iter().zip(&tables[1]) {
        assert_eq!(native, oracle);
    }
}

#[tokio::test]
async fn events_are_the_same_in_both_formats() {
    check("events", Target::Events, &events(2_000)).await;
}

#[tokio::test]
async fn rows_of_the_ledger_are_the_same_in_both_formats() {
    check("ledger", Target::Ledger, &ledger(500)).await;
}
