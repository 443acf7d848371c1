//! What is loaded where: a topic's kind in, the table, its group and the reading of its records out. Pure.

use millrace_crds::names::TopicKind;
use millrace_crds::schema::{DEAD_LETTERS, EVENTS, LEDGER};
use xxhash_rust::xxh3::xxh3_64;

use super::block::Waiting;
use super::row::{DeadLetterRow, stored_moment};
use crate::log::LogRecord;
use crate::record::{DeadLetterEntry, LedgerRecord, ProcessedRecord, RECORD_VERSION, event_hash};

/// One topic and the table it fills. Each is loaded by itself, so that a table that takes no rows holds up no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `events-processed` into `events`.
    Events,
    /// `dead-letters` into `dead_letters`.
    DeadLetters,
    /// `ledger` into `ledger`.
    Ledger,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 3] = [Self::Events, Self::DeadLetters, Self::Ledger];

    /// The topic read.
    pub fn topic(self) -> TopicKind {
        match self {
            Self::Events => TopicKind::EventsProcessed,
            Self::DeadLetters => TopicKind::DeadLetters,
            Self::Ledger => TopicKind::Ledger,
        }
    }

    /// The table filled.
    pub fn table(self) -> &'static str {
        match self {
            Self::Events => EVENTS,
            Self::DeadLetters => DEAD_LETTERS,
            Self::Ledger => LEDGER,
        }
    }

    /// The column by which the table is partitioned.
    pub(super) fn time_column(self) -> &'static str {
        match self {
            Self::Events => "timestamp",
            Self::DeadLetters => "dead_lettered_at",
            Self::Ledger => "minute",
        }
    }

    /// [`Record::fingerprint`] of a row.
    pub(super) fn fingerprint_sql(self) -> &'static str {
        match self {
            Self::Events => "xxh3(toString(event_id))",
            Self::DeadLetters => "toUInt64(toUnixTimestamp64Milli(dead_lettered_at)) + raw_offset",
            Self::Ledger => "toUInt64(toUnixTimestamp64Milli(recorded_at)) + sum",
        }
    }

    /// The last part of the name of the group that loads it.
    pub fn stage(self) -> &'static str {
        match self {
            Self::Events => "load",
            Self::DeadLetters => "load-dead-letters",
            Self::Ledger => "load-ledger",
        }
    }

    /// Reads a record of the topic. What cannot be read must not be stepped over.
    pub fn decode(self, record: LogRecord) -> Result<Waiting, Unreadable> {
        let LogRecord { offset, appended_at, key, value } = record;
        let unreadable =
            |error: serde_json::Error| Unreadable { target: self, offset, column: Some(error.column()) };
        let (version, id_hash, record) = match self {
            Self::Events => {
                let record: ProcessedRecord = serde_json::from_slice(&value).map_err(unreadable)?;
                (record.v, event_hash(&record.event.event_id), Record::Event(record))
            }
            Self::DeadLetters => {
                let entry = DeadLetterEntry::parse(&value).map_err(unreadable)?;
                (
                    entry.version(),
                    xxh3_64(&value),
                    Record::DeadLetter(Box::new(DeadLetterRow::new(&key, entry))),
                )
            }
            Self::Ledger => {
                let record: LedgerRecord = serde_json::from_slice(&value).map_err(unreadable)?;
                (record.v, xxh3_64(&value), Record::Ledger(record))
            }
        };
        if version > RECORD_VERSION {
            return Err(Unreadable { target: self, offset, column: None });
        }
        Ok(Waiting { offset, appended_at, bytes: value.len(), id_hash, record })
    }
}

/// A record that is read.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are events; a box would cost an allocation for each"
)]
pub enum Record {
    /// Of `events-processed`.
    Event(ProcessedRecord),
    /// Of `dead-letters`.
    DeadLetter(Box<DeadLetterRow>),
    /// Of `ledger`.
    Ledger(LedgerRecord),
}

impl Record {
    /// Tells whether a row is of this record, where their positions agree.
    pub(super) fn fingerprint(&self) -> u64 {
        match self {
            Self::Event(record) => event_hash(&record.event.event_id),
            Self::DeadLetter(row) => stored_moment(row.at).cast_unsigned().wrapping_add(row.raw_offset),
            Self::Ledger(record) => {
                stored_moment(record.recorded_at).cast_unsigned().wrapping_add(record.sum)
            }
        }
    }

    /// When the system took in what it tells, UTC epoch milliseconds; 0 where nobody knows.
    pub(super) fn accepted_at(&self) -> i64 {
        match self {
            Self::Event(record) => record.event.received_at,
            Self::DeadLetter(row) => row.received_at,
            Self::Ledger(record) => record.recorded_at,
        }
    }

    /// When it was, UTC epoch milliseconds: what the table is partitioned by.
    pub(super) fn moment(&self) -> i64 {
        match self {
            Self::Event(record) => record.event.timestamp,
            Self::DeadLetter(row) => row.at,
            Self::Ledger(record) => record.minute.saturating_mul(60_000),
        }
    }
}

/// A record that this build cannot read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the record at offset {offset} is none of version {RECORD_VERSION} for table `{}`{}; load it with a newer build",
    target.table(),
    column.map(|column| format!(" (column {column})")).unwrap_or_default()
)]
pub struct Unreadable {
    target: Target,
    offset: u64,
    /// Where its JSON is wrong. The parser's own words may quote the record.
    column: Option<usize>,
}
