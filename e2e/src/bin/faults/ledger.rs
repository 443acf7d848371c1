//! What a worker says of the ledger and what the ledger's tables add up to in, alarms and contradictions out. The
//! minutes of a run pass in no time ([`clock`]), so that all of them are compared before the run ends.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use millrace_dataplane::ledger::balance::{Closing, Minute, Verdict};
use millrace_dataplane::ledger::sum::Sum;
use millrace_dataplane::query::Row;
use millrace_dataplane::query::ledger::{self as query, Span};
use millrace_dataplane::record::event_hash;
use millrace_dataplane::store::{ClickHouse, QueryLimits, Question};
use uuid::Uuid;

use crate::driver::PATIENCE;

/// How many times faster the ledger's minutes pass: one in 200 ms, so that the five after which a process that died is
/// not waited for any more are a second.
const RATE: u32 = 300;
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Everything a run may have counted.
const SPAN: Span = Span { from: 0, to: 70_000_000 };
/// Rows of one answer: a run has a thousand events.
const ROWS_MAX: u64 = 1_000_000;

/// The ledger of a run.
pub(crate) struct Ledger {
    http: reqwest::Client,
    admin_url: String,
    store: ClickHouse,
    database: String,
}

/// What it told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Differences on record once every minute was compared.
    pub(crate) standing: u64,
    /// Rows that ever put one on record, or took one back.
    pub(crate) recorded: u64,
    /// What does not fit together, though nobody was alarmed.
    pub(crate) wrong: Vec<String>,
}

impl Told {
    /// Alarms, those taken back included: each began with a row.
    pub(crate) fn alarms(&self) -> u64 {
        self.standing.max(self.recorded)
    }
}

/// The setting of a clock for the ledger that runs fast from now on.
pub(crate) fn clock() -> String {
    format!("{}x{RATE}", Timestamp::now().as_millisecond())
}

impl Ledger {
    /// Of the App with this database, as the worker with this admin listener sees it.
    pub(crate) fn new(engine_url: &str, database: &str, admin_url: &str) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        let store = ClickHouse::new(millrace_dataplane::cluster::keep::endpoint(engine_url, None));
        Ok(Self { http, admin_url: admin_url.to_owned(), store, database: database.to_owned() })
    }

    /// What came of it, once every minute was compared. `stored` are the events in the table.
    pub(crate) async fn told(&self, standing: u64, stored: &BTreeSet<Uuid>) -> Result<Told> {
        let recorded =
            self.ask("SELECT count() AS n FROM {database:Identifier}.ledger WHERE kind = 'breached'");
        let recorded = recorded.await?.first().and_then(|row| number(row, "n")).context("a count")?;
        let mut minutes = query::counted(self.ask(query::SQL_COUNTED).await?)?;
        query::stored(self.ask(query::SQL_STORED).await?, &mut minutes)?;
        let hashes: Vec<u64> = stored.iter().map(event_hash).collect();
        Ok(Told { standing, recorded, wrong: wrong(minutes.values(), Sum::all(&hashes)) })
    }

    /// Waits until every minute was compared; returns how many differences are on record then.
    pub(crate) async fn until_compared(&self) -> Result<u64> {
        let begun = Instant::now();
        let mut last = String::from("no answer");
        while begun.elapsed() < PATIENCE {
            match self.metrics().await {
                Ok(text) => match sum(&text, "millrace_ledger_open_minutes") {
                    Some(0) => return Ok(sum(&text, "millrace_ledger_breaches").unwrap_or(0)),
                    Some(open) => last = format!("{open} minutes are open"),
                    None => "nobody compares".clone_into(&mut last),
                },
                Err(error) => last = format!("{error:#}"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        bail!("the ledger is not compared within {} s: {last}", PATIENCE.as_secs())
    }

    async fn metrics(&self) -> Result<String> {
        Ok(self.http.get(format!("{}/metrics", self.admin_url)).send().await?.text().await?)
    }

    async fn ask(&self, sql: &str) -> Result<Vec<Row>> {
        let params = query::on_database(&self.database, SPAN.params());
        let limits = QueryLimits { result_rows_max: ROWS_MAX, ..QueryLimits::default() };
        Ok(self.store.rows(Question { sql, params: &params }, limits).await?)
    }
}

/// The sum over a metric's labels; `None` where it has no value.
fn sum(metrics: &str, name: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<u64>().ok();
    metrics.lines().filter_map(value).reduce(|all, one| all + one)
}

fn number(row: &Row, column: &str) -> Option<u64> {
    let value = row.get(column)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Minutes that do not balance by our own reading, and what was processed but for what is in the table.
fn wrong<'a>(minutes: impl Iterator<Item = &'a Minute>, stored: Sum) -> Vec<String> {
    let (mut wrong, mut processed) = (Vec::new(), Sum::ZERO);
    for minute in minutes {
        processed += minute.processed;
        match minute.verdict(Closing::Over) {
            Verdict::Balanced | Verdict::Unverified | Verdict::Unclosed => {}
            Verdict::Pending | Verdict::Breached => wrong.push(format!("{:?}", minute.differences())),
        }
    }
    if processed != stored {
        wrong.push(format!("the ledger counts {processed:?} as processed, the table has {stored:?}"));
    }
    wrong
}
