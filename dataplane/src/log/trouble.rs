//! Bad states of the log that somebody has to mend: failures in; their names, their fixes and which of them stand out.
//! Pure: the time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::LogError;

/// A state stands until it was not met for so long: longer than any stage waits before it tries again.
pub const STANDS: Duration = Duration::from_secs(60);
/// Most states kept; each names a topic, a group or a transactor.
const STANDING_MAX: usize = 100;

/// A bad state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// A topic is not there.
    TopicMissing,
    /// A topic has fewer partitions than the plan says.
    TooFewPartitions,
    /// The brokers take no record as large as one that came.
    RecordTooLarge,
    /// Somebody else uses the same transactional id.
    TransactorFenced,
    /// Credentials, certificates or rights do not suffice.
    Refused,
    /// The brokers cannot do what is needed.
    Unsupported,
    /// The disk of the embedded log has no room.
    DiskFull,
    /// The spill has reached its bound.
    SpillFull,
    /// The disk of the spill has no room.
    SpillDiskFull,
}

impl Trouble {
    /// What a failure says about the log's state; `None` for what passes by itself, and for what is no fault of it.
    pub fn of(error: &LogError) -> Option<Self> {
        match error {
            LogError::UnknownTopic { .. } => Some(Self::TopicMissing),
            LogError::UnknownPartition { .. } => Some(Self::TooFewPartitions),
            LogError::TooLarge { .. } => Some(Self::RecordTooLarge),
            LogError::Fenced { .. } => Some(Self::TransactorFenced),
            LogError::Refused { .. } => Some(Self::Refused),
            LogError::Unsupported { .. } => Some(Self::Unsupported),
            LogError::DiskFull { .. } => Some(Self::DiskFull),
            LogError::SpillFull { .. } => Some(Self::SpillFull),
            LogError::SpillDiskFull { .. } => Some(Self::SpillDiskFull),
            LogError::QueueFull
            | LogError::Failed { .. }
            | LogError::UnknownOutcome
            | LogError::Unavailable { .. }
            | LogError::Closed
            | LogError::Open { .. } => None,
        }
    }

    /// Its name, for metrics and alerts.
    pub fn name(self) -> &'static str {
        match self {
            Self::TopicMissing => "topic_missing",
            Self::TooFewPartitions => "too_few_partitions",
            Self::RecordTooLarge => "record_too_large",
            Self::TransactorFenced => "transactor_fenced",
            Self::Refused => "refused",
            Self::Unsupported => "unsupported_broker",
            Self::DiskFull => "disk_full",
            Self::SpillFull => "spill_full",
            Self::SpillDiskFull => "spill_disk_full",
        }
    }

    /// What to do about it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::TopicMissing => "see the App's condition TopicsReady, and that nobody deletes its topics",
            Self::TooFewPartitions => "see the App's condition TopicsReady; the operator adds the partitions",
            Self::RecordTooLarge => {
                "raise `max.message.bytes` of the topic or lower the App's `ingest.maxEventBytes`"
            }
            Self::TransactorFenced => "see that no two worker pods run under one name and topic prefix",
            Self::Refused => "check the account, its ACLs and the certificates in the Kafka profile",
            Self::Unsupported => "update the brokers to Kafka 3.1 or newer",
            Self::DiskFull => {
                "make room on the disk of the data directory; events are taken again by themselves"
            }
            Self::SpillFull => "see why Kafka is away, or give ingest a larger spill volume",
            Self::SpillDiskFull => {
                "make room on the spill's volume, or give ingest a larger one; events are taken again by themselves"
            }
        }
    }
}

/// The states that stand.
#[derive(Default)]
pub struct Standing(BTreeMap<(Trouble, String), (Instant, String)>);

impl Standing {
    /// Notes one that was met; true if it did not stand before.
    pub fn note(&mut self, trouble: Trouble, subject: &str, cause: String, now: Instant) -> bool {
        self.expire(now);
        let key = (trouble, subject.to_owned());
        let is_new = !self.0.contains_key(&key);
        if !is_new || self.0.len() < STANDING_MAX {
            self.0.insert(key, (now, cause));
        }
        is_new
    }

    /// One sentence for all that stand; `None` when all is well.
    pub fn text(&mut self, now: Instant) -> Option<String> {
        self.expire(now);
        let sentence = |((trouble, subject), (_, cause)): (&(Trouble, String), &(Instant, String))| {
            format!("{} ({subject}): {cause}; {}", trouble.name(), trouble.fix())
        };
        let sentences: Vec<String> = self.0.iter().map(sentence).collect();
        (!sentences.is_empty()).then(|| sentences.join(" · "))
    }

    fn expire(&mut self, now: Instant) {
        self.0.retain(|_, (met, _)| now.saturating_duration_since(*met) < STANDS);
    }
}

#[cfg(test)]
mod tests;
