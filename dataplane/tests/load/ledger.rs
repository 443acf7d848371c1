//! The statements of the ledger on the real engine: what they add up, and what they take once.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_crds::schema;
use millrace_dataplane::ledger::balance::{Closing, Equation, Minute, Verdict};
use millrace_dataplane::ledger::sum::Sum;
use millrace_dataplane::query::ledger::{self, Sample, Span};
use millrace_dataplane::query::{Param, Row};
use millrace_dataplane::record;
use millrace_dataplane::store::{QueryLimits, Question};

use crate::engine;
use crate::fixture::{Fixture, event_id};

/// Far from the hours of the fixture's events.
const MINUTE: i64 = 30_000_000;

async fn rows<const N: usize>(fixture: &Fixture, sql: &str, params: [(&'static str, Param); N]) -> Vec<Row> {
    let params = ledger::on_database(&fixture.database, params);
    engine::store().rows(Question { sql, params: &params }, QueryLimits::default()).await.unwrap()
}

async fn read(fixture: &Fixture, span: Span) -> BTreeMap<i64, Minute> {
    let mut minutes = ledger::counted(rows(fixture, ledger::SQL_COUNTED, span.params()).await).unwrap();
    ledger::stored(rows(fixture, ledger::SQL_STORED, span.params()).await, &mut minutes).unwrap();
    minutes
}

/// Writes rows: instance, kind, reason, count, sum, milliseconds of `recorded_at`.
async fn write(fixture: &Fixture, rows: &[(&str, &str, &str, i64, u64, i64)]) {
    let value = |(instance, kind, reason, count, sum, recorded_at): &(&str, &str, &str, i64, u64, i64)| {
        format!(
            "(toDateTime({}, 'UTC'), '{instance}', '{kind}', '{reason}', {count}, {sum}, \
             fromUnixTimestamp64Milli(toInt64({recorded_at}), 'UTC'))",
            MINUTE * 60
        )
    };
    let values = rows.iter().map(value).collect::<Vec<_>>().join(", ");
    let insert = format!(
        "INSERT INTO {}.ledger (minute, instance, kind, reason, count, sum, recorded_at) VALUES {values}",
        schema::identifier(&fixture.database)
    );
    engine::store().client().query_raw(&insert).execute().await.unwrap();
}

#[tokio::test]
async fn what_ingest_repeated_counts_once_and_every_row_of_process_counts() {
    let fixture = Fixture::new("ledger_counted").await;
    let half = 1_u64 << 63;
    write(
        &fixture,
        &[
            ("a", "acknowledged", "", 2, half, 1),
            ("a", "acknowledged", "", 2, half, 1),
            ("a", "unknown", "", 1, 7, 2),
            ("a", "unknown", "", 1, 7, 2),
            ("a", "unknown", "", 1, 7, 3),
            ("a", "refused", "invalid_field", 4, 0, 4),
            ("a", "closed", "", 0, 0, 5),
            ("a", "closed", "", 0, 0, 5),
            ("a", "raw", "", 1, half, 9),
            ("a", "raw", "", 1, half, 9),
            ("a", "dead_lettered", "missing_property", 2, 8, 9),
            ("a", "dead_lettered", "missing_property", -1, 8_u64.wrapping_neg(), 9),
            ("a", "processed", "", 1, u64::MAX, 9),
            ("", "breached", "stored", 1, 5, 9),
            ("", "breached", "stored", -1, 5_u64.wrapping_neg(), 9),
        ],
    )
    .await;
    let span = Span { from: MINUTE, to: MINUTE + 1 };
    let minute = read(&fixture, span).await.remove(&MINUTE).unwrap();
    let ingest = &minute.instances["a"];
    assert_eq!(ingest.acknowledged, Sum { count: 2, hashes: half });
    assert_eq!((ingest.unknown.as_slice(), ingest.closed), ([7, 7].as_slice(), true));
    assert_eq!(ingest.raw, Sum { count: 2, hashes: 0 }, "sums wrap");
    assert_eq!(minute.refused, BTreeMap::from([("invalid_field".to_owned(), 4)]));
    assert_eq!(minute.dead_lettered(), Sum { count: 1, hashes: 0 });
    assert_eq!(minute.processed, Sum { count: 1, hashes: u64::MAX });
    assert!(minute.breached.is_empty(), "taken back");
    assert_eq!(rows(&fixture, ledger::SQL_BREACHED, span.params()).await, [] as [Row; 0]);

    write(&fixture, &[("", "breached", "stored", 1, 5, 10)]).await;
    let breached = ledger::counted(rows(&fixture, ledger::SQL_BREACHED, span.params()).await).unwrap();
    let of = (String::new(), Equation::Stored);
    assert_eq!(breached[&MINUTE].breached[&of], Sum { count: 1, hashes: 5 });
    assert_eq!(breached[&MINUTE].verdict(Closing::Over), Verdict::Breached);
    let minutes = ledger::minutes(
        rows(
            &fixture,
            "SELECT toInt64(intDiv(toUnixTimestamp(minute), 60)) AS at FROM {database:Identifier}.ledger \
              WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} LIMIT 1",
            span.params(),
        )
        .await,
    );
    assert_eq!(minutes, Ok(vec![MINUTE]));
}

#[tokio::test]
async fn stored_events_are_counted_in_the_minute_they_were_received_in() {
    let fixture = Fixture::new("ledger_stored").await;
    let events = 40;
    fixture.push(0..events);
    fixture.load_all(engine::store(), events).await;
    let everything = Span { from: 25_000_000, to: 40_000_000 };
    let minutes = read(&fixture, everything).await;
    assert_eq!(minutes.len(), usize::try_from(events).unwrap(), "13 hours apart");
    for (id, (_, minute)) in (0..events).zip(&minutes) {
        assert_eq!(minute.stored, Sum::one(record::event_hash(&event_id(id))));
    }
}

#[tokio::test]
async fn rows_of_one_event_are_found_in_a_minute_and_shortly_before_it() {
    let fixture = Fixture::new("ledger_repeated").await;
    let write = async |values: &str| {
        let insert = format!(
            "INSERT INTO {}.events (event_id, received_at, timestamp) VALUES {values}",
            schema::identifier(&fixture.database)
        );
        engine::store().client().query_raw(&insert).execute().await.unwrap();
    };
    let row = |id: u64, minute: i64| {
        let at = format!("toDateTime({}, 'UTC')", minute * 60);
        format!("('{}', {at}, {at})", event_id(id))
    };
    let all = [(1, 0), (2, 0), (2, 0), (2, 3), (3, 1), (3, 2), (4, -11), (4, 0), (5, -1), (5, 5)];
    write(&all.map(|(id, minute)| row(id, MINUTE + minute)).join(", ")).await;
    let found = async |from, to, window_minutes| {
        let span = Span { from: MINUTE + from, to: MINUTE + to };
        let sample = Sample::of(span, 4, Duration::from_mins(window_minutes));
        let mut minutes = BTreeMap::new();
        let rows = rows(&fixture, ledger::SQL_REPEATED, sample.params()).await;
        ledger::repeated(rows, &mut minutes).unwrap();
        minutes.into_iter().map(|(minute, counted)| (minute - MINUTE, counted.repeated)).collect::<Vec<_>>()
    };
    let repeated = |id, times| Sum::all(&vec![record::event_hash(&event_id(id)); times]);
    assert_eq!(found(0, 1, 60).await, [(0, repeated(2, 1))], "one eleven minutes before is not looked for");
    assert_eq!(found(2, 5, 60).await, [(2, repeated(3, 1)), (3, repeated(2, 2))]);
    assert_eq!(found(5, 6, 60).await, [(5, repeated(5, 1))]);
    assert_eq!(found(5, 6, 5).await, [], "further apart than the window");
}
