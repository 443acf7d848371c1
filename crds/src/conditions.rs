//! Condition types, reasons, and the one function that sets a condition. Time is an argument.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The resource was understood and is without problems.
pub const ACCEPTED: &str = "Accepted";
/// The App's topics are as wanted.
pub const TOPICS_READY: &str = "TopicsReady";
/// The App's database and tables are as wanted.
pub const SCHEMA_READY: &str = "SchemaReady";
/// Every counted pod runs the current Revisions.
pub const DATAPLANE_READY: &str = "DataplaneReady";
/// All that is counted is true.
pub const READY: &str = "Ready";
/// The log keeps enough copies of what was acknowledged.
pub const DURABLE: &str = "Durable";
/// The volumes of the App's data plane are as large as wanted; absent until one is not.
pub const VOLUMES_READY: &str = "VolumesReady";
/// Dashboards are as wanted.
pub const DASHBOARDS_READY: &str = "DashboardsReady";
/// Every accepted event was stored, recognised as a duplicate or set aside.
pub const LEDGER_BALANCED: &str = "LedgerBalanced";
/// Work is under way (kstatus; true is abnormal).
pub const RECONCILING: &str = "Reconciling";
/// Work stopped and needs a person (kstatus; true is abnormal).
pub const STALLED: &str = "Stalled";

/// What makes an App [`READY`].
pub const COUNTED: [&str; 4] = [ACCEPTED, TOPICS_READY, SCHEMA_READY, DATAPLANE_READY];

/// Reasons, by what they say. One list, so that nobody invents a second spelling.
pub mod reason {
    /// All is well.
    pub const OK: &str = "Ok";
    /// `validate` found problems; the message lists them.
    pub const INVALID: &str = "Invalid";
    /// A Secret is missing or not labelled for use.
    pub const SECRET_UNUSABLE: &str = "SecretUnusable";
    /// A Revision is held back by annotation.
    pub const HELD: &str = "Held";
    /// Paused by annotation.
    pub const PAUSED: &str = "Paused";
    /// The change cannot be made to what exists.
    pub const INCOMPATIBLE: &str = "Incompatible";
    /// Another owner holds the topic or database.
    pub const OWNED_BY_ANOTHER: &str = "OwnedByAnother";
    /// The back end does not answer.
    pub const UNREACHABLE: &str = "Unreachable";
    /// The back end refused us.
    pub const REFUSED: &str = "Refused";
    /// Changes are under way.
    pub const PROGRESSING: &str = "Progressing";
    /// A pod refused the Revision; the message is its own.
    pub const REVISION_REFUSED: &str = "RevisionRefused";
    /// Pods do not come up.
    pub const PODS_NOT_READY: &str = "PodsNotReady";
    /// Fewer copies than promised.
    pub const TOO_FEW_REPLICAS: &str = "TooFewReplicas";
    /// A volume is to grow, and a person has to grow it.
    pub const RESIZE_NEEDED: &str = "ResizeNeeded";
    /// A pod that is not wanted any more stays, because something may wait on its volume.
    pub const NOT_EMPTY: &str = "NotEmpty";
    /// Accepted and stored differ beyond the lag.
    pub const UNBALANCED: &str = "Unbalanced";
    /// This release does not do it yet.
    pub const NOT_SUPPORTED: &str = "NotSupported";
    /// Switched off in the resource.
    pub const DISABLED: &str = "Disabled";
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can say at the moment.
    Unknown,
}

impl Status {
    /// As written in a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What is found about one aspect now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding<'a> {
    /// The condition's type.
    pub kind: &'a str,
    /// Whether it holds.
    pub status: Status,
    /// One of [`reason`].
    pub reason: &'a str,
    /// For people; may be empty.
    pub message: &'a str,
    /// Generation of the object that was judged.
    pub observed_generation: Option<i64>,
}

/// Sets a condition. `lastTransitionTime` moves only when the status flips, so that repeating a finding changes
/// nothing and costs no write. Conditions stay sorted by type.
pub fn set(conditions: &mut Vec<Condition>, finding: &Finding<'_>, now: Timestamp) {
    let since = conditions
        .iter()
        .find(|known| known.type_ == finding.kind && known.status == finding.status.as_str())
        .map_or(Time(now), |known| known.last_transition_time.clone());
    conditions.retain(|known| known.type_ != finding.kind);
    conditions.push(Condition {
        type_: finding.kind.to_owned(),
        status: finding.status.as_str().to_owned(),
        reason: finding.reason.to_owned(),
        message: finding.message.to_owned(),
        observed_generation: finding.observed_generation,
        last_transition_time: since,
    });
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn finding(status: Status, message: &str) -> Finding<'_> {
        Finding { kind: ACCEPTED, status, reason: reason::OK, message, observed_generation: Some(1) }
    }

    #[test]
    fn moves_the_transition_time_only_when_the_status_flips() {
        let mut conditions = Vec::new();
        set(&mut conditions, &finding(Status::True, "a"), at(1));
        set(&mut conditions, &finding(Status::True, "b"), at(2));
        assert_eq!((conditions[0].message.as_str(), conditions[0].last_transition_time.0), ("b", at(1)));
        set(&mut conditions, &finding(Status::False, "b"), at(3));
        assert_eq!(conditions[0].last_transition_time.0, at(3));
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn repeating_a_finding_changes_nothing() {
        let mut conditions = Vec::new();
        set(&mut conditions, &Finding { kind: READY, ..finding(Status::True, "") }, at(1));
        set(&mut conditions, &finding(Status::True, ""), at(1));
        let before = conditions.clone();
        assert_eq!(before[0].type_, ACCEPTED);
        set(&mut conditions, &Finding { kind: READY, ..finding(Status::True, "") }, at(9));
        assert_eq!(conditions, before);
    }
}
