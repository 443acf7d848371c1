//! Runs the operator's own reconciles on a context whose writes go nowhere, until they have nothing left to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::core::DynamicObject;
use millrace_crds::labels::MOVING_FROM_ANNOTATION;
use millrace_crds::names::AppId;

use crate::backends::record::Recording;
use crate::cluster::overlay::Overlay;
use crate::cluster::{Cluster as _, ClusterError};
use crate::context::{Context, ReconcileError};
use crate::kind::Kind;
use crate::{app, namespace};

/// Most rounds: keys, topics and Revisions take three; whoever still writes after ten undoes what another does.
pub const ROUNDS_MAX: usize = 10;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The cluster could not be read.
    #[error("cannot read what is there")]
    Read {
        /// Why.
        #[from]
        source: ClusterError,
    },
    /// A reconcile failed.
    #[error("cannot plan {what}")]
    Reconcile {
        /// Of what.
        what: String,
        /// Why.
        source: ReconcileError,
    },
    /// The reconciles undo each other's work.
    #[error(
        "the plan does not settle: after {ROUNDS_MAX} rounds there are still writes to {what}; please report this"
    )]
    Unsettled {
        /// The last objects written.
        what: String,
    },
}

/// What reconciles run on, with what they would have written.
pub struct Simulation<'a> {
    /// Given to the reconciles; its cluster and back ends are the two below.
    pub context: &'a Context,
    /// Kubernetes.
    pub cluster: &'a Overlay,
    /// Kafka and ClickHouse.
    pub backends: &'a Recording,
    /// Told what is being looked at.
    pub progress: &'a (dyn Fn(&str) + Sync),
}

/// Runs both reconciles for these namespaces until nothing is written any more. Here nobody waits for pods to let go of an
/// App that is deleted or moves: the time after which they are not waited for any longer passes at once.
pub async fn settle(
    simulation: &Simulation<'_>,
    namespaces: &BTreeSet<String>,
    now: Timestamp,
) -> Result<(), SettleError> {
    until_quiet(simulation, namespaces, now).await?;
    if waits_for_pods(simulation.cluster, namespaces).await? {
        until_quiet(simulation, namespaces, now + app::WITHDRAWN_MAX).await?;
    }
    Ok(())
}

async fn waits_for_pods(cluster: &Overlay, namespaces: &BTreeSet<String>) -> Result<bool, ClusterError> {
    for namespace in namespaces {
        let list = async |kind| cluster.list(kind, Some(namespace), &BTreeMap::new()).await;
        let is_deleting = |app: &Arc<DynamicObject>| app.metadata.deletion_timestamp.is_some();
        let moves =
            |revision: &Arc<DynamicObject>| revision.annotations().contains_key(MOVING_FROM_ANNOTATION);
        if list(Kind::App).await?.iter().any(is_deleting) || list(Kind::Revision).await?.iter().any(moves) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn until_quiet(
    simulation: &Simulation<'_>,
    namespaces: &BTreeSet<String>,
    now: Timestamp,
) -> Result<(), SettleError> {
    let count = || (simulation.cluster.writes().len(), simulation.backends.steps().len());
    for round in 1..=ROUNDS_MAX {
        let before = count();
        for namespace in namespaces {
            (simulation.progress)(&format!("round {round}: namespace {namespace}"));
            round_of(simulation, namespace, now).await?;
        }
        // The operator first: what both would remove is removed by whoever comes first.
        if count() == before {
            for namespace in namespaces {
                simulation.cluster.collect_garbage(namespace).await?;
            }
        }
        if count() == before {
            return Ok(());
        }
    }
    let writes = simulation.cluster.writes();
    let last: BTreeSet<String> = writes.iter().rev().take(5).map(|write| write.key.to_string()).collect();
    Err(SettleError::Unsettled { what: last.into_iter().collect::<Vec<_>>().join(", ") })
}

async fn round_of(simulation: &Simulation<'_>, namespace: &str, now: Timestamp) -> Result<(), SettleError> {
    let context = simulation.context;
    let failed = |what: String| move |source| SettleError::Reconcile { what, source };
    namespace::reconcile(context, namespace, now)
        .await
        .map_err(failed(format!("namespace `{namespace}`")))?;
    for object in context.cluster.list(Kind::App, Some(namespace), &BTreeMap::new()).await? {
        // A name that no App may have is refused by the API server; what is there all the same is the namespace's to report.
        let Ok(id) = AppId::new(namespace, object.metadata.name.as_deref().unwrap_or_default()) else {
            continue;
        };
        (simulation.progress)(&format!("App {id}"));
        app::reconcile(context, &id, now).await.map_err(failed(format!("App `{id}`")))?;
    }
    Ok(())
}
