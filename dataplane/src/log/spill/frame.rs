//! Records in, the bytes of one frame out, and back. A frame is what one fsync made durable: it is there whole or it
//! does not count. Pure.
//!
//! `MRsp`, then little-endian: payload length (4 bytes), time of spilling (8), XXH3 of length, time and payload (8),
//! payload. The payload is records: topic (2 + n), partition (4), key (4 + n), value (4 + n).

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use xxhash_rust::xxh3::Xxh3;

use crate::log::{NewRecord, TopicPartition};

const MAGIC: &[u8; 4] = b"MRsp";
/// Magic, length, time, checksum.
const HEADER_BYTES: usize = 4 + 4 + 8 + 8;

/// A frame as it was read.
#[derive(Debug)]
pub(super) struct Frame {
    /// Where the next one begins.
    pub(super) end: usize,
    /// UTC epoch milliseconds.
    pub(super) spilled_at: i64,
    pub(super) records: Vec<NewRecord>,
}

/// What stands at a place.
#[derive(Debug)]
pub(super) enum Next {
    /// A good frame.
    Frame(Frame),
    /// Nothing: the bytes end here.
    End,
    /// No frame, but a good one begins later: something in the middle was damaged.
    Hole { resumes: usize },
    /// No frame, and no good one behind it: a write that was never finished, or a damaged last one.
    Torn,
}

/// Appends one frame.
pub(super) fn encode<'a>(records: impl Iterator<Item = &'a NewRecord>, spilled_at: i64, out: &mut Vec<u8>) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    for NewRecord { to, key, value } in records {
        out.put_u16_le(u16::try_from(to.topic.len()).expect("Kafka takes topic names up to 249 bytes"));
        out.put_slice(to.topic.as_bytes());
        out.put_u32_le(to.partition);
        for part in [key, value] {
            out.put_u32_le(u32::try_from(part.len()).expect("a record is bounded by megabytes"));
            out.put_slice(part);
        }
    }
    let (header, payload) = out[start..].split_at_mut(HEADER_BYTES);
    let length = u32::try_from(payload.len()).expect("a group is bounded by megabytes");
    let sum = checksum(length, spilled_at, payload);
    header[..4].copy_from_slice(MAGIC);
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..16].copy_from_slice(&spilled_at.to_le_bytes());
    header[16..].copy_from_slice(&sum.to_le_bytes());
}

/// Looks at a place where a frame should begin.
pub(super) fn next(bytes: &[u8], at: usize) -> Next {
    if at >= bytes.len() {
        return Next::End;
    }
    match frame(bytes, at) {
        Some(frame) => Next::Frame(frame),
        None => (at + 1..bytes.len())
            .find(|later| frame(bytes, *later).is_some())
            .map_or(Next::Torn, |resumes| Next::Hole { resumes }),
    }
}

/// Where the good frames from the start on end.
pub(super) fn good_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(frame) = frame(bytes, at) {
        at = frame.end;
    }
    at
}

/// The frame that begins exactly here.
fn frame(bytes: &[u8], at: usize) -> Option<Frame> {
    let mut rest = bytes.get(at..)?.strip_prefix(MAGIC)?;
    let length = u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
    let spilled_at = i64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
    let sum = u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
    let payload = take(&mut rest, length as usize)?;
    if checksum(length, spilled_at, payload) != sum {
        return None;
    }
    Some(Frame { end: bytes.len() - rest.len(), spilled_at, records: records(payload)? })
}

fn records(mut payload: &[u8]) -> Option<Vec<NewRecord>> {
    let mut records = Vec::new();
    while !payload.is_empty() {
        let length = u16::from_le_bytes(take(&mut payload, 2)?.try_into().ok()?);
        let topic: Arc<str> = std::str::from_utf8(take(&mut payload, usize::from(length))?).ok()?.into();
        let partition = u32::from_le_bytes(take(&mut payload, 4)?.try_into().ok()?);
        let mut part = || {
            let length = u32::from_le_bytes(take(&mut payload, 4)?.try_into().ok()?);
            take(&mut payload, length as usize).map(Bytes::copy_from_slice)
        };
        let (key, value) = (part()?, part()?);
        records.push(NewRecord { to: TopicPartition { topic, partition }, key, value });
    }
    Some(records)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn checksum(length: u32, spilled_at: i64, payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&length.to_le_bytes());
    hash.update(&spilled_at.to_le_bytes());
    hash.update(payload);
    hash.digest()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(value: &[u8]) -> NewRecord {
        let to = TopicPartition { topic: "millrace.default.shop.events-raw".into(), partition: 3 };
        NewRecord { to, key: Bytes::from_static(b"key"), value: Bytes::copy_from_slice(value) }
    }

    /// Frames, and where each one ends.
    fn written(groups: &[Vec<Vec<u8>>]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (index, group) in groups.iter().enumerate() {
            let records = group.iter().map(|value| record(value)).collect::<Vec<_>>();
            encode(records.iter(), index as i64, &mut bytes);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    /// The values of all good frames, and whether something in between was missing.
    fn read(bytes: &[u8]) -> (Vec<Vec<Vec<u8>>>, bool) {
        let (mut at, mut groups, mut has_hole) = (0, Vec::new(), false);
        loop {
            match next(bytes, at) {
                Next::Frame(frame) => {
                    groups.push(frame.records.iter().map(|record| record.value.to_vec()).collect());
                    at = frame.end;
                }
                Next::Hole { resumes } => (has_hole, at) = (true, resumes),
                Next::End | Next::Torn => return (groups, has_hole),
            }
        }
    }

    fn groups() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
        let value = proptest::collection::vec(any::<u8>(), 0..40);
        proptest::collection::vec(proptest::collection::vec(value, 1..4), 1..6)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(groups in groups()) {
            prop_assert_eq!(read(&written(&groups).0), (groups, false));
        }

        #[test]
        fn any_cut_leaves_a_prefix(groups in groups(), cut in any::<prop::sample::Index>()) {
            let (bytes, ends) = written(&groups);
            let cut = cut.index(bytes.len() + 1);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            prop_assert_eq!(read(&bytes[..cut]), (groups[..whole].to_vec(), false));
            prop_assert_eq!(good_end(&bytes[..cut]), ends[..whole].last().copied().unwrap_or(0));
        }

        #[test]
        fn a_damaged_byte_costs_its_own_frame_and_is_told_where_others_follow(
            groups in groups(), place in any::<prop::sample::Index>(), flip in 1..=255_u8,
        ) {
            let (mut bytes, ends) = written(&groups);
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
            let damaged = ends.iter().filter(|end| **end <= place).count();
            let mut left = groups.clone();
            left.remove(damaged);
            prop_assert_eq!(read(&bytes), (left, damaged + 1 < groups.len()));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes);
        }
    }
}
