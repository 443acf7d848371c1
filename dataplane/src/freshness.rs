//! When the source of the configuration was last heard from: what is not known there is only unknown while that is not
//! long ago.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Whether what one knows is what there is. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Freshness(Option<Arc<Source>>);

#[derive(Debug)]
struct Source {
    began: Instant,
    silence_max: Duration,
    /// Milliseconds after `began`, plus one; 0 means never.
    heard: AtomicU64,
}

impl Freshness {
    /// Of a source that is read by the process itself.
    pub fn always() -> Self {
        Self(None)
    }

    /// Of a source that must be heard from within every `silence_max`. Not fresh before the first time.
    pub fn within(silence_max: Duration) -> Self {
        Self(Some(Arc::new(Source { began: Instant::now(), silence_max, heard: AtomicU64::new(0) })))
    }

    /// The source was heard from just now.
    pub fn heard(&self) {
        self.heard_at(Instant::now());
    }

    /// Whether the source was heard from lately.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh_at(Instant::now())
    }

    fn heard_at(&self, now: Instant) {
        if let Some(source) = &self.0 {
            source.heard.fetch_max(source.since(now) + 1, Ordering::Relaxed);
        }
    }

    fn is_fresh_at(&self, now: Instant) -> bool {
        self.0.as_ref().is_none_or(|source| match source.heard.load(Ordering::Relaxed) {
            0 => false,
            heard => {
                let silence = (source.since(now) + 1).saturating_sub(heard);
                u128::from(silence) <= source.silence_max.as_millis()
            }
        })
    }
}

impl Source {
    fn since(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_fresh_from_the_first_word_until_a_silence_that_is_too_long() {
        let freshness = Freshness::within(Duration::from_secs(60));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!freshness.is_fresh_at(at(0)));
        freshness.heard_at(at(5_000));
        assert!(freshness.is_fresh_at(at(65_000)));
        assert!(!freshness.is_fresh_at(at(65_010)));
        freshness.clone().heard_at(at(70_000));
        assert!(freshness.is_fresh_at(at(70_000)));
        assert!(Freshness::always().is_fresh());
    }
}
