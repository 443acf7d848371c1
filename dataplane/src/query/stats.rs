//! The figures of a dashboard over a range, from the hourly rollup. Pure.

use millrace_crds::config::Permission;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::range::{Range, Rule, Step};
use super::{Param, QueryError, Row, Scope, Statement, count, read};

/// Ranges of this question: a day unless said otherwise, at most a leap year.
pub const RANGE: Rule = Rule { step: Step::Hour, default_steps: 24, steps_max: 366 * 24 };

/// Users are merged over currencies, so that who paid in two counts once.
/// At most 200 currencies are listed: ISO 4217 has fewer, and what a client sends as one is not to be trusted.
const SQL: &str = "\
SELECT sum(total) AS total_events, \
uniqMerge(seen) AS active_users, \
sum(converting) AS conversions, \
uniqMerge(converted) AS converted_users, \
arraySort(groupArrayIf(200)((currency, toString(amount)), currency != '' OR amount != 0)) AS revenue \
FROM (\
SELECT currency, \
sum(events) AS total, \
uniqMergeState(users) AS seen, \
sum(revenue) AS amount, \
sum(conversions) AS converting, \
uniqMergeState(converted_users) AS converted \
FROM {database:Identifier}.dashboard_stats \
WHERE hour >= {from:DateTime('UTC')} AND hour < {to:DateTime('UTC')} \
GROUP BY currency)";

/// The statement for the figures of `range`; answers one row.
pub fn statement(scope: Scope<'_>, range: Range) -> Result<Statement, QueryError> {
    let params = [("from", Param::Seconds(range.from())), ("to", Param::Seconds(range.to()))];
    scope.statement(Permission::DashboardRead, SQL, params)
}

/// The figures of a dashboard.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Stats {
    /// Events of any type.
    #[schema(example = 1234)]
    pub total_events: u64,
    /// Distinct users; an estimate above some ten thousand.
    #[schema(example = 321)]
    pub active_users: u64,
    /// Events of the types the App counts as conversions.
    #[schema(example = 45)]
    pub conversions: u64,
    /// Distinct users with a conversion.
    #[schema(example = 40)]
    pub converted_users: u64,
    /// `converted_users` / `active_users`; null while nobody was active.
    #[schema(example = 0.1246)]
    pub conversion_rate: Option<f64>,
    /// Revenue by currency, sorted by its code.
    pub revenue: Vec<Revenue>,
}

/// Revenue in one currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Revenue {
    /// As the events say, usually ISO 4217; empty where they say none.
    #[schema(example = "EUR")]
    pub currency: String,
    /// An exact decimal, as text so that no reader rounds it.
    #[schema(example = "1299.95")]
    pub amount: String,
}

/// Reads the answer.
pub fn answer(rows: Vec<Row>) -> Result<Stats, QueryError> {
    #[derive(Deserialize)]
    struct Columns {
        #[serde(deserialize_with = "count")]
        total_events: u64,
        #[serde(deserialize_with = "count")]
        active_users: u64,
        #[serde(deserialize_with = "count")]
        conversions: u64,
        #[serde(deserialize_with = "count")]
        converted_users: u64,
        revenue: Vec<(String, String)>,
    }
    let [row] = <[Row; 1]>::try_from(rows)
        .map_err(|rows| QueryError::Shape { reason: format!("{} rows instead of one", rows.len()) })?;
    let columns: Columns = read(row)?;
    let revenue =
        columns.revenue.into_iter().map(|(currency, amount)| Revenue { currency, amount }).collect();
    Ok(Stats {
        total_events: columns.total_events,
        active_users: columns.active_users,
        conversions: columns.conversions,
        converted_users: columns.converted_users,
        conversion_rate: rate(columns.converted_users, columns.active_users),
        revenue,
    })
}

/// Exact below 2^53 users.
fn rate(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
