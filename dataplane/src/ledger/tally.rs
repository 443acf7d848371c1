//! The records of one batch of process in, its rows of the ledger out. Pure.

use std::collections::BTreeMap;

use super::keeper::new_record;
use super::sum::Sum;
use crate::log::{NewRecord, TopicInfo};
use crate::record::{DeadLetterReason, LedgerKind, LedgerRecord, Origin, RECORD_VERSION};

/// Who accepted a record, and the hash it is counted by.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    place: usize,
    hash: u64,
}

/// Counts by minute, instance, kind and reason.
#[derive(Debug, Default)]
pub struct Tally {
    /// Instances in the order they were met; a batch has few.
    instances: Vec<String>,
    places: Vec<(usize, i64)>,
    sums: BTreeMap<(usize, LedgerKind, &'static str), Sum>,
}

impl Tally {
    /// Counts a record as read from raw, or, where it is a replay, as taken back from the dead letters.
    pub fn read(&mut self, origin: &Origin, set_aside: Option<DeadLetterReason>, hash: u64) -> Counted {
        let counted = Counted { place: self.place(&origin.instance, origin.minute), hash };
        if origin.replay == 0 {
            self.add(counted, LedgerKind::Raw, "", Sum::one(hash));
        } else {
            self.add(counted, LedgerKind::Replayed, "", Sum::one(hash));
            let (kind, reason) = set_aside.map_or((LedgerKind::DeadLettered, ""), set_aside_as);
            self.add(counted, kind, reason, -Sum::one(hash));
        }
        counted
    }

    /// Counts a copy.
    pub fn deduplicated(&mut self, counted: Counted) {
        self.add(counted, LedgerKind::Deduplicated, "", Sum::one(counted.hash));
    }

    /// Counts a record that goes on.
    pub fn processed(&mut self, counted: Counted) {
        self.add(counted, LedgerKind::Processed, "", Sum::one(counted.hash));
    }

    /// Counts a record that is set aside.
    pub fn dead_lettered(&mut self, counted: Counted, reason: DeadLetterReason) {
        let (kind, reason) = set_aside_as(reason);
        self.add(counted, kind, reason, Sum::one(counted.hash));
    }

    /// The rows, to be written in the transaction of the batch.
    pub fn records(&self, topic: &TopicInfo, now_ms: i64) -> Vec<NewRecord> {
        let row = |(&(place, kind, reason), sum): (&(usize, LedgerKind, &'static str), &Sum)| {
            let (instance, minute) = self.places[place];
            let record = LedgerRecord {
                v: RECORD_VERSION,
                minute,
                instance: self.instances[instance].clone(),
                kind,
                reason: reason.to_owned(),
                count: sum.count,
                sum: sum.hashes,
                recorded_at: now_ms,
            };
            new_record(&record, &topic.name, topic.partitions)
        };
        self.sums.iter().filter(|(_, sum)| !sum.is_zero()).map(row).collect()
    }

    fn add(&mut self, counted: Counted, kind: LedgerKind, reason: &'static str, sum: Sum) {
        *self.sums.entry((counted.place, kind, reason)).or_default() += sum;
    }

    fn place(&mut self, instance: &str, minute: i64) -> usize {
        let known = self.instances.iter().position(|known| known == instance);
        let instance = known.unwrap_or_else(|| {
            self.instances.push(instance.to_owned());
            self.instances.len() - 1
        });
        // The newest first: records of one minute stand together.
        let known = self.places.iter().rposition(|place| *place == (instance, minute));
        known.unwrap_or_else(|| {
            self.places.push((instance, minute));
            self.places.len() - 1
        })
    }
}

/// What is older than the retention is counted apart from what is wrong.
fn set_aside_as(reason: DeadLetterReason) -> (LedgerKind, &'static str) {
    match reason {
        DeadLetterReason::Expired => (LedgerKind::Expired, ""),
        DeadLetterReason::UnreadableRecord
        | DeadLetterReason::UndeclaredEvent
        | DeadLetterReason::MissingProperty
        | DeadLetterReason::InvalidProperty
        | DeadLetterReason::TooLarge => (LedgerKind::DeadLettered, reason.as_str()),
    }
}
