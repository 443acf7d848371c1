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
        for (partition, next) in positions.all() {
            match measure(loader, &partition, next).await {
                Ok(lag) => set(loader, &group, &partition, lag),
                Err(error) => {
                    tracing::debug!(%partition, error = &error as &dyn std::error::Error, "cannot measure the lag");
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

struct Lag {
    records: u64,
    milliseconds: i64,
}

async fn measure(loader: &Loader, partition: &TopicPartition, next: u64) -> Result<Lag, LogError> {
    let records = loader.log.watermarks(partition).await?.high.saturating_sub(next);
    if records == 0 {
        return Ok(Lag { records, milliseconds: 0 });
    }
    let first = ReadLimits { records_max: 1, bytes_max: 1, wait_max: Duration::ZERO };
    let oldest = loader.log.read(partition, next, first).await?;
    // Nothing but markers of transactions is no lag.
    let Some(oldest) = oldest.first() else { return Ok(Lag { records: 0, milliseconds: 0 }) };
    let now = Timestamp::now().as_millisecond();
    Ok(Lag { records, milliseconds: now.saturating_sub(oldest.appended_at).max(0) })
}

fn set(loader: &Loader, group: &str, partition: &TopicPartition, lag: Lag) {
    let number = partition.partition.to_string();
    let labels = [group, &partition.topic, &number];
    let records = i64::try_from(lag.records).unwrap_or(i64::MAX);
    loader.metrics.consumer_lag_records.with_label_values(&labels).set(records);
    loader.metrics.consumer_lag_milliseconds.with_label_values(&labels).set(lag.milliseconds);
}
