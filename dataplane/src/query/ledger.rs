//! The ledger of an App: a span of minutes in, two statements out; their rows in, the minutes out. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use millrace_crds::config::Permission;
use serde::{Deserialize, Deserializer};

use super::{Param, QueryError, Row, Scope, Statement, count, read};
use crate::ledger::balance::{Fact, Minute};
use crate::ledger::book::start_of;
use crate::ledger::sum::Sum;
use crate::record::LedgerKind;

/// Rows of the ledger, added up. Those of ingest may stand there twice, after an answer that was lost; each has a time
/// of its own, by which it is taken once. Hashes of unknown outcome are told one by one.
pub const SQL_COUNTED: &str = "\
SELECT toInt64(intDiv(toUnixTimestamp(minute), 60)) AS at, instance, kind, reason, \
if(kind = 'unknown', hashes, 0) AS hash, sum(events) AS counted, sumWithOverflow(hashes) AS summed, \
count() AS rows \
FROM (\
SELECT minute, instance, kind, reason, any(count) AS events, any(sum) AS hashes \
FROM {database:Identifier}.ledger \
WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} \
AND kind IN ('acknowledged', 'unknown', 'unverified', 'closed', 'refused') \
GROUP BY minute, instance, kind, reason, recorded_at \
UNION ALL \
SELECT minute, instance, kind, reason, count AS events, sum AS hashes \
FROM {database:Identifier}.ledger \
WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} \
AND kind NOT IN ('acknowledged', 'unknown', 'unverified', 'closed', 'refused')) \
GROUP BY at, instance, kind, reason, hash ORDER BY at";

/// Rows of the table of events, by the minute in which they were received.
pub const SQL_STORED: &str = "\
SELECT toInt64(intDiv(toUnixTimestamp(toDateTime(received_at, 'UTC')), 60)) AS at, \
count() AS counted, sumWithOverflow(xxh3(toString(event_id))) AS summed \
FROM {database:Identifier}.events \
WHERE received_at >= {from:DateTime('UTC')} AND received_at < {to:DateTime('UTC')} \
GROUP BY at ORDER BY at";

/// Rows of the minutes whose event has an earlier row: in them, or so shortly before as [`Sample`] says.
pub const SQL_REPEATED: &str = "\
SELECT toInt64(intDiv(toUnixTimestamp(toDateTime(last, 'UTC')), 60)) AS at, \
toInt64(sum(rows - 1)) AS counted, sumWithOverflow(xxh3(toString(event_id)) * toUInt64(rows - 1)) AS summed \
FROM (\
SELECT event_id, max(received_at) AS last, count() AS rows \
FROM {database:Identifier}.events \
WHERE received_at >= {since:DateTime('UTC')} AND received_at < {to:DateTime('UTC')} \
AND cityHash64(event_id) % {every:UInt32} = 0 \
GROUP BY event_id HAVING rows > 1 AND last >= {from:DateTime('UTC')}) \
GROUP BY at ORDER BY at";

/// Minutes with differences on record, the newest first.
pub const SQL_BREACHED: &str = "\
SELECT toInt64(intDiv(toUnixTimestamp(minute), 60)) AS at, instance, kind, reason, toUInt64(0) AS hash, \
sum(count) AS counted, sumWithOverflow(sum) AS summed, count() AS rows \
FROM {database:Identifier}.ledger \
WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} AND kind = 'breached' \
GROUP BY at, instance, kind, reason HAVING counted != 0 OR summed != 0 ORDER BY at DESC LIMIT 1000";

/// The minutes that have rows in the ledger, the first of them.
const SQL_MINUTES: &str = "\
SELECT DISTINCT toInt64(intDiv(toUnixTimestamp(minute), 60)) AS at \
FROM {database:Identifier}.ledger \
WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} \
ORDER BY at LIMIT {limit:UInt32}";

/// Minutes, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First minute since the epoch.
    pub from: i64,
    /// First one not meant any more.
    pub to: i64,
}

impl Span {
    /// As the statements' parameters.
    pub fn params(self) -> [(&'static str, Param); 2] {
        let at = |minute| Param::Seconds(start_of(minute));
        [("from", at(self.from)), ("to", at(self.to))]
    }
}

/// Which events are looked for in two rows: all, or, where there are more than fit, one of so many, by a hash of the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    span: Span,
    /// How far back earlier rows are looked for.
    minutes_before: i64,
    /// One of so many.
    every: u32,
}

impl Sample {
    /// Clients repeat within minutes what was not answered.
    const MINUTES_BEFORE: u64 = 10;
    /// Most events in one statement: about 100 bytes each at the server.
    const EVENTS_MAX: u64 = 1_000_000;

    /// For minutes of at most so many rows. Copies further apart than the dedupe window are no mistake.
    pub fn of(span: Span, minute_rows_max: i64, dedupe_window: Duration) -> Self {
        let minutes_before = Self::MINUTES_BEFORE.min(dedupe_window.as_secs() / 60);
        let minutes = u64::try_from(span.to - span.from).unwrap_or(0) + minutes_before;
        let events = u64::try_from(minute_rows_max).unwrap_or(0).saturating_mul(minutes);
        // Powers of two, so that it is the same ones when it is looked again.
        let every = u32::try_from((events / Self::EVENTS_MAX + 1).next_power_of_two()).unwrap_or(1 << 31);
        Self { span, minutes_before: minutes_before.cast_signed(), every }
    }

    /// As the parameters of [`SQL_REPEATED`].
    pub fn params(self) -> [(&'static str, Param); 4] {
        let [from, to] = self.span.params();
        let since = Param::Seconds(start_of(self.span.from - self.minutes_before));
        [from, to, ("since", since), ("every", Param::Number(self.every))]
    }
}

/// Parameters of a statement that is asked of a database by its name, without a [`Scope`].
pub fn on_database<const N: usize>(
    database: &str,
    params: [(&'static str, Param); N],
) -> Vec<(&'static str, String)> {
    let database = ("database", Param::Identifier(database.to_owned()));
    params.into_iter().chain([database]).map(|(name, value)| (name, value.to_text())).collect()
}

/// The statement for the first minutes of `from..to` of which anything was counted.
pub fn minutes_statement(
    scope: Scope<'_>,
    (from, to): (Timestamp, Timestamp),
    limit: u32,
) -> Result<Statement, QueryError> {
    let params =
        [("from", Param::Seconds(from)), ("to", Param::Seconds(to)), ("limit", Param::Number(limit))];
    scope.statement(Permission::AppsRead, SQL_MINUTES, params)
}

/// The statement for what was counted.
pub fn counted_statement(scope: Scope<'_>, span: Span) -> Result<Statement, QueryError> {
    scope.statement(Permission::AppsRead, SQL_COUNTED, span.params())
}

/// The statement for what is stored.
pub fn stored_statement(scope: Scope<'_>, span: Span) -> Result<Statement, QueryError> {
    scope.statement(Permission::AppsRead, SQL_STORED, span.params())
}

/// Reads the minutes of [`minutes_statement`].
pub fn minutes(rows: Vec<Row>) -> Result<Vec<i64>, QueryError> {
    #[derive(Deserialize)]
    struct Columns {
        #[serde(deserialize_with = "signed")]
        at: i64,
    }
    rows.into_iter().map(|row| read(row).map(|columns: Columns| columns.at)).collect()
}

/// Reads the rows of [`SQL_COUNTED`] or [`SQL_BREACHED`].
pub fn counted(rows: Vec<Row>) -> Result<BTreeMap<i64, Minute>, QueryError> {
    #[derive(Deserialize)]
    struct Columns {
        #[serde(deserialize_with = "signed")]
        at: i64,
        instance: String,
        kind: LedgerKind,
        reason: String,
        #[serde(deserialize_with = "count")]
        hash: u64,
        #[serde(deserialize_with = "signed")]
        counted: i64,
        #[serde(deserialize_with = "count")]
        summed: u64,
        #[serde(deserialize_with = "count")]
        rows: u64,
    }
    let mut minutes: BTreeMap<i64, Minute> = BTreeMap::new();
    for row in rows {
        let Columns { at, instance, kind, reason, hash, counted, summed, rows } = read(row)?;
        let sum = Sum { count: counted, hashes: summed };
        minutes.entry(at).or_default().add(Fact { instance, kind, reason, sum, hash, rows });
    }
    Ok(minutes)
}

/// Reads the rows of [`SQL_STORED`] into the minutes.
pub fn stored(rows: Vec<Row>, minutes: &mut BTreeMap<i64, Minute>) -> Result<(), QueryError> {
    sums(rows, |at, sum| minutes.entry(at).or_default().stored = sum)
}

/// Reads the rows of [`SQL_REPEATED`] into the minutes.
pub fn repeated(rows: Vec<Row>, minutes: &mut BTreeMap<i64, Minute>) -> Result<(), QueryError> {
    sums(rows, |at, sum| minutes.entry(at).or_default().repeated = sum)
}

fn sums(rows: Vec<Row>, mut take: impl FnMut(i64, Sum)) -> Result<(), QueryError> {
    #[derive(Deserialize)]
    struct Columns {
        #[serde(deserialize_with = "signed")]
        at: i64,
        #[serde(deserialize_with = "signed")]
        counted: i64,
        #[serde(deserialize_with = "count")]
        summed: u64,
    }
    for row in rows {
        let Columns { at, counted, summed } = read(row)?;
        take(at, Sum { count: counted, hashes: summed });
    }
    Ok(())
}

/// A signed number, or its text.
fn signed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(i64),
        Text(String),
    }
    match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(number) => Ok(number),
        NumberOrText::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}
