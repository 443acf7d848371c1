//! What a client does after an answer, or without one: done, try again after a while, or give up. Pure.

use std::time::Duration;

/// Most attempts for one request, the first included; with the waits below, about half a minute.
pub(super) const ATTEMPTS_MAX: u32 = 10;
/// First wait where the server names none; doubles each time.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait, whatever the server asks for.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The next step of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The answer is about the events.
    Read,
    /// Try again after this long.
    Wait(Duration),
    /// No further attempt can help, or enough were made.
    Stop,
}

/// After attempt number `attempt` (from 1) was answered with `status`, or not answered at all.
pub(super) fn next_step(status: Option<u16>, retry_after: Option<&str>, attempt: u32) -> Step {
    match status {
        Some(200..300 | 400 | 413 | 422) => Step::Read,
        None | Some(408 | 429 | 500 | 502..=504) if attempt < ATTEMPTS_MAX => {
            let asked = retry_after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
            let backoff = BACKOFF_MIN * 2_u32.pow((attempt - 1).min(ATTEMPTS_MAX));
            Step::Wait(asked.unwrap_or(backoff).min(WAIT_MAX))
        }
        _ => Step::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_waits_as_asked_and_not_for_ever() {
        let wait = |milliseconds| Step::Wait(Duration::from_millis(milliseconds));
        for (status, retry_after, attempt, expected) in [
            (Some(200), None, 1, Step::Read),
            (Some(400), None, 1, Step::Read),
            (Some(413), Some("5"), 1, Step::Read),
            (Some(429), Some("2"), 1, wait(2_000)),
            (Some(503), Some(" 0 "), 9, wait(0)),
            (Some(503), Some("86400"), 1, wait(10_000)),
            (Some(503), Some("soon"), 1, wait(100)),
            (Some(502), None, 3, wait(400)),
            (None, None, 2, wait(200)),
            (None, None, ATTEMPTS_MAX - 1, wait(10_000)),
            (None, None, ATTEMPTS_MAX, Step::Stop),
            (Some(429), Some("1"), ATTEMPTS_MAX, Step::Stop),
            (Some(401), None, 1, Step::Stop),
            (Some(403), Some("1"), 1, Step::Stop),
            (Some(404), None, 1, Step::Stop),
            (Some(301), None, 1, Step::Stop),
        ] {
            assert_eq!(
                next_step(status, retry_after, attempt),
                expected,
                "{status:?} {retry_after:?} {attempt}"
            );
        }
    }
}
