//! The parts of a standalone process: how they are started, in which order, and how they are stopped.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::announce::Endpoints;
use super::build::{BuildError, Built};
use super::data_dir::{DataDir, DataDirError};
use super::keys::{KeyError, KeyRing};
use super::reload::{self, ReloadError, Reloader};
use super::sources::{Origin, SourceError};
use crate::admin::changes::{Changes, History};
use crate::admin::readiness::{Need, Readiness, Signal};
use crate::admin::{self, AdminState};
use crate::config::Current;
use crate::control::rollups::Rebuilds;
use crate::control::{self, ControlState};
use crate::engine::{self, Supervisor, library};
use crate::freshness::Freshness;
use crate::gateway::guard::{BootstrapToken, Tokens};
use crate::gateway::{self, GatewayState, Limits};
use crate::ingest::{self, Ingest, IngestError};
use crate::ledger::standing::Standing;
use crate::listen;
use crate::log::embedded::{EmbeddedLog, Options};
use crate::log::watched::Troubles;
use crate::log::{Log, LogError};
use crate::member::Member;
use crate::metrics::Metrics;
use crate::process::seen::{SeenError, SeenStore};
use crate::secret::Secret;
use crate::settings::{self, Standalone};
use crate::stages::{Stages, Tools};
use crate::store::{ClickHouse, Endpoint};
use crate::tasks::{ended, watched};

/// How often the state of the log and of ClickHouse is looked at for the probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for ClickHouse to answer a probe.
const PROBE_MAX: Duration = Duration::from_secs(3);

/// The sockets, bound before anything runs.
pub(super) struct Listeners {
    ingest: TcpListener,
    gateway: TcpListener,
    admin: TcpListener,
    engine: SocketAddr,
}

impl Listeners {
    /// Binds every port; the first that is taken is the error.
    pub(super) fn bind(settings: &Standalone) -> Result<Self, StandaloneError> {
        let listen = &settings.listen;
        let bind = |option: &'static str, address: SocketAddr| {
            ingest::bind(address).map_err(|source| StandaloneError::Listen { option, source })
        };
        // The engine child binds its own socket; here a taken port is noticed in time, or a free one found. Held
        // until the others are bound, so that none of them gets the same.
        let engine = match settings.clickhouse {
            settings::ClickHouse::Child { .. } => Some(bind("--engine-listen", listen.engine_listen)?),
            settings::ClickHouse::Server { .. } => None,
        };
        let engine_address = match &engine {
            Some(held) => held.local_addr().map_err(|source| StandaloneError::Address { source })?,
            None => listen.engine_listen,
        };
        Ok(Self {
            ingest: bind("--ingest-listen", listen.ingest_listen)?,
            gateway: bind("--gateway-listen", listen.gateway_listen)?,
            admin: bind("--admin-listen", listen.admin_listen)?,
            engine: engine_address,
        })
    }
}

/// What the parts are started from.
pub(super) struct Plan<'a> {
    pub(super) settings: &'a Standalone,
    pub(super) data: &'a DataDir,
    pub(super) origin: Origin,
    pub(super) keys: KeyRing,
    pub(super) built: Built,
    pub(super) admin_token: Secret<String>,
    pub(super) listeners: Listeners,
    pub(super) current: Current,
}

/// The running parts.
pub(super) struct Parts {
    /// Where they listen.
    pub(super) endpoints: Endpoints,
    log: Arc<EmbeddedLog>,
    reloader: reload::Running,
    /// Stops ingest, gateway, admin and the control socket.
    front: CancellationToken,
    /// Stops the workers.
    back: CancellationToken,
    /// Stops the engine.
    engine: CancellationToken,
    /// Cancelled when a part ended that should not have.
    pub(super) broken: CancellationToken,
    front_tasks: Vec<JoinHandle<()>>,
    engine_task: Option<JoinHandle<()>>,
}

impl Parts {
    pub(super) async fn start(plan: Plan<'_>) -> Result<Self, StandaloneError> {
        let Plan { settings, data, origin, keys, built, admin_token, listeners, current } = plan;
        let metrics = Arc::new(Metrics::new().map_err(|source| StandaloneError::Metrics { source })?);
        let readiness = Arc::new(Readiness::default());
        let changes = Arc::new(Changes::default());
        let (front, back, engine) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());

        let clickhouse = Back::start(settings, data, listeners.engine, &metrics, &engine)?;
        let options = Options { compression: settings.log_compression.into(), ..Options::default() };
        let log = EmbeddedLog::open(&data.log(), options, Arc::clone(&metrics))
            .map_err(|source| StandaloneError::Log { source })?;
        let seen = SeenStore::open(&data.seen()).map_err(|source| StandaloneError::Seen { source })?;
        let standing = Arc::<Standing>::default();
        let tools = Tools {
            config: Arc::clone(&current),
            log: Arc::clone(&log) as Arc<dyn Log>,
            seen: Arc::new(seen),
            store: clickhouse.store.clone(),
            member: Member::only(),
            standing: Arc::clone(&standing),
            metrics: Arc::clone(&metrics),
        };
        let rebuilds = Arc::<Rebuilds>::default();
        let reloader = Reloader {
            origin,
            keys,
            current: Arc::clone(&current),
            log: Arc::clone(&log),
            store: clickhouse.store.clone(),
            stages: Stages::new(tools),
            changes: Arc::clone(&changes),
            rebuilds: Arc::clone(&rebuilds),
            signal: readiness.part("configuration", Need::Shown),
            metrics: Arc::clone(&metrics),
        };
        let reloader =
            reloader.start(built, back.clone()).await.map_err(|source| StandaloneError::Reload { source })?;

        let tokens: Arc<dyn Tokens> = Arc::new(BootstrapToken::new(admin_token));
        let addresses = Addresses::of(&listeners)?;
        let endpoints = addresses.endpoints(clickhouse.url.clone());
        let front_parts = Front {
            current: &current,
            log: &log,
            store: &clickhouse.store,
            metrics: &metrics,
            rebuilds: &rebuilds,
            tokens,
            readiness,
            changes,
            standing,
            stop: front.clone(),
        };
        let broken = CancellationToken::new();
        let front_tasks = front_parts.start(listeners, data)?;
        let front_tasks = front_tasks.into_iter().map(|task| watched(task, &front, &broken)).collect();
        let reloader = reloader.watched(&back, &broken);
        Ok(Self {
            endpoints,
            log,
            reloader,
            front,
            back,
            engine,
            broken,
            front_tasks,
            engine_task: clickhouse.task,
        })
    }

    /// No new requests, then the workers, then the log, then ClickHouse: each may need what stops after it.
    pub(super) async fn stop(self) {
        self.front.cancel();
        ended(self.front_tasks).await;
        self.back.cancel();
        self.reloader.ended().await;
        self.log.close().await;
        self.engine.cancel();
        ended(self.engine_task).await;
    }
}

/// ClickHouse as this process sees it.
struct Back {
    store: ClickHouse,
    url: String,
    task: Option<JoinHandle<()>>,
}

impl Back {
    /// Starts the engine child, or names the server.
    fn start(
        settings: &Standalone,
        data: &DataDir,
        listen: SocketAddr,
        metrics: &Arc<Metrics>,
        stop: &CancellationToken,
    ) -> Result<Self, StandaloneError> {
        match &settings.clickhouse {
            settings::ClickHouse::Child { library, cache } => {
                let program =
                    std::env::current_exe().map_err(|source| StandaloneError::Program { source })?;
                let cache = cache.clone().or_else(library::default_cache);
                let places = library::places(library.as_deref(), cache.as_deref(), Some(&program));
                let library =
                    library::find(&places).map_err(|source| StandaloneError::EngineLibrary { source })?;
                let supervisor = Supervisor {
                    program,
                    data_dir: data.engine(),
                    listen,
                    library: Some(library),
                    users: None,
                    jitter: Box::new(rand::random),
                    metrics: Arc::clone(metrics),
                };
                let task = engine::supervise(supervisor, stop.clone()).task;
                let url = format!("http://{listen}");
                let endpoint = Endpoint { url: url.clone(), user: "default".to_owned(), password: None };
                Ok(Self { store: ClickHouse::new(endpoint), url, task: Some(task) })
            }
            settings::ClickHouse::Server { url, user, password } => {
                let user = user.clone().unwrap_or_else(|| "default".to_owned());
                let endpoint = Endpoint { url: url.clone(), user, password: password.clone() };
                Ok(Self { store: ClickHouse::new(endpoint), url: url.clone(), task: None })
            }
        }
    }
}

/// The bound addresses.
struct Addresses {
    ingest: SocketAddr,
    gateway: SocketAddr,
    admin: SocketAddr,
}

impl Addresses {
    fn of(listeners: &Listeners) -> Result<Self, StandaloneError> {
        let of = |listener: &TcpListener| {
            listener.local_addr().map_err(|source| StandaloneError::Address { source })
        };
        Ok(Self {
            ingest: of(&listeners.ingest)?,
            gateway: of(&listeners.gateway)?,
            admin: of(&listeners.admin)?,
        })
    }

    fn endpoints(&self, clickhouse: String) -> Endpoints {
        Endpoints::new(self.ingest, self.gateway, self.admin, clickhouse)
    }
}

/// The listeners' side.
struct Front<'a> {
    current: &'a Current,
    log: &'a Arc<EmbeddedLog>,
    store: &'a ClickHouse,
    metrics: &'a Arc<Metrics>,
    rebuilds: &'a Arc<Rebuilds>,
    tokens: Arc<dyn Tokens>,
    readiness: Arc<Readiness>,
    changes: Arc<Changes>,
    standing: Arc<Standing>,
    stop: CancellationToken,
}

impl Front<'_> {
    fn start(self, listeners: Listeners, data: &DataDir) -> Result<Vec<JoinHandle<()>>, StandaloneError> {
        let gateway = gateway::router(GatewayState {
            config: Arc::clone(self.current),
            store: Arc::new(self.store.clone()),
            tokens: Arc::clone(&self.tokens),
            metrics: Arc::clone(self.metrics),
            limits: Limits::default(),
        });
        let probes = Probes {
            log: self.readiness.part("log", Need::Required),
            troubles: Troubles::new(Arc::clone(self.metrics)),
            clickhouse: self.readiness.part("clickhouse", Need::Shown),
        };
        let admin = admin::router(AdminState {
            state: Arc::new(History {
                config: Arc::clone(self.current),
                changes: Arc::clone(&self.changes),
                standing: Arc::clone(&self.standing),
                started_at: Timestamp::now(),
            }),
            readiness: Arc::clone(&self.readiness),
            metrics: Arc::clone(self.metrics),
            tokens: Arc::clone(&self.tokens),
        });
        Ok(vec![
            self.ingest(listeners.ingest),
            self.serve(listeners.gateway, gateway),
            self.serve(listeners.admin, admin),
            self.control(data)?,
            self.probe(probes),
        ])
    }

    fn ingest(&self, listener: TcpListener) -> JoinHandle<()> {
        let ingest = Arc::new(Ingest {
            config: Arc::clone(self.current),
            freshness: Freshness::always(),
            log: Arc::clone(self.log) as Arc<dyn Log>,
            metrics: Arc::clone(self.metrics),
            instance: format!("standalone-{}", Uuid::new_v4().simple()),
            leaving: self.stop.clone(),
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            if let Err(error) = ingest::serve(listener, ingest, cores, stop).await {
                tracing::error!(error = crate::telemetry::chain(&error), "ingest ended");
            }
        })
    }

    fn serve(&self, listener: TcpListener, router: Router) -> JoinHandle<()> {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            if let Err(error) = listen::serve(listener, router, stop).await {
                tracing::error!(error = %error, "a listener ended");
            }
        })
    }

    fn control(&self, data: &DataDir) -> Result<JoinHandle<()>, StandaloneError> {
        let listener = control::Listener::bind(&data.control_socket())
            .map_err(|source| StandaloneError::Control { source })?;
        let log = Arc::clone(self.log) as Arc<dyn Log>;
        let rebuilds = Arc::clone(self.rebuilds);
        let state = ControlState::new(Arc::clone(self.current), log, self.store.clone(), rebuilds);
        let stop = self.stop.clone();
        Ok(tokio::spawn(async move { listener.serve(state, stop).await }))
    }

    fn probe(&self, probes: Probes) -> JoinHandle<()> {
        let (log, store, stop) = (Arc::clone(self.log), self.store.clone(), self.stop.clone());
        tokio::spawn(async move {
            let mut looks = tokio::time::interval(PROBE_EVERY);
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let look = async {
                loop {
                    looks.tick().await;
                    probes.look(&log, &store).await;
                }
            };
            stop.run_until_cancelled(look).await;
        })
    }
}

/// What the probes tell.
struct Probes {
    log: Signal,
    troubles: Troubles,
    clickhouse: Signal,
}

impl Probes {
    async fn look(&self, log: &EmbeddedLog, store: &ClickHouse) {
        match log.health() {
            Ok(()) => self.log.up(),
            Err(error) => {
                self.troubles.met("log", &error);
                self.log.down(crate::telemetry::chain(&error));
            }
        }
        match tokio::time::timeout(PROBE_MAX, store.health()).await {
            Ok(Ok(_)) => self.clickhouse.up(),
            Ok(Err(error)) => self.clickhouse.down(crate::telemetry::chain(&error)),
            Err(_) => self.clickhouse.down("ClickHouse does not answer"),
        }
    }
}

/// Why standalone does not start.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// The files cannot be read.
    #[error("the resources cannot be read")]
    Sources {
        /// Why.
        source: SourceError,
    },
    /// The resources have problems.
    #[error("the resources are refused")]
    Resources {
        /// Which.
        source: BuildError,
    },
    /// The data directory cannot be used.
    #[error("standalone cannot start")]
    DataDir {
        /// Why.
        source: DataDirError,
    },
    /// The secrets cannot be used.
    #[error("standalone cannot start without its keys")]
    Keys {
        /// Why.
        source: KeyError,
    },
    /// A port cannot be listened on.
    #[error("cannot listen; choose another address with {option}")]
    Listen {
        /// The option that names the address.
        option: &'static str,
        /// Why.
        source: IngestError,
    },
    /// A bound address cannot be told.
    #[error("a bound socket has no address")]
    Address {
        /// Why.
        source: std::io::Error,
    },
    /// The engine cannot be started.
    #[error("standalone cannot start without ClickHouse")]
    EngineLibrary {
        /// Why.
        source: library::Missing,
    },
    /// The path of this program is not known.
    #[error("the path of this program is not known, so the engine cannot be started from it")]
    Program {
        /// Why.
        source: std::io::Error,
    },
    /// The log cannot be opened.
    #[error("standalone cannot start without its log")]
    Log {
        /// Why.
        source: LogError,
    },
    /// The dedupe store cannot be opened.
    #[error("standalone cannot start without its dedupe store")]
    Seen {
        /// Why.
        source: SeenError,
    },
    /// The first configuration cannot be brought into force.
    #[error("the configuration cannot be brought into force")]
    Reload {
        /// Why.
        source: ReloadError,
    },
    /// Two metrics share a name.
    #[error("the metrics cannot be registered")]
    Metrics {
        /// Why.
        source: prometheus::Error,
    },
    /// The control socket cannot be made.
    #[error("standalone cannot start without its control socket")]
    Control {
        /// Why.
        source: control::ControlError,
    },
    /// A part ended by itself.
    #[error("a part of the process ended by itself; the log says which and why")]
    Broken,
    /// `endpoints.json` cannot be written.
    #[error("cannot write `endpoints.json` into the data directory")]
    Endpoints {
        /// Why.
        source: std::io::Error,
    },
}
