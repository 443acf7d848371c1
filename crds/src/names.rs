//! The identity of an App and every name derived from it: topics, databases, consumer groups.
//! Pure string work; the only place where these names are put together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest App name. A pod or topic name built from it still fits into 63 characters.
pub const APP_NAME_CHARS_MAX: usize = 40;
/// Longest namespace: a DNS label (RFC 1123).
pub const NAMESPACE_CHARS_MAX: usize = 63;
/// Prefix of topics and databases unless the installation says otherwise.
pub const PREFIX_DEFAULT: &str = "millrace";
/// The namespace of a resource that names none, as `kubectl` does.
pub const NAMESPACE_DEFAULT: &str = "default";
/// App names that would collide with what Millrace itself names so.
pub const APP_NAMES_RESERVED: [&str; 2] = ["access", "shared"];

/// One App: `<namespace>/<name>` everywhere (rows, tokens, metrics, ledger).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppId {
    namespace: String,
    name: String,
}

impl AppId {
    /// Checks both parts; the error says which rule is broken.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        check_label("namespace", namespace, NAMESPACE_CHARS_MAX)?;
        check_label("name", name, APP_NAME_CHARS_MAX)?;
        if APP_NAMES_RESERVED.contains(&name) {
            return Err(NameError::Reserved { name: name.to_owned() });
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The namespace part.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name part.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ClickHouse database: `<prefix>_<namespace>__<app>` with `-` as `_`.
    ///
    /// Two Apps cannot collide: neither part may hold `--`, so `__` separates them uniquely.
    pub fn database(&self, prefix: &str) -> String {
        format!("{prefix}_{}__{}", self.namespace, self.name).replace('-', "_")
    }

    /// The topic `<prefix>.<namespace>.<app>.<kind>`.
    pub fn topic(&self, prefix: &str, kind: TopicKind) -> String {
        format!("{prefix}.{}.{}.{kind}", self.namespace, self.name)
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for AppId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) =
            text.split_once('/').ok_or_else(|| NameError::NoSlash { text: text.to_owned() })?;
        Self::new(namespace, name)
    }
}

impl TryFrom<String> for AppId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AppId> for String {
    fn from(id: AppId) -> Self {
        id.to_string()
    }
}

/// What a topic of an App holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TopicKind {
    /// Accepted events, anonymised, keyed by event id.
    EventsRaw,
    /// Events after dedupe, check and enrichment, keyed by user.
    EventsProcessed,
    /// Ledger breaches and dead-letter surges.
    Alerts,
    /// Events that could not be processed, with the reason.
    DeadLetters,
    /// Changelog of the dedupe store: event id → raw position.
    Seen,
    /// Counts per minute that prove nothing was lost.
    Ledger,
}

impl TopicKind {
    /// Every kind, in a fixed order.
    pub const ALL: [Self; 6] =
        [Self::EventsRaw, Self::EventsProcessed, Self::Alerts, Self::DeadLetters, Self::Seen, Self::Ledger];

    /// The last part of the topic's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventsRaw => "events-raw",
            Self::EventsProcessed => "events-processed",
            Self::Alerts => "alerts",
            Self::DeadLetters => "dead-letters",
            Self::Seen => "seen",
            Self::Ledger => "ledger",
        }
    }
}

impl fmt::Display for TopicKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The database for what belongs to a namespace: audit log and ledger.
pub fn namespace_database(prefix: &str, namespace: &str) -> String {
    format!("{prefix}_{namespace}").replace('-', "_")
}

/// A consumer group: `<prefix>.<namespace>.<data plane>.<stage>`.
pub fn consumer_group(prefix: &str, namespace: &str, data_plane: &str, stage: &str) -> String {
    format!("{prefix}.{namespace}.{data_plane}.{stage}")
}

/// Why a namespace or App name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `<namespace>/<name>`.
    #[error("`{text}` is not an App id; write `<namespace>/<name>`")]
    NoSlash {
        /// What was given.
        text: String,
    },
    /// Empty or longer than allowed.
    #[error("{part} `{text}` must have 1 to {chars_max} characters")]
    Length {
        /// `namespace` or `name`.
        part: &'static str,
        /// What was given.
        text: String,
        /// The limit.
        chars_max: usize,
    },
    /// Not a DNS label, or with `--`, which separates names in databases.
    #[error(
        "{part} `{text}` must be a DNS label without `--`: lower-case letters, digits and single `-`, \
         starting and ending with a letter or digit"
    )]
    NotALabel {
        /// `namespace` or `name`.
        part: &'static str,
        /// What was given.
        text: String,
    },
    /// A name Millrace uses itself.
    #[error("`{name}` is reserved; choose another App name")]
    Reserved {
        /// What was given.
        name: String,
    },
}

pub(crate) fn check_label(part: &'static str, text: &str, chars_max: usize) -> Result<(), NameError> {
    if text.is_empty() || text.len() > chars_max {
        return Err(NameError::Length { part, text: text.to_owned(), chars_max });
    }
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_well = alphanumeric(bytes[0]) && alphanumeric(bytes[bytes.len() - 1]);
    let all_allowed = bytes.iter().all(|&b| alphanumeric(b) || b == b'-');
    if !ends_well || !all_allowed || text.contains("--") {
        return Err(NameError::NotALabel { part, text: text.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derives_every_name_from_the_id() {
        let id = AppId::new("team-a", "web-shop").unwrap();
        assert_eq!(id.to_string(), "team-a/web-shop");
        assert_eq!(id.database("millrace"), "millrace_team_a__web_shop");
        assert_eq!(id.topic("millrace", TopicKind::EventsRaw), "millrace.team-a.web-shop.events-raw");
        assert_eq!("team-a/web-shop".parse::<AppId>().unwrap(), id);
    }

    #[test]
    fn refuses_what_could_collide_or_overflow() {
        for (namespace, name) in [
            ("", "a"),
            ("a", ""),
            ("a--b", "c"),
            ("a", "b--c"),
            ("A", "b"),
            ("a", "-b"),
            ("a", "b-"),
            ("a", "b_c"),
            ("a", "access"),
            ("a", "shared"),
            ("a", &"x".repeat(41)),
            ("a", "ü"),
        ] {
            assert!(AppId::new(namespace, name).is_err(), "{namespace}/{name}");
        }
    }
}
