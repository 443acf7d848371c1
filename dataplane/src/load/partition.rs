//! Log records of one partition in, blocks out: what waits between a read and an insert.

use std::collections::VecDeque;
use std::time::Instant;

use super::block::{self, Block, Limits, Waiting};
use crate::log::{LogRecord, TopicInfo};
use crate::record::{ProcessedRecord, RECORD_VERSION};

/// One partition that is ours.
pub(super) struct Partition {
    /// The topic it belongs to.
    pub(super) topic: TopicInfo,
    /// Where the next block starts: everything before it is in a block.
    pub(super) next: u64,
    /// Nothing behind what waits may be loaded.
    pub(super) stopped: bool,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// When the first of `waiting` came.
    since: Instant,
}

impl Partition {
    pub(super) fn new(topic: TopicInfo, next: u64) -> Self {
        let since = Instant::now();
        Self { topic, next, stopped: false, waiting: VecDeque::new(), waiting_bytes: 0, since }
    }

    /// Takes records that were read. The first one that cannot be read stops the partition in front of it.
    pub(super) fn take(&mut self, records: Vec<LogRecord>) -> Result<(), Unreadable> {
        if self.stopped {
            return Ok(());
        }
        if self.waiting.is_empty() {
            self.since = Instant::now();
        }
        for record in records {
            let waiting = decode(record).inspect_err(|_| self.stopped = true)?;
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
        block::is_due(&self.waiting, self.waiting_bytes, self.since.elapsed(), limits)
    }

    /// The next block, if anything waits.
    pub(super) fn cut(&mut self, limits: &Limits) -> Option<Block> {
        let block = block::cut(self.next, &mut self.waiting, limits)?;
        self.waiting_bytes -= block.bytes();
        self.next = block.range.end;
        Some(block)
    }
}

/// A record that this build cannot read as a processed one: loading must not step over it.
#[derive(Debug, thiserror::Error)]
#[error(
    "the record at offset {offset} is not a processed record of version {RECORD_VERSION}{}; load it with a newer build",
    column.map(|column| format!(" (column {column})")).unwrap_or_default()
)]
pub(super) struct Unreadable {
    offset: u64,
    /// Where its JSON is wrong. The parser's own words may quote the record.
    column: Option<usize>,
}

pub(super) fn decode(record: LogRecord) -> Result<Waiting, Unreadable> {
    let LogRecord { offset, appended_at, value, .. } = record;
    let record: ProcessedRecord = serde_json::from_slice(&value)
        .map_err(|error| Unreadable { offset, column: Some(error.column()) })?;
    if record.v > RECORD_VERSION {
        return Err(Unreadable { offset, column: None });
    }
    Ok(Waiting { offset, appended_at, bytes: value.len(), record })
}
