//! An intent that was found in, the block it was planned for out: the same records, read again, or the reason why
//! they are not the same. Such a block must not be inserted: it could store rows twice, or lose some unseen.

use std::time::Duration;

use super::Loader;
use super::block::Block;
use super::intent::{Intent, Range, SPLIT_RULE};
use super::target::Unreadable;
use crate::log::{LogError, ReadLimits, TopicPartition};

/// One read of many; bounds what is in memory twice.
const READ: ReadLimits = ReadLimits { records_max: 10_000, bytes_max: 4 << 20, wait_max: Duration::ZERO };

/// Why an intent is not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReproduced {
    /// The log failed; another try may help.
    #[error("the block cannot be read again")]
    Log { source: LogError },
    /// A record in it cannot be read.
    #[error("the block cannot be decoded")]
    Record { source: Unreadable },
    /// Planned under a rule this build does not have.
    #[error("`{intent}` was planned under another split rule than {SPLIT_RULE}")]
    Rule { intent: Intent },
    /// Records are gone or others.
    #[error("`{intent}` now has {rows} rows and id sum {id_sum}; were records removed from the log?")]
    Differs { intent: Intent, rows: u64, id_sum: u64 },
}

/// The block of an intent that was committed at `start`.
pub(super) async fn planned_block(
    loader: &Loader,
    of: &TopicPartition,
    start: u64,
    intent: Intent,
) -> Result<Block, NotReproduced> {
    if intent.split_rule != SPLIT_RULE {
        return Err(NotReproduced::Rule { intent });
    }
    let block = read_again(loader, of, Range { start, end: intent.end }).await?;
    let (rows, id_sum) = (block.rows(), block.id_sum());
    if (rows, id_sum) == (intent.rows, intent.id_sum) {
        Ok(block)
    } else {
        Err(NotReproduced::Differs { intent, rows, id_sum })
    }
}

async fn read_again(loader: &Loader, of: &TopicPartition, range: Range) -> Result<Block, NotReproduced> {
    let mut records = Vec::new();
    let mut next = range.start;
    while next < range.end {
        let read = loader.log.read(of, next, READ).await.map_err(|source| NotReproduced::Log { source })?;
        let Some(last) = read.last() else { break };
        next = last.offset + 1;
        for record in read.into_iter().filter(|record| record.offset < range.end) {
            records.push(loader.target.decode(record).map_err(|source| NotReproduced::Record { source })?);
        }
    }
    Ok(Block { range, records })
}
