//! What stands in the log: an event as a raw record, a processed record, or a dead letter, and counts of the ledger,
//! each as JSON.
//! JSON keeps the topics open to every consumer; `event_data` is carried as the bytes that were admitted.

mod ledger;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

pub use ledger::{LedgerKind, LedgerRecord};

/// Version of the record schema written today.
pub const RECORD_VERSION: u8 = 1;

/// One event after admission: anonymised, with its final id and time. Times are UTC epoch milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Identity; a client retry carries the same one.
    pub event_id: Uuid,
    /// What happened, e.g. `purchase`.
    pub event_type: String,
    /// When it happened, by the client's clock corrected for skew.
    pub timestamp: i64,
    /// When ingest took it in.
    pub received_at: i64,
    /// Anonymised as the App rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Anonymised like `user_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous_id: Option<String>,
    /// Encrypted, hashed or kept as the App rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// The client's session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// `web`, `ios`, `android`, `server` or what the client said, lower-case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Version of the client's app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_version: Option<String>,
    /// Where the user came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribution: Option<Attribution>,
    /// What the user agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<Consent>,
    /// Client address, truncated or absent as the App rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Client software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Id of the request that brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The rest: a JSON object, with the App's field rules already applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_data: Option<Box<RawValue>>,
}

/// Where the user came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribution {
    /// `utm_campaign`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// `utm_source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `utm_medium`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<String>,
    /// `utm_content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// `utm_term`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<String>,
}

/// What the user agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// Granted categories, e.g. `analytics`.
    pub categories: Vec<String>,
    /// Version of the text that was agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When, UTC epoch milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
}

/// Which ingest instance accepted the event and in which minute; what the ledger counts by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Ingest instance.
    pub instance: String,
    /// Minutes since the epoch at acceptance.
    pub minute: i64,
    /// Set when the record was replayed from the dead letters: how often so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replay: u32,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Value of a record in `events-raw`; its key is the event id's 16 bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RawRecord {
    /// [`RECORD_VERSION`].
    pub v: u8,
    /// The event.
    pub event: Event,
    /// Who accepted it.
    pub origin: Origin,
    /// Where it is a replay: why it had been set aside. The ledger takes that back when it is processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<DeadLetterReason>,
}

/// Value of a record in `events-processed`; its key is the user key's 8 bytes, big endian.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessedRecord {
    /// [`RECORD_VERSION`].
    pub v: u8,
    /// The event.
    pub event: Event,
    /// Who accepted it.
    pub origin: Origin,
    /// What process added.
    pub derived: Derived,
}

/// What process adds. Rows are a pure function of the processed record, so every decision is carried here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Derived {
    /// When it was processed, UTC epoch milliseconds.
    pub created_at: i64,
    /// Hash of the first id present: user, anonymous, device.
    pub user_key: u64,
    /// Platform, from the client or its user agent; empty when unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Browser or app family; empty when unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub browser: String,
    /// Operating system; empty when unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub os: String,
    /// `desktop`, `mobile`, `tablet`, `bot` or empty when unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device_type: String,
    /// Revenue as decimal text, e.g. `19.99`; fits Decimal(38, 9). Text, so that no reader rounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revenue: Option<String>,
    /// ISO 4217 code, upper-case; empty without revenue.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub currency: String,
    /// Whether the event type is one of the App's conversions.
    pub is_conversion: bool,
}

/// Value of a record in `dead-letters`; its key is the event id's 16 bytes, or the raw position where there is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetter {
    /// [`RECORD_VERSION`].
    pub v: u8,
    /// Machine-readable reason.
    pub reason: DeadLetterReason,
    /// For a person: what exactly was wrong.
    pub detail: String,
    /// When it was dead-lettered, UTC epoch milliseconds.
    pub dead_lettered_at: i64,
    /// Partition of `events-raw` it stood in.
    pub raw_partition: u32,
    /// Offset in `events-raw`.
    pub raw_offset: u64,
    /// The raw record as it stood in the log (after anonymisation), where it is JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Box<RawValue>>,
    /// Its bytes in base64, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

/// Why an event could not be processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterReason {
    /// The record is not one of ours, or of a version this build does not know.
    UnreadableRecord,
    /// The event type is not declared and the App rules `onUndeclared: DeadLetter`.
    UndeclaredEvent,
    /// A required property is missing.
    MissingProperty,
    /// A required property does not fit its declared type.
    InvalidProperty,
    /// Older than the App's retention: ClickHouse would remove it at once.
    Expired,
    /// Larger, once enriched, than the log takes.
    TooLarge,
}

impl DeadLetterReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::UnreadableRecord,
        Self::UndeclaredEvent,
        Self::MissingProperty,
        Self::InvalidProperty,
        Self::Expired,
        Self::TooLarge,
    ];

    /// The name used in records, metrics and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnreadableRecord => "unreadable_record",
            Self::UndeclaredEvent => "undeclared_event",
            Self::MissingProperty => "missing_property",
            Self::InvalidProperty => "invalid_property",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
        }
    }
}

/// The other value that stands in `dead-letters`, under the same key: the event was put into `events-raw` again.
/// Written in one transaction with that record, so that it is true and survives every window of dedupe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayMark {
    /// [`RECORD_VERSION`].
    pub v: u8,
    /// When, UTC epoch milliseconds.
    pub replayed_at: i64,
    /// [`Origin::replay`] of the record that was appended. Dead letters of this key below it are done with.
    pub replay: u32,
}

/// A value of `dead-letters`.
#[derive(Clone, Debug)]
pub enum DeadLetterEntry {
    /// An event set aside.
    DeadLetter(Box<DeadLetter>),
    /// An event taken up again.
    Replayed(ReplayMark),
}

impl DeadLetterEntry {
    /// Reads a value of `dead-letters`; the two kinds share no required field beside the version.
    pub fn parse(value: &[u8]) -> Result<Self, serde_json::Error> {
        match serde_json::from_slice(value) {
            Ok(mark) => Ok(Self::Replayed(mark)),
            Err(_) => serde_json::from_slice(value).map(Self::DeadLetter),
        }
    }

    /// Version of its schema.
    pub fn version(&self) -> u8 {
        match self {
            Self::DeadLetter(letter) => letter.v,
            Self::Replayed(mark) => mark.v,
        }
    }
}

/// The 64-bit hash of an event id that the ledger and the loader's intents sum: XXH3 over the 36-character
/// lower-case text. ClickHouse computes the same with `xxh3(toString(event_id))`.
pub fn event_hash(event_id: &Uuid) -> u64 {
    let mut text = [0_u8; uuid::fmt::Hyphenated::LENGTH];
    let text = event_id.hyphenated().encode_lower(&mut text);
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

/// The user key: XXH3 of the first id present in the order user, anonymous, device; 0 when none is.
pub fn user_key(event: &Event) -> u64 {
    [&event.user_id, &event.anonymous_id, &event.device_id]
        .into_iter()
        .flatten()
        .next()
        .map_or(0, |id| xxhash_rust::xxh3::xxh3_64(id.as_bytes()))
}

/// Partition for a key: XXH3 of the key modulo the partition count. One definition for every log, so that a
/// retry meets its first copy and partitions can grow by integer multiples.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    let hash = xxhash_rust::xxh3::xxh3_64(key) % u64::from(partitions.max(1));
    u32::try_from(hash).unwrap_or(0)
}
