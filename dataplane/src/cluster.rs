//! One role of a data plane in a cluster: Revisions and one Secret from the API server in; ingest, worker or gateway
//! out, kept at what they say. Puts parts together and takes them apart; decides nothing itself.
//!
//! Start: ports, admin listener, watches; then the back ends, once their credentials are known; last, once a
//! configuration is in force, what the role does. Stop: not ready at once, then no new requests, then the stages.

pub mod choose;
pub mod keep;
mod live_log;
pub mod offer;
mod parts;
pub mod secrets;
pub mod state;
pub mod watch;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_crds::pod;
use millrace_crds::resolved::Role;
use tokio::sync::watch::{Receiver, channel};
use tokio_util::sync::CancellationToken;

use crate::admin::readiness::Need;
use crate::freshness::Freshness;
use crate::ingest::{self, IngestError};
use crate::log::LogError;
use crate::log::spill::{self, SpillError};
use crate::process::seen::SeenError;
use crate::tasks;
use choose::InForce;
use keep::{Keeper, OpenLog};
use offer::Place;
use parts::Base;
use watch::{Clients, Touch, Watched, World};

/// Silence of the API server after which what is not known is no longer surely unknown.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Listeners are told to stop this long after the process was.
pub const LINGER: Duration = Duration::from_secs(pod::LINGER_S);

/// A role with all it needs to start.
pub struct Cluster {
    /// Whose Revisions it runs.
    pub place: Place,
    /// Name of the pod.
    pub pod: String,
    /// Name of the Secret with its keys.
    pub resolved_secret: String,
    /// First part of the names of groups and topics.
    pub prefix: String,
    /// Metrics, probes and state.
    pub admin_listen: SocketAddr,
    /// What it does.
    pub duty: Duty,
    /// How it keeps time.
    pub times: Times,
}

/// How a role keeps time. The defaults are those of [`pod`].
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How long it goes on taking connections after it was told to stop.
    pub linger: Duration,
    /// See [`SILENCE_MAX`].
    pub silence_max: Duration,
    /// How the watches keep in touch.
    pub touch: Touch,
}

impl Default for Times {
    fn default() -> Self {
        Self { linger: LINGER, silence_max: SILENCE_MAX, touch: Touch::default() }
    }
}

/// What a role does, and with what.
pub enum Duty {
    /// Takes events.
    Ingest {
        /// Where events come in.
        listen: SocketAddr,
        /// Where they go.
        log: OpenLog,
        /// Where they are kept while the log is away, and how much; `None` keeps nothing.
        spill: Option<(PathBuf, spill::Options)>,
    },
    /// Processes and loads them.
    Worker {
        /// Where they come from.
        log: OpenLog,
        /// Where rows go.
        clickhouse_url: String,
        /// Where the dedupe store is.
        data_dir: PathBuf,
    },
    /// Answers questions.
    Gateway {
        /// Where the API answers.
        listen: SocketAddr,
        /// Who knows the answers.
        clickhouse_url: String,
    },
}

impl Duty {
    /// Its role.
    pub fn role(&self) -> Role {
        match self {
            Self::Ingest { .. } => Role::Ingest,
            Self::Worker { .. } => Role::Worker,
            Self::Gateway { .. } => Role::Gateway,
        }
    }

    fn listen(&self) -> Option<SocketAddr> {
        match self {
            Self::Ingest { listen, .. } | Self::Gateway { listen, .. } => Some(*listen),
            Self::Worker { .. } => None,
        }
    }
}

/// A role whose ports are taken.
pub struct Bound {
    settings: Cluster,
    admin: TcpListener,
    front: Option<TcpListener>,
}

/// Takes the ports, so that a start can fail before anything else runs.
pub fn bind(settings: Cluster) -> Result<Bound, ClusterError> {
    let taken = |address| ingest::bind(address).map_err(|source| ClusterError::Listen { source });
    let admin = taken(settings.admin_listen)?;
    let front = settings.duty.listen().map(taken).transpose()?;
    Ok(Bound { settings, admin, front })
}

impl Bound {
    /// Where metrics, probes and state are.
    pub fn admin(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Where events or questions come in, if the role takes some.
    pub fn front(&self) -> Option<std::io::Result<SocketAddr>> {
        self.front.as_ref().map(TcpListener::local_addr)
    }

    /// Runs until `stop` is cancelled, then ends as a pod should.
    pub async fn run(self, kube: kube::Config, stop: CancellationToken) -> Result<(), ClusterError> {
        let Self { settings, admin, front } = self;
        let Times { silence_max, touch, .. } = settings.times;
        let role = settings.duty.role();
        let base = Base::new(&settings.pod, role, Freshness::within(silence_max))?;
        let clients =
            Clients::new(kube, &base.freshness, touch).map_err(|source| ClusterError::Kube { source })?;
        let watched =
            Watched { place: settings.place.clone(), secret: settings.resolved_secret.clone(), role, touch };
        let end = CancellationToken::new();
        let admin = parts::serve(admin, base.admin(), end.clone());
        let (world, seen) = channel(World::default());
        let following = end.clone().run_until_cancelled_owned(watch::follow(clients, watched, world));
        let following = tokio::spawn(async move {
            following.await;
        });
        let worked = work(&settings, &base, front, seen, &stop).await;
        end.cancel();
        tasks::ended([admin, following]).await;
        worked
    }
}

/// From the first sight of the Secret to the end of the last stage.
async fn work(
    settings: &Cluster,
    base: &Base,
    front: Option<TcpListener>,
    mut seen: Receiver<World>,
    stop: &CancellationToken,
) -> Result<(), ClusterError> {
    let stopping = base.readiness.part("running", Need::Required);
    let signal = base.readiness.part("configuration", Need::Required);
    signal.down("the resolved Secret was not seen yet");
    let first = stop.run_until_cancelled(seen.wait_for(|world| world.secrets.is_some())).await;
    let secrets = first.and_then(Result::ok).and_then(|world| world.secrets.clone());
    let Some(secrets) = secrets else { return Ok(()) };
    let back = base.back(settings, &secrets)?;
    seen.mark_changed();
    let mut keeper = Keeper {
        pod: settings.pod.clone(),
        world: seen,
        current: Arc::clone(&base.current),
        told: Arc::clone(&base.told),
        signal,
        state_token: Arc::clone(&base.state_token),
        admin_token: Arc::clone(&base.admin_token),
        back,
        in_force: InForce::new(),
        metrics: Arc::clone(&base.metrics),
    };
    if stop.run_until_cancelled(keeper.until_in_force()).await.is_none() {
        keeper.stop().await;
        return Ok(());
    }
    let (front_stop, back_stop, broken) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let front_tasks = base.front(settings, front, &keeper.back, &front_stop);
    let front_tasks = front_tasks.into_iter().map(|task| tasks::watched(task, &front_stop, &broken));
    let front_tasks: Vec<_> = front_tasks.collect();
    let keeping = tokio::spawn(keeper.keep(back_stop.clone()));
    let keeping = tasks::watched(keeping, &back_stop, &broken);
    stopping.up();
    tracing::info!(role = %settings.duty.role(), pod = settings.pod, "serving");

    tokio::select! {
        () = stop.cancelled() => {}
        () = broken.cancelled() => {}
    }
    stopping.down("the process was told to stop");
    base.leaving.cancel();
    if settings.duty.listen().is_some() && !broken.is_cancelled() {
        // Until no node sends connections here any more; a refused one would be a lost request.
        tracing::info!("stopping: connections are taken for {} s more", settings.times.linger.as_secs());
        tokio::time::sleep(settings.times.linger).await;
    }
    tracing::info!("stopping: what is in flight is finished first");
    front_stop.cancel();
    tasks::ended(front_tasks).await;
    back_stop.cancel();
    tasks::ended([keeping]).await;
    if broken.is_cancelled() { Err(ClusterError::Broken) } else { Ok(()) }
}

/// Why a role does not run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A port cannot be listened on.
    #[error("cannot listen")]
    Listen {
        /// Why.
        source: IngestError,
    },
    /// Two metrics share a name.
    #[error("the metrics cannot be registered")]
    Metrics {
        /// Why.
        source: prometheus::Error,
    },
    /// No client of the API server can be made.
    #[error("cannot reach the API server; run in a pod with a service account, or set `KUBECONFIG`")]
    Kube {
        /// Why.
        source: kube::Error,
    },
    /// The clients of the log cannot be made.
    #[error("cannot make the clients of the log; check its settings and the resolved Secret")]
    Log {
        /// Why.
        source: LogError,
    },
    /// The spill cannot be opened.
    #[error("cannot start without the spill")]
    Spill {
        /// Why.
        source: SpillError,
    },
    /// The dedupe store cannot be opened.
    #[error("cannot start without the dedupe store")]
    Seen {
        /// Why.
        source: SeenError,
    },
    /// A part ended by itself.
    #[error("a part of the process ended by itself; the log says which and why")]
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_ends_within_the_time_it_is_given() {
        // The requests of ingest in flight end within their own bound, or the last batch of a worker; the rest is spare.
        let drain = LINGER + ingest::Limits::default().drain_max;
        let grace = Duration::from_secs(u64::try_from(pod::TERMINATION_GRACE_S).unwrap());
        assert!(drain + Duration::from_secs(10) <= grace, "{drain:?} of {grace:?}");
    }
}
