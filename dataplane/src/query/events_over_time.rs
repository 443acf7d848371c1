//! Events and active users per hour or day: from the rollup, or from the events when one type is asked for.
//! Pure. Buckets without events are filled in here, so that a chart has no holes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use millrace_crds::config::Permission;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::range::{Range, Rule, Step};
use super::{Param, QueryError, Row, Scope, Statement, count, read};

/// Most bytes of an event type that is asked for; no stored one is longer.
pub const EVENT_TYPE_BYTES_MAX: usize = 200;

const SQL_ROLLUP: &str = "\
SELECT intDiv(toUnixTimestamp(hour), {step:UInt32}) * {step:UInt32} AS start, \
sum(events) AS total_events, \
uniqMerge(users) AS active_users \
FROM {database:Identifier}.dashboard_stats \
WHERE hour >= {from:DateTime('UTC')} AND hour < {to:DateTime('UTC')} \
GROUP BY start ORDER BY start";

const SQL_EVENTS: &str = "\
SELECT intDiv(toUnixTimestamp(timestamp), {step:UInt32}) * {step:UInt32} AS start, \
count() AS total_events, \
uniq(user_key) AS active_users \
FROM {database:Identifier}.events \
WHERE event_type = {event_type:String} \
AND timestamp >= {from:DateTime('UTC')} AND timestamp < {to:DateTime('UTC')} \
GROUP BY start ORDER BY start";

/// Length of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interval {
    /// An hour; the last day unless a range is given, at most 31 days.
    Hour,
    /// A UTC day; the last seven unless a range is given, at most 366.
    #[default]
    Day,
}

impl Interval {
    /// Ranges of this question.
    pub fn range(self) -> Rule {
        match self {
            Self::Hour => Rule { step: Step::Hour, default_steps: 24, steps_max: 31 * 24 },
            Self::Day => Rule { step: Step::Day, default_steps: 7, steps_max: 366 },
        }
    }
}

/// The statement for one row per bucket that has events, of one type or of all.
pub fn statement(
    scope: Scope<'_>,
    range: Range,
    interval: Interval,
    event_type: Option<&str>,
) -> Result<Statement, QueryError> {
    let step = Param::Number(interval.range().step.seconds());
    let (from, to) = (Param::Seconds(range.from()), Param::Seconds(range.to()));
    let needed = Permission::AnalyticsRead;
    match event_type {
        None => scope.statement(needed, SQL_ROLLUP, [("step", step), ("from", from), ("to", to)]),
        Some(event_type) => {
            let event_type = Param::Text(event_type.to_owned());
            let params = [("step", step), ("from", from), ("to", to), ("event_type", event_type)];
            scope.statement(needed, SQL_EVENTS, params)
        }
    }
}

/// What happened in one hour or day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Bucket {
    /// Its first moment.
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    /// Events.
    pub events: u64,
    /// Distinct users; an estimate above some ten thousand.
    pub active_users: u64,
}

/// Reads the answer: a bucket for every step of the range, in order.
pub fn answer(rows: Vec<Row>, range: Range, interval: Interval) -> Result<Vec<Bucket>, QueryError> {
    #[derive(Deserialize)]
    struct Columns {
        #[serde(deserialize_with = "count")]
        start: u64,
        #[serde(deserialize_with = "count")]
        total_events: u64,
        #[serde(deserialize_with = "count")]
        active_users: u64,
    }
    let mut found = BTreeMap::new();
    for row in rows {
        let Columns { start, total_events, active_users } = read(row)?;
        found.insert(start, (total_events, active_users));
    }
    let buckets = range.starts(interval.range().step).map(|start| {
        let key = u64::try_from(start.as_second()).unwrap_or_default();
        let (events, active_users) = found.remove(&key).unwrap_or_default();
        Bucket { start, events, active_users }
    });
    let buckets = buckets.collect();
    match found.into_keys().next() {
        None => Ok(buckets),
        Some(start) => Err(QueryError::Shape { reason: format!("bucket {start} lies outside the range") }),
    }
}
