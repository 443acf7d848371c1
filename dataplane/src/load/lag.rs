//! Positions of the loader in, the age of the oldest record that is not stored out, at its own pace: while ClickHouse is away
//! nothing is loaded, and just then the age must be seen to grow. How far a stage is behind in the log is `crate::lag`'s.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::Loader;
use crate::log::{LogError, ReadLimits, TopicPartition};

/// How often lags are measured.
const PERIOD: Duration = Duration::from_secs(1);

/// Next offset to load, per partition that is ours.
#[derive(Default)]
pub(super) struct Positions(Mutex<BTreeMap<TopicPartition, u64>>);

impl Positions {
    pub(super) fn set(&self, of: &TopicPartition, next: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(of.clone(), next);
    }

    pub(super) fn forget(&self, of: &TopicPartition) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(of);
    }

    fn all(&self) -> BTreeMap<TopicPartition, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Measures for ever.
pub(super) async fn report(loader: &Loader, positions: &Positions) -> Infallible {
    loop {
        let mut oldest = Duration::ZERO;
        for (partition, next) in positions.all() {
            match measure(loader, &partition, next).await {
                Ok(age) => oldest = oldest.max(age),
                Err(error) => {
                    tracing::debug!(%partition, error = &error as &dyn std::error::Error, "cannot measure the lag");
                }
            }
        }
        let seconds = loader.metrics.load_oldest_unloaded_seconds.with_label_values(&loader.labels());
        seconds.set(oldest.as_secs_f64());
        tokio::time::sleep(PERIOD).await;
    }
}

/// Since the system accepted the oldest record that is not stored; zero where there is none.
async fn measure(loader: &Loader, partition: &TopicPartition, next: u64) -> Result<Duration, LogError> {
    if loader.log.watermarks(partition).await?.high <= next {
        return Ok(Duration::ZERO);
    }
    let oldest = loader.log.read(partition, next, ReadLimits::PEEK).await?;
    // Behind the last record there may be markers of transactions.
    let Some(oldest) = oldest.into_iter().next() else { return Ok(Duration::ZERO) };
    let appended_at = oldest.appended_at;
    let accepted_at = loader.target.decode(oldest).map_or(0, |waiting| waiting.record.accepted_at());
    let accepted_at = if accepted_at > 0 { accepted_at.min(appended_at) } else { appended_at };
    let age_ms = Timestamp::now().as_millisecond().saturating_sub(accepted_at).max(0);
    Ok(Duration::from_millis(age_ms.cast_unsigned()))
}
