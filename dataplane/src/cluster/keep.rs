//! What the watches saw in; configuration, keys, clients and stages kept at it. One task, one step at a time; the only
//! writer of the configuration in force. Nothing restarts: every change is taken up by what runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_crds::resolved::Credentials;
use millrace_crds::state::ScopeState;
use rand::Rng as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::choose::{InForce, choose};
use super::live_log::LiveLog;
use super::secrets::{Secrets, secret};
use super::state::Told;
use super::watch::World;
use crate::admin::readiness::Signal;
use crate::config::Current;
use crate::gateway::guard::BootstrapToken;
use crate::log::spill::SpillLog;
use crate::log::{Log, LogError};
use crate::metrics::Metrics;
use crate::stages::Stages;
use crate::store::{ClickHouse, Endpoint};
use crate::telemetry;

/// Makes the clients of the log from its credentials; asks no broker.
pub type OpenLog =
    Arc<dyn Fn(Option<&Credentials>, &Arc<Metrics>) -> Result<Arc<dyn Log>, LogError> + Send + Sync>;

/// Keeps a process at what the watches saw.
pub struct Keeper {
    /// Name of the pod.
    pub pod: String,
    /// What the watches saw.
    pub world: watch::Receiver<World>,
    /// The configuration in force.
    pub current: Current,
    /// What `/state` tells.
    pub told: Arc<Told>,
    /// Up once a configuration is in force.
    pub signal: Signal,
    /// Opens `/state`.
    pub state_token: Arc<BootstrapToken>,
    /// Opens the API.
    pub admin_token: Arc<BootstrapToken>,
    /// Back ends, once their credentials are known.
    pub back: Back,
    /// What runs.
    pub in_force: InForce,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

/// The back ends of a role.
#[derive(Default)]
pub struct Back {
    /// The log and how its clients are made, where the role has one.
    pub log: Option<(OpenLog, Arc<LiveLog>)>,
    /// The log as ingest appends to it, where it spills.
    pub spill: Option<Arc<SpillLog>>,
    /// ClickHouse and its URL, where the role has one.
    pub store: Option<(String, ClickHouse)>,
    /// Stages of the Apps, where the role has some.
    pub stages: Option<Stages>,
    /// Credentials in use.
    kafka: Option<Credentials>,
    clickhouse: Option<Credentials>,
}

/// Whether a configuration is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is.
    InForce,
    /// Something is still missing.
    Waiting,
    /// The watches ended.
    Over,
}

impl Keeper {
    /// Waits for the next thing that was seen and takes it up.
    pub async fn step(&mut self) -> Step {
        if self.world.changed().await.is_err() {
            return Step::Over;
        }
        let world = self.world.borrow_and_update().clone();
        let Some(secrets) = &world.secrets else {
            self.signal.down("the resolved Secret was not seen yet");
            return Step::Waiting;
        };
        self.take_up(secrets).await;
        let Some(offers) = &world.offers else {
            self.signal.down("the Revisions were not listed yet");
            return Step::Waiting;
        };
        let choice =
            choose(&self.pod, offers, secrets, &self.in_force, &mut |bytes| rand::rng().fill_bytes(bytes));
        self.in_force = choice.in_force;
        self.current.store(Arc::new(choice.config));
        let before = self.told.replace(choice.scopes.clone());
        self.tell(&before, &choice.scopes);
        if let Some(stages) = &mut self.back.stages {
            let config = self.current.load();
            // A Revision is published only after its tables are in place.
            stages.reconcile(&config, &config.apps().keys().cloned().collect());
        }
        self.signal.up();
        Step::InForce
    }

    /// Until the first configuration is in force, or nothing more can come.
    pub async fn until_in_force(&mut self) {
        while self.step().await == Step::Waiting {}
    }

    /// Until it is told to stop; then until every stage has finished its batch.
    pub async fn keep(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async { while self.step().await != Step::Over {} }).await;
        self.stop().await;
    }

    /// Stops the stages, if there are any, and waits for them.
    pub async fn stop(self) {
        if let Some(stages) = self.back.stages {
            stages.stop().await;
        }
    }

    async fn take_up(&mut self, secrets: &Secrets) {
        self.state_token.replace(secrets.state_token());
        self.admin_token.replace(secrets.admin_token());
        self.back.take_up(secrets, &self.metrics).await;
    }

    /// Says what changed, once.
    fn tell(&self, before: &BTreeMap<String, ScopeState>, now: &BTreeMap<String, ScopeState>) {
        for (scope, state) in now {
            let known = before.get(scope);
            let running = state.running.as_ref().filter(|_| known.is_none_or(|k| k.running != state.running));
            if let Some(running) = running {
                self.metrics.config_changes.with_label_values(&["applied"]).inc();
                let (sequence, hash) = (running.sequence, &running.hash);
                tracing::info!(
                    scope,
                    revision.sequence = sequence,
                    revision.hash = hash,
                    "a Revision is in force"
                );
            }
            let refused = state.refused.as_ref().filter(|_| known.is_none_or(|k| k.refused != state.refused));
            if let Some(refused) = refused {
                self.metrics.config_changes.with_label_values(&["refused"]).inc();
                let sequence = refused.sequence;
                tracing::error!(
                    scope,
                    revision.sequence = sequence,
                    "a Revision is refused and the last good one stays in force: {}",
                    refused.reason
                );
            }
        }
        for scope in before.keys().filter(|scope| !now.contains_key(*scope)) {
            tracing::info!(scope, "withdrawn: it has no Revision any more");
        }
    }
}

impl Back {
    /// What a role has, with the credentials it begins with.
    pub fn new(secrets: &Secrets) -> Self {
        let (kafka, clickhouse) = (secrets.kafka().cloned(), secrets.clickhouse().cloned());
        Self { kafka, clickhouse, ..Self::default() }
    }

    /// Uses changed credentials from the next request, statement or membership on.
    async fn take_up(&mut self, secrets: &Secrets, metrics: &Arc<Metrics>) {
        if let Some((open, log)) = &self.log
            && self.kafka.as_ref() != secrets.kafka()
        {
            match open(secrets.kafka(), metrics) {
                Ok(new) => {
                    log.replace(new);
                    tracing::info!("the log's credentials changed and are in use");
                    self.kafka = secrets.kafka().cloned();
                    if let Some(stages) = &mut self.stages {
                        stages.renew().await;
                    }
                }
                Err(error) => {
                    let error = telemetry::chain(&error);
                    tracing::error!(error, "the log's new credentials cannot be used; the old ones stay");
                }
            }
        }
        if let Some((url, store)) = &self.store
            && self.clickhouse.as_ref() != secrets.clickhouse()
        {
            store.replace(endpoint(url, secrets.clickhouse()));
            tracing::info!("ClickHouse's credentials changed and are in use");
            self.clickhouse = secrets.clickhouse().cloned();
        }
    }
}

/// ClickHouse at `url` for this account.
pub fn endpoint(url: &str, account: Option<&Credentials>) -> Endpoint {
    Endpoint {
        url: url.to_owned(),
        user: account.map_or_else(|| "default".to_owned(), |account| account.username.clone()),
        password: account.map(|account| secret(&account.password)),
    }
}
