//! What a table holds, asked by the positions of its rows: whatever anybody answered to an insert, this is so.
//! Asks only; what follows from the answers is decided by the callers.

use std::collections::BTreeSet;

use millrace_crds::schema::ROLLUPS_REBUILT;
use serde::Deserialize;

use super::Loader;
use super::block::Block;
use super::insert::Origin;
use super::row::stored_moment;
use super::target::Target;
use crate::config::App;
use crate::store::{QueryLimits, Question, StoreError};

/// The last row of a partition of the log, as the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Last {
    /// Its epoch.
    pub(super) epoch: u32,
    /// Its offset.
    pub(super) offset: u64,
    /// `Record::fingerprint` of its record.
    pub(super) fingerprint: u64,
}

/// Rows of a span, and how many offsets they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Held {
    pub(super) rows: u64,
    pub(super) offsets: u64,
}

/// Positions of rows, and a time that none of them is before or behind, so that only their months are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    params: Vec<(&'static str, String)>,
    /// Rows that must be there.
    pub(super) rows: u64,
}

const HOUR_MS: i64 = 3_600_000;

/// Start of its hour, in seconds, as a `DateTime` holds it.
fn hour(milliseconds: i64) -> u32 {
    let seconds = milliseconds.div_euclid(HOUR_MS).saturating_mul(3_600).max(0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// Rows of the span in the statements below.
const IN_SPAN: &str = "log_epoch = {epoch:UInt32} AND log_partition = {partition:UInt32} \
                       AND log_offset >= {start:UInt64} AND log_offset < {end:UInt64} \
                       AND {time:Identifier} >= fromUnixTimestamp64Milli({first:Int64}, 'UTC') \
                       AND {time:Identifier} <= fromUnixTimestamp64Milli({last:Int64}, 'UTC')";

impl Span {
    /// Of the block's rows that are not older than `oldest`; retention may have taken those.
    pub(super) fn of(target: Target, origin: Origin<'_>, block: &Block, oldest: i64) -> Option<Self> {
        let moments = || {
            let all = block.records.iter().map(|waiting| stored_moment(waiting.record.moment()));
            all.filter(|moment| *moment >= oldest)
        };
        let (first, last) = (moments().min()?, moments().max()?);
        let params = vec![
            ("table", target.table().to_owned()),
            ("time", target.time_column().to_owned()),
            ("epoch", origin.epoch.to_string()),
            ("partition", origin.partition.partition.to_string()),
            ("start", block.range.start.to_string()),
            ("end", block.range.end.to_string()),
            ("first", first.to_string()),
            ("last", last.to_string()),
            ("hours", hour(first).to_string()),
            ("hours_end", hour(last.saturating_add(HOUR_MS)).to_string()),
        ];
        Some(Self { params, rows: moments().count() as u64 })
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        loader: &Loader,
        app: &App,
        sql: &str,
    ) -> Result<Vec<T>, StoreError> {
        let mut params = self.params.clone();
        params.push(("db", app.config.storage.database.clone()));
        // Twice a block: what is there twice must be seen, not refused.
        let limits = QueryLimits { result_rows_max: 1_000_000, ..QueryLimits::default() };
        loader.store.rows(Question { sql, params: &params }, limits).await
    }
}

/// The newest row of a partition: the highest epoch's highest offset.
pub(super) async fn last(loader: &Loader, app: &App, partition: u32) -> Result<Option<Last>, StoreError> {
    let sql = format!(
        "SELECT log_epoch AS epoch, max(log_offset) AS offset, argMax({}, log_offset) AS fingerprint \
         FROM {{db:Identifier}}.{{table:Identifier}} WHERE log_partition = {{partition:UInt32}} \
         GROUP BY log_epoch ORDER BY log_epoch DESC LIMIT 1",
        loader.target.fingerprint_sql()
    );
    let params = [
        ("db", app.config.storage.database.clone()),
        ("table", loader.target.table().to_owned()),
        ("partition", partition.to_string()),
    ];
    let rows = loader.store.rows(Question { sql: &sql, params: &params }, QueryLimits::default()).await?;
    Ok(rows.into_iter().next())
}

/// Months of a block of which rows were there when the rollups were made anew. What was there of a partition from the
/// block's start on was of the block.
pub(super) async fn rebuilt_months(
    loader: &Loader,
    app: &App,
    origin: Origin<'_>,
    block: &Block,
) -> Result<BTreeSet<i32>, StoreError> {
    #[derive(Deserialize)]
    struct Row {
        month: i32,
    }
    let sql = format!(
        "SELECT DISTINCT month FROM {{db:Identifier}}.{ROLLUPS_REBUILT} WHERE log_epoch = {{epoch:UInt32}} \
         AND log_partition = {{partition:UInt32}} AND log_offset >= {{start:UInt64}}"
    );
    let params = [
        ("db", app.config.storage.database.clone()),
        ("epoch", origin.epoch.to_string()),
        ("partition", origin.partition.partition.to_string()),
        ("start", block.range.start.to_string()),
    ];
    let asked = loader.store.rows::<Row>(Question { sql: &sql, params: &params }, QueryLimits::default());
    match asked.await {
        Ok(rows) => Ok(rows.into_iter().map(|row| row.month).collect()),
        // Rollups were never made anew where an older operator is in charge.
        Err(error) if error.is_unknown_table() => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// How much of a span is there.
pub(super) async fn held(loader: &Loader, app: &App, span: &Span) -> Result<Held, StoreError> {
    let sql = format!(
        "SELECT count() AS rows, uniqExact(log_offset) AS offsets \
         FROM {{db:Identifier}}.{{table:Identifier}} WHERE {IN_SPAN}"
    );
    let rows = span.ask(loader, app, &sql).await?;
    Ok(rows.into_iter().next().unwrap_or(Held { rows: 0, offsets: 0 }))
}

/// Which offsets of a span are there.
pub(super) async fn offsets(loader: &Loader, app: &App, span: &Span) -> Result<BTreeSet<u64>, StoreError> {
    #[derive(Deserialize)]
    struct Row {
        log_offset: u64,
    }
    let sql =
        format!("SELECT DISTINCT log_offset FROM {{db:Identifier}}.{{table:Identifier}} WHERE {IN_SPAN}");
    let rows: Vec<Row> = span.ask(loader, app, &sql).await?;
    Ok(rows.into_iter().map(|row| row.log_offset).collect())
}

/// How the rollups of `events` differ from a recount, from the first hour of a span to its last, and for its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Difference {
    /// Events in `dashboard_stats` beyond those in `events`; negative when some are missing.
    pub(super) events: i64,
    /// Days of users that are in `events` and not in `user_retention`.
    pub(super) user_days: u64,
}

/// Recounts. The two sides are read one after the other: an insert in between makes a difference that passes.
pub(super) async fn rollup_difference(
    loader: &Loader,
    app: &App,
    span: &Span,
) -> Result<Difference, StoreError> {
    let sql = format!(
        "WITH days AS (SELECT DISTINCT user_key, toDate(timestamp) AS day FROM {{db:Identifier}}.events WHERE {IN_SPAN}) \
         SELECT toInt64((SELECT sum(events) FROM {{db:Identifier}}.dashboard_stats \
           WHERE hour >= toDateTime({{hours:UInt32}}, 'UTC') AND hour < toDateTime({{hours_end:UInt32}}, 'UTC'))) \
         - toInt64((SELECT count() FROM {{db:Identifier}}.events \
           WHERE timestamp >= toDateTime({{hours:UInt32}}, 'UTC') AND timestamp < toDateTime({{hours_end:UInt32}}, 'UTC'))) AS events, \
         (SELECT count() FROM days WHERE (user_key, day) NOT IN (SELECT user_key, day \
           FROM {{db:Identifier}}.user_retention WHERE user_key IN (SELECT user_key FROM days))) AS user_days"
    );
    let rows = span.ask(loader, app, &sql).await?;
    Ok(rows.into_iter().next().unwrap_or(Difference { events: 0, user_days: 0 }))
}
