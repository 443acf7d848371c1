//! A block in; returns once ClickHouse has answered that its rows are stored. Repeats the same rows under the
//! same token for as long as that takes.

use std::sync::Arc;

use super::block::Block;
use super::intent::token;
use super::row::{Encoder, Position};
use super::rowbinary::RowBinary;
use super::{BACK_OFF_MIN, Loader, longer};
use crate::config::App;
use crate::failpoint::{self, Defect};
use crate::log::{TopicInfo, TopicPartition};
use crate::store::{Failure, Insert, StoreError};

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

/// Inserts until it is answered. Each attempt is encoded anew, under the configuration then in force: a rolled
/// back schema would otherwise hold up a block planned under the newer one.
pub(super) async fn insert(
    loader: &Loader,
    origin: Origin<'_>,
    block: &Block,
    mut attempt: Attempt,
) -> Result<(), AppGone> {
    let mut token = token(origin.topic.id, origin.epoch, origin.partition.partition, block.range);
    let mut pause = BACK_OFF_MIN;
    loop {
        let app = loader.configured()?;
        match try_once(loader, &app, origin, block, &token).await {
            Ok(()) if failpoint::has(Defect::LoadDoublesBlock) => token.push('x'),
            Ok(()) => {
                count_success(loader, block, attempt);
                return Ok(());
            }
            Err(error) => report(loader, origin, &token, error),
        }
        attempt = Attempt::Repeat;
        tokio::time::sleep(pause).await;
        pause = longer(pause);
    }
}

async fn try_once(
    loader: &Loader,
    app: &Arc<App>,
    origin: Origin<'_>,
    block: &Block,
    token: &str,
) -> Result<(), StoreError> {
    let encoder = Encoder::new(loader.target, &app.config);
    let rows = encode(&encoder, origin, block);
    let seconds = loader.metrics.load_insert_seconds.with_label_values(&loader.labels());
    let _timer = seconds.start_timer();
    let insert = Insert {
        database: &app.config.storage.database,
        table: loader.target.table(),
        columns: encoder.columns(),
        token,
        rows: rows.into(),
    };
    loader.store.insert(insert).await
}

fn encode(encoder: &Encoder, origin: Origin<'_>, block: &Block) -> Vec<u8> {
    let mut out = RowBinary::with_capacity(block.bytes());
    let left_out = usize::from(failpoint::has(Defect::LoadLosesRow));
    for waiting in block.records.iter().skip(left_out) {
        let position =
            Position { epoch: origin.epoch, partition: origin.partition.partition, offset: waiting.offset };
        encoder.encode(&waiting.record, position, &mut out);
    }
    out.into_bytes()
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
        Failure::Permanent => {
            tracing::error!(app, %partition, token, error, "ClickHouse refuses a block; it is repeated until somebody helps");
        }
    }
}
