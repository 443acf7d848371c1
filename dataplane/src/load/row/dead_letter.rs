//! An entry of `dead-letters` in, a row of `dead_letters` out: the letter with what its record says, or the mark that
//! its event was taken up again.

use uuid::Uuid;

use super::{minute, moment};
use crate::load::cells::Cells;
use crate::record::{DeadLetter, DeadLetterEntry, DeadLetterReason, RawRecord, ReplayMark};

/// What the columns hold. What nobody can read is 0, empty or absent.
#[derive(Debug, Default)]
pub struct DeadLetterRow {
    /// When it was written, UTC epoch milliseconds.
    pub(in crate::load) at: i64,
    entry: &'static str,
    reason: &'static str,
    detail: String,
    event_id: Option<Uuid>,
    event_type: String,
    pub(in crate::load) received_at: i64,
    minute: i64,
    replay: u32,
    raw_partition: u32,
    pub(in crate::load) raw_offset: u64,
    record: Box<str>,
    bytes: String,
}

impl DeadLetterRow {
    /// From a record's key and what its value says.
    pub(in crate::load) fn new(key: &[u8], entry: DeadLetterEntry) -> Self {
        match entry {
            DeadLetterEntry::DeadLetter(letter) => Self::letter(*letter),
            DeadLetterEntry::Replayed(mark) => Self::mark(key, &mark),
        }
    }

    fn letter(letter: DeadLetter) -> Self {
        let raw: Option<RawRecord> = match letter.reason {
            DeadLetterReason::UnreadableRecord => None,
            DeadLetterReason::UndeclaredEvent
            | DeadLetterReason::MissingProperty
            | DeadLetterReason::InvalidProperty
            | DeadLetterReason::Expired
            | DeadLetterReason::TooLarge => {
                letter.record.as_ref().and_then(|record| serde_json::from_str(record.get()).ok())
            }
        };
        let row = Self {
            at: letter.dead_lettered_at,
            entry: "dead_letter",
            reason: letter.reason.as_str(),
            detail: letter.detail,
            raw_partition: letter.raw_partition,
            raw_offset: letter.raw_offset,
            record: letter.record.map(Into::into).unwrap_or_default(),
            bytes: letter.bytes.unwrap_or_default(),
            ..Self::default()
        };
        match raw {
            None => row,
            Some(RawRecord { event, origin, .. }) => Self {
                event_id: Some(event.event_id),
                event_type: event.event_type,
                received_at: event.received_at,
                minute: origin.minute,
                replay: origin.replay,
                ..row
            },
        }
    }

    /// The key of a letter and its mark is the event id, or 4 bytes of partition and 8 of offset in raw, big endian.
    fn mark(key: &[u8], mark: &ReplayMark) -> Self {
        let row = Self { at: mark.replayed_at, entry: "replayed", replay: mark.replay, ..Self::default() };
        match (Uuid::from_slice(key), key.split_at_checked(4)) {
            (Ok(event_id), _) => Self { event_id: Some(event_id), ..row },
            (Err(_), Some((partition, offset))) => Self {
                raw_partition: partition.try_into().map(u32::from_be_bytes).unwrap_or_default(),
                raw_offset: offset.try_into().map(u64::from_be_bytes).unwrap_or_default(),
                ..row
            },
            (Err(_), None) => row,
        }
    }

    /// In the order of the columns of `schema::DEAD_LETTERS`; the position comes behind it.
    pub(super) fn encode(&self, app: &str, out: &mut impl Cells) {
        moment(self.at, out);
        out.text(app);
        out.text(self.entry);
        out.text(self.reason);
        out.text(&self.detail);
        match &self.event_id {
            Some(event_id) => {
                out.present();
                out.uuid(event_id);
            }
            None => out.null(),
        }
        out.text(&self.event_type);
        moment(self.received_at, out);
        minute(self.minute, out);
        out.u32(self.replay);
        out.u32(self.raw_partition);
        out.u64(self.raw_offset);
        out.text(&self.record);
        out.text(&self.bytes);
    }
}
