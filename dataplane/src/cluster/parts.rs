//! The parts of a role: what every role has, its back ends, and the listeners in front.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use millrace_crds::resolved::Role;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::keep::{Back, OpenLog, endpoint};
use super::live_log::LiveLog;
use super::secrets::Secrets;
use super::state::Told;
use super::{Cluster, ClusterError, Duty};
use crate::admin::readiness::{Need, Readiness, Signal};
use crate::admin::{self, AdminState};
use crate::config::{Config, Current};
use crate::freshness::Freshness;
use crate::gateway::guard::BootstrapToken;
use crate::gateway::{self, GatewayState};
use crate::ingest::{self, Ingest};
use crate::listen;
use crate::log::spill::SpillLog;
use crate::log::watched::{Troubles, Watched};
use crate::log::{Log, LogError};
use crate::member::Member;
use crate::metrics::Metrics;
use crate::process::seen::SeenStore;
use crate::stages::{Stages, Tools};
use crate::store::ClickHouse;
use crate::telemetry;

/// Pause between two attempts to reach a back end for the first time.
const REACH_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for a back end's answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What every role has.
pub(super) struct Base {
    pub(super) metrics: Arc<Metrics>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) told: Arc<Told>,
    pub(super) state_token: Arc<BootstrapToken>,
    pub(super) admin_token: Arc<BootstrapToken>,
    pub(super) current: Current,
    pub(super) freshness: Freshness,
    pub(super) troubles: Arc<Troubles>,
    /// Cancelled when the pod will stop, and before it does.
    pub(super) leaving: CancellationToken,
}

impl Base {
    pub(super) fn new(pod: &str, role: Role, freshness: Freshness) -> Result<Self, ClusterError> {
        let metrics = Arc::new(Metrics::new().map_err(|source| ClusterError::Metrics { source })?);
        Ok(Self {
            troubles: Arc::new(Troubles::new(Arc::clone(&metrics))),
            metrics,
            readiness: Arc::default(),
            told: Arc::new(Told::new(pod, role)),
            state_token: Arc::new(BootstrapToken::unknown()),
            admin_token: Arc::new(BootstrapToken::unknown()),
            current: Arc::new(ArcSwap::from_pointee(Config::empty())),
            freshness,
            leaving: CancellationToken::new(),
        })
    }

    pub(super) fn admin(&self) -> Router {
        admin::router(AdminState {
            state: Arc::clone(&self.told) as _,
            readiness: Arc::clone(&self.readiness),
            metrics: Arc::clone(&self.metrics),
            tokens: Arc::clone(&self.state_token) as _,
        })
    }

    /// Makes the clients of the role's back ends; none is asked yet.
    pub(super) fn back(&self, settings: &Cluster, secrets: &Secrets) -> Result<Back, ClusterError> {
        let mut back = Back::new(secrets);
        match &settings.duty {
            Duty::Ingest { log, spill, .. } => {
                let live = open(log, secrets, &self.metrics)?;
                if let Some((folder, options)) = spill {
                    let spill = SpillLog::open(
                        self.watched(&live),
                        folder,
                        options.clone(),
                        Arc::clone(&self.troubles),
                    )
                    .map_err(|source| ClusterError::Spill { source })?;
                    self.told.of_spill(Arc::clone(&spill));
                    back.spill = Some(spill);
                }
                back.log = Some((Arc::clone(log), live));
            }
            Duty::Gateway { clickhouse_url, .. } => {
                back.store = Some((clickhouse_url.clone(), store(clickhouse_url, secrets)));
            }
            Duty::Worker { log, clickhouse_url, data_dir } => {
                let live = open(log, secrets, &self.metrics)?;
                let store = store(clickhouse_url, secrets);
                let seen = SeenStore::open(&data_dir.join("seen"))
                    .map_err(|source| ClusterError::Seen { source })?;
                back.stages = Some(Stages::new(Tools {
                    config: Arc::clone(&self.current),
                    log: self.watched(&live),
                    seen: Arc::new(seen),
                    store: store.clone(),
                    member: Member::new(&settings.prefix, &settings.pod),
                    standing: Arc::clone(self.told.standing()),
                    metrics: Arc::clone(&self.metrics),
                }));
                back.log = Some((Arc::clone(log), live));
                back.store = Some((clickhouse_url.clone(), store));
            }
        }
        Ok(back)
    }

    /// Starts what the role does towards others, and what finds out whether its back end is there.
    pub(super) fn front(
        &self,
        settings: &Cluster,
        listener: Option<TcpListener>,
        back: &Back,
        stop: &CancellationToken,
    ) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        if let Some((_, log)) = &back.log {
            let topic = format!("{}.{}.alerts", settings.prefix, settings.place.namespace);
            let signal = self.readiness.part("log", Need::Required);
            let reach = reach_log(Arc::clone(log), topic, signal, Arc::clone(&self.troubles));
            tasks.push(until_stopped(reach, stop));
            let signal = self.readiness.part("log_troubles", Need::Shown);
            tasks.push(until_stopped(show_troubles(Arc::clone(&self.troubles), signal), stop));
        }
        match (&settings.duty, listener, &back.log, &back.store) {
            (Duty::Ingest { .. }, Some(listener), Some((_, log)), _) => {
                let log = match &back.spill {
                    Some(spill) => Arc::clone(spill) as Arc<dyn Log>,
                    None => self.watched(log),
                };
                tasks.push(self.ingest(listener, settings, log, stop));
            }
            (Duty::Gateway { .. }, Some(listener), _, Some((_, store))) => {
                let signal = self.readiness.part("clickhouse", Need::Required);
                tasks.push(until_stopped(reach_store(store.clone(), signal), stop));
                tasks.push(serve(listener, self.gateway(store), stop.clone()));
            }
            (Duty::Worker { .. } | Duty::Ingest { .. } | Duty::Gateway { .. }, ..) => {}
        }
        tasks
    }

    fn ingest(
        &self,
        listener: TcpListener,
        settings: &Cluster,
        log: Arc<dyn Log>,
        stop: &CancellationToken,
    ) -> JoinHandle<()> {
        let ingest = Arc::new(Ingest {
            config: Arc::clone(&self.current),
            freshness: self.freshness.clone(),
            log,
            metrics: Arc::clone(&self.metrics),
            // A container that starts again in the same pod counts anew: what its former life did not close stays so.
            instance: format!("{}-{:08x}", settings.pod, rand::random::<u32>()),
            leaving: self.leaving.clone(),
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let stop = stop.clone();
        tokio::spawn(async move {
            if let Err(error) = ingest::serve(listener, ingest, cores, stop).await {
                tracing::error!(error = telemetry::chain(&error), "ingest ended");
            }
        })
    }

    fn watched(&self, log: &Arc<LiveLog>) -> Arc<dyn Log> {
        Arc::new(Watched::new(Arc::clone(log) as _, Arc::clone(&self.troubles)))
    }

    fn gateway(&self, store: &ClickHouse) -> Router {
        gateway::router(GatewayState {
            config: Arc::clone(&self.current),
            store: Arc::new(store.clone()),
            tokens: Arc::clone(&self.admin_token) as _,
            metrics: Arc::clone(&self.metrics),
            limits: gateway::Limits::default(),
        })
    }
}

/// Serves HTTP until it is told to stop.
pub(super) fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = listen::serve(listener, router, stop).await {
            tracing::error!(error = %error, "a listener ended");
        }
    })
}

fn open(log: &OpenLog, secrets: &Secrets, metrics: &Arc<Metrics>) -> Result<Arc<LiveLog>, ClusterError> {
    let log = log(secrets.kafka(), metrics).map_err(|source| ClusterError::Log { source })?;
    Ok(Arc::new(LiveLog::new(log)))
}

fn store(url: &str, secrets: &Secrets) -> ClickHouse {
    ClickHouse::new(endpoint(url, secrets.clickhouse()))
}

/// A task that has no end of its own.
fn until_stopped(
    work: impl Future<Output = ()> + Send + 'static,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let stop = stop.clone();
    tokio::spawn(async move {
        stop.run_until_cancelled(work).await;
        stop.cancelled().await;
    })
}

/// Until the log has answered once. An outage later is not told here: it hits every pod at once, and a Service without
/// any address refuses what ingest would have answered with 503 and a time to come back. `topic` need not exist.
async fn reach_log(log: Arc<LiveLog>, topic: String, signal: Signal, troubles: Arc<Troubles>) {
    loop {
        match tokio::time::timeout(ANSWER_MAX, log.topic(&topic)).await {
            Ok(Ok(_) | Err(LogError::UnknownTopic { .. })) => return signal.up(),
            Ok(Err(error)) => {
                troubles.met(&topic, &error);
                signal.down(telemetry::chain(&error));
            }
            Err(_) => signal.down("the log does not answer"),
        }
        tokio::time::sleep(REACH_PAUSE).await;
    }
}

/// Shows who asks for readiness which bad states of the log stand, and how each is mended.
async fn show_troubles(troubles: Arc<Troubles>, signal: Signal) {
    loop {
        match troubles.text() {
            Some(text) => signal.down(text),
            None => signal.up(),
        }
        tokio::time::sleep(REACH_PAUSE).await;
    }
}

/// Until ClickHouse has answered once, for the same reason.
async fn reach_store(store: ClickHouse, signal: Signal) {
    loop {
        match tokio::time::timeout(ANSWER_MAX, store.health()).await {
            Ok(Ok(_)) => return signal.up(),
            Ok(Err(error)) => signal.down(telemetry::chain(&error)),
            Err(_) => signal.down("ClickHouse does not answer"),
        }
        tokio::time::sleep(REACH_PAUSE).await;
    }
}
