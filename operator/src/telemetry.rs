//! Log events in, lines of JSON on standard error out: UTC, one line an event, fields under their dotted names.

use std::io;

use jiff::Timestamp;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Starts logging for the process, of what `filter` lets through (`info`, `info,millrace_operator=debug`, …).
pub fn init(filter: &str) -> Result<(), TelemetryError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source: Box::new(source) })?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_timer(Utc)
        .with_writer(io::stderr)
        .with_env_filter(parsed)
        .try_init()
        .map_err(|source| TelemetryError::Started { source })
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
