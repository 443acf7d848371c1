//! Log records of one partition in, blocks out: what waits between a read and an insert.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::block::{self, Block, Limits, Waiting};
use super::target::{Target, Unreadable};
use crate::log::{LogRecord, TopicInfo};

/// One partition that is ours.
pub(super) struct Partition {
    target: Target,
    /// The topic it belongs to.
    pub(super) topic: TopicInfo,
    /// Epoch of the next block.
    pub(super) epoch: u32,
    /// Most rows of the next block: fewer for a while after one did not fit into ClickHouse's memory.
    pub(super) rows_max: usize,
    /// Where the next block starts: everything before it is in a block.
    pub(super) next: u64,
    /// Nothing behind what waits may be loaded.
    pub(super) stopped: bool,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Since when the first of `waiting` may have been waiting.
    since: Instant,
    /// When the last block was cut.
    cut_at: Option<Instant>,
}

/// Since when records have been waiting that are read at `now`. What came while the block before was inserted could not be
/// read: counted from here, it would wait for the insert and then for its whole age. So it counts from the last cut, by half
/// of the age at most, so that there is time to gather. No block is due earlier than an age behind the one before.
fn waiting_since(now: Instant, cut_at: Option<Instant>, age_max: Duration) -> Instant {
    let earliest = now.checked_sub(age_max / 2).unwrap_or(now);
    cut_at.map_or(now, |cut_at| cut_at.max(earliest).min(now))
}

impl Partition {
    pub(super) fn new(target: Target, topic: TopicInfo, next: u64, epoch: u32) -> Self {
        let since = Instant::now();
        Self {
            target,
            topic,
            epoch,
            rows_max: usize::MAX,
            next,
            stopped: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            since,
            cut_at: None,
        }
    }

    /// Takes records that were read. The first one that cannot be read stops the partition in front of it.
    pub(super) fn take(&mut self, records: Vec<LogRecord>, age_max: Duration) -> Result<(), Unreadable> {
        if self.stopped {
            return Ok(());
        }
        if self.waiting.is_empty() {
            self.since = waiting_since(Instant::now(), self.cut_at, age_max);
        }
        for record in records {
            let waiting = self.target.decode(record).inspect_err(|_| self.stopped = true)?;
            self.waiting_bytes += waiting.bytes;
            self.waiting.push_back(waiting);
        }
        Ok(())
    }

    /// When the first waiting record came, if any waits.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.since)
    }

    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether a block is worth its insert now.
    pub(super) fn is_due(&self, limits: &Limits) -> bool {
        block::is_due(&self.waiting, self.waiting_bytes, self.since.elapsed(), &self.limited(limits))
    }

    /// Takes a block back that could not be carried out; what comes next is of a new epoch and at most half as large.
    pub(super) fn take_back(&mut self, block: Block) {
        self.give_up(&block);
        self.waiting_bytes += block.bytes();
        block.records.into_iter().rev().for_each(|waiting| self.waiting.push_front(waiting));
    }

    /// The same for a block whose records are read again.
    pub(super) fn give_up(&mut self, block: &Block) {
        self.rows_max = (block.records.len() / 2).max(1);
        self.epoch += 1;
        self.next = block.range.start;
    }

    /// A block was stored: the next may be larger again.
    pub(super) fn stored(&mut self, block: &Block) {
        self.rows_max = self.rows_max.saturating_mul(2).max(block.records.len());
    }

    fn limited(&self, limits: &Limits) -> Limits {
        Limits { rows_max: limits.rows_max.min(self.rows_max), ..*limits }
    }

    /// The next block, if anything waits.
    pub(super) fn cut(&mut self, limits: &Limits) -> Option<Block> {
        let limits = self.limited(limits);
        let block = block::cut(self.next, &mut self.waiting, &limits)?;
        self.waiting_bytes -= block.bytes();
        self.next = block.range.end;
        self.cut_at = Some(Instant::now());
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_during_an_insert_waits_since_then_but_gathers_for_half_of_its_age() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let age_max = Duration::from_secs(1);
        for (now, cut_at, since) in [
            (5_000, None, 5_000),
            (5_000, Some(4_900), 4_900),
            (5_000, Some(4_500), 4_500),
            (5_000, Some(4_000), 4_500),
            (5_000, Some(0), 4_500),
            (5_000, Some(5_000), 5_000),
        ] {
            assert_eq!(waiting_since(at(now), cut_at.map(at), age_max), at(since), "{now} {cut_at:?}");
        }
    }
}
