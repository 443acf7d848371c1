//! The secrets a standalone process makes for itself and keeps (mode 0600): the pepper of write keys, the privacy
//! keys of each App, write keys for Apps that name none, and the bootstrap admin token.
//! On a cluster the operator does this with Secrets.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_crds::names::AppId;
use rand::Rng;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::data_dir::write_private;
use crate::config::PrivacyKeys;
use crate::secret::Secret;

/// Version of the key file.
const VERSION: u32 = 1;
/// Random bytes in a write key or token: 256 bits, beyond guessing.
const TOKEN_BYTES: usize = 32;

/// The key file, in memory.
pub struct KeyRing {
    /// Where it is kept; `None` keeps nothing, for a mere check.
    path: Option<PathBuf>,
    stored: Stored,
}

/// The key file as written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stored {
    version: u32,
    /// Names this installation among others that use the same ClickHouse.
    installation: Uuid,
    pepper: String,
    apps: BTreeMap<AppId, AppKeys>,
}

/// Keys of one App as written, in hex.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AppKeys {
    epoch: u32,
    hash: String,
    encrypt: String,
    /// Write key for an App that names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    write_key: Option<String>,
}

impl KeyRing {
    /// Reads the key file, or makes a new ring where there is none yet.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let stored = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| KeyError::Parse { path: path.to_owned(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stored::new(),
            Err(source) => return Err(KeyError::Read { path: path.to_owned(), source }),
        };
        if stored.version != VERSION {
            return Err(KeyError::Version { path: path.to_owned(), found: stored.version });
        }
        let mut ring = Self { path: Some(path.to_owned()), stored: stored.clone() };
        ring.keep(stored)?;
        Ok(ring)
    }

    /// A ring that is gone with the process.
    pub fn in_memory() -> Self {
        Self { path: None, stored: Stored::new() }
    }

    /// Id of this installation.
    pub fn installation(&self) -> Uuid {
        self.stored.installation
    }

    /// The pepper under which digests of write keys are made.
    pub fn pepper(&self) -> Secret<Vec<u8>> {
        Secret::new(self.stored.pepper.as_bytes().to_vec())
    }

    /// Privacy keys of an App, made and kept at first use. They outlive the App: its data needs them.
    pub fn privacy_keys(&mut self, app: &AppId) -> Result<PrivacyKeys, KeyError> {
        self.ensure(app)?;
        let keys = &self.stored.apps[app];
        let damaged = |source| KeyError::Damaged { app: app.clone(), source };
        let (mut hash, mut encrypt) = ([0; 32], [0; 64]);
        hex::decode_to_slice(&keys.hash, &mut hash).map_err(damaged)?;
        hex::decode_to_slice(&keys.encrypt, &mut encrypt).map_err(damaged)?;
        Ok(PrivacyKeys { epoch: keys.epoch, hash: Secret::new(hash), encrypt: Secret::new(encrypt) })
    }

    /// The write key of an App that names none, made and kept at first use.
    pub fn write_key(&mut self, app: &AppId) -> Result<Secret<String>, KeyError> {
        self.ensure(app)?;
        if let Some(key) = &self.stored.apps[app].write_key {
            return Ok(Secret::new(key.clone()));
        }
        let key = token("mrw");
        let mut changed = self.stored.clone();
        changed.apps.get_mut(app).expect("`ensure` put it there").write_key = Some(key.clone());
        self.keep(changed)?;
        Ok(Secret::new(key))
    }

    /// The write keys made for these Apps.
    pub fn generated(&mut self, apps: &[AppId]) -> Result<Vec<(AppId, Secret<String>)>, KeyError> {
        apps.iter().map(|app| Ok((app.clone(), self.write_key(app)?))).collect()
    }

    fn ensure(&mut self, app: &AppId) -> Result<(), KeyError> {
        if self.stored.apps.contains_key(app) {
            return Ok(());
        }
        let keys = AppKeys {
            epoch: 1,
            hash: hex::encode(random::<32>()),
            encrypt: hex::encode(random::<64>()),
            write_key: None,
        };
        let mut changed = self.stored.clone();
        changed.apps.insert(app.clone(), keys);
        self.keep(changed)
    }

    /// Saves first: a key that is only in memory would be another one after the next start, and nothing written
    /// with it could be recognised or opened again.
    fn keep(&mut self, changed: Stored) -> Result<(), KeyError> {
        if let Some(path) = &self.path {
            let text = serde_json::to_vec_pretty(&changed).expect("keys are plain strings");
            write_private(path, &text).map_err(|source| KeyError::Write { path: path.clone(), source })?;
        }
        self.stored = changed;
        Ok(())
    }
}

impl Stored {
    fn new() -> Self {
        Self {
            version: VERSION,
            installation: Uuid::new_v4(),
            pepper: hex::encode(random::<32>()),
            apps: BTreeMap::new(),
        }
    }
}

/// Whether the admin token was just made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Now: show it once.
    Now,
    /// At an earlier start.
    Before,
}

/// The bootstrap admin token, made at first start.
pub fn admin_token(path: &Path) -> Result<(Secret<String>, Made), KeyError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((Secret::new(text.trim().to_owned()), Made::Before)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = token("mra");
            write_private(path, token.as_bytes())
                .map_err(|source| KeyError::Write { path: path.to_owned(), source })?;
            Ok((Secret::new(token), Made::Now))
        }
        Err(source) => Err(KeyError::Read { path: path.to_owned(), source }),
    }
}

fn token(prefix: &str) -> String {
    format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(random::<TOKEN_BYTES>()))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// Why the secrets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Reading failed.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a key file. It is never replaced: the stored ids could not be made again.
    #[error("`{}` is not a key file; restore it from a backup, or remove the data directory", path.display())]
    Parse {
        /// What.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Written by a newer release.
    #[error("`{}` has version {found}, and this release reads version {VERSION}; use the newer release", path.display())]
    Version {
        /// What.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A key is not hex of the right length.
    #[error("the keys of App `{app}` in the key file are damaged; restore the file from a backup")]
    Damaged {
        /// Whose.
        app: AppId,
        /// Why.
        source: hex::FromHexError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_it_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let app = AppId::new("default", "shop").unwrap();
        let (keys, write_key, pepper) = {
            let mut ring = KeyRing::open(&path).unwrap();
            (ring.privacy_keys(&app).unwrap(), ring.write_key(&app).unwrap(), ring.pepper())
        };
        let mut again = KeyRing::open(&path).unwrap();
        assert_eq!(again.privacy_keys(&app).unwrap().hash.expose(), keys.hash.expose());
        assert_eq!(again.privacy_keys(&app).unwrap().encrypt.expose(), keys.encrypt.expose());
        assert_eq!(again.write_key(&app).unwrap().expose(), write_key.expose());
        assert_eq!(again.pepper().expose(), pepper.expose());
    }

    #[test]
    fn a_key_that_cannot_be_saved_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let app = AppId::new("default", "shop").unwrap();
        let mut ring = KeyRing::open(&path).unwrap();
        // A folder in the way of the unfinished file: every save fails.
        let obstacle = path.with_extension("unfinished");
        std::fs::create_dir(&obstacle).unwrap();
        assert!(matches!(ring.write_key(&app), Err(KeyError::Write { .. })));
        assert!(matches!(ring.privacy_keys(&app), Err(KeyError::Write { .. })));
        std::fs::remove_dir(&obstacle).unwrap();
        let key = ring.write_key(&app).unwrap();
        assert_eq!(KeyRing::open(&path).unwrap().write_key(&app).unwrap().expose(), key.expose());
    }

    #[test]
    fn never_replaces_a_damaged_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        std::fs::write(&path, b"{").unwrap();
        assert!(matches!(KeyRing::open(&path), Err(KeyError::Parse { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"{");
    }

    #[test]
    fn shows_the_admin_token_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin-token");
        let (first, made) = admin_token(&path).unwrap();
        assert_eq!(made, Made::Now);
        let (second, made) = admin_token(&path).unwrap();
        assert_eq!(made, Made::Before);
        assert_eq!(first.expose(), second.expose());
    }
}
