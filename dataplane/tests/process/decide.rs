//! Every decision on one record, and that there is one for any bytes.

use std::collections::BTreeSet;

use bytes::Bytes;
use millrace_crds::config::{AppConfig, OnUndeclared};
use millrace_dataplane::log::{LogRecord, TopicInfo};
use millrace_dataplane::process::batch::{self, Batch, Decided, Rules, Targets};
use millrace_dataplane::process::decide::{self, Input, Outcome};
use millrace_dataplane::process::seen::{Position, SeenStore};
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::{DAY_MS, app, app_config, app_id, purchase, raw_json};

const NOW: i64 = 1_700_000_000_000;

fn judge(value: Vec<u8>, app: &AppConfig, first: Option<Position>) -> Outcome {
    let raw = LogRecord { offset: 7, appended_at: NOW, key: Bytes::new(), value: value.into() };
    decide::decide(decide::open(&raw.value), first, &Input { app, partition: 3, raw: &raw, now_ms: NOW })
}

/// The outcome in a few words.
fn shown(outcome: Outcome) -> String {
    match outcome {
        Outcome::Processed { record, misfits } => {
            let derived = record.derived;
            let revenue = derived.revenue.unwrap_or_default();
            format!("processed [{revenue}{}] {}", derived.currency, misfits.join(",")).trim_end().to_owned()
        }
        Outcome::Duplicate { of } => format!("duplicate of {}:{}", of.partition, of.offset),
        Outcome::DeadLetter(letter) => format!("{}: {}", letter.reason.as_str(), letter.detail),
    }
}

fn check(app: &AppConfig, event_type: &str, event_data: &Value, expected: &str) {
    let record = raw_json(Uuid::nil(), event_type, NOW, event_data);
    assert_eq!(
        shown(judge(record.to_string().into_bytes(), app, None)),
        expected,
        "{event_type} {event_data}"
    );
}

#[test]
fn checks_declared_properties_and_derives_revenue() {
    let app = app_config();
    let with = |name: &str, value: Value| {
        let mut data = purchase();
        data[name] = value;
        data
    };
    for (data, expected) in [
        (purchase(), "processed [19.99EUR]"),
        (with("items", json!(3)), "processed [19.99EUR]"),
        (with("items", json!("three")), "processed [19.99EUR] items"),
        (with("items", json!(null)), "processed [19.99EUR]"),
        (with("undeclared", json!({"deep": []})), "processed [19.99EUR]"),
        (with("currency", json!("euro")), "processed [19.99]"),
        (with("currency", json!("€€€")), "processed [19.99]"),
        (with("currency", json!(978)), "processed [19.99]"),
        (with("price", json!("0.10")), "processed [0.1EUR]"),
        (with("price", json!(-5)), "processed [-5EUR]"),
        (with("price", json!(null)), "missing_property: required property `price` is missing"),
        (
            with("price", json!("cheap")),
            "invalid_property: required property `price`: it is other text, not a decimal",
        ),
        (
            with("order_id", json!(1)),
            "invalid_property: required property `order_id`: it is a number, not text",
        ),
        (json!({"price": 1}), "missing_property: required property `order_id` is missing"),
        (json!({}), "missing_property: required property `order_id` is missing"),
    ] {
        check(&app, "purchase", &data, expected);
    }
}

#[test]
fn an_undeclared_type_is_kept_or_set_aside_as_the_app_rules() {
    let mut app = app_config();
    check(&app, "page_view", &json!({"price": "cheap"}), "processed [] price");
    check(&app, "page_view", &json!({"price": 3}), "processed [3]");
    app.events.on_undeclared = OnUndeclared::DeadLetter;
    let expected = "undeclared_event: event type `page_view` is not declared; add it to spec.events.declared or set onUndeclared: Keep";
    check(&app, "page_view", &json!({}), expected);
    check(&app, "purchase", &purchase(), "processed [19.99EUR]");
    app.events.revenue = None;
    check(&app, "purchase", &purchase(), "processed []");
}

#[test]
fn an_event_older_than_the_retention_is_expired() {
    let app = app_config();
    let oldest = NOW - i64::try_from(app.storage.retention_seconds).unwrap() * 1000;
    let at = |timestamp| {
        let record = raw_json(Uuid::nil(), "page_view", timestamp, &json!({}));
        shown(judge(record.to_string().into_bytes(), &app, None))
    };
    assert_eq!(at(oldest), "processed []");
    assert!(at(oldest - 1).starts_with("expired: "));
    assert!(at(i64::MIN).starts_with("expired: "));
    assert_eq!(at(i64::MAX), "processed []");
    let mut for_ever = app_config();
    for_ever.storage.retention_seconds = u64::MAX;
    let record = raw_json(Uuid::nil(), "page_view", 0, &json!({}));
    assert_eq!(shown(judge(record.to_string().into_bytes(), &for_ever, None)), "processed []");
}

#[test]
fn what_was_already_stored_is_a_duplicate_whatever_the_rules_say_today() {
    let first = Some(Position { partition: 1, offset: 2, appended_at: NOW });
    let record = raw_json(Uuid::nil(), "purchase", 0, &json!({}));
    assert_eq!(shown(judge(record.to_string().into_bytes(), &app_config(), first)), "duplicate of 1:2");
}

#[test]
fn what_cannot_be_read_is_set_aside_with_its_bytes_and_no_value_in_the_detail() {
    for (value, expected) in [
        (&b"secret"[..], "unreadable_record: the bytes are not JSON, at byte 1"),
        (b"", "unreadable_record: the bytes are not JSON, at byte 0"),
        (b"\xff\xfe", "unreadable_record: the bytes are not JSON, at byte 1"),
        (br#"{"v":1}"#, "unreadable_record: the bytes are JSON, but not a raw record, at byte 7"),
        (br#"{"v":"secret"}"#, "unreadable_record: the bytes are JSON, but not a raw record, at byte 13"),
    ] {
        let outcome = judge(value.to_vec(), &app_config(), None);
        let Outcome::DeadLetter(letter) = &outcome else { panic!("{outcome:?}") };
        let is_json = serde_json::from_slice::<Value>(value).is_ok();
        assert_eq!((letter.record.is_some(), letter.bytes.is_some()), (is_json, !is_json));
        assert_eq!((letter.raw_partition, letter.raw_offset), (3, 7));
        assert_eq!(shown(outcome), expected);
    }
    let mut newer = raw_json(Uuid::nil(), "page_view", NOW, &json!({}));
    newer["v"] = json!(2);
    let outcome = shown(judge(newer.to_string().into_bytes(), &app_config(), None));
    assert_eq!(outcome, "unreadable_record: version 2 of the record; this build reads version 1");
}

#[test]
fn derives_user_platform_and_conversion() {
    let mut record = raw_json(Uuid::nil(), "purchase", NOW, &purchase());
    record["event"]["platform"] = json!(" iOS ");
    record["event"]["user_agent"] =
        json!("Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0");
    let Outcome::Processed { record, .. } = judge(record.to_string().into_bytes(), &app_config(), None)
    else {
        panic!("not processed")
    };
    let derived = record.derived;
    assert_eq!((derived.platform.as_str(), derived.browser.as_str()), ("ios", "Firefox"));
    assert_eq!((derived.os.as_str(), derived.device_type.as_str()), ("Linux", "desktop"));
    assert_eq!(derived.user_key, xxhash_rust::xxh3::xxh3_64(b"ann"));
    assert!(derived.is_conversion);
    assert_eq!(derived.created_at, NOW);
}

/// A batch of retries, garbage and rule breaks in any order, decided on an empty store.
fn decide_mixed(kinds: &[(u8, u8)]) -> (usize, Decided) {
    let dir = tempfile::TempDir::new().unwrap();
    let store = SeenStore::open(dir.path()).unwrap();
    let seen = store.app(&app_id(), Uuid::nil(), DAY_MS).unwrap();
    let mut batch = Batch::default();
    for (offset, (id, kind)) in (0..).zip(kinds) {
        let event_id = Uuid::from_u128(u128::from(*id));
        let value = match kind {
            0 => b"garbage".to_vec(),
            1 => raw_json(event_id, "purchase", NOW, &json!({})).to_string().into_bytes(),
            2 => raw_json(event_id, "purchase", 0, &purchase()).to_string().into_bytes(),
            _ => raw_json(event_id, "purchase", NOW, &purchase()).to_string().into_bytes(),
        };
        let key = Bytes::copy_from_slice(event_id.as_bytes());
        batch.push(0, vec![LogRecord { offset, appended_at: NOW, key, value: value.into() }]);
    }
    let info = |name: &str| TopicInfo { name: name.into(), id: Uuid::nil(), partitions: 2 };
    let targets =
        Targets { processed: info("p"), dead_letters: info("d"), seen: info("s"), ledger: info("l") };
    let app = app(app_config());
    let rules = Rules { app: &app, targets: &targets, now_ms: NOW, record_bytes_max: usize::MAX };
    (batch.len(), batch::decide(&batch, &seen, &rules).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_record_of_a_batch_has_one_outcome_and_every_valid_event_is_processed_once(
        kinds in prop::collection::vec((0_u8..6, 0_u8..5), 0..40),
    ) {
        let (records, decided) = decide_mixed(&kinds);
        prop_assert_eq!(decided.outcomes.values().sum::<u64>(), records as u64);
        let valid: BTreeSet<u8> = kinds.iter().filter(|(_, kind)| *kind > 2).map(|(id, _)| *id).collect();
        let processed: Vec<_> = decided.records.iter().filter(|new| &*new.to.topic == "p").collect();
        let ids: BTreeSet<Uuid> = decided.entries.iter().map(|entry| entry.event_id).collect();
        prop_assert_eq!((processed.len(), ids.len(), decided.entries.len()), (valid.len(), valid.len(), valid.len()));
        let duplicates = decided.outcomes.get("duplicate").copied().unwrap_or(0);
        let (rows, records_written): (Vec<_>, Vec<_>) =
            decided.records.iter().partition(|new| &*new.to.topic == "l");
        prop_assert_eq!(rows.is_empty(), records == 0, "the ledger has rows of every batch");
        let written = records_written.len() as u64 + duplicates;
        prop_assert_eq!(written, (records + valid.len()) as u64, "one record each, and an entry per processed one");
    }
}

proptest! {
    #[test]
    fn any_bytes_get_a_decision(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let outcome = judge(bytes, &app_config(), None);
        prop_assert!(matches!(outcome, Outcome::DeadLetter(_)));
    }

    #[test]
    fn any_damage_to_a_record_gets_a_decision_that_can_be_written_and_read(
        at in 0_usize..400,
        with in prop::collection::vec(any::<u8>(), 0..6),
        data in "\\PC{0,40}",
    ) {
        let data = json!({"order_id": data, "price": data, "currency": data});
        let mut bytes = raw_json(Uuid::nil(), "purchase", NOW, &data).to_string().into_bytes();
        let at = at.min(bytes.len());
        let end = (at + with.len()).min(bytes.len());
        bytes.splice(at..end, with);
        match judge(bytes.clone(), &app_config(), None) {
            Outcome::DeadLetter(letter) => {
                let written = serde_json::to_vec(&letter).unwrap();
                let read: millrace_dataplane::record::DeadLetter = serde_json::from_slice(&written).unwrap();
                match (read.record, read.bytes) {
                    (Some(record), None) => prop_assert_eq!(record.get().as_bytes(), bytes.trim_ascii()),
                    (None, Some(text)) => {
                        use base64::Engine;
                        let kept = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
                        prop_assert_eq!(kept, bytes);
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            Outcome::Processed { record, .. } => {
                let written = serde_json::to_vec(&record).unwrap();
                serde_json::from_slice::<millrace_dataplane::record::ProcessedRecord>(&written).unwrap();
            }
            Outcome::Duplicate { .. } => prop_assert!(false, "there was no first copy"),
        }
    }
}
