//! Everything started in order, and ended in order: probes, definitions, watches, leadership, work. A task that ends by
//! itself ends the process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::accounts::{FileError, read_accounts};
use crate::apply::Settled;
use crate::backends::{Backends, Pods};
use crate::cluster::live::Live;
use crate::cluster::live::watching::Watches;
use crate::cluster::{Cluster as _, ClusterError, ObjectKey};
use crate::context::{Accounts, Context};
use crate::health::{self, Health, Phase};
use crate::installation::Installation;
use crate::kind::Kind;
use crate::leader::{self, LiveLeases};
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::reports::Reports;
use crate::telemetry::chain;
use crate::watch::Waker;
use crate::work::{Work, work_while_leading};

/// How often is asked whether the definitions are there.
const DEFINITIONS: Duration = Duration::from_secs(2);
/// How often the files of accounts are read: a kubelet brings a changed Secret within a minute or two anyway.
const ACCOUNTS: Duration = Duration::from_secs(15);
/// How often gauges are brought up to date.
const MEASURE: Duration = Duration::from_secs(10);

/// Makes the back ends of an installation; called again when accounts changed.
pub type MakeBackends = fn(Arc<Installation>, &Accounts) -> Arc<dyn Backends>;

/// What a run needs.
pub struct Options {
    /// Settings.
    pub installation: Arc<Installation>,
    /// Folder with the accounts.
    pub credentials: PathBuf,
    /// The operator's own namespace.
    pub namespace: String,
    /// Name of this process: of its pod.
    pub identity: String,
    /// Whether other replicas may run.
    pub election: Election,
    /// Way to the API server.
    pub client: kube::Client,
    /// Kafka and ClickHouse.
    pub make_backends: MakeBackends,
    /// Way to the pods.
    pub pods: Arc<dyn Pods>,
    /// Fills with random bytes.
    pub random: fn(&mut [u8]),
}

/// Whether other replicas may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The holder of a Lease works.
    Lease,
    /// This is the only replica.
    Alone,
}

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A metric is declared twice.
    #[error("the metrics cannot be registered")]
    Metrics {
        /// Why.
        source: prometheus::Error,
    },
    /// Accounts.
    #[error("the accounts of the back ends cannot be read")]
    Accounts {
        /// Why.
        source: FileError,
    },
    /// The cluster has no id.
    #[error(
        "the id of this cluster cannot be read from namespace `kube-system`; allow that, or set `clusterId`"
    )]
    ClusterId {
        /// Why.
        source: ClusterError,
    },
    /// A task that should run for ever did not.
    #[error("task `{task}` ended")]
    Ended {
        /// Which.
        task: &'static str,
    },
}

/// What all parts of a run share.
struct Shared {
    live: Arc<Live>,
    queue: Arc<Queue>,
    waker: Arc<Waker>,
    metrics: Arc<Metrics>,
    phase: watch::Sender<Phase>,
    leading: watch::Sender<bool>,
}

/// Runs until told to stop. Probes are answered on `listener` from the beginning.
pub async fn run(options: Options, listener: TcpListener, stop: CancellationToken) -> Result<(), RunError> {
    let options = Arc::new(options);
    let shared = Arc::new(Shared::new(&options)?);
    let mut tasks = JoinSet::new();
    tasks.spawn(answer_probes(listener, shared.health()));
    let started = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        started = start(&options, &shared) => started?,
        task = tasks.join_next() => return Err(ended(task)),
    };
    let Started { context, _watches } = started;
    let work = Work {
        queue: Arc::clone(&shared.queue),
        waker: Arc::clone(&shared.waker),
        context: context.subscribe(),
        pods: Arc::clone(&options.pods),
    };
    tasks.spawn(resync(Arc::clone(&shared), options.random));
    tasks.spawn(compare_secrets(Arc::clone(&shared)));
    tasks.spawn(measure(Arc::clone(&shared)));
    tasks.spawn(reread_accounts(Arc::clone(&options), Arc::clone(&shared), context));
    shared.phase.send_replace(Phase::Ready);
    let leader = Leader::start(&options, &shared);
    let leading = shared.leading.subscribe();
    let done = tokio::select! {
        () = work_while_leading(&work, leading, &stop) => Ok(()),
        task = tasks.join_next() => Err(ended(task)),
    };
    leader.end().await;
    done
}

impl Shared {
    fn new(options: &Options) -> Result<Self, RunError> {
        let metrics = Arc::new(Metrics::new().map_err(|source| RunError::Metrics { source })?);
        let queue = Arc::new(Queue::new(Arc::clone(&metrics), options.random));
        let waker = Arc::new(Waker::new(Arc::clone(&queue)));
        let live = Live::new(options.client.clone(), Arc::clone(&metrics), options.identity.clone());
        let told = Arc::clone(&waker);
        live.listen(move |change| told.changed(change));
        Ok(Self {
            live: Arc::new(live),
            queue,
            waker,
            metrics,
            phase: watch::Sender::new(Phase::Connecting),
            leading: watch::Sender::new(false),
        })
    }

    fn health(&self) -> Health {
        Health {
            phase: self.phase.subscribe(),
            leading: self.leading.subscribe(),
            queue: Arc::clone(&self.queue),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// What must be there before work.
struct Started {
    context: watch::Sender<Arc<Context>>,
    _watches: Watches,
}

async fn start(options: &Options, shared: &Shared) -> Result<Started, RunError> {
    let accounts = read_accounts(&options.credentials).map_err(|source| RunError::Accounts { source })?;
    wait_for_definitions(shared).await;
    shared.phase.send_replace(Phase::Filling);
    let watches = shared.live.watch(&options.installation).await;
    watches.wait_for_sync().await;
    info!(watches = watches.count(), "the stores are filled");
    let context = Context {
        cluster: Arc::clone(&shared.live) as Arc<_>,
        backends: (options.make_backends)(Arc::clone(&options.installation), &accounts),
        reports: Arc::new(Reports::default()),
        installation: Arc::clone(&options.installation),
        accounts: Arc::new(accounts),
        cluster_id: cluster_id(options, shared).await?,
        operator_namespace: options.namespace.clone(),
        random: options.random,
        metrics: Arc::clone(&shared.metrics),
        settled: Arc::new(Settled::default()),
    };
    Ok(Started { context: watch::Sender::new(Arc::new(context)), _watches: watches })
}

/// Waits instead of ending: a chart may bring them a moment later, and the probe says what is awaited.
async fn wait_for_definitions(shared: &Shared) {
    loop {
        let phase = match shared.live.definitions_missing().await {
            Ok(missing) if missing.is_empty() => break,
            Ok(missing) => Phase::WaitingForDefinitions(missing.into_iter().map(Kind::as_str).collect()),
            Err(error) => {
                warn!(error = chain(&error), "cannot ask for the definitions");
                Phase::Connecting
            }
        };
        shared.metrics.crds_missing.set(i64::from(matches!(phase, Phase::WaitingForDefinitions(_))));
        let is_news = |before: &mut Phase| std::mem::replace(before, phase.clone()) != phase;
        if shared.phase.send_if_modified(is_news)
            && let Phase::WaitingForDefinitions(missing) = &phase
        {
            warn!(missing = missing.join(", "), "waiting for definitions; install chart `millrace-crds`");
        }
        sleep(DEFINITIONS).await;
    }
    shared.metrics.crds_missing.set(0);
}

async fn cluster_id(options: &Options, shared: &Shared) -> Result<String, RunError> {
    if let Some(id) = &options.installation.cluster_id {
        return Ok(id.clone());
    }
    let key = ObjectKey::new(Kind::Namespace, "", "kube-system");
    let found = shared.live.get(&key).await.map_err(|source| RunError::ClusterId { source })?;
    found
        .and_then(|namespace| namespace.metadata.uid.clone())
        .ok_or_else(|| RunError::ClusterId { source: ClusterError::Conflict { key } })
}

/// Leadership in a task of its own: it must renew on time whatever the work does.
struct Leader {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Leader {
    fn start(options: &Options, shared: &Arc<Shared>) -> Self {
        let (stop, shared) = (CancellationToken::new(), Arc::clone(shared));
        let until = stop.clone();
        let leases = LiveLeases::new(options.client.clone(), &options.namespace);
        let (election, identity) = (options.election, options.identity.clone());
        let gauge = tokio::spawn(show_leadership(shared.leading.subscribe(), Arc::clone(&shared.metrics)));
        let task = tokio::spawn(async move {
            match election {
                Election::Lease => leader::lead(&leases, &identity, &shared.leading, until).await,
                Election::Alone => {
                    shared.leading.send_replace(true);
                    until.cancelled().await;
                }
            }
            gauge.abort();
        });
        Self { task, stop }
    }

    /// Gives the Lease back. Work has stopped.
    async fn end(self) {
        self.stop.cancel();
        if self.task.await.is_err() {
            error!("leadership ended badly; the Lease runs out by itself");
        }
    }
}

async fn show_leadership(mut leading: watch::Receiver<bool>, metrics: Arc<Metrics>) {
    loop {
        metrics.leader.set(i64::from(*leading.borrow_and_update()));
        if leading.changed().await.is_err() {
            return;
        }
    }
}

async fn answer_probes(listener: TcpListener, health: Health) -> &'static str {
    if let Err(error) = health::serve(listener, health).await {
        error!(error = %error, "probes are not answered any more");
    }
    "probes"
}

async fn resync(shared: Arc<Shared>, random: fn(&mut [u8])) -> &'static str {
    shared.waker.resync(random).await;
    "resync"
}

async fn compare_secrets(shared: Arc<Shared>) -> &'static str {
    shared.waker.compare_secrets(&*shared.live).await;
    "secrets"
}

async fn measure(shared: Arc<Shared>) -> &'static str {
    loop {
        shared.live.measure();
        sleep(MEASURE).await;
    }
}

/// Takes changed accounts into use, and looks at everything with them.
async fn reread_accounts(
    options: Arc<Options>,
    shared: Arc<Shared>,
    context: watch::Sender<Arc<Context>>,
) -> &'static str {
    loop {
        sleep(ACCOUNTS).await;
        let accounts = match read_accounts(&options.credentials) {
            Ok(accounts) => accounts,
            Err(error) => {
                warn!(error = chain(&error), "accounts cannot be read; those in force stay");
                continue;
            }
        };
        let now = Arc::clone(&context.borrow());
        if accounts == *now.accounts {
            continue;
        }
        info!("accounts of the back ends changed");
        let backends = (options.make_backends)(Arc::clone(&options.installation), &accounts);
        context.send_replace(Arc::new(now.with_accounts(accounts, backends)));
        shared.waker.wake_all();
    }
}

fn ended(task: Option<Result<&'static str, tokio::task::JoinError>>) -> RunError {
    RunError::Ended { task: task.and_then(Result::ok).unwrap_or("one that panicked") }
}
