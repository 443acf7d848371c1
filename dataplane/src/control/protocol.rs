//! What is said over the control socket: requests, answers and their parts. Version 1. Data only.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::record::{DeadLetter, DeadLetterReason};

/// Version of everything here.
pub const PROTOCOL_VERSION: u8 = 1;
/// Most dead letters in one answer.
pub const LIST_LIMIT_MAX: u32 = 500;

/// One line to the process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`PROTOCOL_VERSION`].
    pub v: u8,
    /// What is asked.
    pub call: Call,
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    /// Answered by [`DeadLetterPage`].
    #[serde(rename = "dead_letters.list")]
    ListDeadLetters(ListDeadLetters),
    /// Answered by [`ShownDeadLetter`].
    #[serde(rename = "dead_letters.show")]
    ShowDeadLetter(ShowDeadLetter),
    /// Answered by [`ReplayReport`].
    #[serde(rename = "dead_letters.replay")]
    ReplayDeadLetters(ReplayDeadLetters),
    /// Answered by [`AuditReport`].
    #[serde(rename = "ledger.audit")]
    Audit(Audit),
    /// Answered by [`RebuildReport`].
    #[serde(rename = "rollups.rebuild")]
    RebuildRollups(RebuildRollups),
}

/// One line from the process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The answer to the call.
    Ok(Box<RawValue>),
    /// Why there is none.
    Error(Refusal),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For machines.
    pub code: RefusalCode,
    /// For people.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// Not JSON, or not a call of this version.
    InvalidRequest,
    /// Longer than a request may be.
    RequestTooLarge,
    /// Of a version this process does not speak.
    UnsupportedVersion,
    /// No such App here.
    UnknownApp,
    /// No such dead letter.
    NotFound,
    /// The log failed; the message says how and whether to repeat.
    Failed,
}

/// Where a dead letter stands in its topic, written `<partition>:<offset>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LetterId {
    /// Partition of `dead-letters`.
    pub partition: u32,
    /// Offset in it.
    pub offset: u64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for LetterId {
    type Err = LetterIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once(':').and_then(|(partition, offset)| {
            Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        });
        parts.ok_or_else(|| LetterIdError { text: text.to_owned() })
    }
}

impl TryFrom<String> for LetterId {
    type Error = LetterIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LetterId> for String {
    fn from(id: LetterId) -> Self {
        id.to_string()
    }
}

/// Not the id of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not the id of a dead letter; write `<partition>:<offset>` as `dead-letters list` shows it"
)]
pub struct LetterIdError {
    text: String,
}

/// Where a walk over the dead letters stands. It ends where the topic ended when it began, so that a replay
/// does not meet what it caused itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The next one to look at.
    pub at: LetterId,
    /// End of each partition when the walk began.
    pub until: Vec<u64>,
}

/// Asks for dead letters, partition by partition, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListDeadLetters {
    /// The App: `name`, `namespace.name` or `namespace/name`.
    pub app: String,
    /// Only those with this reason.
    #[serde(default)]
    pub reason: Option<DeadLetterReason>,
    /// Only those dead-lettered then or later, UTC epoch milliseconds.
    #[serde(default)]
    pub since: Option<i64>,
    /// Most of them, 1 to [`LIST_LIMIT_MAX`].
    pub limit: u32,
    /// Continues an earlier page.
    #[serde(default)]
    pub cursor: Option<Cursor>,
}

/// Some dead letters. A page may hold fewer than asked, even none, and still have a next one: the process looks
/// through a bounded number of records per call.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeadLetterPage {
    /// In the order they stand.
    pub letters: Vec<LetterSummary>,
    /// Asks for what follows; absent at the end.
    pub next: Option<Cursor>,
}

/// A dead letter in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterSummary {
    /// For `show` and `replay`.
    pub id: LetterId,
    /// When, UTC epoch milliseconds.
    pub dead_lettered_at: i64,
    /// Why, for machines.
    pub reason: DeadLetterReason,
    /// Why, for people.
    pub detail: String,
    /// The event, where it can be read.
    pub event_id: Option<Uuid>,
    /// Its type.
    pub event_type: Option<String>,
    /// How often it had been replayed when it became this dead letter.
    pub replay: u32,
    /// Whether it was taken up again since.
    pub replayed: bool,
}

/// Asks for one dead letter.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowDeadLetter {
    /// The App, as in [`ListDeadLetters::app`].
    pub app: String,
    /// Which.
    pub id: LetterId,
}

/// One dead letter in full.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShownDeadLetter {
    /// Which.
    pub id: LetterId,
    /// Whether it was taken up again since.
    pub replayed: bool,
    /// As it stands in the log.
    pub letter: DeadLetter,
}

/// Asks to put events into `events-raw` again. What was replayed before is skipped.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayDeadLetters {
    /// The App, as in [`ListDeadLetters::app`].
    pub app: String,
    /// Which.
    pub which: Which,
    /// Only tell what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Continues an earlier call.
    #[serde(default)]
    pub cursor: Option<Cursor>,
}

/// Which dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// These.
    Ids(Vec<LetterId>),
    /// Those with this reason.
    Reason(DeadLetterReason),
    /// All of them.
    All,
}

/// What one call of a replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayReport {
    /// How many had which outcome.
    pub counts: ReplayCounts,
    /// Those that could not be replayed, with the reason: at most one call's worth.
    pub failed: Vec<FailedReplay>,
    /// Asks for what follows; absent at the end.
    pub next: Option<Cursor>,
}

/// Dead letters by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayCounts {
    /// Put into `events-raw` again (with `dry_run`: would be).
    pub replayed: u64,
    /// Skipped: this event was replayed before.
    pub already_replayed: u64,
    /// Listed in [`ReplayReport::failed`].
    pub failed: u64,
}

/// One that could not be replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedReplay {
    /// Which.
    pub id: LetterId,
    /// Why, for people.
    pub why: String,
}

/// Asks to recount what became of the events accepted in some minutes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// The App, as in [`ListDeadLetters::app`].
    pub app: String,
    /// First minute since the epoch.
    pub from: i64,
    /// First one not meant any more; at most [`crate::ledger::audit::MINUTES_MAX`] later.
    pub to: i64,
}

/// What a recount found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Minutes in which anything was counted.
    pub minutes: u64,
    /// Events acknowledged in them.
    pub acknowledged: i64,
    /// Rows stored of them.
    pub stored: i64,
    /// Minutes that no ingest has closed: checked from raw on only.
    pub unclosed: u64,
    /// Minutes with more events of unknown outcome than can be checked.
    pub unverified: u64,
    /// Whether `events-raw` still held all of it, so that it was recounted too.
    pub raw_recounted: bool,
    /// Equations that do not hold.
    pub differences: Vec<AuditDifference>,
    /// Events that are not where they should be, the first of them.
    pub events: Vec<AuditedEvent>,
    /// How many of them there are.
    pub events_total: u64,
}

/// An equation that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditDifference {
    /// First moment of the minute.
    pub minute: Timestamp,
    /// The ingest instance, where the equation is one of an instance.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// What has to be equal.
    pub equation: String,
    /// Events missing on its right side; below zero, events too many there; 0 where it counts as many others.
    pub missing: i64,
    /// Wrapping sum of their hashes; of one event, its hash.
    pub hashes: u64,
}

/// An event that is not where it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedEvent {
    /// Which.
    pub event_id: Uuid,
    /// First moment of the minute in which it was accepted.
    pub minute: Timestamp,
    /// Where it stands in `events-raw`, written `<partition>:<offset>`; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<LetterId>,
    /// What is wrong, for programs: `lost`, `stored_twice` or `from_nowhere`.
    pub what: String,
    /// What is wrong, for people.
    pub detail: String,
}

/// Asks to make an App's rollups anew from its events, or how far that is. The process goes on with it whether anybody
/// asks again or not.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildRollups {
    /// The App, as in [`ListDeadLetters::app`].
    pub app: String,
    /// To begin, unless it is underway; else only to look.
    #[serde(default)]
    pub begin: bool,
}

/// How far the rollups are made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// Whether it is over.
    pub stage: RebuildStage,
    /// Statements carried out.
    pub done: u64,
    /// Statements in all; 0 while they are not planned.
    pub of: u64,
    /// The table or view that the next one is about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// What stands in the way.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trouble: String,
}

/// Stages of a rebuild.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RebuildStage {
    /// Nobody asked for one since the process started.
    #[default]
    Idle,
    /// It goes on; where there is trouble, it is tried again.
    Running,
    /// Every rollup is what a count of the events says.
    Done,
    /// It cannot be carried out; the trouble says why.
    Failed,
}
