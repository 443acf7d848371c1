//! A users file and presented credentials in, an account out. Deny by default; never prints a password.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::refusal::{Refusal, code};

/// What a request presents.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) enum Account {
    /// No users file: only processes of this machine reach the engine, and they may do all.
    Local,
    /// A user of the file.
    User(Arc<User>),
}

/// A user as checked.
#[derive(Debug)]
pub(super) struct User {
    pub(super) name: String,
    password_sha256: [u8; 32],
    databases: Vec<String>,
    pub(super) access: Access,
}

/// Whether a user may change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    ReadWrite,
    ReadOnly,
}

impl User {
    /// Whether the user is the engine's administrator: every database, and all statements.
    pub(super) fn is_unrestricted(&self) -> bool {
        self.databases.iter().any(|pattern| pattern == "*")
    }

    /// Whether the user may use a database. `name*` stands for every name that begins so.
    pub(super) fn may_use(&self, database: &str) -> bool {
        self.databases.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => database.starts_with(prefix),
            None => database == pattern,
        })
    }
}

/// A users file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAsWritten {
    users: Vec<UserAsWritten>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserAsWritten {
    name: String,
    password_sha256: String,
    databases: Vec<String>,
    #[serde(default)]
    readonly: bool,
}

/// Why a users file is refused.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// Not readable.
    #[error("cannot read the users file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not the expected YAML or JSON.
    #[error("the users file `{}` is not `users: [{{name, password_sha256, databases, readonly}}]`", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<serde_saphyr::Error>,
    },
    /// A digest that is none.
    #[error("users file: `password_sha256` of `{user}` is not 64 hexadecimal characters")]
    Digest {
        /// The user.
        user: String,
        /// Why.
        source: hex::FromHexError,
    },
    /// Two users of one name, or a user without a name.
    #[error("users file: the name `{user}` is empty or used twice; give each user its own")]
    Name {
        /// The name.
        user: String,
    },
}

/// The users in force, read again when the file changes. A bad change keeps the last good ones.
pub(super) struct Users {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    stamp: Option<Stamp>,
    users: Vec<Arc<User>>,
}

/// Enough of a file's metadata to see that it changed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl Users {
    /// Reads the file; what is wrong with it now is an error.
    pub(super) fn load(path: &Path) -> Result<Self, UsersError> {
        let stamp = stamp(path);
        let users = read(path)?;
        Ok(Self { path: path.to_owned(), loaded: Mutex::new(Loaded { stamp, users }) })
    }

    /// The account behind credentials. Unknown user and wrong password get one answer, in the same time.
    pub(super) fn authenticate(&self, credentials: &Credentials) -> Result<Account, Refusal> {
        let users = self.current();
        let presented = Sha256::digest(credentials.password.as_bytes());
        let user = users.iter().find(|user| user.name == credentials.user);
        let expected = user.map_or([0; 32], |user| user.password_sha256);
        let equal = bool::from(presented[..].ct_eq(&expected));
        match user {
            Some(user) if equal => Ok(Account::User(Arc::clone(user))),
            _ => Err(Refusal::new(
                code::AUTHENTICATION_FAILED,
                format!(
                    "{}: Authentication failed: password is incorrect, or there is no user with such name",
                    credentials.user
                ),
            )),
        }
    }

    fn current(&self) -> Vec<Arc<User>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path);
        if stamp != loaded.stamp {
            loaded.stamp = stamp;
            match read(&self.path) {
                Ok(users) => {
                    tracing::info!(users = users.len(), "the engine read its changed users file");
                    loaded.users = users;
                }
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the engine refused its changed users file and keeps the users it had"
                ),
            }
        }
        loaded.users.clone()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some(Stamp(meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

fn read(path: &Path) -> Result<Vec<Arc<User>>, UsersError> {
    let text =
        fs::read_to_string(path).map_err(|source| UsersError::Read { path: path.to_owned(), source })?;
    let file: FileAsWritten = serde_saphyr::from_str(&text)
        .map_err(|source| UsersError::Parse { path: path.to_owned(), source: Box::new(source) })?;
    check(file)
}

fn check(file: FileAsWritten) -> Result<Vec<Arc<User>>, UsersError> {
    let mut users: Vec<Arc<User>> = Vec::with_capacity(file.users.len());
    for written in file.users {
        if written.name.is_empty() || users.iter().any(|user| user.name == written.name) {
            return Err(UsersError::Name { user: written.name });
        }
        let mut password_sha256 = [0; 32];
        hex::decode_to_slice(&written.password_sha256, &mut password_sha256)
            .map_err(|source| UsersError::Digest { user: written.name.clone(), source })?;
        let access = if written.readonly { Access::ReadOnly } else { Access::ReadWrite };
        users.push(Arc::new(User {
            name: written.name,
            password_sha256,
            databases: written.databases,
            access,
        }));
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET_SHA256: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn file(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("users.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    fn one_user(name: &str, databases: &str) -> String {
        format!(
            "users:\n- {{name: {name}, password_sha256: {SECRET_SHA256}, databases: {databases}, readonly: true}}\n"
        )
    }

    fn credentials(user: &str, password: &str) -> Credentials {
        Credentials { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn lets_in_only_the_right_password() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users::load(&file(dir.path(), &one_user("ann", "[shop, \"tmp_*\"]"))).unwrap();
        let Ok(Account::User(ann)) = users.authenticate(&credentials("ann", "secret")) else {
            panic!("refused")
        };
        assert_eq!(ann.access, Access::ReadOnly);
        for (user, password) in [("ann", "Secret"), ("ann", ""), ("bob", "secret"), ("", ""), ("default", "")]
        {
            assert_eq!(users.authenticate(&credentials(user, password)).unwrap_err().code, 516, "{user}");
        }
        let check = |database: &str, allowed: bool| assert_eq!(ann.may_use(database), allowed, "{database}");
        check("shop", true);
        check("tmp_1", true);
        check("shop2", false);
        check("system", false);
        assert!(!ann.is_unrestricted());
    }

    #[test]
    fn reads_json_too() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            format!(r#"{{"users":[{{"name":"a","password_sha256":"{SECRET_SHA256}","databases":["*"]}}]}}"#);
        let users = Users::load(&file(dir.path(), &text)).unwrap();
        let Ok(Account::User(user)) = users.authenticate(&credentials("a", "secret")) else {
            panic!("refused")
        };
        assert!(user.is_unrestricted());
        assert_eq!(user.access, Access::ReadWrite);
    }

    #[test]
    fn takes_a_changed_file_and_keeps_the_last_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), &one_user("ann", "[a]"));
        let users = Users::load(&path).unwrap();
        file(dir.path(), &one_user("barbara", "[a]"));
        assert!(users.authenticate(&credentials("barbara", "secret")).is_ok());
        assert!(users.authenticate(&credentials("ann", "secret")).is_err(), "a removed user is out");
        file(dir.path(), "users: nonsense");
        assert!(users.authenticate(&credentials("barbara", "secret")).is_ok());
        fs::remove_file(path).unwrap();
        assert!(users.authenticate(&credentials("barbara", "secret")).is_ok());
    }

    #[test]
    fn refuses_a_file_that_is_not_right() {
        let dir = tempfile::tempdir().unwrap();
        let twice = format!("{}{}", one_user("a", "[x]"), &one_user("a", "[x]")[7..]);
        for text in [
            "",
            "users: 1",
            "users: [{name: a}]",
            "users: [{name: a, password_sha256: abc, databases: []}]",
            &twice,
            &one_user("\"\"", "[x]"),
            "users: []\nextra: 1",
        ] {
            assert!(Users::load(&file(dir.path(), text)).is_err(), "{text}");
        }
    }
}
