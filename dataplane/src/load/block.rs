//! Records of one partition in, blocks out: how many of the waiting records the next insert takes.
//! Pure: time comes as an age.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::intent::Range;
use super::target::Record;

/// When waiting records become a block, and how large it gets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most rows of a block. Insert cost per row stops falling there (0.5 µs).
    pub rows_max: usize,
    /// Most bytes of a block, as they stand in the log.
    pub bytes_max: usize,
    /// Longest wait of a record for others.
    pub age_max: Duration,
    /// Most calendar months of a block: each becomes a part of its own, and many small parts are poison.
    pub months_max: usize,
    /// Most bytes waiting over all partitions of the App; then everything is flushed before more is read.
    pub buffer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rows_max: 100_000,
            bytes_max: 32 << 20,
            age_max: Duration::from_secs(1),
            months_max: 24,
            buffer_bytes_max: 64 << 20,
        }
    }
}

/// A record that waits for its block.
#[derive(Debug)]
pub struct Waiting {
    /// Its offset.
    pub offset: u64,
    /// When the log took it, UTC epoch milliseconds.
    pub appended_at: i64,
    /// Its size in the log.
    pub bytes: usize,
    /// What intents add up: `record::event_hash` of an event's id, a hash of the value elsewhere.
    pub id_hash: u64,
    /// The record.
    pub record: Record,
}

/// The rows of one insert.
#[derive(Debug)]
pub struct Block {
    /// Offsets it covers: also those that hold no record (transaction markers).
    pub range: Range,
    /// Its records, in the order of their offsets; never empty.
    pub records: Vec<Waiting>,
}

impl Block {
    /// Rows of the block.
    pub fn rows(&self) -> u64 {
        self.records.len() as u64
    }

    /// Its bytes, as they stand in the log.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|waiting| waiting.bytes).sum()
    }

    /// Wrapping sum of its records' `id_hash`.
    pub fn id_sum(&self) -> u64 {
        self.records.iter().map(|waiting| waiting.id_hash).fold(0, u64::wrapping_add)
    }
}

/// Takes the next block from the front of `waiting`; `start` is the partition's committed offset. At least one
/// record is taken, however large; `None` when none waits.
pub fn cut(start: u64, waiting: &mut VecDeque<Waiting>, limits: &Limits) -> Option<Block> {
    let count = fitting(waiting, limits);
    let records: Vec<Waiting> = waiting.drain(..count).collect();
    let end = records.last()?.offset + 1;
    Some(Block { range: Range { start, end }, records })
}

/// Whether the front of `waiting` is worth an insert now: old enough, or as much as one block takes.
pub fn is_due(waiting: &VecDeque<Waiting>, bytes: usize, age: Duration, limits: &Limits) -> bool {
    !waiting.is_empty()
        && (age >= limits.age_max || waiting.len() >= limits.rows_max || bytes >= limits.bytes_max)
}

fn fitting(waiting: &VecDeque<Waiting>, limits: &Limits) -> usize {
    let mut bytes = 0;
    let mut months = BTreeSet::new();
    for (count, next) in waiting.iter().enumerate() {
        bytes += next.bytes;
        months.insert(month(next.record.moment()));
        let fits = count < limits.rows_max && bytes <= limits.bytes_max && months.len() <= limits.months_max;
        if count > 0 && !fits {
            return count;
        }
    }
    waiting.len()
}

/// The calendar month in UTC, `YYYYMM`. Times no calendar reaches share one: ClickHouse clamps them.
pub(super) fn month(milliseconds: i64) -> i32 {
    let date = Timestamp::from_millisecond(milliseconds).map(|at| at.to_zoned(TimeZone::UTC).date());
    date.map_or(0, |date| i32::from(date.year()) * 100 + i32::from(date.month()))
}

#[cfg(test)]
mod tests;
