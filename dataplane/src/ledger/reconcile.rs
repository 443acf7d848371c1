//! The ledger of one App in a worker: what was counted and what is stored in; differences that outlived the lag out, as
//! rows of the ledger, alerts, metrics and at `/state`.
//!
//! Every minute has one process that compares it: the one that holds the minute's partition of the topic `ledger` in a
//! group of its own. The records of the topic say which minutes are to be looked at; what they add up to is read from
//! the tables. The group's position stays before the first record of a minute that is not settled, so nothing is
//! forgotten over a restart.

mod alert;
mod open;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millrace_crds::names::{AppId, TopicKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::balance::{Closing, Minute, Place, Verdict};
use super::book::minute_of;
use super::passed::{Ends, ends, has_passed};
use super::standing::Standing;
use super::sum::Sum;
use super::surge::{self, QUIET_MINUTES, Surge};
use super::watch::{self, Change, Looked, Watch};
use crate::config::{App, Current};
use crate::failpoint;
use crate::load::target::Target;
use crate::log::{Consumer, Log, LogError, Polled, ReadLimits, TopicInfo, Transaction, Transactor};
use crate::member::Member;
use crate::metrics::Metrics;
use crate::process;
use crate::query::ledger::{self as query, Sample, Span};
use crate::query::{Param, QueryError, Row};
use crate::store::{ClickHouse, QueryLimits, Question, StoreError};
use crate::telemetry::{self, Seldom, Telling};
use alert::Alert;
use open::OpenMinutes;

/// The last part of the name of the group.
const STAGE: &str = "ledger";
/// Shortest time between two looks at the tables.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often minutes with a difference on record are looked at again without a reason.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(600);
/// One read of the topic; also how often positions are asked for while stages have to catch up.
const READ: ReadLimits =
    ReadLimits { records_max: 5_000, bytes_max: 4 << 20, wait_max: Duration::from_millis(500) };
/// Most spans of minutes looked at in one go, each of two statements.
const SPANS_MAX: usize = 16;
/// For how many days a difference counts at `/state` and in metrics, if nothing resolves it.
const SHOWN_DAYS: i64 = 7;
/// Minutes of a day.
const DAY_MINUTES: i64 = 24 * 60;
/// Pauses after failures that may pass.
const BACK_OFF: Duration = Duration::from_secs(2);

/// What comparing the ledger of one App needs.
pub struct Reconciler {
    /// Whose ledger.
    pub app: AppId,
    /// Where its topics and tables are.
    pub config: Current,
    /// Where positions are.
    pub log: Arc<dyn Log>,
    /// Where rows are.
    pub store: ClickHouse,
    /// As whom it joins the group.
    pub member: Member,
    /// Differences, and when it looked.
    pub metrics: Arc<Metrics>,
    /// What `/state` tells.
    pub standing: Arc<Standing>,
}

/// Why comparing ended.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The log failed.
    #[error("the ledger of App `{app}` cannot {step}")]
    Log {
        /// The App.
        app: AppId,
        /// What was tried.
        step: &'static str,
        /// Why.
        source: LogError,
    },
    /// The App's configuration names no such topic.
    #[error("the configuration of App `{app}` names no topic `{kind}`; compile it again")]
    NoTopic {
        /// The App.
        app: AppId,
        /// Which.
        kind: TopicKind,
    },
}

/// Why the tables were not read.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("ClickHouse does not tell what is stored")]
    Store { source: StoreError },
    #[error("ClickHouse tells something else than was asked")]
    Shape { source: QueryError },
}

/// Compares until it is cancelled or the App leaves the configuration. A failure that may pass begins a new session.
pub async fn run(reconciler: Reconciler, cancel: CancellationToken) -> Result<(), ReconcileError> {
    let compare = async {
        let mut failures = Seldom::default();
        loop {
            let Some(app) = reconciler.config.load().app(&reconciler.app).cloned() else { return Ok(()) };
            let ended = async { Session::start(&reconciler, &app).await?.run().await }.await;
            reconciler.standing.set(&reconciler.app, None);
            match ended {
                Ok(()) => return Ok(()),
                Err(ReconcileError::Log { source, .. })
                    if source.is_retryable() || matches!(source, LogError::Fenced { .. }) =>
                {
                    if failures.again() != Telling::Not {
                        let error = telemetry::chain(&source);
                        tracing::warn!(app = %reconciler.app, error, "comparing the ledger begins again");
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(failpoint::pause(BACK_OFF)).await;
        }
    };
    let ended = cancel.run_until_cancelled(compare).await.unwrap_or(Ok(()));
    reconciler.standing.set(&reconciler.app, None);
    ended
}

/// Topics of one App.
struct Topics {
    raw: TopicInfo,
    processed: TopicInfo,
    ledger: TopicInfo,
    alerts: TopicInfo,
}

/// One membership.
struct Session<'a> {
    of: &'a Reconciler,
    database: String,
    dedupe_window: Duration,
    topics: Topics,
    consumer: Box<dyn Consumer>,
    transactor: Box<dyn Transactor>,
    open: OpenMinutes,
    watch: Watch,
    /// Minutes to be looked at again because of the last look.
    waiting: BTreeSet<i64>,
    /// Differences on record, of the minutes that are ours or are shown; `None` until they were read.
    recorded: Option<BTreeMap<Place, Sum>>,
    looked: Option<Instant>,
    looked_again: Instant,
    /// First minutes of surges of dead letters that were told.
    surges_told: BTreeSet<i64>,
    is_store_away: bool,
}

/// What a look at the tables came to.
struct Compared {
    minutes: BTreeMap<i64, Minute>,
    looked: Looked,
    /// Surges of dead letters that begin in one of the minutes.
    surges: Vec<Surge>,
}

impl<'a> Session<'a> {
    async fn start(of: &'a Reconciler, app: &App) -> Result<Session<'a>, ReconcileError> {
        let topics = Topics {
            raw: of.topic(app, TopicKind::EventsRaw).await?,
            processed: of.topic(app, TopicKind::EventsProcessed).await?,
            ledger: of.topic(app, TopicKind::Ledger).await?,
            alerts: of.topic(app, TopicKind::Alerts).await?,
        };
        let group = of.member.group(&of.app, STAGE);
        let consumer = of.log.subscribe(&group, &[Arc::clone(&topics.ledger.name)]).await;
        let transactor = of.log.transactor(&of.member.transactor(&of.app, STAGE)).await;
        Ok(Self {
            of,
            database: app.config.storage.database.clone(),
            dedupe_window: Duration::from_millis(app.config.events.dedupe_window_ms),
            topics,
            consumer: consumer.map_err(of.during("join its group"))?,
            transactor: transactor.map_err(of.during("open a transactor"))?,
            open: OpenMinutes::default(),
            watch: Watch::default(),
            waiting: BTreeSet::new(),
            recorded: None,
            looked: None,
            looked_again: Instant::now(),
            surges_told: BTreeSet::new(),
            is_store_away: false,
        })
    }

    async fn run(&mut self) -> Result<(), ReconcileError> {
        while self.of.config.load().app(&self.of.app).is_some() {
            self.poll().await?;
            let is_time = self.looked.is_none_or(|looked| looked.elapsed() >= failpoint::pause(LOOK_EVERY));
            if self.open.is_ours() && is_time && self.is_due() {
                self.look().await?;
                self.looked = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Takes in what the topic has to tell.
    async fn poll(&mut self) -> Result<(), ReconcileError> {
        let read = ReadLimits { wait_max: failpoint::pause(READ.wait_max), ..READ };
        let polled = self.consumer.next(read).await.map_err(self.of.during("read its topic"))?;
        // Of what is just assigned nothing was read yet.
        let is_new = matches!(polled, Polled::Assigned(_));
        match polled {
            Polled::Assigned(assigned) => {
                assigned.iter().for_each(|one| self.open.assign(one.partition.partition));
                // Who compared before may have seen differences that this process did not.
                (self.recorded, self.watch) = (None, Watch::default());
            }
            Polled::Revoked(revoked) => {
                revoked.iter().for_each(|one| self.open.revoke(one.partition));
                self.watch = Watch::default();
                if !self.open.is_ours() {
                    self.of.standing.set(&self.of.app, None);
                    self.show(None);
                }
            }
            Polled::Records(of, records) => self.open.take(of.partition, &records),
            Polled::Idle => {}
        }
        let open = (self.open.is_ours() && !is_new).then(|| self.open.count());
        record::show_open(&self.of.metrics, &self.of.app, open);
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.recorded.is_none() || self.is_time_again() || !self.due().is_empty()
    }

    fn is_time_again(&self) -> bool {
        let has_some = self.recorded.as_ref().is_some_and(|recorded| !recorded.is_empty());
        has_some && self.looked_again.elapsed() >= LOOK_AGAIN_EVERY
    }

    fn due(&self) -> BTreeSet<i64> {
        let mut due = self.open.due(minute_of(failpoint::now()));
        due.extend(&self.waiting);
        due
    }

    /// Waits until all that stands in the log now has passed every stage, then compares.
    async fn look(&mut self) -> Result<(), ReconcileError> {
        let raw = self.of.ends(&self.topics.raw).await?;
        if !self.wait_passed(process::STAGE, raw).await? {
            return Ok(());
        }
        let processed = self.of.ends(&self.topics.processed).await?;
        let ledger = self.of.ends(&self.topics.ledger).await?;
        if !self.wait_passed(Target::Events.stage(), processed).await?
            || !self.wait_passed(Target::Ledger.stage(), ledger.clone()).await?
        {
            return Ok(());
        }
        match self.compare().await {
            Ok(compared) => {
                self.is_store_away = false;
                self.carry_out(compared, &ledger).await
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_store_away, true) {
                    let error = telemetry::chain(&error);
                    tracing::warn!(app = %self.of.app, error, "the ledger waits for ClickHouse");
                }
                // The next read is the first of two again.
                self.watch = Watch::default();
                Ok(())
            }
        }
    }

    /// False where the minutes went to another process meanwhile.
    async fn wait_passed(&mut self, stage: &str, ends: Ends) -> Result<bool, ReconcileError> {
        let group = self.of.member.group(&self.of.app, stage);
        let ours = self.open.partitions();
        loop {
            if self.of.has_passed(&group, &ends).await? {
                return Ok(true);
            }
            self.poll().await?;
            if self.open.partitions() != ours || self.of.config.load().app(&self.of.app).is_none() {
                return Ok(false);
            }
        }
    }

    /// Reads what is due and says what changed.
    async fn compare(&mut self) -> Result<Compared, LookError> {
        let mut due = self.due();
        if self.recorded.is_none() {
            let now = minute_of(failpoint::now());
            let shown = Span { from: now - SHOWN_DAYS * DAY_MINUTES, to: now + DAY_MINUTES };
            let rows = self.of.rows(&self.database, query::SQL_BREACHED, shown.params()).await?;
            let minutes = query::counted(rows).map_err(|source| LookError::Shape { source })?;
            self.recorded = Some(watch::recorded(&minutes));
        }
        if self.looked_again.elapsed() >= LOOK_AGAIN_EVERY {
            due.extend(self.recorded.iter().flatten().map(|(place, _)| place.minute));
            self.looked_again = Instant::now();
        }
        let (mut minutes, mut surges) = (BTreeMap::new(), Vec::new());
        for span in open::spans(&due, SPANS_MAX) {
            // A surge may have begun before.
            let counted = Span { from: span.from - QUIET_MINUTES, ..span };
            let read = self.of.rows(&self.database, query::SQL_COUNTED, counted.params()).await?;
            let mut read = query::counted(read).map_err(|source| LookError::Shape { source })?;
            surges.extend(due.iter().filter_map(|minute| surge::beginning(&read, *minute)));
            let stored = self.of.rows(&self.database, query::SQL_STORED, span.params()).await?;
            query::stored(stored, &mut read).map_err(|source| LookError::Shape { source })?;
            let rows_max = read.values().map(|minute| minute.stored.count).max().unwrap_or(0);
            let sample = Sample::of(span, rows_max, self.dedupe_window);
            let repeated = self.of.rows(&self.database, query::SQL_REPEATED, sample.params()).await?;
            query::repeated(repeated, &mut read).map_err(|source| LookError::Shape { source })?;
            minutes.extend(read.into_iter().filter(|(minute, _)| due.contains(minute)));
        }
        let looked = self.watch.look(&minutes);
        Ok(Compared { minutes, looked, surges })
    }

    /// Puts changes on record and lets go of what is settled, in this order: a minute is forgotten only when what was
    /// found about it is durable.
    async fn carry_out(&mut self, compared: Compared, ledger: &Ends) -> Result<(), ReconcileError> {
        let Compared { minutes, looked: Looked { changes, waiting }, surges } = compared;
        let now = minute_of(failpoint::now());
        // One with nothing wrong may still wait for an instance that has to close it, or to be old.
        let is_settled = |minute: &i64| {
            let is_on_record = changes.iter().any(|change| change.place.minute == *minute);
            let verdict = minutes[minute].verdict(Closing::of(*minute, now));
            !waiting.contains(minute) && (is_on_record || verdict != Verdict::Pending)
        };
        let (settled, pending): (Vec<i64>, Vec<i64>) = minutes.keys().partition(|minute| is_settled(minute));
        let is_news =
            |surge: &Surge| settled.contains(&surge.minute) && !self.surges_told.contains(&surge.minute);
        let surges: Vec<Surge> = surges.into_iter().filter(is_news).collect();
        self.record(&changes, &surges).await?;
        settled.iter().for_each(|minute| self.open.settle(*minute, ledger));
        pending.iter().filter(|minute| !waiting.contains(minute)).for_each(|minute| {
            self.open.wait_for_closing(*minute);
        });
        self.waiting = waiting;
        let positions = self.open.positions(&self.topics.ledger);
        if !positions.is_empty() {
            let committed = self.consumer.commit(positions.clone()).await;
            committed.map_err(self.of.during("keep its position"))?;
            self.open.committed(&positions);
        }
        let recorded = self.recorded.clone();
        self.show(recorded.as_ref());
        Ok(())
    }

    /// Writes what was found, then tells it.
    async fn record(&mut self, changes: &[Change], surges: &[Surge]) -> Result<(), ReconcileError> {
        if changes.is_empty() && surges.is_empty() {
            return Ok(());
        }
        let (app, now_ms) = (&self.of.app, failpoint::now().as_millisecond());
        let of_changes = changes.iter().map(|change| Alert::of_change(app, change, now_ms));
        let of_surges = surges.iter().map(|surge| Alert::of_surge(app, surge, now_ms));
        let alerts: Vec<Alert> = of_changes.chain(of_surges).collect();
        let rows = changes.iter().map(|change| record::row(change, &self.topics.ledger, now_ms));
        let records = rows.chain(alerts.iter().map(|alert| alert.record(&self.topics.alerts))).collect();
        let transaction = Transaction { records, positions: Vec::new(), group: self.consumer.group() };
        let committed = self.transactor.commit(transaction).await;
        committed.map_err(self.of.during("record what it found"))?;
        alerts.iter().for_each(Alert::tell);
        let recorded = self.recorded.get_or_insert_default();
        for change in changes {
            match change.missing.is_zero() {
                true => drop(recorded.remove(&change.place)),
                false => drop(recorded.insert(change.place.clone(), change.missing)),
            }
        }
        self.of.metrics.dead_letter_surges.with_label_values(&[&app.to_string()]).inc_by(surges.len() as u64);
        self.surges_told.extend(surges.iter().map(|surge| surge.minute));
        let shown_since = minute_of(failpoint::now()) - SHOWN_DAYS * DAY_MINUTES;
        self.surges_told = self.surges_told.split_off(&shown_since);
        Ok(())
    }

    fn show(&self, recorded: Option<&BTreeMap<Place, Sum>>) {
        let since = minute_of(failpoint::now()) - SHOWN_DAYS * DAY_MINUTES;
        record::show(&self.of.metrics, &self.of.app, recorded, since);
        if let Some(recorded) = recorded {
            self.of.standing.set(&self.of.app, Some(record::state(recorded, since)));
        }
    }
}

impl Reconciler {
    async fn topic(&self, app: &App, kind: TopicKind) -> Result<TopicInfo, ReconcileError> {
        let found = app.config.topics.iter().find(|topic| topic.kind == kind);
        let topic = found.ok_or_else(|| ReconcileError::NoTopic { app: self.app.clone(), kind })?;
        self.log.topic(&topic.name).await.map_err(self.during("look up its topics"))
    }

    async fn ends(&self, topic: &TopicInfo) -> Result<Ends, ReconcileError> {
        ends(self.log.as_ref(), topic).await.map_err(self.during("find the end of a topic"))
    }

    async fn has_passed(&self, group: &str, ends: &Ends) -> Result<bool, ReconcileError> {
        let passed = has_passed(self.log.as_ref(), group, ends).await;
        passed.map_err(self.during("find where a stage stands"))
    }

    async fn rows<const N: usize>(
        &self,
        database: &str,
        sql: &'static str,
        params: [(&'static str, Param); N],
    ) -> Result<Vec<Row>, LookError> {
        let params = query::on_database(database, params);
        let read = self.store.rows(Question { sql, params: &params }, QueryLimits::default()).await;
        read.map_err(|source| LookError::Store { source })
    }

    fn during(&self, step: &'static str) -> impl FnOnce(LogError) -> ReconcileError {
        let app = self.app.clone();
        move |source| ReconcileError::Log { app, step, source }
    }
}
