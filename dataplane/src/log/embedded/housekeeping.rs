//! What happens from time to time: retention, and the metrics nobody else is there to set.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::log::LogError;
use crate::log::embedded::Inner;
use crate::log::local::chunk::PartitionId;
use crate::log::local::{self, Store, lock};

/// Longest time until the space of removed chunks is given back although hardly anything new is written.
const RECLAIM_AFTER: Duration = Duration::from_secs(3600);

/// Rounds until it is stopped.
pub(super) async fn run(inner: &Inner, stop: &CancellationToken) {
    let interval = inner.options.housekeeping_interval;
    let mut space = Space::Used;
    while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        let now = (inner.environment.clock)();
        match stop.run_until_cancelled(local::retention::enforce(inner, now)).await {
            None | Some(Err(LogError::Closed)) => return,
            Some(Ok(removed)) => {
                if removed > 0 && space == Space::Used {
                    space = Space::Removed { since: Instant::now() };
                }
            }
            Some(Err(error)) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "retention could not be enforced; the next round tries again",
            ),
        }
        space = reclaim(inner, space).unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the space of removed records could not be given back; the next round tries again",
            );
            space
        });
        report(inner, now);
    }
}

/// What became of the space of removed chunks. Fjall gives it back when enough new tables have pushed the marks of
/// removal down to the old ones. On a full disk there will be no new ones, on a quiet one not for long.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    /// Nothing was removed since it was last given back.
    Used,
    /// Chunks are marked as removed.
    Removed { since: Instant },
    /// The marks are on their way to a table.
    Flushing,
}

/// One step towards giving space back, if it is time for it.
fn reclaim(inner: &Inner, space: Space) -> Result<Space, fjall::Error> {
    Ok(match space {
        Space::Used => Space::Used,
        Space::Removed { since } if since.elapsed() < RECLAIM_AFTER && !inner.is_disk_low() => space,
        Space::Removed { .. } => {
            inner.store.seal()?;
            Space::Flushing
        }
        Space::Flushing if inner.store.is_busy() || !inner.store.compact()? => Space::Flushing,
        // A reader that was at work may have kept removed chunks alive: on a full disk it is worth another try.
        Space::Flushing if inner.is_disk_low() => Space::Removed { since: Instant::now() },
        Space::Flushing => Space::Used,
    })
}

fn report(inner: &Inner, now: i64) {
    if let Ok(bytes) = inner.store.disk_bytes() {
        inner.metrics.log_disk_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    for lag in lags(inner) {
        let labels = [&*lag.group, &*lag.topic, &*lag.partition];
        inner.metrics.consumer_lag_records.with_label_values(&labels).set(lag.records);
        let age_ms = lag.oldest_appended_at.map_or(0, |oldest| now.saturating_sub(oldest).max(0));
        inner.metrics.consumer_lag_milliseconds.with_label_values(&labels).set(age_ms);
    }
}

/// How far a group is behind in a partition.
struct Lag {
    group: String,
    topic: String,
    partition: String,
    records: i64,
    /// Time of the oldest record not yet consumed; `None` when there is none.
    oldest_appended_at: Option<i64>,
}

fn lags(inner: &Inner) -> Vec<Lag> {
    let behind: Vec<(Lag, PartitionId, u64, u64)> = {
        let state = lock(&inner.state);
        let positions = state.positions().map(|(key, committed)| {
            let partition = state.partition(key.of);
            let next = committed.offset.max(partition.low);
            let lag = Lag {
                group: key.group.to_string(),
                topic: state.topic_of(key.of).info.name.to_string(),
                partition: key.of.partition.to_string(),
                records: i64::try_from(partition.high.saturating_sub(next)).unwrap_or(i64::MAX),
                oldest_appended_at: None,
            };
            (lag, key.of, partition.low, next)
        });
        positions.collect()
    };
    let with_age = behind.into_iter().map(|(lag, of, low, next)| {
        let oldest = if lag.records > 0 { inner.store.chunk_holding(of, low, next) } else { Ok(None) };
        // A chunk that cannot be read is reported by who needs its records.
        let oldest_appended_at = oldest.ok().flatten().map(|chunk| chunk.appended_at);
        Lag { oldest_appended_at, ..lag }
    });
    with_age.collect()
}
