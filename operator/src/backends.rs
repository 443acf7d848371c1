//! What the reconciles ask of the back ends: topics, tables, and what pods say of themselves. Each has a live
//! implementation and one in memory.

pub mod clickhouse;
pub mod kafka;
pub mod live;
pub mod memory;
pub mod pods;
pub mod record;

use std::sync::Arc;

use async_trait::async_trait;
use millrace_crds::names::AppId;
use millrace_crds::resolved::{Credentials, Sensitive};
use millrace_crds::schema::{Owner, Schema, Statement};
use millrace_crds::state::PodState;
use millrace_crds::topics::{Change, Observed};

/// Finds the back ends of an App: the installation's, or its own. The operator's credentials go only to the hosts the
/// operator was configured with; what an App names is reached with the App's own credentials.
pub trait Backends: Send + Sync + 'static {
    /// The Kafka at this connection, or the installation's.
    fn topics(&self, own: Option<&Connection>) -> Arc<dyn Topics>;

    /// The ClickHouse at this connection, or the installation's.
    fn tables(&self, own: Option<&Connection>) -> Arc<dyn Tables>;
}

/// A back end of an App's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// `host:port` with commas for Kafka, a URL for ClickHouse.
    pub endpoint: String,
    /// The App's account there.
    pub credentials: Credentials,
}

/// Topics of one Kafka.
#[async_trait]
pub trait Topics: Send + Sync + 'static {
    /// The topics of these names that exist.
    async fn observe(&self, names: &[String]) -> Result<Vec<Observed>, BackendError>;

    /// Who owns the topics of an App; `None` when nobody claimed them yet. Kept in Kafka itself, in the compacted topic
    /// `<prefix>.owners`, because several installations may share one Kafka.
    async fn owner(&self, app: &AppId) -> Result<Option<Owner>, BackendError>;

    /// Writes the owner down, before the first topic is made.
    async fn claim(&self, app: &AppId, owner: &Owner) -> Result<(), BackendError>;

    /// One step; may be repeated.
    async fn carry_out(&self, change: &Change) -> Result<(), BackendError>;

    /// Removes topics and the claim on them; those that are gone are no error.
    async fn delete(&self, app: &AppId, names: &[String]) -> Result<(), BackendError>;

    /// How safely acknowledged records are kept.
    async fn durability(&self, names: &[String]) -> Result<Durability, BackendError>;
}

/// How many copies an acknowledged record has: the least over all topics asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durability {
    /// Copies of each partition.
    pub replication: u32,
    /// Copies that must have a record before it is acknowledged.
    pub in_sync_min: u32,
}

/// Databases of one ClickHouse.
#[async_trait]
pub trait Tables: Send + Sync + 'static {
    /// What would bring the database to the desired schema; changes nothing.
    async fn plan(&self, desired: &Schema, owner: &Owner) -> Result<Vec<Statement>, BackendError>;

    /// One statement; may be repeated.
    async fn carry_out(&self, statement: &Statement) -> Result<(), BackendError>;

    /// Removes a database that this owner holds; one that is gone is no error, one of another owner is.
    async fn drop_database(&self, database: &str, owner: &Owner) -> Result<(), BackendError>;
}

/// What pods say of themselves.
#[async_trait]
pub trait Pods: Send + Sync + 'static {
    /// Asks one pod for its state; the address is the URL of its `/state`.
    async fn state(&self, address: &str, token: &Sensitive) -> Result<PodState, BackendError>;
}

/// Why a back end did not do it, in the words of a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    /// One of `millrace_crds::conditions::reason`.
    pub reason: &'static str,
    /// What happened and what to do, with its causes; never a credential.
    pub message: String,
    /// Whether the same call may succeed later without a change of the resource.
    pub retryable: bool,
}
