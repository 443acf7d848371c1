//! The end of fjall's journal after the loss of power. Fjall drops a last batch whose end is missing; but pages reach
//! the disk in any order, and a last batch with a hole in it is one that fjall refuses to open at all.
//! Such a batch was never acknowledged: its fsync had not returned. It is cut off here, and nothing else ever is.
//!
//! Format (fjall 3, `journal/entry.rs`), integers little endian: a batch is `1, items: u32, seqno: u64`, its items
//! `2, kind: u8, compression: u8, keyspace: u64, key length: u16, length: u32, stored length: u32, key, value` or
//! `4, keyspace: u64`, and `3, XXH3 of the items: u64, "FJL", 3`.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3Default;

/// What ends every batch.
const TRAILER: &[u8] = b"FJL\x03";
/// Bytes of an item before key and value, its tag included.
const ITEM_HEAD_BYTES: usize = 21;

/// Cuts a torn last batch off the newest journal in `folder`. `false` when the journal's damage is of another kind.
pub(super) fn drop_torn_tail(folder: &Path) -> io::Result<bool> {
    let mut newest: Option<(u64, _)> = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let (true, Some(number)) = (is_journal, number)
            && newest.as_ref().is_none_or(|(other, _)| *other < number)
        {
            newest = Some((number, path));
        }
    }
    let Some((_, path)) = newest else { return Ok(false) };
    let Some(whole) = torn_after(&fs::read(&path)?) else { return Ok(false) };
    tracing::warn!(
        journal = %path.display(),
        whole_bytes = whole,
        "the last batch was torn by a loss of power and never acknowledged; it is dropped",
    );
    let journal = File::options().write(true).open(path)?;
    journal.set_len(whole as u64)?;
    journal.sync_all()?;
    Ok(true)
}

/// Length of the whole batches, if what follows can only be one torn batch: with an end at its very end or none.
/// Each batch is synced before the next is begun, so whole ones never stand behind a torn one.
fn torn_after(journal: &[u8]) -> Option<usize> {
    let mut whole = 0;
    while let Some(length) = batch(&journal[whole..]) {
        whole += length;
    }
    let rest = &journal[whole..];
    let used = &rest[..rest.iter().rposition(|&byte| byte != 0)? + 1];
    let first_trailer = used.windows(TRAILER.len()).position(|window| window == TRAILER);
    match first_trailer {
        Some(at) if at + TRAILER.len() < used.len() => None,
        Some(_) | None => Some(whole),
    }
}

/// Length of the whole batch at the front, if there is one.
fn batch(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.take::<1>()? != [1] {
        return None;
    }
    let items = u32::from_le_bytes(reader.take()?);
    let _seqno = reader.take::<8>()?;
    let mut hash = Xxh3Default::new();
    for _ in 0..items {
        let start = reader.at;
        match reader.take::<1>()? {
            [2] => {
                let head: [u8; ITEM_HEAD_BYTES - 1] = reader.take()?;
                let key = u16::from_le_bytes([head[10], head[11]]);
                let value = u32::from_le_bytes([head[16], head[17], head[18], head[19]]);
                reader.skip(usize::from(key) + value as usize)?;
            }
            [4] => drop(reader.take::<8>()?),
            _ => return None,
        }
        hash.update(&bytes[start..reader.at]);
    }
    let is_whole = reader.take::<1>()? == [3]
        && u64::from_le_bytes(reader.take()?) == hash.digest()
        && reader.take::<4>()? == TRAILER;
    is_whole.then_some(reader.at)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(*field)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count).filter(|&end| end <= self.bytes.len())?;
        Some(())
    }
}
