//! The store of the embedded log: one keyspace of a fjall database, written by one batch and one fsync.
//! Nothing here decides anything. Some of the calls are hidden in fjall's documentation (`rotate_memtable`,
//! `sealed_memtable_count`, `tree`): look at them again when fjall is updated.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fjall::config::CompressionPolicy;
use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions,
    PersistMode,
};

use crate::log::embedded::journal;
use crate::log::local::chunk::{ChunkKey, ENTRIES_START, PartitionId, position, position_end};
use crate::log::local::durable::{Entry, FORMAT};
use crate::log::local::plan::WriteSet;
use crate::log::local::{Cause, KeyValue, Store};

/// Blocks kept in memory. The tail that consumers read is in the memtable and the page cache anyway.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// Size at which the newest records leave memory for a table. We see to it ourselves before each commit: fjall
/// leaves it to its worker, and while that is busy the memtable grows without bound.
const MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
/// Fjall's smallest: journals above it make it write out keyspaces that hold old ones back.
const JOURNALS_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Open table files; the rest of the process needs descriptors for sockets.
const OPEN_FILES_MAX: usize = 128;
/// Chunks from this size on are written once, to a blob file, and only their keys take part in compaction.
const BLOB_BYTES_MIN: u32 = 1024;
/// Share of removed bytes at which a blob file is rewritten.
const BLOB_STALE_SHARE: f32 = 0.5;
/// Above so many unwritten memtables or overlapping tables we wait; fjall does so too, at 4 and 30, but would wait
/// for ever for a worker that has died.
const MEMTABLES_WAITING_MAX: usize = 3;
const TABLES_OVERLAPPING_MAX: usize = 24;

/// The database; clones share it.
#[derive(Clone)]
pub(super) struct FjallStore {
    database: Database,
    keyspace: Keyspace,
    path: Arc<Path>,
}

/// Why it cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// Two processes would tear it apart.
    #[error("another process has it open; stop that one or choose another data directory")]
    Locked,
    /// The folder cannot be made or read.
    #[error("its folder cannot be used; check that it exists and is writable")]
    Folder { source: std::io::Error },
    /// Fjall does not open it.
    #[error("its files cannot be read; restore them from a copy, or move them away to start empty")]
    Files { source: fjall::Error },
}

impl FjallStore {
    /// Opens or creates the database in `path`.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        prepare(path)?;
        let database = match open_database(path) {
            Err(fjall::Error::JournalRecovery(error)) => match journal::drop_torn_tail(path) {
                Ok(true) => open_database(path),
                Ok(false) => Err(fjall::Error::JournalRecovery(error)),
                Err(source) => return Err(StoreError::Folder { source }),
            },
            opened => opened,
        };
        let database = database.map_err(open_error)?;
        let keyspace = database.keyspace("log", keyspace_options).map_err(open_error)?;
        Ok(Self { database, keyspace, path: Arc::from(path) })
    }

    /// Writes everything or nothing, and returns when it survives the loss of power.
    ///
    /// Fjall appends the batch to its journal with a checksum, calls `fdatasync` for `SyncData`, and applies it in
    /// memory after that. At recovery a batch without its end is dropped as a whole. The journal file is rotated
    /// under the same lock, after an fsync of the old one and before one of the folder.
    pub(super) fn write(&self, writes: WriteSet) -> Result<(), fjall::Error> {
        self.wait_for_room()?;
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in writes.entries {
            batch.insert(&self.keyspace, key, value);
        }
        for key in writes.removed {
            batch.remove(&self.keyspace, key.encode());
        }
        for (key, value) in writes.chunks {
            batch.insert(&self.keyspace, key.encode(), value);
        }
        batch.commit()
    }

    /// Bounds what is in memory: full memtables are handed to fjall's worker, and too many of them are waited for.
    /// An error when the worker has died.
    fn wait_for_room(&self) -> Result<(), fjall::Error> {
        const PAUSE: Duration = Duration::from_millis(2);
        if self.keyspace.tree.active_memtable().size() >= MEMTABLE_BYTES {
            self.flush()?;
        }
        while self.keyspace.sealed_memtable_count() >= MEMTABLES_WAITING_MAX
            || self.keyspace.tree.l0_run_count() >= TABLES_OVERLAPPING_MAX
        {
            // Writes nothing; says whether the database is poisoned.
            self.database.persist(PersistMode::Buffer)?;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Prepares [`FjallStore::compact`]: all that was removed until now can be merged away afterwards.
    pub(super) fn seal(&self) -> Result<(), fjall::Error> {
        // Fjall never merges away what the newest write did. This one does nothing: the entry stands there already.
        let (key, value) = Entry::Format(FORMAT).encode();
        self.keyspace.insert(key, value)?;
        self.flush()
    }

    /// Hands what is in memory to fjall's worker, to be made a table.
    fn flush(&self) -> Result<(), fjall::Error> {
        self.keyspace.rotate_memtable().map(drop)
    }

    /// Whether the worker still has memtables to write, or is merging tables.
    pub(super) fn is_busy(&self) -> bool {
        self.keyspace.sealed_memtable_count() > 0 || self.database.active_compactions() > 0
    }

    /// Merges all tables, so that removed chunks give their space back. Rewrites keys, small chunks, and blob files
    /// of which [`BLOB_STALE_SHARE`] is gone. `false` when there is more to merge: fjall silently does nothing while
    /// its worker merges, and new tables may have come.
    pub(super) fn compact(&self) -> Result<bool, fjall::Error> {
        self.keyspace.major_compact()?;
        Ok(self.keyspace.l0_table_count() == 0)
    }

    /// Chunks with a base in `low..=high`. Never below the low watermark: removed chunks leave marks that an
    /// iterator would have to step over.
    fn range(&self, of: PartitionId, low: u64, high: u64) -> fjall::Iter {
        self.keyspace.range(position(of, low).as_slice()..=position_end(of, high).as_slice())
    }

    /// Bytes on disk. Journals are files with holes: what counts is their blocks.
    pub(super) fn disk_bytes(&self) -> std::io::Result<u64> {
        const BLOCK_BYTES: u64 = 512;
        let mut bytes = self.keyspace.disk_space();
        for entry in fs::read_dir(&self.path)? {
            let metadata = entry?.metadata()?;
            if metadata.is_file() {
                bytes += metadata.blocks() * BLOCK_BYTES;
            }
        }
        Ok(bytes)
    }
}

impl Store for FjallStore {
    fn entries(&self) -> Result<Vec<KeyValue>, Cause> {
        let entries = self.keyspace.range([ENTRIES_START]..).map(|entry| entry.into_inner());
        entries.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(cause)).collect()
    }

    fn last_chunk(&self, of: PartitionId, low: u64) -> Result<Option<(ChunkKey, usize)>, Cause> {
        let Some(last) = self.range(of, low, u64::MAX).next_back() else { return Ok(None) };
        let key = last.key().map_err(cause)?;
        let bytes = self.keyspace.size_of(&key).map_err(cause)?.unwrap_or(0);
        Ok(Some((chunk_key(&key)?, bytes as usize)))
    }

    fn chunk_keys(&self, of: PartitionId, low: u64, chunks_max: usize) -> Result<Vec<ChunkKey>, Cause> {
        let range = self.range(of, low, u64::MAX);
        range.take(chunks_max).map(|entry| chunk_key(&entry.key().map_err(cause)?)).collect()
    }

    fn chunk_holding(&self, of: PartitionId, low: u64, offset: u64) -> Result<Option<ChunkKey>, Cause> {
        let Some(holding) = self.range(of, low, offset.max(low)).next_back() else { return Ok(None) };
        chunk_key(&holding.key().map_err(cause)?).map(Some)
    }

    fn visit(
        &self,
        of: PartitionId,
        low: u64,
        visitor: &mut dyn FnMut(ChunkKey, Bytes) -> ControlFlow<()>,
    ) -> Result<(), Cause> {
        for entry in self.range(of, low, u64::MAX) {
            let (key, value) = entry.into_inner().map_err(cause)?;
            if visitor(chunk_key(&key)?, Bytes::from_owner(value)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn open_database(path: &Path) -> Result<Database, fjall::Error> {
    Database::builder(path)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNALS_BYTES_MAX)
        .max_cached_files(Some(OPEN_FILES_MAX))
        // One worker: with two, the first passes compactions back through the queue and spins meanwhile.
        .worker_threads(1)
        // Chunks come compressed. Besides, fjall compresses again at recovery to check the journal.
        .journal_compression(CompressionType::None)
        // Each commit says how durable it is.
        .manual_journal_persist(true)
        .open()
}

fn keyspace_options() -> KeyspaceCreateOptions {
    let blobs = KvSeparationOptions::default()
        .compression(CompressionType::None)
        .separation_threshold(BLOB_BYTES_MIN)
        .staleness_threshold(BLOB_STALE_SHARE)
        // Records are removed in the order they were written, so the oldest blob files are the stale ones.
        .age_cutoff(1.0);
    KeyspaceCreateOptions::default()
        .manual_journal_persist(true)
        // Fjall's own limit, which ours comes before.
        .max_memtable_size(2 * MEMTABLE_BYTES)
        .data_block_compression_policy(CompressionPolicy::disabled())
        .with_kv_separation(Some(blobs))
}

/// Makes the folder durable, and clears away a first start that was killed half-way: fjall would refuse the journal
/// it finds without the version marker that is written after it. No record can be in there yet.
fn prepare(path: &Path) -> Result<(), StoreError> {
    let folder = |source| StoreError::Folder { source };
    let missing: Vec<_> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    fs::create_dir_all(path).map_err(folder)?;
    for parent in missing.iter().filter_map(|made| made.parent()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(folder)?;
    }
    let marker = path.join("version");
    let is_marked = fs::metadata(&marker).is_ok_and(|marker| marker.len() > 0);
    if is_marked || !path.join("lock").exists() {
        return Ok(());
    }
    let lock = File::open(path.join("lock")).map_err(folder)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(StoreError::Locked),
        Err(fs::TryLockError::Error(source)) => return Err(folder(source)),
    }
    for leftover in [marker, path.join("0.jnl")] {
        match fs::remove_file(leftover) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(folder(source)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn open_error(source: fjall::Error) -> StoreError {
    match source {
        fjall::Error::Locked => StoreError::Locked,
        fjall::Error::Io(source) => StoreError::Folder { source },
        source => StoreError::Files { source },
    }
}

fn chunk_key(bytes: &[u8]) -> Result<ChunkKey, Cause> {
    ChunkKey::decode(bytes).map_err(|error| Arc::new(error) as Cause)
}

fn cause(error: fjall::Error) -> Cause {
    Arc::new(error)
}
