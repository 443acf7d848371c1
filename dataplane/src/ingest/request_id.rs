//! Request headers in, the id under which the request is answered, logged and traced out. Pure.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use crate::telemetry;

/// Where a client or proxy may pass an id, and where the answer carries it.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context: `<version>-<trace id>-<parent id>-<flags>`.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The client's `X-Request-Id` if it is sane, else its trace id, else a new UUID from `random`.
pub(super) fn of(headers: &HeaderMap, random: impl FnOnce() -> [u8; 16]) -> String {
    let traced = || trace_id(headers.get(TRACEPARENT)?.to_str().ok()?);
    let random = || uuid::Builder::from_random_bytes(random()).into_uuid();
    telemetry::harmless_id(headers.get(HEADER).map(HeaderValue::as_bytes))
        .or_else(traced)
        .map_or_else(|| random().to_string(), str::to_owned)
}

/// A new random id for an event that has none of its own.
pub(super) fn new_event_id() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let version = parts.next()?;
    let id = parts.next()?;
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let valid = version.len() == 2 && hex(version) && version != "ff" && id.len() == 32 && hex(id);
    (valid && id.bytes().any(|byte| byte != b'0')).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_sane_id_then_a_trace_id_then_makes_one() {
        const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        const NEW: &str = "07070707-0707-4707-8707-070707070707";
        let long = "x".repeat(65);
        for (sent, traceparent, expected) in [
            (Some("abc-1"), Some(TRACE), "abc-1"),
            (None, Some(TRACE), TRACE_ID),
            (Some(""), Some(TRACE), TRACE_ID),
            (Some("two words"), None, NEW),
            (Some("jane@example.com"), None, NEW),
            (Some(long.as_str()), None, NEW),
            (None, Some("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), NEW),
            (None, Some("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), NEW),
            (None, Some("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"), NEW),
            (None, Some("00"), NEW),
            (None, None, NEW),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(sent) = sent {
                headers.insert(HEADER, sent.parse().unwrap());
            }
            if let Some(traceparent) = traceparent {
                headers.insert(TRACEPARENT, traceparent.parse().unwrap());
            }
            assert_eq!(of(&headers, || [7; 16]), expected, "{sent:?} {traceparent:?}");
        }
    }
}
