//! What the stages count, as records of the topic `ledger`. Values; who counts what is decided by the stages.

use serde::{Deserialize, Serialize};

/// Value of a record in `ledger`, one row of the table of that name; its key is the minute's 8 bytes, big endian.
/// Rows of one minute and kind are added up, wherever they come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRecord {
    /// [`super::RECORD_VERSION`].
    pub v: u8,
    /// Minutes since the epoch at acceptance.
    pub minute: i64,
    /// The ingest instance that accepted.
    pub instance: String,
    /// What is counted.
    pub kind: LedgerKind,
    /// [`super::DeadLetterReason`] or code of refusal, where the kind has one; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How many events.
    pub count: i64,
    /// Wrapping sum of [`super::event_hash`] over them; 0 where only the count is known.
    pub sum: u64,
    /// When it was written, UTC epoch milliseconds.
    pub recorded_at: i64,
}

impl LedgerRecord {
    /// The record's key.
    pub fn key(&self) -> [u8; 8] {
        self.minute.to_be_bytes()
    }
}

/// What a record of the ledger counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerKind {
    /// Events answered as accepted.
    Acknowledged,
    /// One event whose append was not answered: `sum` is its hash.
    Unknown,
    /// More events of unknown outcome than are written down one by one.
    Unverified,
    /// The instance says that this minute is complete. Counts nothing.
    Closed,
    /// Records read from raw, replays apart.
    Raw,
    /// Found to be copies.
    Deduplicated,
    /// Set aside; -1 when taken up again.
    DeadLettered,
    /// Set aside because they are older than the retention.
    Expired,
    /// Passed on to be stored.
    Processed,
    /// Put back into raw from the dead letters.
    Replayed,
    /// Refused at ingest. No sum: what is refused is never written.
    Refused,
    /// Erased on request.
    Erased,
    /// A difference that outlived the lag: `reason` names the equation, count and sum what is missing on its later
    /// side. Taken back by its negation when it is resolved.
    Breached,
}

impl LedgerKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Acknowledged,
        Self::Unknown,
        Self::Unverified,
        Self::Closed,
        Self::Raw,
        Self::Deduplicated,
        Self::DeadLettered,
        Self::Expired,
        Self::Processed,
        Self::Replayed,
        Self::Refused,
        Self::Erased,
        Self::Breached,
    ];

    /// The name used in records and rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Unknown => "unknown",
            Self::Unverified => "unverified",
            Self::Closed => "closed",
            Self::Raw => "raw",
            Self::Deduplicated => "deduplicated",
            Self::DeadLettered => "dead_lettered",
            Self::Expired => "expired",
            Self::Processed => "processed",
            Self::Replayed => "replayed",
            Self::Refused => "refused",
            Self::Erased => "erased",
            Self::Breached => "breached",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_as_documented() {
        let text = r#"{"v":1,"minute":7,"instance":"i","kind":"dead_lettered","reason":"expired","count":-1,"sum":9,"recorded_at":5}"#;
        let record: LedgerRecord = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        assert_eq!(record.key(), [0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn a_kind_has_one_name_in_records_and_rows() {
        for kind in LedgerKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
