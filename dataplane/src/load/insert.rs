//! A block in; returns once ClickHouse has answered that its rows are stored. Repeats the same rows under the
//! same token for as long as that takes; what was repeated is proven.

use std::collections::BTreeSet;

use super::block::{Block, Waiting, month};
use super::intent::token;
use super::native::Native;
use super::prove::prove;
use super::row::{Encoder, Position, stored_moment};
use super::stored::{self, Span};
use super::target::Target;
use super::{BACK_OFF_MIN, Loader, longer};
use crate::config::App;
use crate::failpoint::{self, Defect};
use crate::log::{TopicInfo, TopicPartition};
use crate::store::{Failure, Format, Insert, StoreError};

/// A block that ran out of memory so often in a row is planned anew, if it left nothing behind.
const OUT_OF_MEMORY_MAX: u32 = 3;

/// Where a block comes from.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) topic: &'a TopicInfo,
    pub(super) partition: &'a TopicPartition,
    pub(super) epoch: u32,
}

/// Whether the rows may be there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Certainly not.
    First,
    /// An earlier attempt was not answered, by this process or one before it.
    Repeat,
}

/// The App left the configuration while its rows could not be inserted; the intent stays.
pub(super) struct AppGone;

/// How an insert ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// Every row is stored.
    Stored,
    /// ClickHouse has not the memory for it, and nothing of it is stored anywhere.
    TooLarge,
}

/// Which rows of a block.
#[derive(Clone, Copy)]
pub(super) enum Portion<'a> {
    Whole,
    /// Those of other months, under the block's token: these were in the table when the rollups were made anew, so the
    /// rollups have them, and know nothing of the token.
    Beside {
        months: &'a BTreeSet<i32>,
    },
    /// Those that are missing, under a token of their own: the block's is taken.
    Without {
        there: &'a BTreeSet<u64>,
        attempt: u32,
    },
}

/// Inserts until it is answered. Each attempt is encoded anew, under the configuration then in force: a rolled
/// back schema would otherwise hold up a block planned under the newer one.
pub(super) async fn insert(
    loader: &Loader,
    origin: Origin<'_>,
    block: &Block,
    mut attempt: Attempt,
) -> Result<Inserted, AppGone> {
    let mut token = origin.token(block);
    let mut pause = BACK_OFF_MIN;
    let mut out_of_memory = 0;
    loop {
        let app = loader.configured()?;
        match send_once(
            loader,
            &app,
            Shipment { origin, block, portion: Portion::Whole, token: &token },
            attempt,
        )
        .await
        {
            Ok(()) if has(loader, Defect::LoadDoublesBlock) => token.push('x'),
            Ok(()) => {
                count_success(loader, block, attempt);
                if attempt == Attempt::Repeat {
                    prove(loader, origin, block).await?;
                }
                return Ok(Inserted::Stored);
            }
            Err(error) => {
                out_of_memory = if error.is_out_of_memory() { out_of_memory + 1 } else { 0 };
                if error.failure() != Failure::Paused {
                    attempt = Attempt::Repeat;
                }
                report(loader, origin, &token, error);
            }
        }
        if out_of_memory >= OUT_OF_MEMORY_MAX && is_untouched(loader, &app, origin, block).await {
            return Ok(Inserted::TooLarge);
        }
        tokio::time::sleep(pause).await;
        pause = longer(pause);
    }
}

/// Inserts what is missing of a block until that is answered.
pub(super) async fn insert_missing(
    loader: &Loader,
    origin: Origin<'_>,
    block: &Block,
    portion: Portion<'_>,
) -> Result<(), AppGone> {
    let token = portion.token(origin.token(block));
    let mut pause = BACK_OFF_MIN;
    loop {
        let app = loader.configured()?;
        match send(loader, &app, Shipment { origin, block, portion, token: &token }).await {
            Ok(()) => return Ok(()),
            Err(error) => report(loader, origin, &token, error),
        }
        tokio::time::sleep(pause).await;
        pause = longer(pause);
    }
}

impl Origin<'_> {
    fn token(&self, block: &Block) -> String {
        token(self.topic.id, self.epoch, self.partition.partition, block.range)
    }
}

impl Portion<'_> {
    fn has(&self, waiting: &Waiting) -> bool {
        match self {
            Self::Whole => true,
            Self::Beside { months } => !months.contains(&month(stored_moment(waiting.record.moment()))),
            Self::Without { there, .. } => !there.contains(&waiting.offset),
        }
    }

    fn token(&self, block: String) -> String {
        match self {
            Self::Whole | Self::Beside { .. } => block,
            Self::Without { attempt, .. } => format!("{block}:missing-{attempt}"),
        }
    }
}

/// Whether nothing of a block that ran out of memory is stored: its insert has ended, the table has none of its rows,
/// and the rollup of its hours is what a recount says. Users' days may have been written: written again they are the
/// same. Any doubt is a no; then the block is repeated as it is.
async fn is_untouched(loader: &Loader, app: &App, origin: Origin<'_>, block: &Block) -> bool {
    let untouched = async {
        let Some(span) = Span::of(loader.target, origin, block, i64::MIN) else { return Ok(false) };
        if block.records.len() < 2 || !loader.store.has_ended(&origin.token(block)).await? {
            return Ok(false);
        }
        if stored::held(loader, app, &span).await?.rows > 0 {
            return Ok(false);
        }
        match loader.target {
            Target::Events => Ok(stored::rollup_difference(loader, app, &span).await?.events == 0),
            Target::DeadLetters | Target::Ledger => Ok(true),
        }
    };
    untouched.await.unwrap_or_else(|error: StoreError| {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(app = %loader.app, error, "cannot tell whether a block left anything behind; it is repeated as it is");
        false
    })
}

struct Shipment<'a> {
    origin: Origin<'a>,
    block: &'a Block,
    portion: Portion<'a>,
    token: &'a str,
}

/// One attempt. A repeat leaves out what the rollups were made anew from; where that is all, only the end of earlier
/// attempts is asked for.
async fn send_once(
    loader: &Loader,
    app: &App,
    shipment: Shipment<'_>,
    attempt: Attempt,
) -> Result<(), StoreError> {
    let Shipment { origin, block, token, .. } = shipment;
    let months = match (loader.target, attempt) {
        (Target::Events, Attempt::Repeat) => stored::rebuilt_months(loader, app, origin, block).await?,
        (Target::Events, Attempt::First) | (Target::DeadLetters | Target::Ledger, _) => BTreeSet::new(),
    };
    if months.is_empty() {
        return send(loader, app, shipment).await;
    }
    let portion = Portion::Beside { months: &months };
    if block.records.iter().any(|waiting| portion.has(waiting)) {
        return send(loader, app, Shipment { portion, ..shipment }).await;
    }
    loader.store.ended(token).await
}

async fn send(loader: &Loader, app: &App, shipment: Shipment<'_>) -> Result<(), StoreError> {
    let encoder = Encoder::new(loader.target, &app.config);
    let left_out = usize::from(has(loader, Defect::LoadLosesRow));
    let rows = encode(&encoder, &shipment, left_out);
    let seconds = loader.metrics.load_insert_seconds.with_label_values(&loader.labels());
    let _timer = seconds.start_timer();
    let insert = Insert {
        database: &app.config.storage.database,
        table: loader.target.table(),
        columns: encoder.columns(),
        token: shipment.token,
        format: Format::Native,
        rows: rows.into(),
    };
    loader.store.insert(insert).await
}

fn encode(encoder: &Encoder, shipment: &Shipment<'_>, left_out: usize) -> Vec<u8> {
    let Shipment { origin, block, portion, .. } = shipment;
    let mut out = Native::new(encoder.columns());
    let records = block.records.iter().skip(left_out);
    for waiting in records.filter(|waiting| portion.has(waiting)) {
        let position =
            Position { epoch: origin.epoch, partition: origin.partition.partition, offset: waiting.offset };
        encoder.encode(&waiting.record, position, &mut out);
    }
    out.into_bytes()
}

/// A defect is one of events: what a row of the ledger says wrongly is another matter.
fn has(loader: &Loader, defect: Defect) -> bool {
    loader.target == Target::Events && failpoint::has(defect)
}

fn count_success(loader: &Loader, block: &Block, attempt: Attempt) {
    let labels = loader.labels();
    count(
        loader,
        match attempt {
            Attempt::First => "inserted",
            Attempt::Repeat => "repeated",
        },
    );
    loader.metrics.load_rows.with_label_values(&labels).inc_by(block.rows());
    loader.metrics.load_block_rows.with_label_values(&labels).observe(block.records.len() as f64);
}

fn count(loader: &Loader, outcome: &str) {
    let [app, table] = loader.labels();
    loader.metrics.load_inserts.with_label_values(&[app.as_str(), table.as_str(), outcome]).inc();
}

fn report(loader: &Loader, origin: Origin<'_>, token: &str, error: StoreError) {
    let app = loader.app.to_string();
    let failure = error.failure();
    count(loader, failure.as_str());
    let (partition, error) = (origin.partition, &error as &dyn std::error::Error);
    match failure {
        Failure::Ambiguous | Failure::Overloaded => {
            tracing::warn!(app, %partition, token, error, "an insert was not stored; the same block goes in again");
        }
        Failure::Paused => {
            tracing::info!(app, %partition, token, "paused: a rollup is being rebuilt; the same block goes in again");
        }
        Failure::Permanent => {
            tracing::error!(app, %partition, token, error, "ClickHouse refuses a block; it is repeated until somebody helps");
        }
    }
}
