//! Load: records of a topic in, rows of its table in ClickHouse out, each exactly once without a coordinator. One
//! loader per [`target`] of an App.
//!
//! For a partition with committed offset *s*: choose *e* ([`block`]); commit *s* with an [`intent`] as metadata;
//! insert the rows of [s, e) as one block under a token made of the offsets; commit *e*. A crash anywhere leaves
//! the intent, so the same rows go in again under the same token and ClickHouse drops what it has. That is true
//! because rows are a pure function of the record ([`row`]), a range always splits into the same months, and a
//! re-read range that does not give the same rows and ids stops its partition instead of being inserted.
//!
//! A block that had to be repeated is proven by the positions of its rows ([`prove`]). One that ClickHouse has not the
//! memory for is planned anew, smaller and in a new epoch, once it is certain that nothing of it is stored. A partition
//! whose position the log forgot goes on where the rows of the table end ([`beginning`]).
//!
//! A block planned under an older schema is encoded under the one in force: columns are only ever added, so the
//! insert is valid; rows, months and token stay the same, so it is dropped if it was stored before and stored
//! whole if not.

mod beginning;
pub mod block;
pub mod cells;
mod insert;
pub mod intent;
pub mod json;
mod lag;
pub mod native;
mod partition;
mod prove;
mod replay;
pub mod row;
pub mod rowbinary;
mod stored;
pub mod target;
mod window;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use millrace_crds::config::AppConfig;
use millrace_crds::names::{AppId, TopicKind};
use tokio_util::sync::CancellationToken;

use crate::config::{App, Current};
use crate::log::{Log, LogError};
use crate::member::Member;
use crate::metrics::Metrics;
use crate::store::{ClickHouse, StoreError};
use insert::AppGone;
use lag::Positions;
use target::{Target, Unreadable};
use window::TooSmall;
use worker::{End, Session};

/// First pause after a failure that may pass.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two attempts: how late a load resumes once ClickHouse is back.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// What loading one table of one App needs.
pub struct Loader {
    /// Whose records.
    pub app: AppId,
    /// From which topic, into which table.
    pub target: Target,
    /// Read again for every block.
    pub config: Current,
    /// Where records come from and positions are kept.
    pub log: Arc<dyn Log>,
    /// Where rows go. The App's schema is applied by somebody else before its configuration comes into force.
    pub store: ClickHouse,
    /// As whom it joins the App's group.
    pub member: Member,
    /// Counts, times and lags.
    pub metrics: Arc<Metrics>,
    /// When and how large blocks are.
    pub limits: block::Limits,
}

/// Why loading ended.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The log failed.
    #[error("loading App `{app}` failed when it wanted to {step}")]
    Log {
        /// The App.
        app: AppId,
        /// What was tried.
        step: &'static str,
        /// Why.
        source: LogError,
    },
    /// A record that says how far a table was loaded is of another build.
    #[error("App `{app}` cannot tell how far it was loaded")]
    Record {
        /// The App.
        app: AppId,
        /// What stands there.
        source: Unreadable,
    },
    /// A repeated block would not be known as one.
    #[error("App `{app}` is not loaded")]
    Window {
        /// The App.
        app: AppId,
        /// Which table, and the fix.
        source: TooSmall,
    },
    /// The App's configuration names no such topic.
    #[error(
        "the configuration of App `{app}` names no topic `{kind}`; publish it with an operator as new as this build"
    )]
    NoTopic {
        /// The App.
        app: AppId,
        /// Which.
        kind: TopicKind,
    },
}

impl LoadError {
    /// Whether a new session may succeed without a restart.
    pub fn is_retryable(&self) -> bool {
        match self {
            // A group that went on without us lets us join again.
            Self::Log { source, .. } => source.is_retryable() || matches!(source, LogError::Fenced { .. }),
            Self::NoTopic { .. } | Self::Record { .. } | Self::Window { .. } => false,
        }
    }
}

/// Loads until it is cancelled, the App leaves the configuration, or the log fails in a way only a restart
/// helps. It may be dropped at any moment: that is a crash, and what a crash leaves is what the protocol is for.
/// Failures of ClickHouse never end it: the same block goes in again until it is answered.
pub async fn run(loader: Loader, cancel: CancellationToken) -> Result<(), LoadError> {
    let positions = Positions::default();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        ended = sessions(&loader, &positions) => ended,
        never = lag::report(&loader, &positions) => match never {},
    }
}

/// One session after the other: a failure that may pass drops all state, and the next session reads positions
/// and intents again.
async fn sessions(loader: &Loader, positions: &Positions) -> Result<(), LoadError> {
    let mut pause = BACK_OFF_MIN;
    loop {
        let end = match Session::start(loader, positions).await {
            Err(end) => end,
            Ok(mut session) => {
                let end = session.run().await;
                if session.has_loaded() {
                    pause = BACK_OFF_MIN;
                }
                end
            }
        };
        match end {
            End::AppGone => return Ok(()),
            End::Failed(error) if error.is_retryable() => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "loading starts again from the last positions");
            }
            End::Failed(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = longer(pause);
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(BACK_OFF_MAX)
}

impl Loader {
    fn group(&self) -> String {
        self.member.group(&self.app, self.target.stage())
    }

    /// The App as configured now.
    fn configured(&self) -> Result<Arc<App>, AppGone> {
        self.config.load().app(&self.app).cloned().ok_or(AppGone)
    }

    /// Asks ClickHouse until it answers, with the App as it is then.
    async fn answered<T, F>(&self, what: &str, mut ask: impl FnMut(Arc<App>) -> F) -> Result<T, AppGone>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = BACK_OFF_MIN;
        loop {
            match ask(self.configured()?).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(app = %self.app, what, error, "ClickHouse does not answer a question of the loader; it is asked again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = longer(pause);
        }
    }

    fn log_error(&self, step: &'static str) -> impl FnOnce(LogError) -> LoadError {
        let app = self.app.clone();
        move |source| LoadError::Log { app, step, source }
    }

    /// The topic that is loaded.
    fn topic(&self, app: &AppConfig) -> Result<Arc<str>, LoadError> {
        let kind = self.target.topic();
        let topic = app.topics.iter().find(|topic| topic.kind == kind);
        topic
            .map(|topic| Arc::from(topic.name.as_str()))
            .ok_or_else(|| LoadError::NoTopic { app: self.app.clone(), kind })
    }

    /// `app` and `table` of its metrics.
    fn labels(&self) -> [String; 2] {
        [self.app.to_string(), self.target.table().to_owned()]
    }
}

#[cfg(test)]
mod tests;
