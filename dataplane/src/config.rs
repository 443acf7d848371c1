//! Compiled configurations in, the immutable value that every role runs out. Swapped whole, read without a lock.
//! A configuration that does not check is refused here, and the one in force stays.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit, Mac};
use millrace_crds::config::{AccessConfig, AppConfig, Dialect};
use millrace_crds::names::AppId;
use sha2::Sha256;

use crate::secret::Secret;

/// The configuration in force; `load()` per request or batch.
pub type Current = Arc<ArcSwap<Config>>;

/// HMAC-SHA256 of a write key under the pepper.
pub type KeyDigest = [u8; 32];

/// Everything a data plane runs by.
pub struct Config {
    apps: BTreeMap<AppId, Arc<App>>,
    keys: HashMap<KeyDigest, WriteKey>,
    access: BTreeMap<String, Arc<AccessConfig>>,
    pepper: Secret<Vec<u8>>,
}

/// One App as used: its configuration and what must not be in it.
pub struct App {
    /// The compiled configuration.
    pub config: AppConfig,
    /// Keys of the privacy functions.
    pub privacy_keys: PrivacyKeys,
}

/// Keys of the privacy functions of one App, of one epoch.
#[derive(Clone, Debug)]
pub struct PrivacyKeys {
    /// Rises when the keys are replaced; part of every value made with them.
    pub epoch: u32,
    /// HMAC-SHA256 key.
    pub hash: Secret<[u8; 32]>,
    /// AES-256-SIV key.
    pub encrypt: Secret<[u8; 64]>,
}

/// What a write key opens.
#[derive(Clone)]
pub struct WriteKey {
    /// The App it writes to.
    pub app: Arc<App>,
    /// Its name in the App.
    pub name: String,
    /// Its wire format on shared paths.
    pub dialect: Option<Dialect>,
}

impl Config {
    /// Checks that the parts fit together and builds the look-up tables.
    pub fn build(
        apps: Vec<(AppConfig, PrivacyKeys)>,
        access: Vec<AccessConfig>,
        pepper: Secret<Vec<u8>>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::under(pepper);
        for (app, privacy_keys) in apps {
            config.add_app(Arc::new(App { config: app, privacy_keys }))?;
        }
        for part in access {
            config.add_access(Arc::new(part));
        }
        Ok(config)
    }

    /// A configuration that serves nothing.
    pub fn empty() -> Self {
        Self::under(Secret::new(Vec::new()))
    }

    /// A configuration that serves nothing yet; write keys will be looked up under this pepper.
    pub fn under(pepper: Secret<Vec<u8>>) -> Self {
        Self { apps: BTreeMap::new(), keys: HashMap::new(), access: BTreeMap::new(), pepper }
    }

    /// Every App served, by id.
    pub fn apps(&self) -> &BTreeMap<AppId, Arc<App>> {
        &self.apps
    }

    /// One App.
    pub fn app(&self, id: &AppId) -> Option<&Arc<App>> {
        self.apps.get(id)
    }

    /// What a presented write key opens, if anything.
    pub fn write_key(&self, presented: &[u8]) -> Option<&WriteKey> {
        self.keys.get(&key_digest(self.pepper.expose(), presented))
    }

    /// Access rules of a namespace.
    pub fn access(&self, namespace: &str) -> Option<&Arc<AccessConfig>> {
        self.access.get(namespace)
    }

    /// Access rules of every namespace that has some, by namespace.
    pub fn access_rules(&self) -> &BTreeMap<String, Arc<AccessConfig>> {
        &self.access
    }

    /// Adds the access rules of a namespace.
    pub fn add_access(&mut self, rules: Arc<AccessConfig>) {
        self.access.insert(rules.namespace.clone(), rules);
    }

    /// Adds an App that fits those that are there. One that does not changes nothing.
    pub fn add_app(&mut self, app: Arc<App>) -> Result<(), ConfigError> {
        let id = &app.config.app;
        if self.apps.contains_key(id) {
            return Err(ConfigError::Twice { app: id.clone() });
        }
        let mut keys = HashMap::new();
        for (name, key) in &app.config.ingest.write_keys {
            let digest = decode_digest(id, name, &key.digest)?;
            let entry = WriteKey { app: Arc::clone(&app), name: name.clone(), dialect: key.dialect };
            let other = self.keys.get(&digest).cloned().or_else(|| keys.insert(digest, entry));
            if let Some(other) = other {
                let other = other.app.config.app.clone();
                return Err(ConfigError::SharedKey { app: id.clone(), key: name.clone(), other });
            }
        }
        self.keys.extend(keys);
        self.apps.insert(id.clone(), app);
        Ok(())
    }
}

fn decode_digest(app: &AppId, key: &str, hex: &str) -> Result<KeyDigest, ConfigError> {
    let mut digest = KeyDigest::default();
    hex::decode_to_slice(hex, &mut digest).map_err(|source| ConfigError::Digest {
        app: app.clone(),
        key: key.to_owned(),
        source,
    })?;
    Ok(digest)
}

/// HMAC-SHA256 of a write key under the pepper.
pub fn key_digest(pepper: &[u8], presented: &[u8]) -> KeyDigest {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(pepper).expect("HMAC takes keys of any length");
    mac.update(presented);
    mac.finalize().into_bytes().into()
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The digest of a key is not 64 hex characters.
    #[error("App `{app}`: digest of write key `{key}` is not 64 hexadecimal characters")]
    Digest {
        /// The App.
        app: AppId,
        /// The key's name.
        key: String,
        /// Why.
        source: hex::FromHexError,
    },
    /// One key cannot open two doors.
    #[error("App `{app}`: write key `{key}` is already used by App `{other}`; give each its own")]
    SharedKey {
        /// The App.
        app: AppId,
        /// The key's name.
        key: String,
        /// Who has it already.
        other: AppId,
    },
    /// The same App twice.
    #[error("App `{app}` is given twice")]
    Twice {
        /// The App.
        app: AppId,
    },
}
