//! Dead letters and rows of the ledger are stored once each, whatever fails, as events are.

use bytes::Bytes;
use millrace_dataplane::load::target::Target;
use millrace_dataplane::load::{self, LoadError};
use millrace_dataplane::log::LogError;
use millrace_dataplane::record::{self, LedgerKind, LedgerRecord};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::engine;
use crate::fixture::{Fixture, PARTITIONS, event_id};
use crate::log::CommitFate::{Crash, Kept, KeptAnswerLost, Refused};
use crate::proxy::{Fault, Proxy};

const RECORDS: u64 = 120;

/// Loads what `record` makes while inserts and commits fail; a loader that ends is started again.
async fn load(target: Target, test: &str, record: impl Fn(u64) -> (Bytes, serde_json::Value)) -> Fixture {
    let fixture = Fixture::of(target, test, engine::store()).await;
    let faults = [Fault::LoseAnswer, Fault::CutBody, Fault::FailAnswer, Fault::LoseAnswer];
    let proxy = Proxy::start(engine::url(), faults).await;
    let fates = [Kept, Crash, KeptAnswerLost, Kept, Refused, Crash];
    fixture.log.script(fates);
    for id in 0..RECORDS {
        let (key, value) = record(id);
        let partition = u32::try_from(id).unwrap() % PARTITIONS;
        fixture.log.push_with_key(partition, key, value.to_string().into_bytes());
    }
    for _ in fates.iter().filter(|fate| matches!(fate, Crash)) {
        let ended = load::run(fixture.loader(engine::store_at(&proxy.url)), CancellationToken::new()).await;
        assert!(matches!(ended, Err(LoadError::Log { source: LogError::Closed, .. })), "{ended:?}");
    }
    fixture.load_all(engine::store_at(&proxy.url), RECORDS).await;
    assert!(proxy.is_used_up());
    assert!(fixture.inserts("repeated") >= 1);
    fixture
}

#[tokio::test]
async fn rows_of_the_ledger() {
    let hash = |id| record::event_hash(&event_id(id));
    let fixture = load(Target::Ledger, "targets_ledger", |id| {
        let replayed = id.is_multiple_of(10);
        let record = LedgerRecord {
            v: 1,
            minute: 29_000_000 + i64::try_from(id % 3).unwrap(),
            instance: "pod".to_owned(),
            kind: if replayed { LedgerKind::DeadLettered } else { LedgerKind::Processed },
            reason: String::new(),
            count: if replayed { -1 } else { 1 },
            sum: if replayed { hash(id).wrapping_neg() } else { hash(id) },
            recorded_at: 7,
        };
        (Bytes::copy_from_slice(&record.key()), serde_json::to_value(record).unwrap())
    });
    let rows: Vec<serde_json::Value> = fixture
        .await
        .all(
            "SELECT toUnixTimestamp(minute) DIV 60 AS minute, kind, sum(count) AS count, sumWithOverflow(sum) AS sum \
             FROM {db:Identifier}.ledger GROUP BY minute, kind ORDER BY kind, minute",
        )
        .await;
    let expected = |kind: &str, minute: u64| {
        let replayed = kind == "dead_lettered";
        let ids = (0..RECORDS).filter(|id| id.is_multiple_of(10) == replayed && id % 3 == minute);
        let (count, sum) =
            ids.fold((0_i64, 0_u64), |(count, sum), id| (count + 1, sum.wrapping_add(hash(id))));
        let (count, sum) = if replayed { (-count, sum.wrapping_neg()) } else { (count, sum) };
        json!({"minute": 29_000_000 + minute, "kind": kind, "count": count, "sum": sum})
    };
    let kinds = ["dead_lettered", "processed"];
    let expected: Vec<_> =
        kinds.iter().flat_map(|kind| (0..3).map(|minute| expected(kind, minute))).collect();
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn dead_letters_and_their_marks() {
    let fixture = load(Target::DeadLetters, "targets_dead_letters", |id| {
        let at = 1_760_000_000_000_u64 + id;
        let value = if id.is_multiple_of(10) {
            json!({"v": 1, "replayed_at": at, "replay": 1})
        } else {
            json!({"v": 1, "reason": "undeclared_event", "detail": "why", "dead_lettered_at": at,
                   "raw_partition": 0, "raw_offset": id, "record": raw_record(event_id(id))})
        };
        (Bytes::copy_from_slice(event_id(id).as_bytes()), value)
    });
    let rows: Vec<serde_json::Value> = fixture
        .await
        .all(
            "SELECT entry, reason, event_type, count() AS rows, uniqExact(event_id) AS ids, \
             sumWithOverflow(xxh3(toString(event_id))) AS sum, max(toUnixTimestamp(minute)) AS minute, \
             countIf(JSONExtractString(record, 'event', 'event_id') = toString(event_id)) AS kept \
             FROM {db:Identifier}.dead_letters GROUP BY entry, reason, event_type ORDER BY entry",
        )
        .await;
    let sum = |replayed: bool| {
        let ids = (0..RECORDS).filter(move |id| id.is_multiple_of(10) == replayed);
        ids.map(|id| record::event_hash(&event_id(id))).fold(0, u64::wrapping_add)
    };
    assert_eq!(
        rows,
        [
            json!({"entry": "dead_letter", "reason": "undeclared_event", "event_type": "purchase", "rows": 108,
                   "ids": 108, "sum": sum(false), "minute": 300, "kept": 108}),
            json!({"entry": "replayed", "reason": "", "event_type": "", "rows": 12, "ids": 12, "sum": sum(true),
                   "minute": 0, "kept": 0}),
        ]
    );
}

fn raw_record(event_id: Uuid) -> serde_json::Value {
    let event = json!({"event_id": event_id, "event_type": "purchase", "timestamp": 1, "received_at": 2});
    json!({"v": 1, "event": event, "origin": {"instance": "i", "minute": 5}})
}
