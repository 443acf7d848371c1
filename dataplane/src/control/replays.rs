//! Which dead letters were taken up again: the marks in the `dead-letters` topic in, a look-up out. The topic is
//! the truth; this is a copy that is read on from where it stood, so a restart or a lost answer changes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::log::{Log, LogError, ReadLimits, TopicInfo, TopicPartition};
use crate::record::ReplayMark;

/// Records read at once.
const PAGE: ReadLimits = ReadLimits { records_max: 2048, bytes_max: 4 << 20, wait_max: Duration::ZERO };
/// The index is built anew when it has grown to twice what it held after the last time, and not below this:
/// marks that retention has removed from the topic go then.
const REBUILD_MARKS_MIN: usize = 100_000;

/// Marks of one App's dead letters.
#[derive(Default)]
pub(super) struct Replays {
    topic: Option<Uuid>,
    /// Next offset to read, by partition.
    next: Vec<u64>,
    /// Key of a dead letter → how often its event has been replayed.
    marks: HashMap<Key, u32>,
    marks_after_build: usize,
}

/// A key of the topic (16 bytes: event id; 12 bytes: raw position) in one width.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key([u8; 17]);

impl Key {
    fn new(bytes: &[u8]) -> Self {
        let mut key = [0; 17];
        let kept = bytes.len().min(16);
        key[..kept].copy_from_slice(&bytes[..kept]);
        // The length keeps a short key apart from a long one that ends with zeros.
        key[16] = u8::try_from(kept).unwrap_or(16);
        Self(key)
    }
}

impl Replays {
    /// Reads what has been added to the topic since the last time.
    pub(super) async fn refresh(&mut self, log: &dyn Log, topic: &TopicInfo) -> Result<(), LogError> {
        let is_grown = self.marks.len() > REBUILD_MARKS_MIN.max(2 * self.marks_after_build);
        let is_new = self.topic != Some(topic.id) || is_grown;
        if is_new {
            *self = Self { topic: Some(topic.id), ..Self::default() };
        }
        self.next.resize(topic.partitions as usize, 0);
        for (partition, next) in (0..topic.partitions).zip(&mut self.next) {
            let of = TopicPartition { topic: Arc::clone(&topic.name), partition };
            let high = log.settled_end(&of).await?;
            while *next < high {
                let page = log.read(&of, *next, PAGE).await?;
                *next = page.last().map_or(high, |last| last.offset + 1);
                for record in &page {
                    if let Ok(mark) = serde_json::from_slice::<ReplayMark>(&record.value) {
                        note(&mut self.marks, &record.key, mark.replay);
                    }
                }
            }
        }
        if is_new {
            self.marks_after_build = self.marks.len();
        }
        Ok(())
    }

    /// Whether the event of a dead letter was replayed after it became one. `replay` is how often it had been
    /// before.
    pub(super) fn is_replayed(&self, key: &[u8], replay: u32) -> bool {
        self.marks.get(&Key::new(key)).is_some_and(|replayed| *replayed > replay)
    }

    /// Takes in a mark that is committed.
    pub(super) fn note(&mut self, key: &[u8], replay: u32) {
        note(&mut self.marks, key, replay);
    }
}

fn note(marks: &mut HashMap<Key, u32>, key: &[u8], replay: u32) {
    let mark = marks.entry(Key::new(key)).or_default();
    *mark = (*mark).max(replay);
}
