//! Who a database belongs to: the comment found on it in, the right to use it out.

use serde::{Deserialize, Serialize};

use super::Statement;
use super::sql::{identifier, literal};

/// The owner of a database, kept in its COMMENT as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Id of the cluster, or of the installation's data directory in standalone.
    pub cluster: String,
    /// Namespace of the App.
    pub namespace: String,
    /// Name of the App.
    pub app: String,
    /// UID of the App object; another one after it was deleted and made again.
    pub uid: String,
}

/// What owning it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is ours already.
    Held,
    /// It is not there yet.
    Create(Statement),
    /// It was the same App's before that was made again; the comment gets the new UID.
    Adopt(Statement),
}

/// The database belongs to somebody else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "database `{database}` belongs to {found}, not to {wanted}; choose another App name or prefix, or drop the \
     database if nobody needs it"
)]
pub struct Taken {
    /// The database.
    pub database: String,
    /// Who has it, in words.
    pub found: String,
    /// Who asked.
    pub wanted: String,
}

/// Decides by the comment found on the database; `None` means there is no such database.
pub fn claim(database: &str, comment: Option<&str>, owner: &Owner) -> Result<Claim, Taken> {
    let Some(comment) = comment else {
        return Ok(Claim::Create(create(database, owner)));
    };
    let taken = |found: String| Taken { database: database.to_owned(), found, wanted: owner.in_words() };
    let found: Owner = match serde_json::from_str(comment) {
        Ok(found) => found,
        Err(_) => return Err(taken("somebody outside Millrace (its comment names no owner)".to_owned())),
    };
    if found == *owner {
        return Ok(Claim::Held);
    }
    let same_app =
        found.cluster == owner.cluster && found.namespace == owner.namespace && found.app == owner.app;
    if same_app { Ok(Claim::Adopt(adopt(database, owner))) } else { Err(taken(found.in_words())) }
}

impl Owner {
    fn in_words(&self) -> String {
        let Self { cluster, namespace, app, uid } = self;
        format!("App `{namespace}/{app}` (uid `{uid}`) of cluster `{cluster}`")
    }

    fn comment(&self) -> String {
        serde_json::to_string(self).expect("a struct of strings always serializes")
    }
}

fn create(database: &str, owner: &Owner) -> Statement {
    let text = format!(
        "CREATE DATABASE IF NOT EXISTS {} ENGINE = Atomic COMMENT {}",
        identifier(database),
        literal(&owner.comment())
    );
    Statement::quick(database, text)
}

fn adopt(database: &str, owner: &Owner) -> Statement {
    let text =
        format!("ALTER DATABASE {} MODIFY COMMENT {}", identifier(database), literal(&owner.comment()));
    Statement::quick(database, text)
}
