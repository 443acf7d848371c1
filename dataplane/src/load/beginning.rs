//! A partition whose position the log does not know in, where its load begins out: a group that never committed, or
//! was idle until the log forgot it. What the table holds says how far it was loaded; the log says whether that is the
//! same topic.

use std::sync::Arc;

use super::intent::{FIRST_EPOCH, standing};
use super::stored::{self, Last};
use super::worker::End;
use super::{LoadError, Loader};
use crate::config::App;
use crate::log::{Committed, ReadLimits, TopicPartition, Watermarks};

/// What the log has where the table has its last row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    /// A record of this fingerprint.
    Record(u64),
    /// No record: markers of a transaction, or nothing yet.
    Nothing,
    /// Retention has removed it.
    Removed,
}

pub(super) async fn beginning(
    loader: &Loader,
    of: &TopicPartition,
    watermarks: Watermarks,
) -> Result<Committed, End> {
    let asked = |app: Arc<App>| async move { stored::last(loader, &app, of.partition).await };
    let Some(last) = loader.answered("what the table holds", asked).await? else {
        return Ok(Committed { offset: watermarks.low, metadata: standing(FIRST_EPOCH) });
    };
    let there = look(loader, of, last.offset, watermarks).await?;
    let begin = resume(last, there, watermarks);
    tracing::warn!(
        app = %loader.app, partition = %of, offset = begin.offset, epoch = begin.epoch,
        "the log knows no position of this group; loading goes on where the rows of the table end"
    );
    Ok(Committed { offset: begin.offset, metadata: standing(begin.epoch) })
}

async fn look(
    loader: &Loader,
    of: &TopicPartition,
    offset: u64,
    watermarks: Watermarks,
) -> Result<There, LoadError> {
    if offset < watermarks.low {
        return Ok(There::Removed);
    }
    let read =
        loader.log.read(of, offset, ReadLimits::PEEK).await.map_err(loader.log_error("find the start"))?;
    let Some(record) = read.into_iter().next().filter(|record| record.offset == offset) else {
        return Ok(There::Nothing);
    };
    let waiting = loader.target.decode(record);
    let waiting = waiting.map_err(|source| LoadError::Record { app: loader.app.clone(), source })?;
    Ok(There::Record(waiting.record.fingerprint()))
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begin {
    offset: u64,
    epoch: u32,
}

/// Behind the last row, where it is of this topic. Another topic of the same name is loaded from its start, in an epoch
/// of its own: its positions would else be taken for those of the old one.
fn resume(last: Last, there: There, watermarks: Watermarks) -> Begin {
    match there {
        There::Record(fingerprint) if fingerprint == last.fingerprint => {
            Begin { offset: last.offset + 1, epoch: last.epoch }
        }
        There::Removed => Begin { offset: watermarks.low, epoch: last.epoch },
        There::Record(_) | There::Nothing => Begin { offset: watermarks.low, epoch: last.epoch + 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_behind_the_last_row_of_the_same_topic_only() {
        let last = Last { epoch: 3, offset: 9, fingerprint: 7 };
        for (there, low, offset, epoch) in [
            (There::Record(7), 0, 10, 3),
            (There::Record(7), 9, 10, 3),
            (There::Removed, 20, 20, 3),
            (There::Record(8), 2, 2, 4),
            (There::Nothing, 2, 2, 4),
        ] {
            let begin = resume(last, there, Watermarks { low, high: 30 });
            assert_eq!(begin, Begin { offset, epoch }, "{there:?}");
        }
    }
}
