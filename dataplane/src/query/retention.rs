//! How many users come back: cohorts by the first day a user was ever seen × days since. Pure.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::{ToSpan, Unit};
use millrace_crds::config::Permission;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::range::{Range, Rule, Step, day_of};
use super::{Param, QueryError, Row, Scope, Statement, count, read};

/// Ranges of this question, the days of the cohorts: a week unless said otherwise, at most a quarter.
pub const RANGE: Rule = Rule { step: Step::Day, default_steps: 7, steps_max: 92 };
/// Days followed unless said otherwise, the first one included.
pub const DAYS_DEFAULT: u32 = 8;
/// Most days followed.
pub const DAYS_MAX: u32 = 92;

/// A user's first day is looked for in all of history, else old users would look new at the range's start.
/// Only activity after the last day that is followed is left out, which no first day can depend on.
const SQL: &str = "\
SELECT cohort, age, count() AS users \
FROM (\
SELECT toDate(min(first_seen)) AS cohort, \
arrayMap(active -> toUInt32(active - cohort), groupUniqArray(day)) AS ages \
FROM {database:Identifier}.user_retention \
WHERE day < {until:Date} \
GROUP BY user_key \
HAVING cohort >= {from:Date} AND cohort < {to:Date}) \
ARRAY JOIN ages AS age \
WHERE age < {days:UInt32} \
GROUP BY cohort, age ORDER BY cohort, age";

/// The statement for one row per cohort and day since, where anyone was active.
pub fn statement(scope: Scope<'_>, range: Range, days: u32) -> Result<Statement, QueryError> {
    let (from, to) = (day_of(range.from()), day_of(range.to()));
    let until = to.saturating_add(i64::from(days).days());
    let params = [
        ("from", Param::Day(from)),
        ("to", Param::Day(to)),
        ("until", Param::Day(until)),
        ("days", Param::Number(days)),
    ];
    scope.statement(Permission::AnalyticsRead, SQL, params)
}

/// The users first seen on one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Cohort {
    /// The day, UTC.
    #[schema(value_type = String, format = Date)]
    pub day: Date,
    /// How many users.
    pub users: u64,
    /// How many of them were active 0, 1, 2 … days later. Days that have not begun yet are not listed.
    pub active: Vec<u64>,
}

/// Reads the answer: a cohort for every day of the range up to `today`, in order.
pub fn answer(rows: Vec<Row>, range: Range, days: u32, today: Date) -> Result<Vec<Cohort>, QueryError> {
    #[derive(Deserialize)]
    struct Columns {
        cohort: Date,
        #[serde(deserialize_with = "count")]
        age: u64,
        #[serde(deserialize_with = "count")]
        users: u64,
    }
    let mut found = BTreeMap::new();
    for row in rows {
        let Columns { cohort, age, users } = read(row)?;
        found.insert((cohort, age), users);
    }
    let users = |day, age| found.get(&(day, age)).copied().unwrap_or_default();
    let cohorts = range.days().filter(|day| *day <= today).map(|day| {
        let begun = u64::from(days).min(days_between(day, today) + 1);
        Cohort { day, users: users(day, 0), active: (0..begun).map(|age| users(day, age)).collect() }
    });
    Ok(cohorts.collect())
}

/// Days from one day to a later one; 0 when it is not later.
fn days_between(earlier: Date, later: Date) -> u64 {
    let span = later.since((Unit::Day, earlier)).map(|span| i64::from(span.get_days())).unwrap_or_default();
    u64::try_from(span).unwrap_or_default()
}
