//! The worker's stages of every App: one task that processes, one per table that loads, one that compares
//! the ledger; and one task for all Apps that looks how far the stages are behind. Started when the App is in force (and, for
//! loading, when its tables are in place), stopped when it is withdrawn, started again when they fail.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_crds::names::AppId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Current};
use crate::lag::Lag;
use crate::ledger::reconcile::{self, Reconciler};
use crate::ledger::standing::Standing;
use crate::load::target::Target;
use crate::load::{self, Loader};
use crate::log::Log;
use crate::member::Member;
use crate::metrics::Metrics;
use crate::process::seen::SeenStore;
use crate::process::{self, Worker};
use crate::store::ClickHouse;
use crate::telemetry;

/// First pause before a failed task is started again; it doubles up to the longest.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause before a failed task is started again.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(15);
/// A task that ran this long starts again without a history.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// What every stage needs.
#[derive(Clone)]
pub struct Tools {
    /// The configuration in force.
    pub config: Current,
    /// The log.
    pub log: Arc<dyn Log>,
    /// Event ids seen, of every App.
    pub seen: Arc<SeenStore>,
    /// ClickHouse.
    pub store: ClickHouse,
    /// As whom they join their groups.
    pub member: Member,
    /// What is told of the ledgers.
    pub standing: Arc<Standing>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

/// The stages of all Apps.
pub struct Stages {
    tools: Tools,
    running: BTreeMap<AppId, Running>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Stops the look at how far the stages are behind, while there is one.
    lag: Option<CancellationToken>,
}

/// The stages of one App.
struct Running {
    stop: CancellationToken,
    /// Stops loading alone, while it runs.
    loading: Option<CancellationToken>,
}

impl Stages {
    /// Nothing runs yet.
    pub fn new(tools: Tools) -> Self {
        Self {
            tools,
            running: BTreeMap::new(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            lag: None,
        }
    }

    /// Starts and stops tasks so that exactly the Apps of `config` are processed, and those of them whose tables
    /// are `provisioned` are loaded.
    pub fn reconcile(&mut self, config: &Config, provisioned: &BTreeSet<AppId>) {
        self.running.retain(|app, running| {
            let stays = config.apps().contains_key(app);
            if !stays {
                running.stop.cancel();
            }
            stays
        });
        for app in config.apps().keys() {
            if !self.running.contains_key(app) {
                let stop = self.shutdown.child_token();
                self.start_processing(app, &stop);
                self.running.insert(app.clone(), Running { stop, loading: None });
            }
            if provisioned.contains(app) {
                self.start_loading(app);
            } else if let Some(loading) = self.running.get_mut(app).and_then(|running| running.loading.take())
            {
                loading.cancel();
            }
        }
        if self.lag.is_none() {
            self.start_lag();
        }
    }

    /// Ends every stage after its batch; the next [`Stages::reconcile`] starts them anew, with clients as they are then.
    pub async fn renew(&mut self) {
        self.running.values().for_each(|running| running.stop.cancel());
        self.running.clear();
        self.lag.take().iter().for_each(CancellationToken::cancel);
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// Stops every task and waits for it.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start_lag(&mut self) {
        let stop = self.shutdown.child_token();
        self.lag = Some(stop.clone());
        let Tools { config, log, member, metrics, .. } = self.tools.clone();
        let lag = Lag::new(config, log, member, metrics);
        self.tasks.spawn(async move {
            stop.run_until_cancelled(lag.report()).await;
        });
    }

    fn start_processing(&self, app: &AppId, stop: &CancellationToken) {
        let (app, tools, stop) = (app.clone(), self.tools.clone(), stop.clone());
        self.tasks.spawn(async move {
            let once = || {
                let worker = Worker {
                    app: app.clone(),
                    config: Arc::clone(&tools.config),
                    log: Arc::clone(&tools.log),
                    seen: Arc::clone(&tools.seen),
                    member: tools.member.clone(),
                    metrics: Arc::clone(&tools.metrics),
                };
                process::run(worker, stop.clone())
            };
            keep_running("process", &app, &stop, once).await;
        });
    }

    fn start_loading(&mut self, app: &AppId) {
        let Some(running) = self.running.get_mut(app) else { return };
        if running.loading.is_some() {
            return;
        }
        let stop = running.stop.child_token();
        running.loading = Some(stop.clone());
        self.tasks.spawn(keep_comparing(app.clone(), self.tools.clone(), stop.clone()));
        for target in Target::ALL {
            self.tasks.spawn(keep_loading(app.clone(), target, self.tools.clone(), stop.clone()));
        }
    }
}

async fn keep_loading(app: AppId, target: Target, tools: Tools, stop: CancellationToken) {
    let once = || {
        let loader = Loader {
            app: app.clone(),
            target,
            config: Arc::clone(&tools.config),
            log: Arc::clone(&tools.log),
            store: tools.store.clone(),
            member: tools.member.clone(),
            metrics: Arc::clone(&tools.metrics),
            limits: load::block::Limits::default(),
        };
        load::run(loader, stop.clone())
    };
    keep_running(target.stage(), &app, &stop, once).await;
}

async fn keep_comparing(app: AppId, tools: Tools, stop: CancellationToken) {
    let once = || {
        let reconciler = Reconciler {
            app: app.clone(),
            config: Arc::clone(&tools.config),
            log: Arc::clone(&tools.log),
            store: tools.store.clone(),
            member: tools.member.clone(),
            metrics: Arc::clone(&tools.metrics),
            standing: Arc::clone(&tools.standing),
        };
        reconcile::run(reconciler, stop.clone())
    };
    keep_running("ledger", &app, &stop, once).await;
}

/// Runs `once` again and again until it returns `Ok` or is stopped, also after a panic. Every stage resumes from its
/// committed position, so starting it again repeats nothing.
async fn keep_running<F, E>(stage: &str, app: &AppId, stop: &CancellationToken, mut once: impl FnMut() -> F)
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: std::error::Error + Send + 'static,
{
    let mut pause = RESTART_PAUSE_MIN;
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let error = match tokio::spawn(once()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => telemetry::chain(&error),
            Err(panic) => panic.to_string(),
        };
        if begun.elapsed() > STABLE_AFTER {
            pause = RESTART_PAUSE_MIN;
        }
        tracing::error!(
            app = %app, stage, error, pause_ms = pause.as_millis(),
            "a stage failed and is started again from its committed position"
        );
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}
