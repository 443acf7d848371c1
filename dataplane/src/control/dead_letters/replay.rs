//! Dead letters in, what is put back into the log out. Pure: which of them, and with which bytes.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use super::{FailedReplay, Letter, LetterId, ReplayReport, Replays};
use crate::log::{LogRecord, NewRecord, TopicInfo, TopicPartition};
use crate::process::decide;
use crate::record::{RECORD_VERSION, RawRecord, ReplayMark, partition_of};

/// A record for `events-raw` and the mark that goes with it.
pub(super) struct Put {
    pub(super) id: LetterId,
    pub(super) replay: u32,
    pub(super) record: NewRecord,
    pub(super) mark: NewRecord,
}

/// Sorts out what is replayed, and counts. Two copies of one event count as one: the second would be dropped as
/// a duplicate today, but not after the dedupe window.
pub(super) fn plan(letters: Vec<Letter>, replays: &Replays, report: &mut ReplayReport) -> Vec<Letter> {
    let mut planned: Vec<Letter> = Vec::new();
    let mut keys = std::collections::HashSet::new();
    for letter in letters {
        if replays.is_replayed(&letter.key, letter.replay()) || !keys.insert(letter.key.clone()) {
            report.counts.already_replayed += 1;
        } else {
            report.counts.replayed += 1;
            planned.push(letter);
        }
    }
    planned
}

/// Notes a dead letter that cannot be replayed.
pub(super) fn fail(report: &mut ReplayReport, id: LetterId, why: &str) {
    report.counts.failed += 1;
    report.failed.push(FailedReplay { id, why: why.to_owned() });
}

/// Whether the letter is enough to put its record back.
pub(super) fn carries_its_record(letter: &Letter) -> bool {
    letter.letter.record.is_some() || letter.letter.bytes.is_some()
}

/// The record to append and its mark; `None` where neither the letter nor `original`, the record at its place in
/// `events-raw`, has the bytes. What can be read goes back marked as a replay, under its event id; what cannot
/// goes back as it was, for a build that can.
pub(super) fn put_back(
    letter: &Letter,
    original: Option<LogRecord>,
    raw: &TopicInfo,
    dead_letters: &TopicInfo,
    now_ms: i64,
) -> Option<Put> {
    let replay = letter.replay() + 1;
    let (key, value) = match (&letter.record, original) {
        (Some(record), _) => marked(record.clone(), letter),
        (None, Some(original)) => match decide::open(&original.value) {
            Ok(record) => marked(record, letter),
            Err(_) => (original.key, original.value),
        },
        (None, None) => (letter.key.clone(), unread_bytes(letter)?),
    };
    let mark = json(&ReplayMark { v: RECORD_VERSION, replayed_at: now_ms, replay });
    Some(Put {
        id: letter.id,
        replay,
        record: NewRecord { to: place(raw, partition_of(&key, raw.partitions)), key, value },
        mark: NewRecord {
            to: place(dead_letters, letter.id.partition),
            key: letter.key.clone(),
            value: mark,
        },
    })
}

fn marked(mut record: RawRecord, letter: &Letter) -> (Bytes, Bytes) {
    record.origin.replay += 1;
    record.set_aside = Some(letter.letter.reason);
    (Bytes::copy_from_slice(record.event.event_id.as_bytes()), json(&record))
}

fn unread_bytes(letter: &Letter) -> Option<Bytes> {
    match (&letter.letter.record, &letter.letter.bytes) {
        (Some(json), _) => Some(Bytes::copy_from_slice(json.get().as_bytes())),
        (None, Some(text)) => STANDARD.decode(text).ok().map(Bytes::from),
        (None, None) => None,
    }
}

fn place(topic: &TopicInfo, partition: u32) -> TopicPartition {
    TopicPartition { topic: Arc::clone(&topic.name), partition }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("records have text keys and no failing serializer").into()
}
