//! What the store keeps beside the chunks, as bytes: topics, low watermarks, positions, epochs. Pure.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::log::Committed;
use crate::log::local::chunk::{Fields, PartitionId};
use crate::log::local::state::Retention;

/// Version of keys and values, chunks included. A newer one is refused: see [`DurableError::Format`].
pub(crate) const FORMAT: u32 = 1;

/// One state entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Who wrote this store.
    Format(u32),
    /// A topic.
    Topic { name: String, topic: DurableTopic },
    /// Where a partition starts.
    Low { of: PartitionId, low: Low },
    /// A position of a group.
    Position { group: String, topic_id: Uuid, partition: u32, committed: Committed },
    /// The newest epoch of a transactor.
    Epoch { id: String, epoch: u64 },
}

/// A topic without its name. JSON: written rarely, read by people, extended easily.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DurableTopic {
    pub(crate) id: Uuid,
    pub(crate) number: u32,
    pub(crate) partitions: u32,
    pub(crate) retention: Retention,
}

/// Where a partition starts, and what must outlive its last chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Low {
    /// First offset still there.
    pub(crate) offset: u64,
    /// Bytes the partition had taken before that offset.
    pub(crate) bytes_before: u64,
    /// Newest time given so far: times never go back, also when every chunk is gone.
    pub(crate) appended_at: i64,
}

/// Why the state cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurableError {
    /// An entry is not ours.
    #[error("a state entry starting with byte {first:?} is damaged")]
    Damaged { first: Option<u8> },
    /// A newer version wrote it.
    #[error("it was written in format {found}; this build reads up to {FORMAT}, use the newer build")]
    Format { found: u32 },
    /// Topic numbers have a hole.
    #[error("topic number {number} is missing or there twice")]
    TopicNumbers { number: usize },
}

/// First byte of a key; all of them at or above [`ENTRIES_START`](crate::log::local::chunk::ENTRIES_START).
const FORMAT_TAG: u8 = b'f';
const TOPIC_TAG: u8 = b't';
const LOW_TAG: u8 = b'l';
const POSITION_TAG: u8 = b'p';
const EPOCH_TAG: u8 = b'e';

impl Entry {
    /// Key and value.
    pub(crate) fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::Format(format) => (vec![FORMAT_TAG], format.to_be_bytes().to_vec()),
            Self::Topic { name, topic } => {
                let value = serde_json::to_vec(topic).expect("numbers and an id are always JSON");
                ([&[TOPIC_TAG], name.as_bytes()].concat(), value)
            }
            Self::Low { of, low } => (
                [&[LOW_TAG][..], &of.topic.to_be_bytes(), &of.partition.to_be_bytes()].concat(),
                [low.offset.to_be_bytes(), low.bytes_before.to_be_bytes(), low.appended_at.to_be_bytes()]
                    .concat(),
            ),
            Self::Position { group, topic_id, partition, committed } => (
                [&[POSITION_TAG][..], topic_id.as_bytes(), &partition.to_be_bytes(), group.as_bytes()]
                    .concat(),
                [&committed.offset.to_be_bytes()[..], committed.metadata.as_bytes()].concat(),
            ),
            Self::Epoch { id, epoch } => {
                ([&[EPOCH_TAG], id.as_bytes()].concat(), epoch.to_be_bytes().to_vec())
            }
        }
    }

    /// The reverse of [`Entry::encode`].
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Self, DurableError> {
        let damaged = DurableError::Damaged { first: key.first().copied() };
        decode(key, value).ok_or(damaged)
    }
}

fn decode(key: &[u8], value: &[u8]) -> Option<Entry> {
    let (tag, rest) = key.split_first()?;
    let mut key = Fields(rest);
    let mut value = Fields(value);
    Some(match *tag {
        FORMAT_TAG => Entry::Format(u32::from_be_bytes(value.take().ok()?)),
        TOPIC_TAG => Entry::Topic { name: text(key.0)?, topic: serde_json::from_slice(value.0).ok()? },
        LOW_TAG => Entry::Low {
            of: PartitionId {
                topic: u32::from_be_bytes(key.take().ok()?),
                partition: u32::from_be_bytes(key.take().ok()?),
            },
            low: Low {
                offset: u64::from_be_bytes(value.take().ok()?),
                bytes_before: u64::from_be_bytes(value.take().ok()?),
                appended_at: i64::from_be_bytes(value.take().ok()?),
            },
        },
        POSITION_TAG => Entry::Position {
            topic_id: Uuid::from_bytes(key.take().ok()?),
            partition: u32::from_be_bytes(key.take().ok()?),
            group: text(key.0)?,
            committed: Committed { offset: u64::from_be_bytes(value.take().ok()?), metadata: text(value.0)? },
        },
        EPOCH_TAG => Entry::Epoch { id: text(key.0)?, epoch: u64::from_be_bytes(value.take().ok()?) },
        _ => return None,
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::local::chunk::ENTRIES_START;

    #[test]
    fn every_entry_comes_back_and_a_cut_one_is_an_error() {
        let of = PartitionId { topic: 1, partition: 2 };
        let topic = DurableTopic {
            id: Uuid::from_u128(5),
            number: 3,
            partitions: 4,
            retention: Retention { age_ms_max: 6, bytes_max: Some(7) },
        };
        let committed = Committed { offset: 8, metadata: "v1;ü".to_owned() };
        for entry in [
            Entry::Format(FORMAT),
            Entry::Topic { name: "millrace.a.b.seen".to_owned(), topic },
            Entry::Low { of, low: Low { offset: 1, bytes_before: 2, appended_at: -3 } },
            Entry::Position { group: "g".to_owned(), topic_id: topic.id, partition: 9, committed },
            Entry::Epoch { id: "worker-0".to_owned(), epoch: 10 },
        ] {
            let (key, value) = entry.encode();
            assert_eq!(Entry::decode(&key, &value).unwrap(), entry);
            assert!(key[0] >= ENTRIES_START);
            assert!(Entry::decode(&key, &value[..3]).is_err(), "{entry:?}");
        }
        assert!(Entry::decode(b"", b"").is_err());
        assert!(Entry::decode(b"?", b"").is_err());
    }
}
