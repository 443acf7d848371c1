//! Records to chunks and back: pure bytes.
//!
//! A group commit writes one chunk per partition, not one entry per record: the store's cost (key, skip-list node,
//! index entry, tombstone at retention) is paid once per chunk, and compression sees many similar records at once.
//! Everything but the records stands in the key, so that recovery and retention read keys only.

use bytes::{Bytes, BytesMut};

use crate::log::{LogRecord, NewRecord};

/// Records of one partition are cut into chunks of about so many bytes: enough for compression to pay, small
/// enough that a reader with tight limits decodes little that it does not use.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Length of an encoded [`ChunkKey`].
pub(crate) const KEY_BYTES: usize = 37;
/// First byte of every chunk's key.
const TAG: u8 = b'c';
/// First byte of the first state entry's key, or one before it: chunks stand below, entries above.
pub(crate) const ENTRIES_START: u8 = TAG + 1;
/// Length of what a chunk is found by: tag, topic, partition, offset.
const POSITION_BYTES: usize = 17;
/// Bytes before each record in a chunk: lengths of key and value.
const RECORD_HEAD_BYTES: usize = 8;

/// A partition as the store knows it: topic numbers are given once and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PartitionId {
    pub(crate) topic: u32,
    pub(crate) partition: u32,
}

/// What is known of a chunk without its records. Sorts by partition, then offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChunkKey {
    pub(crate) of: PartitionId,
    /// Offset of its first record.
    pub(crate) base: u64,
    /// Number of records.
    pub(crate) count: u32,
    /// When the log took them, UTC epoch milliseconds; one commit, one time.
    pub(crate) appended_at: i64,
    /// Bytes the partition had ever taken before this chunk: sizes of ranges are differences.
    pub(crate) bytes_before: u64,
}

impl ChunkKey {
    /// Offset after its last record.
    pub(crate) fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// Big endian, so that bytes sort as offsets do.
    pub(crate) fn encode(&self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[..POSITION_BYTES].copy_from_slice(&position(self.of, self.base));
        bytes[17..21].copy_from_slice(&self.count.to_be_bytes());
        bytes[21..29].copy_from_slice(&self.appended_at.to_be_bytes());
        bytes[29..].copy_from_slice(&self.bytes_before.to_be_bytes());
        bytes
    }

    /// The reverse of [`ChunkKey::encode`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ChunkError> {
        let mut fields = Fields(bytes);
        if fields.take()? != [TAG] {
            return Err(ChunkError::Key);
        }
        let key = Self {
            of: PartitionId {
                topic: u32::from_be_bytes(fields.take()?),
                partition: u32::from_be_bytes(fields.take()?),
            },
            base: u64::from_be_bytes(fields.take()?),
            count: u32::from_be_bytes(fields.take()?),
            appended_at: i64::from_be_bytes(fields.take()?),
            bytes_before: u64::from_be_bytes(fields.take()?),
        };
        if fields.0.is_empty() { Ok(key) } else { Err(ChunkError::Key) }
    }
}

/// The start of a key: no chunk with this base or a later one sorts before it.
pub(crate) fn position(of: PartitionId, offset: u64) -> [u8; POSITION_BYTES] {
    let mut bytes = [TAG; POSITION_BYTES];
    bytes[1..5].copy_from_slice(&of.topic.to_be_bytes());
    bytes[5..9].copy_from_slice(&of.partition.to_be_bytes());
    bytes[9..].copy_from_slice(&offset.to_be_bytes());
    bytes
}

/// A key that no chunk with this base or an earlier one sorts after.
pub(crate) fn position_end(of: PartitionId, offset: u64) -> [u8; KEY_BYTES] {
    let mut bytes = [0xff; KEY_BYTES];
    bytes[..POSITION_BYTES].copy_from_slice(&position(of, offset));
    bytes
}

/// How records lie in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Once, here: journal, tables and memory then all hold the small form, and nothing is compressed twice.
    Lz4,
    /// As they are; for tests that scan the disk.
    Off,
}

/// First byte of a chunk.
const PLAIN: u8 = 0;
const LZ4: u8 = 1;

/// Why bytes of the store are not a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChunkError {
    /// The key has another length.
    #[error("a chunk's key is damaged")]
    Key,
    /// The records do not fill the chunk.
    #[error("a chunk at offset {base} is damaged")]
    Records { base: u64 },
}

/// Encodes records that follow each other. `records` is not empty and at most 2³² long.
pub(crate) fn encode(records: &[NewRecord], compression: Compression) -> Vec<u8> {
    let size: usize = records.iter().map(stored_bytes).sum();
    let mut plain = Vec::with_capacity(size + 1);
    plain.push(PLAIN);
    for record in records {
        for length in [record.key.len(), record.value.len()] {
            let length = u32::try_from(length).expect("a record's size was checked against the limit");
            plain.extend_from_slice(&length.to_le_bytes());
        }
        plain.extend_from_slice(&record.key);
        plain.extend_from_slice(&record.value);
    }
    match compression {
        Compression::Off => plain,
        Compression::Lz4 => {
            let mut small = vec![LZ4; 1 + 4 + lz4_flex::block::get_maximum_output_size(size)];
            let length = u32::try_from(size).expect("a chunk is bounded by the size of its records");
            small[1..5].copy_from_slice(&length.to_le_bytes());
            match lz4_flex::block::compress_into(&plain[1..], &mut small[5..]) {
                Ok(used) if used + 4 < size => {
                    small.truncate(5 + used);
                    // What the memtable holds is what counts against memory: no spare capacity.
                    small.shrink_to_fit();
                    small
                }
                Ok(_) | Err(_) => plain,
            }
        }
    }
}

/// Bytes a record takes in a chunk before compression.
pub(crate) fn stored_bytes(record: &NewRecord) -> usize {
    RECORD_HEAD_BYTES + record.key.len() + record.value.len()
}

/// Bytes a chunk counts for: its value as stored, and its key.
pub(crate) fn chunk_bytes(value_bytes: usize) -> u64 {
    (value_bytes + KEY_BYTES) as u64
}

/// The records of a chunk; keys and values share its memory.
pub(crate) fn decode(key: &ChunkKey, value: Bytes) -> Result<impl Iterator<Item = LogRecord>, ChunkError> {
    let damaged = ChunkError::Records { base: key.base };
    let mut body = open(value).ok_or(damaged)?;
    let count = usize::try_from(key.count).map_err(|_| damaged)?;
    let mut records = Vec::with_capacity(count.min(body.len() / RECORD_HEAD_BYTES));
    for offset in key.base..key.end() {
        let mut head = Fields(&body);
        let key_bytes = u32::from_le_bytes(head.take().map_err(|_| damaged)?) as usize;
        let value_bytes = u32::from_le_bytes(head.take().map_err(|_| damaged)?) as usize;
        let end = RECORD_HEAD_BYTES + key_bytes + value_bytes;
        if body.len() < end {
            return Err(damaged);
        }
        let mut record = body.split_to(end);
        let _head = record.split_to(RECORD_HEAD_BYTES);
        let record_key = record.split_to(key_bytes);
        records.push(LogRecord { offset, appended_at: key.appended_at, key: record_key, value: record });
    }
    if body.is_empty() { Ok(records.into_iter()) } else { Err(damaged) }
}

/// The plain records of a stored chunk.
fn open(value: Bytes) -> Option<Bytes> {
    match *value.first()? {
        PLAIN => Some(value.slice(1..)),
        LZ4 => {
            let length = u32::from_le_bytes(value.get(1..5)?.try_into().ok()?) as usize;
            // LZ4 gains at most 255 to 1: a damaged length cannot make us allocate without bound.
            if length > value.len().saturating_mul(256) {
                return None;
            }
            let mut plain = BytesMut::zeroed(length);
            let used = lz4_flex::block::decompress_into(&value[5..], &mut plain).ok()?;
            (used == length).then(|| plain.freeze())
        }
        _ => None,
    }
}

/// Takes fixed-size fields off the front.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    /// The next `N` bytes.
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], ChunkError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(ChunkError::Key)?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::log::TopicPartition;

    fn record(key: &[u8], value: &[u8]) -> NewRecord {
        let to = TopicPartition { topic: Arc::from("t"), partition: 0 };
        NewRecord { to, key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) }
    }

    fn key(base: u64, count: usize) -> ChunkKey {
        let of = PartitionId { topic: 7, partition: 3 };
        ChunkKey { of, base, count: u32::try_from(count).unwrap(), appended_at: -5, bytes_before: 9 }
    }

    #[test]
    fn what_was_encoded_comes_back() {
        let long = b"{\"event_type\":\"page_view\"}".repeat(400);
        for records in [
            vec![record(b"", b"")],
            vec![record(b"k", b"v"), record(b"", b"w"), record(b"k", &long)],
            vec![record(b"k", &long); 30],
        ] {
            for compression in [Compression::Off, Compression::Lz4] {
                let key = key(40, records.len());
                assert_eq!(ChunkKey::decode(&key.encode()).unwrap(), key);
                let value = Bytes::from(encode(&records, compression));
                let back: Vec<_> = decode(&key, value).unwrap().collect();
                assert_eq!(back.len(), records.len());
                for ((back, record), offset) in back.iter().zip(&records).zip(40..) {
                    assert_eq!((back.offset, back.appended_at), (offset, -5));
                    assert_eq!((&back.key, &back.value), (&record.key, &record.value));
                }
            }
        }
    }

    #[test]
    fn similar_records_are_stored_smaller_and_random_ones_no_larger() {
        let similar = vec![record(b"12345678", &b"{\"event_type\":\"page_view\"}".repeat(20)); 20];
        let size: usize = similar.iter().map(stored_bytes).sum();
        assert!(encode(&similar, Compression::Lz4).len() < size / 10);
        let tiny = [record(b"k", b"v")];
        assert_eq!(encode(&tiny, Compression::Lz4), encode(&tiny, Compression::Off));
    }

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic() {
        let records = vec![record(b"key", &b"value ".repeat(100)); 5];
        let whole = encode(&records, Compression::Lz4);
        for length in 0..whole.len() {
            assert!(decode(&key(0, 5), Bytes::copy_from_slice(&whole[..length])).is_err(), "{length}");
        }
        let plain = encode(&records, Compression::Off);
        assert!(decode(&key(0, 4), Bytes::from(plain.clone())).is_err(), "a record too many");
        assert!(decode(&key(0, 6), Bytes::from(plain)).is_err(), "a record too few");
        assert!(decode(&key(0, 1), Bytes::from_static(&[9])).is_err(), "an unknown form");
        assert!(
            decode(&key(0, 1), Bytes::from_static(&[LZ4, 255, 255, 255, 255, 0])).is_err(),
            "a huge length"
        );
        assert_eq!(ChunkKey::decode(&[TAG; 36]), Err(ChunkError::Key));
        assert_eq!(ChunkKey::decode(&[TAG; 38]), Err(ChunkError::Key));
    }

    #[test]
    fn keys_sort_as_offsets_do_and_bounds_enclose_them() {
        let of = key(0, 1).of;
        let keys: Vec<_> = [0, 1, 255, 256, u64::MAX - 9].map(|base| key(base, 1).encode()).to_vec();
        assert!(keys.is_sorted());
        for key in keys {
            let base = ChunkKey::decode(&key).unwrap().base;
            assert!(position(of, base).as_slice() <= key.as_slice());
            assert!(key <= position_end(of, base));
        }
    }
}
