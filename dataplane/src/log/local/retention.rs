//! Which chunks are too old or too many, and their removal in bounded rounds.
//! Whole chunks go, oldest first, whether or not every group has read them: a stopped group must not fill the disk.

use crate::log::LogError;
use crate::log::local::chunk::{ChunkKey, PartitionId};
use crate::log::local::plan::Operation;
use crate::log::local::state::Retention;
use crate::log::local::{Engine, lock};

/// Most chunks removed from a partition by one write, so that appends queued behind it wait milliseconds.
const CHUNKS_PER_ROUND_MAX: usize = 1000;

/// A partition as retention sees it.
#[derive(Clone, Copy)]
struct Kept {
    /// Offset after the last visible record.
    high: u64,
    /// Bytes ever taken.
    bytes_high: u64,
}

/// How many of the oldest chunks may go. `chunks` are in order. Age is in milliseconds, `now` since the epoch.
/// By size the newest chunk stays, however large: a limit below one chunk would otherwise keep nothing.
fn expired(chunks: &[ChunkKey], retention: &Retention, kept: Kept, now: i64) -> usize {
    let age_ms_max = i64::try_from(retention.age_ms_max).unwrap_or(i64::MAX);
    let too_old = |chunk: &ChunkKey| now.saturating_sub(chunk.appended_at) > age_ms_max;
    let too_many = |chunk: &ChunkKey| {
        retention.bytes_max.is_some_and(|bytes_max| kept.bytes_high - chunk.bytes_before > bytes_max)
            && chunk.end() < kept.high
    };
    chunks.iter().take_while(|chunk| too_old(chunk) || too_many(chunk)).count()
}

/// Removes what may go from every partition; returns the number of chunks removed.
pub(crate) async fn enforce<E: Engine>(engine: &E, now: i64) -> Result<usize, LogError> {
    let partitions: Vec<_> = lock(engine.state()).partitions().collect();
    let mut removed = 0;
    for of in partitions {
        loop {
            let chunks = enforce_once(engine, of, now).await?;
            removed += chunks;
            if chunks < CHUNKS_PER_ROUND_MAX {
                break;
            }
        }
    }
    Ok(removed)
}

async fn enforce_once<E: Engine>(engine: &E, of: PartitionId, now: i64) -> Result<usize, LogError> {
    let (low, kept, retention) = {
        let state = lock(engine.state());
        let partition = state.partition(of);
        let kept = Kept { high: partition.high, bytes_high: partition.bytes_high };
        (partition.low, kept, state.topic_of(of).retention)
    };
    if low == kept.high {
        return Ok(0);
    }
    // One more than may go: its key says where the bytes of those before it end.
    let mut chunks = engine.chunk_keys(of, low, CHUNKS_PER_ROUND_MAX + 1)?;
    // A chunk can be in the store a moment before it is visible.
    chunks.retain(|chunk| chunk.base < kept.high);
    let count = expired(&chunks, &retention, kept, now).min(CHUNKS_PER_ROUND_MAX);
    if count == 0 {
        return Ok(0);
    }
    let bytes_before = chunks.get(count).map_or(kept.bytes_high, |next| next.bytes_before);
    chunks.truncate(count);
    engine.submit(Operation::Expire { of, chunks, bytes_before }).await?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four chunks of one record and 100 bytes, taken at 0, 10, 20, 30.
    fn check(age_ms_max: u64, bytes_max: Option<u64>, now: i64, gone: usize) {
        let chunks: Vec<_> = (0..4_u32)
            .map(|n| ChunkKey {
                of: PartitionId { topic: 0, partition: 0 },
                base: u64::from(n),
                count: 1,
                appended_at: i64::from(n) * 10,
                bytes_before: u64::from(n) * 100,
            })
            .collect();
        let kept = Kept { high: 4, bytes_high: 400 };
        let retention = Retention { age_ms_max, bytes_max };
        assert_eq!(expired(&chunks, &retention, kept, now), gone, "{age_ms_max} {bytes_max:?} {now}");
    }

    #[test]
    fn removes_the_oldest_chunks_by_age_and_size() {
        check(10, None, 10, 0);
        check(10, None, 11, 1);
        check(10, None, 31, 3);
        check(10, None, 1000, 4);
        check(u64::MAX, None, i64::MAX, 0);
        check(10, None, -1000, 0);
        check(1000, Some(400), 30, 0);
        check(1000, Some(399), 30, 1);
        check(1000, Some(100), 30, 3);
        check(1000, Some(0), 30, 3);
        check(10, Some(399), 31, 3);
    }
}
