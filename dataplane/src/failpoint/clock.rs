//! The text of a setting in, a clock that runs faster or stands elsewhere out. Pure.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

/// Shortest pause that a fast clock leaves: what polls without one would take the processors from what it waits for.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// `ORIGIN_MSxRATE[+AHEAD_MS]`: since the origin it ran so many times faster; and by so much it is ahead, or behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    origin_ms: i64,
    rate: u32,
    ahead_ms: i64,
}

/// Not a clock.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no clock; use ORIGIN_MSxRATE+AHEAD_MS, as in 1700000000000x300+0")]
pub(super) struct NotAClock {
    /// What was given.
    text: String,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin_ms: 0, rate: 1, ahead_ms: 0 }
    }
}

impl Clock {
    /// What it shows at a moment.
    pub(super) fn at(self, real: Timestamp) -> Timestamp {
        let since = (real.as_millisecond() - self.origin_ms).saturating_mul(i64::from(self.rate));
        let shown = self.origin_ms.saturating_add(since).saturating_add(self.ahead_ms);
        Timestamp::from_millisecond(shown).unwrap_or(real)
    }

    /// How long a pause by this clock takes.
    pub(super) fn pause(self, pause: Duration) -> Duration {
        (pause / self.rate).max(PAUSE_MIN).min(pause)
    }
}

impl FromStr for Clock {
    type Err = NotAClock;

    fn from_str(text: &str) -> Result<Self, NotAClock> {
        let parsed = || {
            let (origin, rest) = text.split_once('x')?;
            let (rate, ahead) = rest.split_at(rest.find(['+', '-']).unwrap_or(rest.len()));
            Some(Self {
                origin_ms: origin.parse().ok()?,
                rate: rate.parse().ok().filter(|rate| *rate > 0)?,
                ahead_ms: if ahead.is_empty() { 0 } else { ahead.parse().ok()? },
            })
        };
        parsed().ok_or_else(|| NotAClock { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_faster_from_its_origin_on_and_may_be_ahead() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let fast: Clock = "1000x300".parse().unwrap();
        assert_eq!((fast.at(at(1_000)), fast.at(at(1_200))), (at(1_000), at(61_000)));
        let behind: Clock = "1000x300-5".parse().unwrap();
        assert_eq!(behind.at(at(1_200)), at(60_995));
        assert_eq!(Clock::default().at(at(77)), at(77));
        assert_eq!(fast.pause(Duration::from_secs(60)), Duration::from_millis(200));
        assert_eq!(fast.pause(Duration::from_secs(1)), PAUSE_MIN);
        assert_eq!(fast.pause(Duration::from_millis(3)), Duration::from_millis(3));
        for text in ["", "5", "5x", "5x0", "x5", "5x6+y"] {
            assert!(text.parse::<Clock>().is_err(), "{text}");
        }
    }
}
