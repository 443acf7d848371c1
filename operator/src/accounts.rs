//! Files in, the settings and accounts of the installation out. Accounts lie in one folder per back end and account,
//! as Secrets are mounted: `kafka/operator/username`, `kafka/operator/password`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use millrace_crds::resolved::{Credentials, Role, Sensitive};

use crate::context::Accounts;
use crate::installation::Installation;

/// Why settings or accounts cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file.
    #[error("cannot read `{path}`", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The settings.
    #[error("`{path}` is no settings file of the operator", path = path.display())]
    Settings {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<serde_saphyr::Error>,
    },
    /// An account with a user name and no password, or the other way round.
    #[error("`{path}` is missing; an account needs `username` and `password`", path = path.display())]
    HalfAccount {
        /// The file that is missing.
        path: PathBuf,
    },
}

/// Reads the settings file.
pub fn read_settings(path: &Path) -> Result<Installation, FileError> {
    let text =
        fs::read_to_string(path).map_err(|source| FileError::File { path: path.to_owned(), source })?;
    serde_saphyr::from_str(&text)
        .map_err(|source| FileError::Settings { path: path.to_owned(), source: Box::new(source) })
}

/// Reads all accounts; those whose folder is not there are none.
pub fn read_accounts(root: &Path) -> Result<Accounts, FileError> {
    let roles = |back_end: &str, roles: &[Role]| {
        let mut accounts = BTreeMap::new();
        for role in roles {
            if let Some(account) = read_account(&root.join(back_end).join(role.as_str()))? {
                accounts.insert(*role, account);
            }
        }
        Ok(accounts)
    };
    Ok(Accounts {
        kafka: roles("kafka", &[Role::Ingest, Role::Worker])?,
        clickhouse: roles("clickhouse", &[Role::Worker, Role::Gateway])?,
        kafka_operator: read_account(&root.join("kafka/operator"))?,
        clickhouse_operator: read_account(&root.join("clickhouse/operator"))?,
    })
}

fn read_account(folder: &Path) -> Result<Option<Credentials>, FileError> {
    let (username, password) = (folder.join("username"), folder.join("password"));
    match (read_value(&username)?, read_value(&password)?) {
        (None, None) => Ok(None),
        (Some(username), Some(password)) => {
            Ok(Some(Credentials { username, password: Sensitive::new(password) }))
        }
        (Some(_), None) => Err(FileError::HalfAccount { path: password }),
        (None, Some(_)) => Err(FileError::HalfAccount { path: username }),
    }
}

/// A file's text without the line end that editors add.
fn read_value(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(FileError::File { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn reads_the_accounts_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_accounts(folder.path()).unwrap(), Accounts::default());
        for (path, text) in [
            ("kafka/operator/username", "admin"),
            ("kafka/operator/password", "p w\n"),
            ("clickhouse/gateway/username", "reader"),
            ("clickhouse/gateway/password", "x"),
        ] {
            write(folder.path(), path, text);
        }
        let accounts = read_accounts(folder.path()).unwrap();
        let operator = accounts.kafka_operator.unwrap();
        assert_eq!((operator.username.as_str(), operator.password.expose()), ("admin", "p w"));
        assert_eq!(accounts.clickhouse.keys().collect::<Vec<_>>(), [&Role::Gateway]);
        assert!(accounts.kafka.is_empty());
    }

    #[test]
    fn says_which_half_of_an_account_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "kafka/worker/username", "w");
        let text = read_accounts(folder.path()).unwrap_err().to_string();
        assert!(text.contains("kafka/worker/password") && text.contains("is missing"), "{text}");
    }

    #[test]
    fn a_misspelt_setting_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            "s.yaml",
            "image: {reference: x}\nkafka: {brokers: x}\nclickhouse: {url: x}\nprefx: y\n",
        );
        let error = read_settings(&folder.path().join("s.yaml")).unwrap_err();
        let text = crate::telemetry::chain(&error);
        assert!(text.contains("s.yaml") && text.contains("prefx"), "{text}");
    }
}
