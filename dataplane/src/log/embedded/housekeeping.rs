//! What happens from time to time: retention, and how much of the disk the log takes.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::log::LogError;
use crate::log::embedded::Inner;
use crate::log::local;

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
        report(inner);
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

fn report(inner: &Inner) {
    if let Ok(bytes) = inner.store.disk_bytes() {
        inner.metrics.log_disk_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
