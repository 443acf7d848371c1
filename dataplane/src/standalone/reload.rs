//! Keeps the process at what its files say: looks at them, builds, refuses or brings into force, and puts tables in
//! place when ClickHouse is there. One task, one step at a time; the only writer of the configuration in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use millrace_crds::config::AppConfig;
use millrace_crds::names::AppId;
use millrace_crds::schema::{self, Owner};
use millrace_provision::clickhouse::{self as provision, ProvisionError};
use tokio_util::sync::CancellationToken;

use super::build::{self, BuildError, Built};
use super::keys::KeyRing;
use super::sources::{Fingerprint, Origin, SourceError};
use crate::admin::changes::{Changes, RefusedProblem};
use crate::admin::readiness::Signal;
use crate::config::{Config, Current};
use crate::control::protocol::{RebuildReport, RebuildStage};
use crate::control::rollups::Rebuilds;
use crate::log::LogError;
use crate::log::embedded::EmbeddedLog;
use crate::metrics::Metrics;
use crate::stages::Stages;
use crate::store::ClickHouse;
use crate::telemetry;

/// How often the files are looked at: four times within the second that a change may take, of which it needs two.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Everything the loop works on.
pub(super) struct Reloader {
    /// Where the resources come from.
    pub origin: Origin,
    /// Keys of the Apps.
    pub keys: KeyRing,
    /// The configuration in force; written here only.
    pub current: Current,
    /// The log, for topics.
    pub log: Arc<EmbeddedLog>,
    /// ClickHouse, for tables.
    pub store: ClickHouse,
    /// The stages of the Apps.
    pub stages: Stages,
    /// What `/state` shows.
    pub changes: Arc<Changes>,
    /// Rollups that somebody wants made anew.
    pub rebuilds: Arc<Rebuilds>,
    /// Says whether the files and what is in force agree.
    pub signal: Signal,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

/// What is known between two steps.
#[derive(Default)]
struct Known {
    /// What the files looked like when they were read.
    read: Option<Fingerprint>,
    /// What they look like now, seen once: read when it is seen again, so that nothing half-written is.
    settling: Option<Fingerprint>,
    in_force: Built,
    waiting: Option<Built>,
    /// Hash of the schema that is in place, per App in force.
    tables: BTreeMap<AppId, String>,
    /// Schemas in force that cannot be put in place as the tables are; not tried again before something changes.
    impossible: BTreeMap<AppId, String>,
    /// The last refusal, told once.
    refused: Vec<RefusedProblem>,
    /// The last trouble with tables, told once.
    trouble: String,
}

impl Reloader {
    /// Brings the first configuration into force, without waiting for ClickHouse.
    pub(super) async fn start(
        mut self,
        first: Built,
        stop: CancellationToken,
    ) -> Result<Running, ReloadError> {
        let read = self.origin.fingerprint().map_err(|source| ReloadError::Sources { source })?;
        let mut known = Known { read, ..Known::default() };
        self.bring_into_force(first, &mut known).await?;
        let task = tokio::spawn(async move {
            stop.run_until_cancelled(self.keep(known)).await;
            self.stages.stop().await;
        });
        Ok(Running { task })
    }

    async fn keep(&mut self, mut known: Known) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look(&mut known);
            self.settle(&mut known).await;
            self.rebuild_rollups(&known).await;
        }
    }

    /// Reads the files if they changed and are at rest. A configuration that builds waits to be brought into force.
    fn look(&mut self, known: &mut Known) {
        let found = match self.origin.fingerprint() {
            Ok(found) => found,
            Err(error) => {
                // Read again when they are back, even if they look as before.
                known.read = None;
                return self.refuse_for(&error, known);
            }
        };
        if found == known.read {
            known.settling = None;
            return;
        }
        if found != known.settling {
            known.settling = found;
            return;
        }
        known.read = known.settling.take();
        let built = self
            .origin
            .read()
            .map_err(|source| ReloadError::Sources { source })
            .and_then(|sources| build::build(&sources, &mut self.keys).map_err(ReloadError::from));
        match built {
            Ok(built) if built.hashes() == known.in_force.hashes() => {
                known.waiting = None;
                self.accept(known);
            }
            Ok(built) => known.waiting = Some(built),
            Err(ReloadError::Build { source: BuildError::Problems { problems } }) => {
                self.refuse(problems.iter().map(build::refused_problem).collect(), known);
            }
            Err(error) => {
                known.read = None;
                self.refuse_for(&error, known);
            }
        }
    }

    /// Brings a waiting configuration into force once its tables are in place, and keeps those in force in place.
    async fn settle(&mut self, known: &mut Known) {
        if let Some(waiting) = known.waiting.take() {
            self.try_waiting(waiting, known).await;
        }
        if known.waiting.is_none() {
            let in_force = known.in_force.clone();
            let impossible = known.impossible.clone();
            match self.put_tables(&in_force, &impossible, known).await {
                Ok(()) => known.trouble.clear(),
                Err(error) => self.tell_trouble(&error, known),
            }
        }
        self.serve(known);
    }

    async fn try_waiting(&mut self, waiting: Built, known: &mut Known) {
        if !needs_tables(&waiting, known) {
            return self.replace(waiting, known).await;
        }
        match self.put_tables(&waiting, &BTreeMap::new(), known).await {
            Ok(()) => self.replace(waiting, known).await,
            Err(error) if !error.is_retryable() => self.refuse_for(&error, known),
            Err(error) if changes_tables(&waiting, &known.in_force) => {
                self.signal.down(format!("a change of tables waits: {}", telemetry::chain(&error)));
                known.waiting = Some(waiting);
            }
            // ClickHouse is away, and only new Apps need it: their events wait in the log.
            Err(_) => self.replace(waiting, known).await,
        }
    }

    async fn replace(&mut self, built: Built, known: &mut Known) {
        if let Err(error) = self.bring_into_force(built, known).await {
            self.refuse_for(&error, known);
        }
    }

    /// Puts the tables of every App in place that are not known to be. First everything is planned: what one App
    /// cannot have must not change another's.
    async fn put_tables(
        &self,
        built: &Built,
        impossible: &BTreeMap<AppId, String>,
        known: &mut Known,
    ) -> Result<(), TablesError> {
        let mut planned = Vec::new();
        for app in &built.apps {
            let id = &app.app;
            let hash = app.storage.schema_hash.clone();
            if known.tables.get(id) == Some(&hash) || impossible.get(id) == Some(&hash) {
                continue;
            }
            let schema = schema::of_app(app);
            let plan = provision::plan(&self.store.client(), &schema, &self.owner(id)).await;
            match plan {
                Ok(statements) => planned.push((id.clone(), hash, statements)),
                Err(source) => {
                    if !source.is_retryable() {
                        known.impossible.insert(id.clone(), hash);
                    }
                    return Err(TablesError { app: id.clone(), source });
                }
            }
        }
        for (id, hash, statements) in planned {
            provision::carry_out(&self.store.client(), &statements)
                .await
                .map_err(|source| TablesError { app: id.clone(), source })?;
            if !statements.is_empty() {
                tracing::info!(app = %id, statements = statements.len(), "tables are in place");
            }
            known.tables.insert(id, hash);
        }
        Ok(())
    }

    /// Makes rollups anew where somebody asked for it. What fails for now is begun again at the next look, and what a
    /// restart broke off when the tables are put in place.
    async fn rebuild_rollups(&self, known: &Known) {
        for id in self.rebuilds.asked() {
            let report = match known.in_force.apps.iter().find(|app| app.app == id) {
                Some(app) => self.rebuilt(app).await,
                None => RebuildReport {
                    stage: RebuildStage::Failed,
                    trouble: format!("App `{id}` is not served any more"),
                    ..RebuildReport::default()
                },
            };
            self.rebuilds.tell(&id, report);
        }
    }

    async fn rebuilt(&self, app: &AppConfig) -> RebuildReport {
        let id = &app.app;
        let client = self.store.client();
        let failed = |error: &ProvisionError| {
            let stage = if error.is_retryable() { RebuildStage::Running } else { RebuildStage::Failed };
            RebuildReport { stage, trouble: telemetry::chain(error), ..RebuildReport::default() }
        };
        let statements = match provision::plan_rebuild(&client, &schema::of_app(app), &self.owner(id)).await {
            Ok(statements) => statements,
            Err(error) => return failed(&error),
        };
        let of = statements.len() as u64;
        for (done, statement) in (0..).zip(&statements) {
            let (stage, object) = (RebuildStage::Running, statement.object.clone());
            self.rebuilds.tell(id, RebuildReport { stage, done, of, object, ..RebuildReport::default() });
            if let Err(error) = provision::carry_out(&client, std::slice::from_ref(statement)).await {
                return failed(&error);
            }
        }
        tracing::info!(app = %id, statements = of, "the rollups are made anew");
        RebuildReport { stage: RebuildStage::Done, done: of, of, ..RebuildReport::default() }
    }

    /// Says what keeps tables from being in place: once, and at `/readyz` while it lasts.
    fn tell_trouble(&self, error: &TablesError, known: &mut Known) {
        let text = telemetry::chain(error);
        if known.trouble == text {
            return;
        }
        if error.is_retryable() {
            tracing::warn!(error = text, "tables wait for ClickHouse; events are kept in the log");
        } else {
            self.signal.down(text.clone());
            tracing::error!(
                error = text,
                "an App's tables cannot be put in place; its events are kept in the log until its file is repaired"
            );
        }
        known.trouble = text;
    }

    fn owner(&self, app: &AppId) -> Owner {
        Owner {
            cluster: self.keys.installation().to_string(),
            namespace: app.namespace().to_owned(),
            app: app.name().to_owned(),
            uid: String::new(), // A file has no UID: the name is all there is.
        }
    }

    async fn bring_into_force(&mut self, built: Built, known: &mut Known) -> Result<(), ReloadError> {
        let mut apps = Vec::new();
        for app in &built.apps {
            self.log.ensure_topics(&app.topics).await.map_err(|source| ReloadError::Topics { source })?;
            let keys = self.keys.privacy_keys(&app.app).map_err(BuildError::from)?;
            apps.push((app.clone(), keys));
        }
        let config = Config::build(apps, built.access.clone(), self.keys.pepper())
            .map_err(|source| ReloadError::Config { source })?;
        self.current.store(Arc::new(config));
        self.accept(known);
        self.metrics.config_changes.with_label_values(&["applied"]).inc();
        tracing::info!(apps = built.apps.len(), "a configuration is in force");
        for note in &built.notes {
            tracing::info!("left aside: {note}");
        }
        for app in built.generated.iter().filter(|app| !known.in_force.generated.contains(app)) {
            tracing::info!(app = %app, "the App names no write key; one was made and is kept in keys.json");
        }
        known.tables.retain(|app, _| built.apps.iter().any(|config| config.app == *app));
        known.impossible.clear();
        known.in_force = built;
        self.serve(known);
        Ok(())
    }

    /// Processes every App in force, and loads those whose tables are as they must be.
    fn serve(&mut self, known: &Known) {
        let loadable: BTreeSet<AppId> = known
            .in_force
            .apps
            .iter()
            .filter(|app| known.tables.get(&app.app) == Some(&app.storage.schema_hash))
            .map(|app| app.app.clone())
            .collect();
        self.stages.reconcile(&self.current.load(), &loadable);
    }

    /// The files and what is in force agree.
    fn accept(&self, known: &mut Known) {
        known.refused.clear();
        self.changes.applied(&self.current.load(), Timestamp::now());
        self.signal.up();
    }

    fn refuse_for(&self, error: &(dyn std::error::Error + 'static), known: &mut Known) {
        let message = telemetry::chain(error);
        let problem = RefusedProblem {
            source: None,
            object: String::new(),
            path: String::new(),
            message,
            fix: String::new(),
        };
        self.refuse(vec![problem], known);
    }

    fn refuse(&self, problems: Vec<RefusedProblem>, known: &mut Known) {
        known.waiting = None;
        if known.refused == problems {
            return;
        }
        self.metrics.config_changes.with_label_values(&["refused"]).inc();
        for problem in &problems {
            tracing::error!(
                source = problem.source,
                object = problem.object,
                field = problem.path,
                fix = problem.fix,
                "a changed configuration is refused and the last good one stays in force: {}",
                problem.message
            );
        }
        self.signal.down("the files as they are were refused; `/state` says why");
        self.changes.refused(problems.clone(), Timestamp::now());
        known.refused = problems;
    }
}

/// Whether an App of it needs tables that are neither in place nor already needed by what is in force.
fn needs_tables(next: &Built, known: &Known) -> bool {
    next.apps.iter().any(|app| {
        let hash = &app.storage.schema_hash;
        let mut in_force = known.in_force.apps.iter();
        known.tables.get(&app.app) != Some(hash)
            && !in_force.any(|before| before.app == app.app && before.storage.schema_hash == *hash)
    })
}

/// Whether an App that is served now would need other tables.
fn changes_tables(next: &Built, in_force: &Built) -> bool {
    next.apps.iter().any(|app| {
        let before = in_force.apps.iter().find(|before| before.app == app.app);
        before.is_some_and(|before| before.storage.schema_hash != app.storage.schema_hash)
    })
}

/// Why tables are not in place.
#[derive(Debug, thiserror::Error)]
#[error("the tables of App `{app}` cannot be put in place")]
struct TablesError {
    /// Whose.
    app: AppId,
    /// Why.
    source: ProvisionError,
}

impl TablesError {
    fn is_retryable(&self) -> bool {
        self.source.is_retryable()
    }
}

/// The running loop.
pub(super) struct Running {
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Lets `broken` know when the loop ends before it is told to stop.
    pub(super) fn watched(self, stop: &CancellationToken, broken: &CancellationToken) -> Self {
        Self { task: crate::tasks::watched(self.task, stop, broken) }
    }

    /// Waits until the loop and every task of every App has ended.
    pub(super) async fn ended(self) {
        // A panic in the loop was logged by the hook; there is nothing left to stop.
        let _ = self.task.await;
    }
}

/// Why a configuration cannot be brought into force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The files cannot be read.
    #[error("the resources cannot be read")]
    Sources {
        /// Why.
        source: SourceError,
    },
    /// The resources have problems.
    #[error("the resources are refused")]
    Build {
        /// Which.
        #[from]
        source: BuildError,
    },
    /// The parts do not fit together.
    #[error("the Apps do not fit together")]
    Config {
        /// Why.
        source: crate::config::ConfigError,
    },
    /// Topics cannot be made.
    #[error("the topics cannot be made")]
    Topics {
        /// Why.
        source: LogError,
    },
}
