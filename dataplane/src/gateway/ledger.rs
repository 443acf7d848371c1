//! `/api/apps/{app}/ledger`: minute by minute, what was accepted and what became of it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::guard::Caller;
use super::problem::{Kind, Problem};
use super::request::{AppName, Params};
use crate::ledger::balance::{Closing, Equation, Minute};
use crate::ledger::book::{minute_of, start_of};
use crate::ledger::sum::Sum;
use crate::query::Scope;
use crate::query::ledger::{self as query, Span};
use crate::query::range::{Range, Rule, Step};

/// Ranges of this question: an hour unless said otherwise, at most a month.
const RANGE: Rule = Rule { step: Step::Minute, default_steps: 60, steps_max: 31 * 24 * 60 };
/// Minutes of one answer unless said otherwise.
const LIMIT_DEFAULT: u32 = 60;
/// Most minutes of one answer: a day.
const LIMIT_MAX: u32 = 1440;

/// The operation [`read`].
pub struct Read;

/// What is asked.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LedgerParams {
    /// First moment told of: an RFC 3339 time, or a date for the start of that UTC day. Default: an hour before `to`.
    #[param(example = "2026-01-31T12:00:00Z")]
    from: Option<String>,
    /// First moment not told of any more, likewise; a date means the end of that day. Default: now.
    #[param(example = "2026-01-31T13:00:00Z")]
    to: Option<String>,
    /// Most minutes in the answer. Default: 60.
    #[param(minimum = 1, maximum = 1440, example = 60)]
    limit: Option<u32>,
}

/// The ledger of an App.
#[derive(Serialize, ToSchema)]
pub struct LedgerAnswer {
    /// The App, as `<namespace>/<name>`.
    #[schema(example = "default/shop")]
    app: String,
    /// The range that was asked for, widened to whole minutes.
    range: Range,
    /// The minutes in which anything was counted, in order.
    minutes: Vec<MinuteView>,
    /// Where the next page begins: ask again with it as `from`. Absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    next: Option<Timestamp>,
}

/// One minute, by the clock of the ingest that accepted.
#[derive(Serialize, ToSchema)]
struct MinuteView {
    /// Its first moment.
    #[schema(value_type = String, format = DateTime)]
    minute: Timestamp,
    /// `balanced`, `unverified` (more outcomes unknown than can be checked), `unclosed` (an ingest ended without saying
    /// what it had accepted: checked from raw on), `pending` (not everything has arrived) or `breached`.
    #[schema(value_type = String, example = "balanced")]
    verdict: &'static str,
    /// Events answered as accepted.
    #[schema(example = 120)]
    acknowledged: i64,
    /// Events whose append was not answered, so that nobody knows whether they were accepted.
    unknown: usize,
    /// Records in `events-raw`, replays apart.
    #[schema(example = 120)]
    raw: i64,
    /// Copies of events that were there already.
    deduplicated: i64,
    /// Events set aside, by reason; those replayed are taken back.
    dead_lettered: BTreeMap<String, i64>,
    /// Events set aside because they were older than the retention.
    expired: i64,
    /// Events passed on to be stored.
    #[schema(example = 120)]
    processed: i64,
    /// Rows in the table of events.
    #[schema(example = 120)]
    stored: i64,
    /// Events erased on request.
    erased: i64,
    /// Dead letters that were put back.
    replayed: i64,
    /// Events refused, by code. They were never written, and are in no equation.
    refused: BTreeMap<String, i64>,
    /// Equations that do not hold.
    differences: Vec<DifferenceView>,
}

/// An equation that does not hold.
#[derive(Serialize, ToSchema)]
struct DifferenceView {
    /// `accepted`, `processed`, `stored`, or `once` where an event is in two rows.
    #[schema(value_type = String, example = "stored")]
    equation: &'static str,
    /// What has to be equal.
    #[schema(value_type = String, example = "processed = stored + erased")]
    text: &'static str,
    /// The ingest instance, where the equation is one of an instance.
    #[serde(skip_serializing_if = "String::is_empty")]
    instance: String,
    /// Events missing on the right side; below zero, events too many there; 0 where it counts as many others.
    #[schema(example = 1)]
    missing: i64,
    /// Whether it outlived the lag and is on record; else it may still be on its way.
    recorded: bool,
}

/// What became of every accepted event, minute by minute.
///
/// Counts come from the ledger that every stage writes; stored rows are counted in the table itself.
#[utoipa::path(
    get,
    impl_for = Read,
    operation_id = "read_ledger",
    path = "/api/apps/{app}/ledger",
    params(
        ("app" = String, Path, description = "Its name, or `<namespace>.<name>`.", example = "shop"),
        LedgerParams,
    ),
    responses((status = 200, description = "The minutes.", body = LedgerAnswer)),
)]
pub(super) async fn read(
    State(gateway): State<Shared>,
    caller: Caller,
    AppName(name): AppName,
    Params(params): Params<LedgerParams>,
) -> Result<Json<LedgerAnswer>, Problem> {
    let config = gateway.config.load_full();
    let (grant, app) = caller.app(&config, &name)?;
    let limit = check_limit(params.limit)?;
    let now = Timestamp::now();
    let range = Range::parse(params.from.as_deref(), params.to.as_deref(), RANGE, now)?;
    let scope = Scope::new(&grant, &app.config)?;
    // One more than fits says where the next page begins.
    let rows = gateway.ask(query::minutes_statement(scope, (range.from(), range.to()), limit + 1)?).await?;
    let mut told = query::minutes(rows)?;
    let next = told.get(limit as usize).map(|minute| start_of(*minute));
    told.truncate(limit as usize);
    let mut minutes = BTreeMap::new();
    if let (Some(first), Some(last)) = (told.first(), told.last()) {
        let span = Span { from: *first, to: *last + 1 };
        minutes = query::counted(gateway.ask(query::counted_statement(scope, span)?).await?)?;
        query::stored(gateway.ask(query::stored_statement(scope, span)?).await?, &mut minutes)?;
    }
    let view = |(minute, counted)| MinuteView::new(minute, counted, minute_of(now));
    let minutes = minutes.into_iter().map(view).collect();
    Ok(Json(LedgerAnswer { app: grant.app().to_string(), range, minutes, next }))
}

fn check_limit(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        limit => Err(Problem::new(Kind::InvalidParameter, format!("`limit` is {limit}"))
            .fix(format!("ask for 1 to {LIMIT_MAX} minutes, and follow `next`"))),
    }
}

impl MinuteView {
    fn new(minute: i64, counted: Minute, now: i64) -> Self {
        let of_instances =
            counted.instances.values().fold((Sum::ZERO, 0), |(acknowledged, unknown), instance| {
                (acknowledged + instance.acknowledged, unknown + instance.unknown.len())
            });
        Self {
            minute: start_of(minute),
            verdict: counted.verdict(Closing::of(minute, now)).as_str(),
            acknowledged: of_instances.0.count,
            unknown: of_instances.1,
            raw: counted.raw().count,
            deduplicated: counted.deduplicated.count,
            expired: counted.expired.count,
            processed: counted.processed.count,
            stored: counted.stored.count,
            erased: counted.erased.count,
            replayed: counted.replayed.count,
            differences: differences(&counted),
            dead_lettered: counted
                .dead_lettered
                .into_iter()
                .map(|(reason, sum)| (reason, sum.count))
                .collect(),
            refused: counted.refused,
        }
    }
}

/// What is on record, and what does not hold now.
fn differences(counted: &Minute) -> Vec<DifferenceView> {
    let mut all: BTreeMap<&(String, Equation), (Sum, bool)> = BTreeMap::new();
    let now = counted.differences();
    all.extend(now.iter().map(|(place, missing)| (place, (*missing, false))));
    all.extend(counted.breached.iter().map(|(place, missing)| (place, (*missing, true))));
    let view =
        |((instance, equation), (missing, recorded)): (&(String, Equation), (Sum, bool))| DifferenceView {
            equation: equation.as_str(),
            text: equation.text(),
            instance: instance.clone(),
            missing: missing.count,
            recorded,
        };
    all.into_iter().map(view).collect()
}
