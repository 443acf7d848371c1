//! Records of the topic `ledger` in; which minutes are to be looked at, and which position may be kept, out. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ledger::balance::Closing;
use crate::ledger::passed::Ends;
use crate::log::{Commit, Committed, LogRecord, TopicInfo, TopicPartition};
use crate::query::ledger::Span;
use crate::record::{LedgerKind, LedgerRecord};

/// Minutes between two that are read together all the same.
const GAP_MAX: i64 = 10;
/// Most minutes read by one statement.
const SPAN_MAX: i64 = 720;

/// Minutes that are not settled, of the partitions that are ours.
#[derive(Debug, Default)]
pub(super) struct OpenMinutes {
    partitions: BTreeMap<u32, Read>,
    minutes: BTreeMap<i64, Open>,
}

/// How far a partition was read.
#[derive(Debug, Default)]
struct Read {
    next: Option<u64>,
    committed: Option<u64>,
}

#[derive(Debug)]
struct Open {
    partition: u32,
    first: u64,
    last: u64,
    /// Whether an instance closed it since it was looked at.
    closed: bool,
}

impl OpenMinutes {
    pub(super) fn assign(&mut self, partition: u32) {
        self.partitions.insert(partition, Read::default());
    }

    pub(super) fn revoke(&mut self, partition: u32) {
        self.partitions.remove(&partition);
        self.minutes.retain(|_, open| open.partition != partition);
    }

    /// Whether there is anything to compare here.
    pub(super) fn is_ours(&self) -> bool {
        !self.partitions.is_empty()
    }

    /// How many minutes are not settled.
    pub(super) fn count(&self) -> usize {
        self.minutes.len()
    }

    pub(super) fn partitions(&self) -> BTreeSet<u32> {
        self.partitions.keys().copied().collect()
    }

    /// Takes records in. What a comparison wrote itself is no reason to compare again, and what cannot be read stops
    /// the loader, which says so.
    pub(super) fn take(&mut self, partition: u32, records: &[LogRecord]) {
        let Some(read) = self.partitions.get_mut(&partition) else { return };
        for record in records {
            read.next = Some(record.offset + 1);
            let Ok(row) = serde_json::from_slice::<LedgerRecord>(&record.value) else { continue };
            if row.kind == LedgerKind::Breached {
                continue;
            }
            let open = self.minutes.entry(row.minute).or_insert(Open {
                partition,
                first: record.offset,
                last: record.offset,
                closed: false,
            });
            open.last = record.offset;
            open.closed |= row.kind == LedgerKind::Closed;
        }
    }

    /// Minutes to look at: those an instance has closed, and those no instance is going to.
    pub(super) fn due(&self, now: i64) -> BTreeSet<i64> {
        let is_due =
            |(minute, open): &(&i64, &Open)| open.closed || Closing::of(**minute, now) == Closing::Over;
        self.minutes.iter().filter(is_due).map(|(minute, _)| *minute).collect()
    }

    /// Looks at a minute again when another instance has closed it, or it is old.
    pub(super) fn wait_for_closing(&mut self, minute: i64) {
        if let Some(open) = self.minutes.get_mut(&minute) {
            open.closed = false;
        }
    }

    /// Forgets a minute that was compared, unless a record came that was not in the tables yet.
    pub(super) fn settle(&mut self, minute: i64, loaded: &Ends) {
        let is_whole =
            |open: &Open| loaded.iter().any(|(of, end)| of.partition == open.partition && open.last < *end);
        if self.minutes.get(&minute).is_some_and(is_whole) {
            self.minutes.remove(&minute);
        }
    }

    /// Positions worth keeping: before the first record of a minute that is not settled.
    pub(super) fn positions(&self, topic: &TopicInfo) -> Vec<Commit> {
        let mut positions = Vec::new();
        for (partition, read) in &self.partitions {
            let of_partition = self.minutes.values().filter(|open| open.partition == *partition);
            let Some(next) = of_partition.map(|open| open.first).chain(read.next).min() else { continue };
            if read.committed.is_none_or(|committed| committed < next) {
                positions.push(Commit {
                    of: TopicPartition { topic: Arc::clone(&topic.name), partition: *partition },
                    committed: Committed { offset: next, metadata: String::new() },
                });
            }
        }
        positions
    }

    /// They are kept.
    pub(super) fn committed(&mut self, positions: &[Commit]) {
        for Commit { of, committed } in positions {
            if let Some(read) = self.partitions.get_mut(&of.partition) {
                read.committed = Some(committed.offset);
            }
        }
    }
}

/// Spans that hold the minutes, the oldest first.
pub(super) fn spans(minutes: &BTreeSet<i64>, spans_max: usize) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for minute in minutes {
        let fits = |span: &&mut Span| minute - span.to <= GAP_MAX && minute - span.from < SPAN_MAX;
        if let Some(span) = spans.last_mut().filter(fits) {
            span.to = minute + 1;
        } else if spans.len() < spans_max {
            spans.push(Span { from: *minute, to: minute + 1 });
        } else {
            break;
        }
    }
    spans
}
