//! The resolved Secret in, keys as they are used out. Each role must find what it needs; more is not looked at. Pure.

use millrace_crds::names::AppId;
use millrace_crds::resolved::{self, Credentials, Resolved, Role, Sensitive};

use crate::config::PrivacyKeys;
use crate::secret::Secret;

/// Everything secret that a process of one role uses.
#[derive(Clone)]
pub struct Secrets {
    role: Role,
    pepper: Secret<Vec<u8>>,
    resolved: Resolved,
}

impl Secrets {
    /// Parses the value of the Secret.
    pub fn parse(json: &[u8], role: Role) -> Result<Self, SecretsError> {
        // The cause would show the value it stumbled over.
        let resolved: Resolved = serde_json::from_slice(json)
            .map_err(|error| SecretsError::Parse { line: error.line(), column: error.column() })?;
        let missing = |what: &'static str| SecretsError::Missing { role, what };
        let pepper = match (role, &resolved.pepper) {
            (_, Some(pepper)) => hex::decode(pepper.expose()).map_err(|_| SecretsError::Pepper)?,
            (Role::Ingest, None) => return Err(missing("pepper")),
            (Role::Worker | Role::Gateway, None) => Vec::new(),
        };
        if role == Role::Gateway && resolved.admin_token.is_none() {
            return Err(missing("adminToken"));
        }
        Ok(Self { role, pepper: Secret::new(pepper), resolved })
    }

    /// The pepper of write keys; empty in roles that see none.
    pub fn pepper(&self) -> Secret<Vec<u8>> {
        self.pepper.clone()
    }

    /// Account on Kafka.
    pub fn kafka(&self) -> Option<&Credentials> {
        self.resolved.kafka.as_ref()
    }

    /// Account on ClickHouse.
    pub fn clickhouse(&self) -> Option<&Credentials> {
        self.resolved.clickhouse.as_ref()
    }

    /// The bootstrap admin's token.
    pub fn admin_token(&self) -> Option<Secret<String>> {
        self.resolved.admin_token.as_ref().map(secret)
    }

    /// The token that opens `/state`.
    pub fn state_token(&self) -> Option<Secret<String>> {
        self.resolved.state_token.as_ref().map(secret)
    }

    /// The privacy keys of an App as they were given; `None` in a role that gets none.
    pub fn given(&self, app: &AppId) -> Result<Option<&resolved::PrivacyKeys>, SecretsError> {
        match self.role {
            Role::Worker => Ok(None),
            Role::Ingest | Role::Gateway => {
                let keys = self.resolved.privacy.get(app);
                keys.map(Some)
                    .ok_or(SecretsError::Missing { role: self.role, what: "privacy keys of the App" })
            }
        }
    }
}

/// Keys as they are used. `given` is what [`Secrets::given`] found. A role that gets none works with keys that nobody
/// knows: whatever it made with them by mistake could be matched with nothing, and opened by nobody.
pub fn usable(
    given: Option<&resolved::PrivacyKeys>,
    random: &mut dyn FnMut(&mut [u8]),
) -> Result<PrivacyKeys, SecretsError> {
    let (mut hash, mut encrypt) = ([0; 32], [0; 64]);
    match given {
        Some(given) => {
            hex::decode_to_slice(given.hash.expose(), &mut hash).map_err(|_| SecretsError::PrivacyKeys)?;
            hex::decode_to_slice(given.encrypt.expose(), &mut encrypt)
                .map_err(|_| SecretsError::PrivacyKeys)?;
        }
        None => {
            random(&mut hash);
            random(&mut encrypt);
        }
    }
    let epoch = given.map_or(0, |given| given.epoch);
    Ok(PrivacyKeys { epoch, hash: Secret::new(hash), encrypt: Secret::new(encrypt) })
}

/// A back end's password as clients take it.
pub fn secret(value: &Sensitive) -> Secret<String> {
    Secret::new(value.expose().to_owned())
}

/// Why a Secret cannot be used. Never shows a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    /// There is no such key in the Secret.
    #[error("the Secret has no key `{}`; the operator writes it", millrace_crds::labels::RESOLVED)]
    NoKey,
    /// Not the JSON of a resolved Secret.
    #[error("the resolved Secret cannot be read at line {line}, column {column}")]
    Parse {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// The role cannot work without it.
    #[error("the resolved Secret of {role} has no {what}")]
    Missing {
        /// Whose Secret.
        role: Role,
        /// What.
        what: &'static str,
    },
    /// Not hex.
    #[error("the pepper is not hexadecimal")]
    Pepper,
    /// Not hex of 32 and 64 bytes.
    #[error("the privacy keys of the App are not 32 and 64 bytes in hexadecimal")]
    PrivacyKeys,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_must_find_what_it_needs_and_no_more() {
        let parse = |json: &str, role| Secrets::parse(json.as_bytes(), role).map(|_| ());
        let missing = |role, what| Err(SecretsError::Missing { role, what });
        assert_eq!(parse("{}", Role::Ingest), missing(Role::Ingest, "pepper"));
        assert_eq!(parse("{}", Role::Gateway), missing(Role::Gateway, "adminToken"));
        assert_eq!(parse("{}", Role::Worker), Ok(()));
        assert_eq!(parse(r#"{"pepper":"00ff"}"#, Role::Ingest), Ok(()));
        assert_eq!(parse(r#"{"pepper":"s3cret"}"#, Role::Ingest), Err(SecretsError::Pepper));
    }

    #[test]
    fn a_refusal_shows_nothing_of_the_value() {
        let error = Secrets::parse(br#"{"pepper": {"s3cret": 1}}"#, Role::Ingest).map(|_| ()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }

    #[test]
    fn a_role_without_privacy_keys_works_with_some_that_nobody_knows() {
        let app = AppId::new("team", "shop").unwrap();
        let worker = Secrets::parse(b"{}", Role::Worker).unwrap();
        assert_eq!(worker.given(&app), Ok(None));
        let keys = usable(None, &mut |bytes| bytes.fill(9)).unwrap();
        assert_eq!(keys.hash.expose(), &[9; 32]);
        let ingest = Secrets::parse(br#"{"pepper":"00"}"#, Role::Ingest).unwrap();
        assert!(ingest.given(&app).is_err());
    }
}
