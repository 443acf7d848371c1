//! `/api/dashboard/…`: the figures of an App at a glance.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::guard::Caller;
use super::problem::Problem;
use super::request::Params;
use crate::query::range::Range;
use crate::query::{Scope, stats};

/// The operation [`stats`].
pub struct Stats;

/// What is asked.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatsParams {
    /// The App: its name, or `<namespace>.<name>`.
    #[param(example = "shop")]
    app: String,
    /// First moment counted: an RFC 3339 time, or a date for the start of that UTC day. Default: a day before `to`.
    #[param(example = "2026-01-01")]
    from: Option<String>,
    /// First moment not counted any more, likewise; a date means the end of that day. Default: now.
    #[param(example = "2026-01-31")]
    to: Option<String>,
}

/// The figures of an App over a range.
#[derive(Serialize, ToSchema)]
pub struct StatsAnswer {
    /// The App, as `<namespace>/<name>`.
    #[schema(example = "default/shop")]
    app: String,
    /// The range that was counted: the one asked for, widened to whole hours.
    range: Range,
    #[serde(flatten)]
    stats: stats::Stats,
}

/// Events, active users, revenue and conversion rate.
///
/// Figures come from an hourly rollup, so the range is widened to whole hours, UTC; at most 366 days.
#[utoipa::path(
    get,
    impl_for = Stats,
    operation_id = "read_stats",
    path = "/api/dashboard/stats",
    params(StatsParams),
    responses((status = 200, description = "The figures.", body = StatsAnswer)),
)]
pub(super) async fn stats(
    State(gateway): State<Shared>,
    caller: Caller,
    Params(params): Params<StatsParams>,
) -> Result<Json<StatsAnswer>, Problem> {
    let config = gateway.config.load_full();
    let (grant, app) = caller.app(&config, &params.app)?;
    let (from, to) = (params.from.as_deref(), params.to.as_deref());
    let range = Range::parse(from, to, stats::RANGE, Timestamp::now())?;
    let rows = gateway.ask(stats::statement(Scope::new(&grant, &app.config)?, range)?).await?;
    Ok(Json(StatsAnswer { app: grant.app().to_string(), range, stats: stats::answer(rows)? }))
}
