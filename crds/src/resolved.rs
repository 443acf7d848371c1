//! What one role of a data plane needs and may not stand in a Revision: keys and credentials. The operator resolves it
//! from several Secrets into one per role; pods watch that one by name. Each role gets only what it needs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::AppId;

/// What a data-plane process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes events.
    Ingest,
    /// Processes and loads them.
    Worker,
    /// Answers questions.
    Gateway,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Worker, Self::Gateway];

    /// As in names and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Worker => "worker",
            Self::Gateway => "gateway",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that must not be printed. Written out only into the JSON of a Secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sensitive(String);

impl Sensitive {
    /// Wraps a value as early as possible.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself; for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(…)")
    }
}

/// Everything secret that one role needs. What it does not need is absent; unknown fields are ignored, so that a newer
/// operator can serve older pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// Pepper under which write keys are hashed, in hex; the HMAC key is the bytes it stands for. Ingest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pepper: Option<Sensitive>,
    /// Privacy keys by App. Ingest, to treat ids; gateway, to find people by their ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub privacy: BTreeMap<AppId, PrivacyKeys>,
    /// Account on Kafka. Ingest and worker; absent where the broker asks for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Credentials>,
    /// Account on ClickHouse. Worker and gateway; absent where the server asks for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clickhouse: Option<Credentials>,
    /// The bootstrap admin token. Gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token: Option<Sensitive>,
    /// What the operator presents to read `/state`. Every role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_token: Option<Sensitive>,
}

/// Keys of the privacy functions of one App.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivacyKeys {
    /// Rises when the keys are replaced; part of every value made with them.
    pub epoch: u32,
    /// HMAC-SHA256 key: 32 bytes in hex.
    pub hash: Sensitive,
    /// AES-256-SIV key: 64 bytes in hex.
    pub encrypt: Sensitive,
}

/// An account on a back end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Who.
    pub username: String,
    /// The password.
    pub password: Sensitive,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_no_value_but_keeps_every_one() {
        let app = AppId::new("default", "shop").unwrap();
        let secret = |text: &str| Sensitive::new(text.to_owned());
        let keys = PrivacyKeys { epoch: 2, hash: secret("s3cret-a"), encrypt: secret("s3cret-b") };
        let resolved = Resolved {
            pepper: Some(secret("s3cret-c")),
            privacy: BTreeMap::from([(app, keys)]),
            kafka: Some(Credentials { username: "ingest".to_owned(), password: secret("s3cret-d") }),
            ..Resolved::default()
        };
        assert!(!format!("{resolved:?}").contains("s3cret"));
        let text = serde_json::to_string(&resolved).unwrap();
        assert_eq!(serde_json::from_str::<Resolved>(&text).unwrap(), resolved);
        assert!(!text.contains("clickhouse"), "what a role does not need is absent: {text}");
    }

    #[test]
    fn an_older_pod_reads_what_a_newer_operator_wrote() {
        assert!(serde_json::from_str::<Resolved>(r#"{"stateToken":"x","newer":{"a":1}}"#).is_ok());
    }
}
