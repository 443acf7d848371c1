//! A span of minutes of one App in, a recount from the stores out: the ledger's equations, what stands in `events-raw`,
//! and, event by event, what became of it. Reads everything again and believes no count but as something to compare.
//! [`explain`] decides; the rest fetches.

mod explain;
mod fetch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_crds::names::{AppId, TopicKind};
use tokio::time::Instant;
use uuid::Uuid;

use super::balance::{Equation, Minute};
use super::passed::{Ends, ends, has_passed};
use super::sum::Sum;
use crate::config::App;
use crate::load::target::Target;
use crate::log::{Log, LogError, TopicInfo};
use crate::member::Member;
use crate::process;
use crate::query::QueryError;
use crate::query::ledger::Span;
use crate::store::{ClickHouse, StoreError};

pub use explain::{Explained, What};

/// Most minutes of one audit; longer ones are done in several.
pub const MINUTES_MAX: i64 = 60;
/// Longest wait for what is on its way.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether it has arrived.
const SETTLE_LOOK: Duration = Duration::from_millis(200);

/// Where an audit reads.
pub struct Sources<'a> {
    /// The App.
    pub app: &'a App,
    /// Its topics.
    pub log: &'a dyn Log,
    /// Its tables.
    pub store: &'a ClickHouse,
}

/// What an audit found.
#[derive(Debug)]
pub struct Audited {
    /// What the ledger and the table say, by minute.
    pub minutes: BTreeMap<i64, Minute>,
    /// What stands in `events-raw`, by minute; `None` where retention has removed some of it.
    pub recounted: Option<BTreeMap<i64, Sum>>,
    /// Events that are not where they should be, the first of them.
    pub events: Vec<Explained>,
    /// How many of them there are.
    pub events_total: usize,
}

impl Audited {
    /// Differences of a minute: the ledger's own, and that between its count of raw and the recount.
    pub fn differences(&self, minute: i64) -> Vec<(String, String, Sum)> {
        let Some(counted) = self.minutes.get(&minute) else { return Vec::new() };
        let named = |((instance, equation), missing): ((String, Equation), Sum)| {
            (instance, equation.text().to_owned(), missing)
        };
        let mut all: Vec<_> = counted.differences().into_iter().map(named).collect();
        if let Some(recounted) = &self.recounted {
            let there = recounted.get(&minute).copied().unwrap_or(Sum::ZERO);
            let missing = counted.raw() - there;
            if !missing.is_zero() {
                all.push((String::new(), "raw as counted = raw as it stands in the log".to_owned(), missing));
            }
        }
        all
    }
}

/// Recounts.
pub async fn audit(sources: &Sources<'_>, span: Span) -> Result<Audited, AuditError> {
    let raw = sources.settled().await?;
    let found = sources.raw(&raw, span).await?;
    let mut minutes = sources.minutes(span).await?;
    let recounted = found.is_whole.then(|| found.sums());
    if let Some(recounted) = &recounted {
        for minute in recounted.keys() {
            minutes.entry(*minute).or_default();
        }
    }
    let stored = sources.stored(span).await?;
    let missing: Vec<Uuid> =
        found.events.keys().filter(|event_id| !stored.contains_key(*event_id)).copied().collect();
    let elsewhere = sources.elsewhere(&missing).await?;
    let mut events = explain::explain(&found, &stored, &elsewhere);
    let events_total = events.len();
    events.truncate(explain::EVENTS_MAX);
    Ok(Audited { minutes, recounted, events, events_total })
}

impl Sources<'_> {
    /// Waits until everything in the log has arrived in the tables; returns where raw ended.
    async fn settled(&self) -> Result<Ends, AuditError> {
        let (app, member) = (&self.app.config.app, Member::only());
        let until = Instant::now() + SETTLE_MAX;
        let raw = self.ends(TopicKind::EventsRaw).await?;
        self.wait(&member.group(app, process::STAGE), &raw, until).await?;
        for target in Target::ALL {
            let ends = self.ends(target.topic()).await?;
            self.wait(&member.group(app, target.stage()), &ends, until).await?;
        }
        Ok(raw)
    }

    async fn ends(&self, kind: TopicKind) -> Result<Ends, AuditError> {
        let topic = self.topic(kind).await?;
        ends(self.log, &topic).await.map_err(|source| AuditError::Log { source })
    }

    async fn topic(&self, kind: TopicKind) -> Result<TopicInfo, AuditError> {
        let found = self.app.config.topics.iter().find(|topic| topic.kind == kind);
        let app = &self.app.config.app;
        let topic = found.ok_or_else(|| AuditError::NoTopic { app: app.clone(), kind })?;
        self.log.topic(&topic.name).await.map_err(|source| AuditError::Log { source })
    }

    async fn wait(&self, group: &str, ends: &Ends, until: Instant) -> Result<(), AuditError> {
        while !has_passed(self.log, group, ends).await.map_err(|source| AuditError::Log { source })? {
            if Instant::now() >= until {
                return Err(AuditError::OnItsWay { group: Arc::from(group) });
            }
            tokio::time::sleep(SETTLE_LOOK).await;
        }
        Ok(())
    }
}

/// Why there is no audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log failed.
    #[error("the log cannot be read; repeat the command")]
    Log {
        /// Why.
        source: LogError,
    },
    /// The App's configuration names no such topic.
    #[error("the configuration of App `{app}` names no topic `{kind}`; compile it again")]
    NoTopic {
        /// The App.
        app: AppId,
        /// Which.
        kind: TopicKind,
    },
    /// A stage is behind.
    #[error(
        "`{group}` has not taken in what stands in the log within {} s; repeat the command when it has caught up",
        SETTLE_MAX.as_secs()
    )]
    OnItsWay {
        /// Group of the stage.
        group: Arc<str>,
    },
    /// More than is kept in memory.
    #[error("more than {records_max} events in this range; ask for a shorter one")]
    TooMany {
        /// The limit.
        records_max: usize,
    },
    /// ClickHouse failed.
    #[error("ClickHouse does not tell what is stored")]
    Store {
        /// Why.
        source: StoreError,
    },
    /// ClickHouse answered something else.
    #[error("ClickHouse tells something else than was asked")]
    Shape {
        /// What.
        source: QueryError,
    },
}
