//! Process: raw records in; processed records, dead letters and dedupe entries out, in one transaction with the
//! positions. Every raw record ends in exactly one outcome; nothing a client sends can stop it.
//!
//! [`decide`] judges one record and [`enrich`] adds to it (both pure), [`seen`] remembers event ids, [`batch`]
//! puts a batch's outputs together, the worker moves batches.

pub mod batch;
pub mod decide;
pub mod enrich;
pub mod property;
pub mod seen;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use millrace_crds::names::{AppId, TopicKind};
use tokio_util::sync::CancellationToken;

use crate::config::Current;
use crate::log::{Log, LogError};
use crate::member::Member;
use crate::metrics::Metrics;
use crate::telemetry::Telling;
use seen::changelog::CatchUpError;
use seen::{SeenError, SeenStore};
use worker::{Progress, Session};

/// First pause after a failure that may pass.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// What processing the events of one App needs.
pub struct Worker {
    /// Whose events.
    pub app: AppId,
    /// Read again for every batch.
    pub config: Current,
    /// Where events come from and go to.
    pub log: Arc<dyn Log>,
    /// Which events were processed before.
    pub seen: Arc<SeenStore>,
    /// As whom it joins the App's group.
    pub member: Member,
    /// Counts, times and lags.
    pub metrics: Arc<Metrics>,
}

/// Processes until it is cancelled, the App leaves the configuration, or something fails that only a restart
/// helps. Every failure that may pass takes the same way: all state is dropped, and after a pause a new session
/// reads positions and changelog again, so a transaction of unknown outcome needs no case of its own.
pub async fn run(worker: Worker, cancel: CancellationToken) -> Result<(), ProcessError> {
    let mut pause = BACK_OFF_MIN;
    let mut progress = Progress::default();
    loop {
        let error = match Session::run(&worker, &cancel, &mut progress).await {
            Ok(()) => return Ok(()),
            Err(_) if cancel.is_cancelled() => return Ok(()),
            Err(error) if error.is_retryable() => error,
            Err(error) => return Err(error),
        };
        let telling = progress.interrupted();
        if telling == Telling::First {
            pause = BACK_OFF_MIN;
        }
        if telling != Telling::Not {
            tracing::warn!(
                app = %worker.app,
                error = &error as &dyn std::error::Error,
                "process was interrupted and tries again"
            );
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACK_OFF_MAX),
        }
    }
}

/// The last part of the name of the group that processes an App's raw events.
pub const STAGE: &str = "process";

impl Worker {
    fn group(&self) -> String {
        self.member.group(&self.app, STAGE)
    }
}

/// Why process stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The log failed.
    #[error("process of `{app}` cannot {step}")]
    Log {
        /// Whose events.
        app: AppId,
        /// What it was about to do.
        step: &'static str,
        /// Why.
        source: LogError,
    },
    /// The dedupe store could not be brought up to date.
    #[error("process of `{app}` cannot restore what it has seen")]
    CatchUp {
        /// Whose events.
        app: AppId,
        /// Why.
        source: CatchUpError,
    },
    /// The dedupe store failed.
    #[error("process of `{app}` cannot use the dedupe store")]
    Seen {
        /// Whose events.
        app: AppId,
        /// Why.
        source: SeenError,
    },
    /// The configuration lacks a topic.
    #[error("App `{app}` has no topic `{kind}` in its configuration; compile it again")]
    NoTopic {
        /// Whose configuration.
        app: AppId,
        /// What is missing.
        kind: TopicKind,
    },
}

impl ProcessError {
    /// Whether a new session may succeed without a restart.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Log { source, .. } | Self::CatchUp { source: CatchUpError::Log { source, .. }, .. } => {
                // A group that went on without us lets us join again.
                source.is_retryable() || matches!(source, LogError::Fenced { .. })
            }
            Self::CatchUp { source: CatchUpError::Seen(_), .. }
            | Self::Seen { .. }
            | Self::NoTopic { .. } => false,
        }
    }
}
