//! A batch of raw records in, everything its transaction writes out. Reads the dedupe store and changes
//! nothing: what is decided here becomes true only when the transaction commits, and the same batch can be
//! decided again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::config::App;
use crate::ledger::tally::{Counted, Tally};
use crate::log::{Commit, Committed, LogRecord, NewRecord, TopicInfo, TopicPartition};
use crate::process::decide::{self, Input, Outcome, Refusal};
use crate::process::seen::changelog;
use crate::process::seen::{Entry, Position, Seen, SeenError};
use crate::record::{DeadLetter, DeadLetterReason, ProcessedRecord, RawRecord, event_hash, partition_of};

/// Records of one App's `events-raw` that are decided together.
#[derive(Clone, Default)]
pub struct Batch {
    records: Vec<(u32, LogRecord)>,
    bytes: usize,
}

impl Batch {
    /// Adds records of one partition, in order.
    pub fn push(&mut self, partition: u32, records: Vec<LogRecord>) {
        self.bytes += records.iter().map(|record| record.key.len() + record.value.len()).sum::<usize>();
        self.records.extend(records.into_iter().map(|record| (partition, record)));
    }

    /// Takes out the records of a partition that is no longer ours.
    pub fn remove(&mut self, partition: u32) {
        self.records.retain(|(of, _)| *of != partition);
    }

    /// Records in it.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is nothing to decide.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// For each partition the record that stands last.
    pub fn last(&self) -> BTreeMap<u32, &LogRecord> {
        self.records.iter().map(|(partition, record)| (*partition, record)).collect()
    }

    /// The positions behind it.
    pub fn positions(&self, topic: &Arc<str>) -> Vec<Commit> {
        let behind = |(partition, record): (u32, &LogRecord)| Commit {
            of: TopicPartition { topic: Arc::clone(topic), partition },
            committed: Committed { offset: record.offset + 1, metadata: String::new() },
        };
        self.last().into_iter().map(behind).collect()
    }
}

/// Where a batch's outputs go.
#[derive(Clone, Debug)]
pub struct Targets {
    /// `events-processed`.
    pub processed: TopicInfo,
    /// `dead-letters`.
    pub dead_letters: TopicInfo,
    /// `seen`.
    pub seen: TopicInfo,
    /// `ledger`.
    pub ledger: TopicInfo,
}

/// What a batch is decided by.
pub struct Rules<'a> {
    /// The App as configured now.
    pub app: &'a App,
    /// Where outputs go.
    pub targets: &'a Targets,
    /// UTC epoch milliseconds.
    pub now_ms: i64,
    /// Largest record, key and value, that the log is known to take.
    pub record_bytes_max: usize,
}

/// A decided batch.
#[derive(Default)]
pub struct Decided {
    /// Processed records, dead letters, changelog entries and rows of the ledger.
    pub records: Vec<NewRecord>,
    /// What the dedupe store is told once the transaction has committed.
    pub entries: Vec<Entry>,
    /// Records per outcome, by the name it has in metrics. They add up to the batch.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Optional properties that did not fit, by name.
    pub misfits: BTreeMap<String, u64>,
    /// Size of the largest record in `records`.
    pub largest_bytes: usize,
    tally: Tally,
}

/// Decides every record, in order. A copy of an event earlier in the same batch counts like one in the store.
pub fn decide(batch: &Batch, seen: &Seen, rules: &Rules<'_>) -> Result<Decided, SeenError> {
    let mut decided = Decided::default();
    let mut staged: HashMap<Uuid, Position> = HashMap::with_capacity(batch.len());
    for (partition, raw) in &batch.records {
        let own = Position { partition: *partition, offset: raw.offset, appended_at: raw.appended_at };
        let opened = decide::open(&raw.value);
        let counted = decided.read(opened.as_ref().ok(), raw);
        let first = match &opened {
            Ok(record) => first_copy(&record.event.event_id, own, &staged, seen)?,
            Err(_) => None,
        };
        let input = Input { app: &rules.app.config, partition: *partition, raw, now_ms: rules.now_ms };
        let outcome = decide::decide(opened, first, &input);
        if let Some(entry) = decided.take(outcome, &input, rules, counted) {
            staged.insert(entry.event_id, entry.at);
            decided.entries.push(entry);
            decided.push(changelog::encode(&rules.targets.seen, &entry));
        }
    }
    for row in decided.tally.records(&rules.targets.ledger, rules.now_ms) {
        decided.push(row);
    }
    Ok(decided)
}

fn first_copy(
    event_id: &Uuid,
    own: Position,
    staged: &HashMap<Uuid, Position>,
    seen: &Seen,
) -> Result<Option<Position>, SeenError> {
    match staged.get(event_id).filter(|at| at.precedes(own, seen.window_ms())) {
        Some(at) => Ok(Some(*at)),
        None => seen.lookup(event_id, own),
    }
}

impl Decided {
    /// Counts a record in the ledger, before anything is decided about it.
    fn read(&mut self, opened: Option<&RawRecord>, raw: &LogRecord) -> Counted {
        match opened {
            Some(record) => {
                self.tally.read(&record.origin, record.set_aside, event_hash(&record.event.event_id))
            }
            None => {
                let accepted = decide::accepted(raw);
                self.tally.read(&accepted.origin, None, accepted.hash)
            }
        }
    }

    /// Writes an outcome down; returns the entry for dedupe where the event goes on.
    fn take(
        &mut self,
        outcome: Outcome,
        input: &Input<'_>,
        rules: &Rules<'_>,
        counted: Counted,
    ) -> Option<Entry> {
        match outcome {
            Outcome::Duplicate { of: _ } => {
                self.tally.deduplicated(counted);
                self.count("duplicate");
                None
            }
            Outcome::DeadLetter(letter) => {
                self.tally.dead_lettered(counted, letter.reason);
                self.push_dead_letter(&letter, input, rules);
                None
            }
            Outcome::Processed { record, misfits } => {
                let new = processed(&record, &rules.targets.processed);
                if bytes(&new) > rules.record_bytes_max {
                    self.tally.dead_lettered(counted, DeadLetterReason::TooLarge);
                    let letter = decide::dead_letter(too_large(bytes(&new), rules), input);
                    self.push_dead_letter(&letter, input, rules);
                    return None;
                }
                self.push(new);
                self.tally.processed(counted);
                self.count("processed");
                for name in misfits {
                    *self.misfits.entry(name).or_default() += 1;
                }
                let (partition, raw) = (input.partition, input.raw);
                let at = Position { partition, offset: raw.offset, appended_at: raw.appended_at };
                Some(Entry { event_id: record.event.event_id, at })
            }
        }
    }

    /// A dead letter that is itself too large goes without the record, which stands in raw.
    fn push_dead_letter(&mut self, letter: &DeadLetter, input: &Input<'_>, rules: &Rules<'_>) {
        let topic = &rules.targets.dead_letters;
        let mut new = dead_letter(letter, input.raw, topic);
        if bytes(&new) > rules.record_bytes_max {
            let detail = format!("{}; {}", letter.detail, "too large to be kept here, read it in events-raw");
            let refusal = Refusal { reason: letter.reason, detail };
            new = dead_letter(&decide::dead_letter_without_body(refusal, input), input.raw, topic);
        }
        self.push(new);
        self.count(letter.reason.as_str());
    }

    fn push(&mut self, record: NewRecord) {
        self.largest_bytes = self.largest_bytes.max(bytes(&record));
        self.records.push(record);
    }

    fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }
}

fn too_large(bytes: usize, rules: &Rules<'_>) -> Refusal {
    let detail = format!("{bytes} bytes once processed; the log takes {}", rules.record_bytes_max);
    Refusal { reason: DeadLetterReason::TooLarge, detail }
}

/// Keyed by user, so that one user's events stay in order.
fn processed(record: &ProcessedRecord, topic: &TopicInfo) -> NewRecord {
    let key = record.derived.user_key.to_be_bytes();
    NewRecord { to: place(topic, &key), key: Bytes::copy_from_slice(&key), value: json(record) }
}

/// Keyed by event id where the letter carries a record that can be read, else by raw position: only then does the
/// letter itself tell how often it was replayed.
fn dead_letter(letter: &DeadLetter, raw: &LogRecord, topic: &TopicInfo) -> NewRecord {
    let is_readable = letter.record.is_some() && letter.reason != DeadLetterReason::UnreadableRecord;
    let key = match Uuid::from_slice(&raw.key) {
        Ok(_) if is_readable => raw.key.clone(),
        Ok(_) | Err(_) => position_key(letter.raw_partition, letter.raw_offset),
    };
    NewRecord { to: place(topic, &key), key, value: json(letter) }
}

/// Key of what has no event id: 4 bytes partition, 8 bytes offset, big endian.
fn position_key(partition: u32, offset: u64) -> Bytes {
    [&partition.to_be_bytes()[..], &offset.to_be_bytes()].concat().into()
}

fn place(topic: &TopicInfo, key: &[u8]) -> TopicPartition {
    TopicPartition { topic: Arc::clone(&topic.name), partition: partition_of(key, topic.partitions) }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("records have text keys and no failing serializer").into()
}

fn bytes(record: &NewRecord) -> usize {
    record.key.len() + record.value.len()
}
