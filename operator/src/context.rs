//! What every reconcile is given: Kubernetes, the back ends, what pods last said, settings and credentials. Built once.

use std::sync::Arc;
use std::time::Duration;

use millrace_crds::resolved::{Credentials, Role};

use crate::apply::{ApplyError, Settled};
use crate::backends::{BackendError, Backends};
use crate::cluster::round::Round;
use crate::cluster::{Cluster, ClusterError};
use crate::installation::Installation;
use crate::metrics::Metrics;
use crate::reports::Reports;

/// Everything a reconcile needs.
pub struct Context {
    /// Kubernetes.
    pub cluster: Arc<dyn Cluster>,
    /// Kafka and ClickHouse.
    pub backends: Arc<dyn Backends>,
    /// What pods last said of themselves.
    pub reports: Arc<Reports>,
    /// Settings.
    pub installation: Arc<Installation>,
    /// The accounts that each role gets for the installation's back ends.
    pub accounts: Arc<Accounts>,
    /// Id of this cluster in claims.
    pub cluster_id: String,
    /// The operator's own namespace: from there alone pods let their admin port be reached.
    pub operator_namespace: String,
    /// Fills with random bytes; a fixed sequence in tests.
    pub random: fn(&mut [u8]),
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// What the API server made of our intents, kept from round to round.
    pub settled: Arc<Settled>,
}

impl Context {
    /// The same with other accounts, and the back ends that were made with them.
    pub fn with_accounts(&self, accounts: Accounts, backends: Arc<dyn Backends>) -> Self {
        Self { backends, accounts: Arc::new(accounts), ..self.with_cluster(Arc::clone(&self.cluster)) }
    }

    /// The same for one reconcile, which reads each Secret once.
    pub fn for_round(&self) -> Self {
        self.with_cluster(Arc::new(Round::new(Arc::clone(&self.cluster))))
    }

    fn with_cluster(&self, cluster: Arc<dyn Cluster>) -> Self {
        Self {
            cluster,
            backends: Arc::clone(&self.backends),
            reports: Arc::clone(&self.reports),
            installation: Arc::clone(&self.installation),
            accounts: Arc::clone(&self.accounts),
            cluster_id: self.cluster_id.clone(),
            operator_namespace: self.operator_namespace.clone(),
            random: self.random,
            metrics: Arc::clone(&self.metrics),
            settled: Arc::clone(&self.settled),
        }
    }
}

/// A context around these, for tests and benchmarks: a small installation, no accounts, random bytes that are none.
pub fn for_tests(cluster: Arc<dyn Cluster>, backends: Arc<dyn Backends>) -> Context {
    let installation = serde_json::json!({
        "image": {"reference": "millrace-dataplane:test"},
        "kafka": {"brokers": "kafka:9092"},
        "clickhouse": {"url": "http://clickhouse:8123"},
    });
    Context {
        cluster,
        backends,
        reports: Arc::new(Reports::default()),
        installation: Arc::new(serde_json::from_value(installation).expect("written here")),
        accounts: Arc::new(Accounts::default()),
        cluster_id: "test".to_owned(),
        operator_namespace: "millrace-system".to_owned(),
        random: |bytes| bytes.fill(7),
        metrics: Arc::new(Metrics::new().expect("every name is registered once")),
        settled: Arc::new(Settled::default()),
    }
}

/// Accounts on the installation's back ends, one per role; read from files at start and when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Kafka, by role.
    pub kafka: std::collections::BTreeMap<Role, Credentials>,
    /// ClickHouse, by role.
    pub clickhouse: std::collections::BTreeMap<Role, Credentials>,
    /// The operator's own on Kafka.
    pub kafka_operator: Option<Credentials>,
    /// The operator's own on ClickHouse.
    pub clickhouse_operator: Option<Credentials>,
}

/// When to look at an object again if nothing wakes it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At the next change or resync.
    OnChange,
    /// After this time: something outside is awaited that no watch tells of.
    After(Duration),
}

/// Why a reconcile did not finish. What a user can mend is in the status, not here.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Kubernetes could not be read or written.
    #[error("the API server did not do its part")]
    Cluster {
        /// Why.
        #[from]
        source: ClusterError,
    },
    /// A step failed.
    #[error("a step of the plan failed")]
    Apply {
        /// Why.
        #[from]
        source: ApplyError,
    },
    /// A back end could not be asked.
    #[error("a back end did not do its part")]
    Backend {
        /// Why.
        #[from]
        source: BackendError,
    },
}
