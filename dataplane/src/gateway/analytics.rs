//! `/api/analytics/…`: how an App's events and users move over time.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::guard::Caller;
use super::problem::{Kind, Problem};
use super::request::Params;
use crate::query::Scope;
use crate::query::events_over_time::{self, Bucket, EVENT_TYPE_BYTES_MAX, Interval};
use crate::query::range::{Range, day_of};
use crate::query::retention::{self, Cohort, DAYS_DEFAULT, DAYS_MAX};

/// The operation [`events_over_time`].
pub struct EventsOverTime;

/// What is asked.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsOverTimeParams {
    /// The App: its name, or `<namespace>.<name>`.
    #[param(example = "shop")]
    app: String,
    /// First moment counted: an RFC 3339 time, or a date for the start of that UTC day. Default: 24 hours or 7 days
    /// before `to`, by the interval.
    #[param(example = "2026-01-01")]
    from: Option<String>,
    /// First moment not counted any more, likewise; a date means the end of that day. Default: now.
    #[param(example = "2026-01-31")]
    to: Option<String>,
    /// Length of a bucket.
    #[serde(default)]
    #[param(inline)]
    interval: Interval,
    /// Only events of this type. Default: of any.
    #[param(example = "purchase")]
    event_type: Option<String>,
}

/// Events and active users over time.
#[derive(Serialize, ToSchema)]
pub struct EventsOverTimeAnswer {
    /// The App, as `<namespace>/<name>`.
    #[schema(example = "default/shop")]
    app: String,
    /// The range that was counted: the one asked for, widened to whole buckets.
    range: Range,
    /// Length of a bucket.
    interval: Interval,
    /// The type that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    /// One for every hour or day of the range, in order, also where nothing happened.
    buckets: Vec<Bucket>,
}

/// Events and active users per hour or day.
///
/// The range is widened to whole buckets, UTC; at most 31 days by the hour and 366 by the day.
#[utoipa::path(
    get,
    impl_for = EventsOverTime,
    operation_id = "read_events_over_time",
    path = "/api/analytics/events-over-time",
    params(EventsOverTimeParams),
    responses((status = 200, description = "The buckets.", body = EventsOverTimeAnswer)),
)]
pub(super) async fn events_over_time(
    State(gateway): State<Shared>,
    caller: Caller,
    Params(params): Params<EventsOverTimeParams>,
) -> Result<Json<EventsOverTimeAnswer>, Problem> {
    let EventsOverTimeParams { app, from, to, interval, event_type } = params;
    let config = gateway.config.load_full();
    let (grant, app) = caller.app(&config, &app)?;
    check_event_type(event_type.as_deref())?;
    let range = Range::parse(from.as_deref(), to.as_deref(), interval.range(), Timestamp::now())?;
    let scope = Scope::new(&grant, &app.config)?;
    let statement = events_over_time::statement(scope, range, interval, event_type.as_deref())?;
    let rows = gateway.ask(statement).await?;
    let buckets = events_over_time::answer(rows, range, interval)?;
    Ok(Json(EventsOverTimeAnswer { app: grant.app().to_string(), range, interval, event_type, buckets }))
}

fn check_event_type(event_type: Option<&str>) -> Result<(), Problem> {
    match event_type.map(str::len) {
        None | Some(1..=EVENT_TYPE_BYTES_MAX) => Ok(()),
        Some(bytes) => Err(Problem::new(Kind::InvalidParameter, format!("`event_type` has {bytes} bytes"))
            .fix(format!("give 1 to {EVENT_TYPE_BYTES_MAX} bytes, or leave it out for all types"))),
    }
}

/// The operation [`retention`].
pub struct Retention;

/// What is asked.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RetentionParams {
    /// The App: its name, or `<namespace>.<name>`.
    #[param(example = "shop")]
    app: String,
    /// Day of the first cohort, UTC: a date, or an RFC 3339 time within it. Default: 7 days before `to`.
    #[param(example = "2026-01-01")]
    from: Option<String>,
    /// Day of the last cohort, as a date; a time is the first moment after it. Default: today.
    #[param(example = "2026-01-31")]
    to: Option<String>,
    /// Days followed, the first one included. Default: 8.
    #[param(minimum = 1, maximum = 92, example = 8)]
    days: Option<u32>,
}

/// Users who came back, by their first day.
#[derive(Serialize, ToSchema)]
pub struct RetentionAnswer {
    /// The App, as `<namespace>/<name>`.
    #[schema(example = "default/shop")]
    app: String,
    /// The range of the cohorts: the one asked for, widened to whole days.
    range: Range,
    /// Days followed, the first one included.
    days: u32,
    /// One for every day of the range up to today, in order.
    cohorts: Vec<Cohort>,
}

/// Users who came back n days after their first.
///
/// A user's first day is looked for in all that is stored. At most 92 cohorts, followed for 92 days.
#[utoipa::path(
    get,
    impl_for = Retention,
    operation_id = "read_retention",
    path = "/api/analytics/retention",
    params(RetentionParams),
    responses((status = 200, description = "The cohorts.", body = RetentionAnswer)),
)]
pub(super) async fn retention(
    State(gateway): State<Shared>,
    caller: Caller,
    Params(params): Params<RetentionParams>,
) -> Result<Json<RetentionAnswer>, Problem> {
    let config = gateway.config.load_full();
    let (grant, app) = caller.app(&config, &params.app)?;
    let days = check_days(params.days)?;
    let now = Timestamp::now();
    let range = Range::parse(params.from.as_deref(), params.to.as_deref(), retention::RANGE, now)?;
    let rows = gateway.ask(retention::statement(Scope::new(&grant, &app.config)?, range, days)?).await?;
    let cohorts = retention::answer(rows, range, days, day_of(now))?;
    Ok(Json(RetentionAnswer { app: grant.app().to_string(), range, days, cohorts }))
}

fn check_days(days: Option<u32>) -> Result<u32, Problem> {
    match days.unwrap_or(DAYS_DEFAULT) {
        days @ 1..=DAYS_MAX => Ok(days),
        days => Err(Problem::new(Kind::InvalidParameter, format!("`days` is {days}"))
            .fix(format!("follow 1 to {DAYS_MAX} days"))),
    }
}
