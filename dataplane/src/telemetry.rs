//! How the data plane speaks of itself: lines of the log, as every program of Millrace writes them, and the ids by which
//! requests are told apart in them.

use std::time::{Duration, Instant};

use uuid::Uuid;

pub use millrace_telemetry::{Format, TelemetryError, chain, init};

#[cfg(test)]
mod tests;

/// Most characters of a request id taken from a client; a UUID has 36, a W3C trace parent 55.
pub const REQUEST_ID_CHARS_MAX: usize = 64;

/// How often something that goes on failing is told.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// A failure that comes again and again: told when it begins, then once a minute, with what it is by then.
#[derive(Debug, Default)]
pub struct Seldom {
    told: Option<Instant>,
}

/// Whether to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// It begins.
    First,
    /// It has gone on for long.
    Again,
    /// It was told just now.
    Not,
}

impl Seldom {
    /// It failed now.
    pub fn again(&mut self) -> Telling {
        let telling = match self.told {
            None => Telling::First,
            Some(told) if told.elapsed() >= TELL_AGAIN => Telling::Again,
            Some(_) => return Telling::Not,
        };
        self.told = Some(Instant::now());
        telling
    }

    /// All is well; whether it was not before.
    pub fn is_over(&mut self) -> bool {
        self.told.take().is_some()
    }
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
