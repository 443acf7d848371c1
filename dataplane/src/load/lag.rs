//! Positions of the loader in, lag metrics out, at its own pace: while ClickHouse is away nothing is loaded, and
//! just then the lag must be seen to grow.

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
    let group = loader.group();
    loop {
        let mut oldest = Duration::ZERO;
        for (partition, next) in positions.all() {
            match measure(loader, &partition, next).await {
                Ok(lag) => {
                    oldest = oldest.max(lag.oldest);
                    set(loader, &group, &partition, lag);
                }
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

struct Lag {
    records: u64,
    /// Since the log took the oldest.
    milliseconds: i64,
    /// Since the system accepted it.
    oldest: Duration,
}

const NONE: Lag = Lag { records: 0, milliseconds: 0, oldest: Duration::ZERO };

async fn measure(loader: &Loader, partition: &TopicPartition, next: u64) -> Result<Lag, LogError> {
    let records = loader.log.watermarks(partition).await?.high.saturating_sub(next);
    if records == 0 {
        return Ok(NONE);
    }
    let first = ReadLimits { records_max: 1, bytes_max: 1, wait_max: Duration::ZERO };
    let oldest = loader.log.read(partition, next, first).await?;
    // Nothing but markers of transactions is no lag.
    let Some(oldest) = oldest.into_iter().next() else { return Ok(NONE) };
    let now = Timestamp::now().as_millisecond();
    let since = |at: i64| now.saturating_sub(at).max(0);
    let appended_at = oldest.appended_at;
    let accepted_at = loader.target.decode(oldest).map_or(0, |waiting| waiting.record.accepted_at());
    let accepted_at = if accepted_at > 0 { accepted_at.min(appended_at) } else { appended_at };
    let oldest = Duration::from_millis(since(accepted_at).cast_unsigned());
    Ok(Lag { records, milliseconds: since(appended_at), oldest })
}

fn set(loader: &Loader, group: &str, partition: &TopicPartition, lag: Lag) {
    let number = partition.partition.to_string();
    let labels = [group, &partition.topic, &number];
    let records = i64::try_from(lag.records).unwrap_or(i64::MAX);
    loader.metrics.consumer_lag_records.with_label_values(&labels).set(records);
    loader.metrics.consumer_lag_milliseconds.with_label_values(&labels).set(lag.milliseconds);
}
