//! Admitted events in, durable records out, or what to tell the client when the log does not take them.
//! Nothing is called accepted here before the log returned `Ok` for every record of the request.

use std::error::Error;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use jiff::Timestamp;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::accept::Server;
use super::decide::{Decided, Outcome};
use super::tenant::RawTopic;
use crate::failpoint::{self, Defect, Point};
use crate::ledger::book::{Entry, minute_of};
use crate::log::spill::OFFSET_LATER;
use crate::log::{Log, LogError, NewRecord, TopicPartition};
use crate::record::{Event, Origin, RECORD_VERSION, RawRecord, event_hash, partition_of};

/// What a record holds beside the event's own bytes, for the first allocation: ids, times, address, user agent.
const RECORD_OVERHEAD_BYTES: usize = 512;
/// Seconds until a retry makes sense. A range, so that clients which failed together do not return together.
const RETRY_BUSY: RangeInclusive<u32> = 1..=3;
const RETRY_BROKEN: RangeInclusive<u32> = 5..=15;
/// A full disk is rarely emptied within seconds.
const RETRY_FULL: RangeInclusive<u32> = 30..=60;

/// Where the records of a request go, and in whose name.
pub(super) struct Destination {
    pub(super) topic: RawTopic,
    pub(super) instance: String,
}

/// Turns the events of one request into records, all in one buffer.
pub(super) struct Encoder {
    topic: RawTopic,
    origin: Origin,
    buffer: Vec<u8>,
    places: Vec<Place>,
}

/// Where a record goes, and where its key and its value end in the buffer.
struct Place {
    partition: u32,
    key: usize,
    value: usize,
}

impl Encoder {
    pub(super) fn new(to: Destination, accepted_at: Timestamp, body_bytes: usize) -> Self {
        Self {
            topic: to.topic,
            origin: Origin { instance: to.instance, minute: minute_of(accepted_at), replay: 0 },
            buffer: Vec::with_capacity(body_bytes + RECORD_OVERHEAD_BYTES),
            places: Vec::new(),
        }
    }

    /// The record of one event: keyed by its id, so that a retry meets its first copy in the same partition.
    pub(super) fn add(&mut self, event: Event) {
        let id = event.event_id;
        self.buffer.extend_from_slice(id.as_bytes());
        let key = self.buffer.len();
        let empty = Origin { instance: String::new(), minute: 0, replay: 0 };
        let origin = std::mem::replace(&mut self.origin, empty);
        let raw = RawRecord { v: RECORD_VERSION, event, origin, set_aside: None };
        serde_json::to_writer(&mut self.buffer, &raw)
            .expect("a record has text keys and finite numbers only, and the buffer grows");
        self.origin = raw.origin;
        let partition = partition_of(id.as_bytes(), self.topic.partitions);
        self.places.push(Place { partition, key, value: self.buffer.len() });
    }

    /// The records, in the order in which they were added. They may wait long, so their buffer has no room to spare.
    pub(super) fn finish(self) -> Vec<NewRecord> {
        let buffer = Bytes::from(self.buffer.into_boxed_slice());
        let mut at = 0;
        let mut record = |Place { partition, key, value }| {
            let to = TopicPartition { topic: Arc::clone(&self.topic.name), partition };
            let record = NewRecord { to, key: buffer.slice(at..key), value: buffer.slice(key..value) };
            at = value;
            record
        };
        let mut records = Vec::with_capacity(self.places.len());
        records.extend(self.places.into_iter().map(&mut record));
        records
    }
}

/// Appends what was admitted; returns what is true afterwards. `entry` learns which events were acknowledged, and of
/// which nobody knows whether they are in the log.
pub(super) async fn append(
    server: &Server,
    decided: Decided,
    mut entry: Entry,
) -> Result<Vec<Outcome>, AppendError> {
    let Decided { mut outcomes, mut records, held, .. } = decided;
    records.truncate(
        records.len() - usize::from(!records.is_empty() && failpoint::has(Defect::IngestLosesEvent)),
    );
    if !records.is_empty() {
        let time_max = server.limits.append_max;
        let log = server.ingest.log.as_ref();
        // A client that was told to retry does so with the same event ids, and dedupe knows those: records that
        // went in without an acknowledgement in time are not stored twice.
        let appended =
            tokio::time::timeout(time_max, append_what_fits(log, records, &mut outcomes, &mut entry))
                .await
                .unwrap_or(Err(AppendError::TimedOut { seconds_max: time_max.as_secs_f32() }));
        server.log_state.note(&appended);
        appended?;
    }
    entry.refused(outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Accepted(_) => None,
        Outcome::Rejected { code, .. } => Some(*code),
    }));
    // By what the client is told, not by what was handed to the log: the two must not be able to differ unseen.
    entry.acknowledged(outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Accepted(id) => Some(event_hash(id)),
        Outcome::Rejected { .. } => None,
    }));
    drop(held);
    Ok(outcomes)
}

/// Only the log knows what is too large for it. Those events are refused one by one, and the others go in once more:
/// if the log had taken some of them before it complained, dedupe knows their ids.
async fn append_what_fits(
    log: &dyn Log,
    mut records: Vec<NewRecord>,
    outcomes: &mut [Outcome],
    entry: &mut Entry,
) -> Result<(), AppendError> {
    failpoint::reach(Point::IngestAdmitted).await.map_err(|source| AppendError::Log { source })?;
    match append_all(log, records.clone(), entry).await {
        Err(AppendError::Log { source: LogError::TooLarge { bytes, bytes_max } }) => {
            let before = records.len();
            refuse_larger(&mut records, outcomes, bytes_max);
            if records.len() == before {
                return Err(AppendError::Log { source: LogError::TooLarge { bytes, bytes_max } });
            }
            if records.is_empty() { Ok(()) } else { append_all(log, records, entry).await }
        }
        other => other,
    }
}

async fn append_all(log: &dyn Log, records: Vec<NewRecord>, entry: &mut Entry) -> Result<(), AppendError> {
    let count = records.len();
    entry.appending(records.iter().map(hash_of).collect());
    let offsets = log.append(records).await.map_err(|source| {
        if source.took_nothing() {
            entry.not_appended()
        } else {
            entry.unknown()
        }
        AppendError::Log { source }
    })?;
    failpoint::reach(Point::IngestAppended).await.map_err(|source| AppendError::Log { source })?;
    if offsets.contains(&OFFSET_LATER) {
        entry.later(log.later().end);
    }
    // Cheap, and the last moment at which a log that forgets a record can be caught.
    if offsets.len() == count { Ok(()) } else { Err(AppendError::Incomplete) }
}

/// What the ledger counts the event of a record by; its key is the event's id.
fn hash_of(record: &NewRecord) -> u64 {
    Uuid::from_slice(&record.key).map_or(0, |id| event_hash(&id))
}

/// Takes out the records over the limit and marks their events as refused.
fn refuse_larger(records: &mut Vec<NewRecord>, outcomes: &mut [Outcome], bytes_max: usize) {
    let accepted = outcomes.iter_mut().filter(|outcome| matches!(outcome, Outcome::Accepted(_)));
    let mut fits = Vec::with_capacity(records.len());
    for (outcome, record) in accepted.zip(records.iter()) {
        let bytes = record.key.len() + record.value.len();
        fits.push(bytes <= bytes_max);
        if bytes > bytes_max {
            *outcome = Outcome::Rejected {
                code: "event_too_large",
                message: format!("the event is {bytes} bytes as stored, over the log's limit of {bytes_max}"),
            };
        }
    }
    let mut fits = fits.into_iter();
    records.retain(|_| fits.next().unwrap_or(false));
}

/// Whether the log takes records, so that a change is said once and not at every request.
#[derive(Default)]
pub(super) struct LogState {
    failing: AtomicBool,
}

impl LogState {
    fn note(&self, appended: &Result<(), AppendError>) {
        match appended {
            Ok(()) => {
                if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
                    info!("the log takes events again");
                }
            }
            Err(failure) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    failure.tell();
                }
            }
        }
    }
}

/// Why the events of a request are not durable, as far as we know.
#[derive(Debug, thiserror::Error)]
pub(super) enum AppendError {
    /// The log refused or failed.
    #[error("the log did not take the events")]
    Log {
        /// Why.
        source: LogError,
    },
    /// The log did not answer in time; the records may or may not be there.
    #[error("the log did not answer within {seconds_max} s")]
    TimedOut {
        /// The limit.
        seconds_max: f32,
    },
    /// The log acknowledged fewer records than it was given.
    #[error("the log acknowledged fewer records than it was given")]
    Incomplete,
}

impl AppendError {
    /// For programs and metrics.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Log { source: LogError::QueueFull } => "log_busy",
            Self::Log { source } if is_full(source) => "log_full",
            Self::TimedOut { .. } => "log_timeout",
            Self::Log { .. } | Self::Incomplete => "log_unavailable",
        }
    }

    /// When a retry makes sense, in seconds.
    pub(super) fn retry_seconds(&self) -> RangeInclusive<u32> {
        match self {
            Self::Log { source: LogError::QueueFull } => RETRY_BUSY,
            Self::Log { source } if is_full(source) => RETRY_FULL,
            Self::Log { .. } | Self::TimedOut { .. } | Self::Incomplete => RETRY_BROKEN,
        }
    }

    /// Once per change, with the whole chain of causes.
    fn tell(&self) {
        let causes = std::iter::successors(self.source(), |cause| (*cause).source());
        let cause = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        match self {
            Self::Log { source } if !source.is_retryable() => {
                error!(cause, "{self}; every request is answered 503 until it does");
            }
            Self::Log { .. } | Self::TimedOut { .. } | Self::Incomplete => {
                warn!(cause, "{self}; clients are told to retry");
            }
        }
    }
}

/// Whether somebody has to make room.
fn is_full(error: &LogError) -> bool {
    matches!(error, LogError::DiskFull { .. } | LogError::SpillFull { .. } | LogError::SpillDiskFull { .. })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn record(bytes: usize) -> NewRecord {
        let to = TopicPartition { topic: "raw".into(), partition: 0 };
        NewRecord { to, key: Bytes::new(), value: Bytes::from(vec![b'x'; bytes]) }
    }

    #[test]
    fn refuses_the_events_that_are_too_large_and_keeps_the_others_in_place() {
        let id = Uuid::nil();
        let invalid = || Outcome::Rejected { code: "invalid_field", message: String::new() };
        let mut outcomes =
            vec![Outcome::Accepted(id), invalid(), Outcome::Accepted(id), Outcome::Accepted(id)];
        let mut records = vec![record(3), record(5), record(4)];
        refuse_larger(&mut records, &mut outcomes, 4);
        assert_eq!(records.iter().map(|record| record.value.len()).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(outcomes[0], Outcome::Accepted(id));
        assert_eq!(outcomes[1], invalid());
        assert!(matches!(outcomes[2], Outcome::Rejected { code: "event_too_large", .. }));
        assert_eq!(outcomes[3], Outcome::Accepted(id));
    }
}
