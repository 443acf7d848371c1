//! One membership in the group: records of its partitions in, blocks inserted and positions committed out.
//! Holds the order of the protocol; what a block is, and how it gets in, is decided elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;

use super::beginning::beginning;
use super::block::Block;
use super::insert::{AppGone, Attempt, Inserted, Origin, insert};
use super::intent::{FIRST_EPOCH, Intent, Noted, SPLIT_RULE, standing};
use super::lag::Positions;
use super::partition::Partition;
use super::replay::{NotReproduced, planned_block};
use super::{LoadError, Loader, window};
use crate::config::App;
use crate::failpoint::{self, Point};
use crate::log::{
    Assigned, Commit, Committed, Consumer, LogRecord, Polled, ReadLimits, TopicInfo, TopicPartition,
};

/// Most records of one read.
const READ_RECORDS_MAX: usize = 10_000;
/// Most bytes of one read.
const READ_BYTES_MAX: usize = 4 << 20;
/// Longest wait for a record when none waits to be flushed; also how soon an App that left is noticed.
const IDLE_WAIT: Duration = Duration::from_millis(500);

/// A membership and what waits to be inserted.
pub(super) struct Session<'a> {
    loader: &'a Loader,
    positions: &'a Positions,
    consumer: Box<dyn Consumer>,
    partitions: BTreeMap<TopicPartition, Partition>,
    loaded: bool,
    /// Whether the tables were seen to remember their inserts for long enough.
    windows: Windows,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Windows {
    Unseen,
    LargeEnough,
}

/// A block whose time has come.
struct Due {
    of: TopicPartition,
    topic: TopicInfo,
    epoch: u32,
    block: Block,
}

/// Why a session ended.
pub(super) enum End {
    /// The App left the configuration. Intents stay for when it comes back.
    AppGone,
    /// The log failed.
    Failed(LoadError),
}

impl From<LoadError> for End {
    fn from(error: LoadError) -> Self {
        Self::Failed(error)
    }
}

impl From<AppGone> for End {
    fn from(AppGone: AppGone) -> Self {
        Self::AppGone
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.partitions.keys().for_each(|partition| self.positions.forget(partition));
    }
}

impl<'a> Session<'a> {
    /// Joins the group.
    pub(super) async fn start(loader: &'a Loader, positions: &'a Positions) -> Result<Session<'a>, End> {
        let topic = loader.topic(&loader.configured()?.config)?;
        let joined = loader.log.subscribe(&loader.group(), &[topic]).await;
        let consumer = joined.map_err(loader.log_error("join its group"))?;
        Ok(Self {
            loader,
            positions,
            consumer,
            partitions: BTreeMap::new(),
            loaded: false,
            windows: Windows::Unseen,
        })
    }

    /// Whether anything was loaded, so that the failure that ended the session is a new one.
    pub(super) fn has_loaded(&self) -> bool {
        self.loaded
    }

    /// Until something ends it.
    pub(super) async fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.turn().await {
                return end;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), End> {
        self.loader.configured()?;
        let limits = self.read_limits();
        match self.consumer.next(limits).await.map_err(self.loader.log_error("read"))? {
            Polled::Assigned(assigned) => {
                for one in assigned {
                    self.assign(one).await?;
                }
            }
            Polled::Revoked(revoked) => revoked.iter().for_each(|partition| self.revoke(partition)),
            Polled::Records(of, records) => self.take(&of, records),
            Polled::Idle => {}
        }
        self.flush().await
    }

    fn read_limits(&self) -> ReadLimits {
        let age_max = self.loader.limits.age_max;
        let since = self.partitions.values().filter_map(Partition::waiting_since).min();
        let left = since.map_or(IDLE_WAIT, |since| age_max.saturating_sub(since.elapsed()));
        ReadLimits { records_max: READ_RECORDS_MAX, bytes_max: READ_BYTES_MAX, wait_max: left.min(IDLE_WAIT) }
    }

    /// Takes a partition over: finishes what its last owner had begun, then reads on behind it.
    async fn assign(&mut self, assigned: Assigned) -> Result<(), End> {
        failpoint::reach(Point::LoadAssigned)
            .await
            .map_err(self.loader.log_error("take a partition over"))?;
        let Assigned { partition: of, topic, committed } = assigned;
        let Committed { offset, metadata } = match committed {
            Some(committed) => committed,
            None => unknown_position(self.loader, self.positions, &of).await?,
        };
        self.positions.set(&of, offset);
        let mut partition = Partition::new(self.loader.target, topic, offset, FIRST_EPOCH);
        match metadata.parse() {
            Ok(Noted::Standing { epoch }) => partition.epoch = epoch,
            Ok(Noted::Begun(intent)) => self.finish(&of, &mut partition, intent).await?,
            Err(reason) => {
                self.report_stop(&of, &reason);
                partition.stopped = true;
            }
        }
        self.consumer.seek(&of, partition.next).await.map_err(self.loader.log_error("find its position"))?;
        tracing::info!(app = %self.loader.app, partition = %of, offset = partition.next, "loading a partition");
        self.partitions.insert(of, partition);
        self.show_stopped();
        Ok(())
    }

    /// Carries out the intent that was found: exactly the same range, rows and token.
    async fn finish(
        &mut self,
        of: &TopicPartition,
        partition: &mut Partition,
        intent: Intent,
    ) -> Result<(), End> {
        let epoch = intent.epoch;
        partition.epoch = epoch;
        let block = match planned_block(self.loader, of, partition.next, intent).await {
            Ok(planned) => planned,
            Err(NotReproduced::Log { source }) => {
                return Err(self.loader.log_error("read a block again")(source).into());
            }
            Err(reason) => {
                self.report_stop(of, &reason);
                partition.stopped = true;
                return Ok(());
            }
        };
        let origin = Origin { topic: &partition.topic, partition: of, epoch };
        failpoint::reach(Point::LoadFound).await.map_err(self.loader.log_error("repeat a block"))?;
        let inserted = insert(self.loader, origin, &block, Attempt::Repeat).await?;
        failpoint::reach(Point::LoadRepeated).await.map_err(self.loader.log_error("finish a block"))?;
        self.commit(vec![ended(of, epoch, &block, inserted)], "commit a finished block").await?;
        failpoint::reach(Point::LoadFinished).await.map_err(self.loader.log_error("go on behind a block"))?;
        match inserted {
            Inserted::Stored => partition.next = block.range.end,
            // What is behind it is read anew, so nothing is kept of it.
            Inserted::TooLarge => partition.give_up(&block),
        }
        self.positions.set(of, partition.next);
        Ok(())
    }

    fn revoke(&mut self, partition: &TopicPartition) {
        self.positions.forget(partition);
        self.partitions.remove(partition);
        self.show_stopped();
    }

    fn take(&mut self, of: &TopicPartition, records: Vec<LogRecord>) {
        let Some(partition) = self.partitions.get_mut(of) else { return };
        if let Err(unreadable) = partition.take(records, self.loader.limits.age_max) {
            self.report_stop(of, &unreadable);
            self.show_stopped();
        }
    }

    fn report_stop(&self, of: &TopicPartition, reason: &(dyn std::error::Error + 'static)) {
        let app = self.loader.app.to_string();
        tracing::error!(app, partition = %of, error = reason, "a partition is not loaded any further");
    }

    fn show_stopped(&self) {
        let stopped = self.partitions.values().filter(|partition| partition.stopped).count();
        let gauge = self.loader.metrics.load_stopped_partitions.with_label_values(&self.loader.labels());
        gauge.set(i64::try_from(stopped).unwrap_or(i64::MAX));
    }

    /// Rounds of blocks, one per partition that is due, until none is.
    async fn flush(&mut self) -> Result<(), End> {
        loop {
            let due = self.cut();
            if due.is_empty() {
                return Ok(());
            }
            self.load(due).await?;
        }
    }

    fn cut(&mut self) -> Vec<Due> {
        let limits = &self.loader.limits;
        let waiting: usize = self.partitions.values().map(Partition::waiting_bytes).sum();
        let full = waiting >= limits.buffer_bytes_max;
        let due = |(of, partition): (&TopicPartition, &mut Partition)| {
            let block = if full || partition.is_due(limits) { partition.cut(limits) } else { None };
            Some(Due {
                of: of.clone(),
                topic: partition.topic.clone(),
                epoch: partition.epoch,
                block: block?,
            })
        };
        self.partitions.iter_mut().filter_map(due).collect()
    }

    /// The protocol. The intents are durable before any insert begins, and every insert is answered before its
    /// end is committed.
    async fn load(&mut self, due: Vec<Due>) -> Result<(), End> {
        let app = self.loader.configured()?;
        self.check_windows(&app).await?;
        let schema_hash = &app.config.storage.schema_hash;
        let intents = due.iter().map(|due| due.intended(schema_hash)).collect();
        failpoint::reach(Point::LoadCut).await.map_err(self.loader.log_error("plan blocks"))?;
        self.commit(intents, "commit its intents").await?;
        failpoint::reach(Point::LoadIntended).await.map_err(self.loader.log_error("insert blocks"))?;

        let inserts = due.iter().map(|Due { of, topic, epoch, block }| {
            let origin = Origin { topic, partition: of, epoch: *epoch };
            insert(self.loader, origin, block, Attempt::First)
        });
        let inserted = join_all(inserts).await.into_iter().collect::<Result<Vec<Inserted>, AppGone>>()?;

        failpoint::reach(Point::LoadInserted).await.map_err(self.loader.log_error("commit blocks"))?;
        let ends = due.iter().zip(&inserted).map(|(due, inserted)| due.ended(*inserted)).collect();
        self.commit(ends, "commit loaded blocks").await?;
        failpoint::reach(Point::LoadCommitted).await.map_err(self.loader.log_error("go on"))?;
        due.into_iter().zip(inserted).for_each(|(due, inserted)| self.settle(due, inserted));
        self.loaded = true;
        Ok(())
    }

    fn settle(&mut self, due: Due, inserted: Inserted) {
        let Some(partition) = self.partitions.get_mut(&due.of) else { return };
        match inserted {
            Inserted::Stored => {
                self.positions.set(&due.of, due.block.range.end);
                partition.stored(&due.block);
            }
            Inserted::TooLarge => {
                tracing::warn!(partition = %due.of, rows = due.block.rows(), "a block needs too much memory; it is planned anew, half as large");
                partition.take_back(due.block);
            }
        }
    }

    /// Before the first insert of a session. While ClickHouse does not answer it is asked before the next one again.
    async fn check_windows(&mut self, app: &App) -> Result<(), LoadError> {
        if self.windows == Windows::LargeEnough {
            return Ok(());
        }
        match window::check(self.loader, app).await {
            Ok(Ok(())) => self.windows = Windows::LargeEnough,
            Ok(Err(source)) => return Err(LoadError::Window { app: self.loader.app.clone(), source }),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(app = %self.loader.app, error, "cannot see how many inserts the tables remember; let the account read `system.tables`");
            }
        }
        Ok(())
    }

    async fn commit(&mut self, positions: Vec<Commit>, step: &'static str) -> Result<(), LoadError> {
        self.consumer.commit(positions).await.map_err(self.loader.log_error(step))
    }
}

/// What the log does not know. The lag is shown from the start of what is there until ClickHouse answers.
async fn unknown_position(
    loader: &Loader,
    positions: &Positions,
    of: &TopicPartition,
) -> Result<Committed, End> {
    let watermarks = loader.log.watermarks(of).await.map_err(loader.log_error("find the start"))?;
    positions.set(of, watermarks.low);
    beginning(loader, of, watermarks).await
}

impl Due {
    fn intended(&self, schema_hash: &str) -> Commit {
        let Self { of, epoch, block, .. } = self;
        let intent = Intent {
            end: block.range.end,
            rows: block.rows(),
            id_sum: block.id_sum(),
            schema_hash: schema_hash.to_owned(),
            split_rule: SPLIT_RULE,
            epoch: *epoch,
        };
        let committed = Committed { offset: block.range.start, metadata: intent.to_string() };
        Commit { of: of.clone(), committed }
    }

    fn ended(&self, inserted: Inserted) -> Commit {
        ended(&self.of, self.epoch, &self.block, inserted)
    }
}

/// Where the partition stands behind an insert. One that was too large takes its intent back: what comes there next is
/// another block, in another epoch, so that no token is used for two.
fn ended(of: &TopicPartition, epoch: u32, block: &Block, inserted: Inserted) -> Commit {
    let (offset, epoch) = match inserted {
        Inserted::Stored => (block.range.end, epoch),
        Inserted::TooLarge => (block.range.start, epoch + 1),
    };
    Commit { of: of.clone(), committed: Committed { offset, metadata: standing(epoch) } }
}
