//! Ends of partitions in, whether a group has passed them out.

use std::sync::Arc;

use crate::log::{Log, LogError, ReadLimits, TopicInfo, TopicPartition};

/// Where partitions ended, and so what has to be passed.
pub(super) type Ends = Vec<(TopicPartition, u64)>;

/// The ends of a topic now, once what is open before them is decided.
pub(super) async fn ends(log: &dyn Log, topic: &TopicInfo) -> Result<Ends, LogError> {
    let mut ends = Vec::new();
    for partition in 0..topic.partitions {
        let of = TopicPartition { topic: Arc::clone(&topic.name), partition };
        let end = log.settled_end(&of).await?;
        ends.push((of, end));
    }
    Ok(ends)
}

/// Whether a group has committed everything before these ends.
pub(super) async fn has_passed(log: &dyn Log, group: &str, ends: &Ends) -> Result<bool, LogError> {
    let of: Vec<TopicPartition> = ends.iter().map(|(of, _)| of.clone()).collect();
    let committed = log.committed(group, &of).await?;
    for ((of, end), committed) in ends.iter().zip(committed) {
        let at = committed.map_or(0, |committed| committed.offset);
        if at >= *end {
            continue;
        }
        // Behind the last record there may be markers of transactions, which nobody commits.
        let next = log.read(of, at, ReadLimits::PEEK).await?;
        if next.first().is_some_and(|record| record.offset < *end) {
            return Ok(false);
        }
    }
    Ok(true)
}
