//! Log events in, lines on standard error out: JSON for machines, text for terminals. UTC, one line an event.
//! A closed or full standard error loses lines and nothing else.

use std::io::IsTerminal as _;

use jiff::Timestamp;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry};
use uuid::Uuid;

mod json;
#[cfg(test)]
mod tests;

/// Most characters of a request id taken from a client; a UUID has 36, a W3C trace parent 55.
pub const REQUEST_ID_CHARS_MAX: usize = 64;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object, span and event fields side by side under their dotted names.
    Json,
    /// For people; coloured on a terminal.
    Text,
}

/// Starts logging for the process, of what `filter` lets through (`info`, `info,millrace_dataplane=debug`, …).
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
    #[error("log filter `{filter}` cannot be read; write it like `info` or `info,millrace_dataplane=debug`")]
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

/// The id of a request: what the client calls it, if that is harmless, else a fresh one.
pub fn request_id(candidate: Option<&[u8]>, fresh: impl FnOnce() -> Uuid) -> String {
    harmless_id(candidate).map_or_else(|| fresh().to_string(), str::to_owned)
}

/// An id from outside, if it is harmless in logs, headers and file names and cannot be an address of a person: 1 to
/// 64 ASCII letters, digits, `-`, `_` or `.`.
pub fn harmless_id(candidate: Option<&[u8]>) -> Option<&str> {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    candidate
        .filter(|id| (1..=REQUEST_ID_CHARS_MAX).contains(&id.len()) && id.iter().copied().all(harmless))
        .and_then(|id| std::str::from_utf8(id).ok())
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
