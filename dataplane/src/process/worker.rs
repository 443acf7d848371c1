//! One session of a process worker: joins the group, restores what was seen, then gathers, decides and commits
//! batch after batch. Any failure ends the session; the next one starts from what is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use millrace_crds::names::{AppId, TopicKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{self, Batch, Decided, Rules, Targets};
use super::seen::changelog::{CatchUpError, Changelog};
use super::seen::{Seen, SeenError, SharedSeen, WindowChange};
use super::{ProcessError, STAGE, Worker};
use crate::config::App;
use crate::failpoint::{self, Defect, Point};
use crate::log::{
    Assigned, Consumer, LogError, Polled, ReadLimits, TopicInfo, TopicPartition, Transaction, Transactor,
    Watermarks,
};
use crate::telemetry::{Seldom, Telling};

/// Most records in one transaction: some tens of milliseconds of work.
const BATCH_RECORDS_MAX: usize = 5_000;
/// Most bytes read into one batch; its outputs take about as much again.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How long a batch that has begun waits for more: less than the fsync it saves.
const GATHER_WAIT: Duration = Duration::from_millis(20);
/// Longest wait for a first record; also how soon a withdrawn App is noticed.
const IDLE_WAIT: Duration = Duration::from_millis(500);
/// Entries kept in memory until the changelog is read back: about 2 MB.
const RECENT_ENTRIES_MAX: usize = 20_000;
/// How often it is looked which dedupe buckets are expired.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Whether batches are being committed; says so in the log only when that changes.
#[derive(Default)]
pub(super) struct Progress {
    interruption: Seldom,
}

impl Progress {
    /// Notes a failure; what to make of it.
    pub(super) fn interrupted(&mut self) -> Telling {
        self.interruption.again()
    }

    fn committed(&mut self, app: &AppId) {
        if self.interruption.is_over() {
            tracing::info!(%app, "process goes on");
        }
    }
}

/// The topics of one App, as the log has them.
struct Topics {
    raw: TopicInfo,
    targets: Targets,
}

/// From joining the group to the first failure.
pub(super) struct Session<'a> {
    worker: &'a Worker,
    app: Arc<App>,
    topics: Topics,
    consumer: Box<dyn Consumer>,
    transactor: Box<dyn Transactor>,
    seen: SharedSeen,
    /// Partitions that are ours, with the next offset to decide.
    assigned: BTreeMap<u32, u64>,
    /// Append time before which nothing is left to decide; `None` until something tells.
    oldest_pending: Option<i64>,
    /// Append time of the newest record decided.
    newest_decided: Option<i64>,
    /// What the log has shown to take.
    record_bytes_max: usize,
    look_due: Instant,
}

impl<'a> Session<'a> {
    /// Works until cancelled or until the App is withdrawn.
    pub(super) async fn run(
        worker: &'a Worker,
        cancel: &CancellationToken,
        progress: &mut Progress,
    ) -> Result<(), ProcessError> {
        let Some(app) = current(worker) else { return Ok(()) };
        let mut session = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            session = Self::start(worker, app) => session?,
        };
        session.work(cancel, progress).await
    }

    async fn start(worker: &'a Worker, app: Arc<App>) -> Result<Self, ProcessError> {
        let topics = Topics::resolve(worker, &app).await?;
        let group = worker.group();
        let log = &worker.log;
        let raw = Arc::clone(&topics.raw.name);
        let consumer = log.subscribe(&group, &[raw]).await.map_err(during(worker, "subscribe"))?;
        // One process runs one worker per App, so its own name in the App's group is an id of its own.
        let transactor = log.transactor(&worker.member.transactor(&worker.app, STAGE)).await;
        let transactor = transactor.map_err(during(worker, "open a transactor"))?;
        let window_ms = app.config.events.dedupe_window_ms;
        let seen = worker.seen.app(&worker.app, topics.targets.seen.id, window_ms);
        let seen = SharedSeen::new(seen.map_err(seen_failed(worker))?);
        Ok(Self {
            worker,
            app,
            topics,
            consumer,
            transactor,
            seen,
            assigned: BTreeMap::new(),
            oldest_pending: None,
            newest_decided: None,
            record_bytes_max: usize::MAX,
            look_due: Instant::now(),
        })
    }

    async fn work(
        &mut self,
        cancel: &CancellationToken,
        progress: &mut Progress,
    ) -> Result<(), ProcessError> {
        loop {
            let batch = tokio::select! {
                biased;
                () = cancel.cancelled() => return self.flush_recent().await,
                batch = self.gather() => batch?,
            };
            // Its records stay in raw, for when the App comes back.
            let Some(app) = current(self.worker) else { return Ok(()) };
            self.adopt(app).await?;
            if batch.is_empty() {
                self.flush_recent().await?;
            } else {
                self.carry_out(batch).await?;
                progress.committed(&self.worker.app);
            }
            if Instant::now() >= self.look_due {
                self.look_ahead().await?;
                self.look_due = Instant::now() + LOOK_INTERVAL;
            }
        }
    }

    /// Reads until the batch is full or nothing more comes at once.
    async fn gather(&mut self) -> Result<Batch, ProcessError> {
        let mut batch = Batch::default();
        let mut full_at = None;
        while batch.len() < BATCH_RECORDS_MAX && batch.bytes() < BATCH_BYTES_MAX {
            let limits = ReadLimits {
                records_max: BATCH_RECORDS_MAX - batch.len(),
                bytes_max: BATCH_BYTES_MAX - batch.bytes(),
                wait_max: full_at
                    .map_or(IDLE_WAIT, |at: Instant| at.saturating_duration_since(Instant::now())),
            };
            match self.consumer.next(limits).await.map_err(during(self.worker, "read"))? {
                Polled::Assigned(assigned) => self.take_over(assigned).await?,
                Polled::Revoked(partitions) => {
                    for revoked in partitions {
                        batch.remove(revoked.partition);
                        self.assigned.remove(&revoked.partition);
                    }
                }
                Polled::Records(of, records) => {
                    batch.push(of.partition, records);
                    full_at = full_at.or_else(|| Some(Instant::now() + GATHER_WAIT));
                }
                Polled::Idle => break,
            }
            if full_at.is_some_and(|at| Instant::now() >= at) {
                break;
            }
        }
        Ok(batch)
    }

    /// Partitions may be decided on only when everything committed about them is known.
    async fn take_over(&mut self, assigned: Vec<Assigned>) -> Result<(), ProcessError> {
        let worker = self.worker;
        failpoint::reach(Point::ProcessAssigned).await.map_err(during(worker, "take partitions over"))?;
        let is_first = self.assigned.is_empty();
        let new: BTreeSet<u32> = assigned.iter().map(|assigned| assigned.partition.partition).collect();
        let before: BTreeSet<u32> =
            self.assigned.keys().copied().filter(|held| !new.contains(held)).collect();
        let mut oldest = None;
        for Assigned { partition: of, topic: _, committed } in assigned {
            let next = match committed {
                Some(committed) => committed.offset,
                None => self.begin(&of).await?,
            };
            self.assigned.insert(of.partition, next);
            oldest = oldest.into_iter().chain(append_time(worker, &of, next).await?).min();
        }
        if let Some(oldest) = oldest {
            let held = self.changelog(&before).partitions;
            let held = held.difference(&self.changelog(&new).partitions).copied().collect();
            self.seen.with(|seen| seen.reach_back(oldest, &held)).await;
        }
        if !is_first {
            // What is ours already may be further behind than what is new.
            oldest = oldest.into_iter().chain([self.needed_from()]).min();
        }
        self.catch_up(oldest).await?;
        self.oldest_pending = oldest;
        failpoint::reach(Point::ProcessRestored).await.map_err(during(worker, "take partitions over"))
    }

    /// Reads a partition that no member of the group ever committed from its first record on.
    async fn begin(&mut self, of: &TopicPartition) -> Result<u64, ProcessError> {
        let low = watermarks(self.worker, of).await?.low;
        self.consumer.seek(of, low).await.map_err(during(self.worker, "find its start"))?;
        Ok(low)
    }

    /// The part of the changelog that belongs to these raw partitions.
    fn changelog(&self, raw: &BTreeSet<u32>) -> Changelog {
        Changelog::new(self.topics.targets.seen.clone(), raw, self.topics.raw.partitions)
    }

    /// Reads the changelog up to its end. See [`Changelog::catch_up`] for `oldest_pending`.
    async fn catch_up(&mut self, oldest_pending: Option<i64>) -> Result<(), ProcessError> {
        let ours: BTreeSet<u32> = self.assigned.keys().copied().collect();
        self.changelog(&ours)
            .catch_up(self.worker.log.as_ref(), &self.seen, oldest_pending)
            .await
            .map_err(|source: CatchUpError| ProcessError::CatchUp { app: self.worker.app.clone(), source })?;
        Ok(())
    }

    /// Brings what is only in memory to disk, so that a restart has little to read.
    async fn flush_recent(&mut self) -> Result<(), ProcessError> {
        let recent = self.seen.with(|seen| seen.recent_len()).await;
        match recent {
            0 => Ok(()),
            _ => self.catch_up(Some(self.needed_from())).await,
        }
    }

    /// No record appended before this is still to be decided; the beginning of time while that is unknown.
    fn needed_from(&self) -> i64 {
        self.oldest_pending.unwrap_or(i64::MIN)
    }

    /// Works by a new configuration from the next batch on.
    async fn adopt(&mut self, app: Arc<App>) -> Result<(), ProcessError> {
        if Arc::ptr_eq(&app, &self.app) {
            return Ok(());
        }
        self.topics = Topics::resolve(self.worker, &app).await?;
        let window_ms = app.config.events.dedupe_window_ms;
        let change = self.seen.with(|seen| seen.set_window(window_ms)).await;
        self.app = app;
        match change {
            WindowChange::Holds => Ok(()),
            WindowChange::NeedsCatchUp => self.catch_up(Some(self.needed_from())).await,
        }
    }

    /// Decides a batch and commits it. A record that the log turns out not to take is decided again as too
    /// large; each round the limit falls below the largest record, so the rounds end.
    async fn carry_out(&mut self, batch: Batch) -> Result<(), ProcessError> {
        let timer =
            self.worker.metrics.process_batch_seconds.with_label_values(&[&self.app_label()]).start_timer();
        let batch = Arc::new(batch);
        let mut decided = loop {
            let mut decided = self.decide(&batch).await?;
            failpoint::reach(Point::ProcessDecided).await.map_err(during(self.worker, "begin to commit"))?;
            if failpoint::has(Defect::ProcessLosesRecord) && !decided.records.is_empty() {
                decided.records.remove(0);
            }
            let transaction = Transaction {
                records: std::mem::take(&mut decided.records),
                positions: batch.positions(&self.topics.raw.name),
                group: self.consumer.group(),
            };
            match self.transactor.commit(transaction).await {
                Ok(()) => break decided,
                Err(LogError::TooLarge { bytes_max, .. })
                    if decided.largest_bytes <= self.record_bytes_max =>
                {
                    self.record_bytes_max = bytes_max.min(decided.largest_bytes.saturating_sub(1));
                }
                Err(source) => return Err(during(self.worker, "commit")(source)),
            }
        };
        failpoint::reach(Point::ProcessCommitted).await.map_err(during(self.worker, "apply a commit"))?;
        self.count(&decided);
        for (partition, record) in batch.last() {
            self.assigned.insert(partition, record.offset + 1);
            self.newest_decided = self.newest_decided.max(Some(record.appended_at));
        }
        if failpoint::has(Defect::ProcessForgetsSeen) {
            decided.entries.clear();
        }
        let committed = |seen: &mut Seen| {
            seen.committed(decided.entries);
            seen.recent_len()
        };
        let recent = self.seen.with(committed).await;
        timer.observe_duration();
        failpoint::reach(Point::ProcessApplied).await.map_err(during(self.worker, "go on"))?;
        if recent >= RECENT_ENTRIES_MAX { self.flush_recent().await } else { Ok(()) }
    }

    /// Off the async threads: it computes, and its look-ups may wait for the disk.
    async fn decide(&mut self, batch: &Arc<Batch>) -> Result<Decided, ProcessError> {
        let (batch, app) = (Arc::clone(batch), Arc::clone(&self.app));
        let targets = self.topics.targets.clone();
        let record_bytes_max = self.record_bytes_max;
        let decide = move |seen: &mut Seen| {
            let now_ms = Timestamp::now().as_millisecond();
            batch::decide(&batch, seen, &Rules { app: &app, targets: &targets, now_ms, record_bytes_max })
        };
        self.seen.run(decide).await.map_err(seen_failed(self.worker))
    }

    fn count(&self, decided: &Decided) {
        let metrics = &self.worker.metrics;
        let app = self.app_label();
        for (outcome, count) in &decided.outcomes {
            metrics.process_events.with_label_values(&[app.as_str(), outcome]).inc_by(*count);
        }
        for (property, count) in &decided.misfits {
            metrics.process_misfits.with_label_values(&[app.as_str(), property]).inc_by(*count);
        }
    }

    /// Looks for the oldest record that is left to decide: it tells which dedupe buckets are still needed.
    async fn look_ahead(&mut self) -> Result<(), ProcessError> {
        let mut oldest = self.newest_decided;
        for (partition, next) in self.assigned.clone() {
            let of = self.raw(partition);
            if watermarks(self.worker, &of).await?.high > next {
                oldest = oldest.into_iter().chain(append_time(self.worker, &of, next).await?).min();
            }
        }
        if let Some(oldest) = oldest {
            self.oldest_pending = Some(oldest);
            self.seen.run(move |seen| seen.retire(oldest)).await.map_err(seen_failed(self.worker))?;
        }
        Ok(())
    }

    fn app_label(&self) -> String {
        self.worker.app.to_string()
    }

    fn raw(&self, partition: u32) -> TopicPartition {
        TopicPartition { topic: Arc::clone(&self.topics.raw.name), partition }
    }
}

impl Topics {
    async fn resolve(worker: &Worker, app: &App) -> Result<Self, ProcessError> {
        Ok(Self {
            raw: topic(worker, app, TopicKind::EventsRaw).await?,
            targets: Targets {
                processed: topic(worker, app, TopicKind::EventsProcessed).await?,
                dead_letters: topic(worker, app, TopicKind::DeadLetters).await?,
                seen: topic(worker, app, TopicKind::Seen).await?,
                ledger: topic(worker, app, TopicKind::Ledger).await?,
            },
        })
    }
}

/// The App as configured now.
fn current(worker: &Worker) -> Option<Arc<App>> {
    worker.config.load().app(&worker.app).cloned()
}

async fn topic(worker: &Worker, app: &App, kind: TopicKind) -> Result<TopicInfo, ProcessError> {
    let found = app.config.topics.iter().find(|topic| topic.kind == kind);
    let wanted = found.ok_or_else(|| ProcessError::NoTopic { app: worker.app.clone(), kind })?;
    worker.log.topic(&wanted.name).await.map_err(during(worker, "look up its topics"))
}

async fn watermarks(worker: &Worker, of: &TopicPartition) -> Result<Watermarks, ProcessError> {
    worker.log.watermarks(of).await.map_err(during(worker, "read watermarks"))
}

/// When the record at an offset, or the first one after it, was appended; `None` at the end.
async fn append_time(worker: &Worker, of: &TopicPartition, offset: u64) -> Result<Option<i64>, ProcessError> {
    let records =
        worker.log.read(of, offset, ReadLimits::PEEK).await.map_err(during(worker, "read ahead"))?;
    Ok(records.first().map(|record| record.appended_at))
}

fn during(worker: &Worker, step: &'static str) -> impl FnOnce(LogError) -> ProcessError {
    let app = worker.app.clone();
    move |source| ProcessError::Log { app, step, source }
}

fn seen_failed(worker: &Worker) -> impl FnOnce(SeenError) -> ProcessError {
    let app = worker.app.clone();
    move |source| ProcessError::Seen { app, source }
}
