//! How the data plane speaks of itself: lines of the log, as every program of Millrace writes them, and the ids by which
//! requests are told apart in them.

use uuid::Uuid;

pub use millrace_telemetry::{Format, TelemetryError, chain, init};

#[cfg(test)]
mod tests;

/// Most characters of a request id taken from a client; a UUID has 36, a W3C trace parent 55.
pub const REQUEST_ID_CHARS_MAX: usize = 64;

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
