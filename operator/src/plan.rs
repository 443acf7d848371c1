//! What a reconcile wants done: steps in the order in which they are safe. Values only; `apply` carries them out and has
//! no choice left, `plan` on the command line prints them.

use kube::core::DynamicObject;
use millrace_crds::names::AppId;
use millrace_crds::schema::{Owner, Statement};
use millrace_crds::topics::Change;

use crate::backends::Connection;
use crate::cluster::ObjectKey;

/// Steps of one reconcile; nothing to do is an empty plan.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Where steps on topics go; the installation's Kafka when absent.
    pub kafka: Option<Connection>,
    /// Where steps on tables go; the installation's ClickHouse when absent.
    pub clickhouse: Option<Connection>,
    /// In this order. A step that fails stops those after it.
    pub steps: Vec<Step>,
}

/// One step. Each may be repeated: a crash between any two is followed by the same plan, shorter.
#[derive(Clone, Debug)]
pub enum Step {
    /// Server-side apply of the full intent. Planned always, for every object that should be there; carried out only
    /// where the object differs from it (see `apply`).
    Apply {
        /// Which object.
        key: ObjectKey,
        /// All fields that are ours.
        intent: Box<DynamicObject>,
    },
    /// Remove this very object.
    Delete {
        /// Which object.
        key: ObjectKey,
        /// Its UID when it was seen.
        uid: String,
    },
    /// Add or remove our finalizer.
    Finalize {
        /// Which object.
        key: ObjectKey,
        /// Whether ours should be there.
        finalizer: Presence,
    },
    /// Write down who owns an App's topics.
    ClaimTopics {
        /// Of which App.
        app: AppId,
        /// The owner.
        owner: Owner,
    },
    /// Make or change a topic.
    Topic(Change),
    /// Make or change a table.
    Statement(Statement),
    /// Remove an App's topics.
    DeleteTopics {
        /// Of which App.
        app: AppId,
        /// Their names.
        names: Vec<String>,
    },
    /// Remove an App's database.
    DropDatabase {
        /// Its name.
        database: String,
        /// Who must own it.
        owner: Owner,
    },
}

/// Whether something should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It should.
    Present,
    /// It should not.
    Absent,
}
