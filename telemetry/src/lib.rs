//! Log events in, lines on standard error out: JSON for machines, text for terminals. UTC, one line an event.
//! The same in every program, so that one reader serves the logs of all. A closed or full standard error loses lines and
//! nothing else.

use std::io::IsTerminal as _;

use jiff::Timestamp;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry};

mod json;
#[cfg(test)]
mod tests;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object, span and event fields side by side under their dotted names.
    Json,
    /// For people; coloured on a terminal.
    Text,
}

/// Starts logging for the process, of what `filter` lets through (`info`, `info,millrace_operator=debug`, …).
pub fn init(format: Format, filter: &str) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source: Box::new(source) })?;
    let lines = match format {
        Format::Json => json::Lines::new(std::io::stderr).boxed(),
        Format::Text => tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_timer(Utc)
            // It would report a failed write by printing, and panic when that fails too.
            .log_internal_errors(false)
            .boxed(),
    };
    Registry::default()
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|source| TelemetryError::Started { source: Box::new(source) })
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("log filter `{filter}` cannot be read; write it like `info` or `info,millrace_operator=debug`")]
    Filter {
        /// What was given.
        filter: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The process logs already.
    #[error("logging was started before; start it once")]
    Started {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An error with all its causes, outermost first.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Writes the time as RFC 3339 with milliseconds.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:.3}", Timestamp::now())
    }
}
