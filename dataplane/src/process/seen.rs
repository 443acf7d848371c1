//! The dedupe store: event id → position of its first raw record, on local disk, memory bounded, exact within
//! the App's window. It is a cache of the `seen` changelog topic, which is the truth: nothing here is fsynced,
//! and what a crash takes away is read back before the next record is decided.
//!
//! - Entries stand in buckets by raw append time, one keyspace each, so that expiry drops a whole bucket.
//! - Every bucket carries the marks "applied up to this changelog offset" beside its entries. One keyspace is
//!   flushed as one, so a mark never outlives the entries it vouches for; the lowest mark counts.
//! - Entries reach the disk only by reading the changelog back ([`changelog`]). What this process committed and
//!   has not read back yet is kept in memory, so there is one way in, and a crash between commit and apply is
//!   an ordinary start.

mod bucket;
pub mod changelog;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::Database;
use millrace_crds::names::AppId;
use tokio::sync::Mutex;
use uuid::Uuid;

use bucket::Bucket;

/// Block cache of the whole store. Lookups of new ids end at the filters, so a large one gains little.
const CACHE_BYTES: u64 = 8 << 20;
/// Journal space before the oldest buckets are flushed: the least the database allows.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Open table files kept at hand.
const OPEN_FILES_MAX: usize = 64;
/// How far behind the oldest pending record's window an entry is still kept: clocks of log brokers differ.
const CLOCK_SLACK_MS: i64 = 10 * 60 * 1000;

/// Where a raw record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Partition of `events-raw`.
    pub partition: u32,
    /// Offset in it.
    pub offset: u64,
    /// When the log took it, UTC epoch milliseconds.
    pub appended_at: i64,
}

impl Position {
    /// Whether a processed record that stands here makes the one at `own` a duplicate: it must be earlier, so
    /// that a record read again never meets itself, and within the window. Copies of an event stand in one
    /// partition until partitions grow; after that whichever was processed first counts as the earlier.
    pub fn precedes(self, own: Self, window_ms: i64) -> bool {
        let is_earlier = self.partition != own.partition || self.offset < own.offset;
        is_earlier && own.appended_at.saturating_sub(self.appended_at) <= window_ms
    }
}

/// One event that was processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The event.
    pub event_id: Uuid,
    /// Its raw record.
    pub at: Position,
}

/// The store of one process: all its Apps share the files and their caches.
pub struct SeenStore {
    database: Database,
}

impl SeenStore {
    /// Opens or creates the store in a folder of its own. Files that cannot be read are replaced by an empty
    /// store, because the changelog fills it again.
    pub fn open(path: &Path) -> Result<Self, SeenError> {
        let database = match open_database(path) {
            Ok(database) => database,
            Err(fjall::Error::Locked) => return Err(SeenError::Locked { path: path.to_owned() }),
            // The disk or its permissions are at fault; an empty store would not open either.
            Err(source @ fjall::Error::Io(_)) => {
                return Err(SeenError::Open { path: path.to_owned(), source });
            }
            Err(damage) => {
                tracing::warn!(
                    store.path = %path.display(),
                    error = &damage as &dyn std::error::Error,
                    "the dedupe store is damaged and is built again from its changelog"
                );
                remove(path)?;
                open_database(path).map_err(|source| SeenError::Open { path: path.to_owned(), source })?
            }
        };
        Ok(Self { database })
    }

    /// The part of one App. `changelog` is the identity of its `seen` topic: entries of another topic, that of a
    /// deleted App of the same name, are dropped. One worker at a time may hold it.
    pub fn app(&self, app: &AppId, changelog: Uuid, window_ms: u64) -> Result<Seen, SeenError> {
        let mut seen = Seen {
            database: self.database.clone(),
            app: app.clone(),
            changelog,
            window_ms: i64::try_from(window_ms).unwrap_or(i64::MAX),
            buckets: Vec::new(),
            marks: BTreeMap::new(),
            recent: HashMap::new(),
            horizon: i64::MIN,
            covered_from: i64::MIN,
        };
        seen.load()?;
        Ok(seen)
    }
}

fn open_database(path: &Path) -> Result<Database, fjall::Error> {
    Database::builder(path)
        .cache_size(CACHE_BYTES)
        .worker_threads(1)
        .max_journaling_size(JOURNAL_BYTES_MAX)
        .max_cached_files(Some(OPEN_FILES_MAX))
        .open()
}

fn remove(path: &Path) -> Result<(), SeenError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(SeenError::Remove { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What one App has seen, for use from async code: its disk work belongs on threads that may block.
#[derive(Clone)]
pub struct SharedSeen(Arc<Mutex<Seen>>);

impl SharedSeen {
    /// Takes the store over.
    pub fn new(seen: Seen) -> Self {
        Self(Arc::new(Mutex::new(seen)))
    }

    /// Looks at or changes what is in memory.
    pub async fn with<T>(&self, action: impl FnOnce(&mut Seen) -> T) -> T {
        action(&mut *self.0.lock().await)
    }

    /// Does work that may wait for the disk, or computes for long.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Seen) -> Result<T, SeenError> + Send + 'static,
    ) -> Result<T, SeenError> {
        let seen = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || work(&mut seen.blocking_lock()));
        task.await.map_err(|source| SeenError::Panicked { source })?
    }
}

/// What one App has seen.
pub struct Seen {
    database: Database,
    app: AppId,
    changelog: Uuid,
    window_ms: i64,
    /// By start; those of different width, left by another window, may overlap.
    buckets: Vec<Bucket>,
    /// Changelog partition → next offset to apply.
    marks: BTreeMap<u32, u64>,
    /// Committed by this process and not yet read back from the changelog.
    recent: HashMap<Uuid, Position>,
    /// Entries before this moment are no longer needed.
    horizon: i64,
    /// For what the marks vouch: entries below a mark and from this moment on are all there.
    covered_from: i64,
}

impl Seen {
    /// Where the first copy of an event stood, if that makes the record at `own` a duplicate.
    pub fn lookup(&self, event_id: &Uuid, own: Position) -> Result<Option<Position>, SeenError> {
        let precedes = |at: &Position| at.precedes(own, self.window_ms);
        if let Some(at) = self.recent.get(event_id).filter(|at| precedes(at)) {
            return Ok(Some(*at));
        }
        let oldest = own.appended_at.saturating_sub(self.window_ms);
        for bucket in self.buckets.iter().rev().filter(|bucket| bucket.ends_after(oldest)) {
            if let Some(at) = bucket.get(event_id)?.filter(precedes) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The window in force, in milliseconds.
    pub fn window_ms(&self) -> i64 {
        self.window_ms
    }

    /// Takes in what a transaction has just made true. Until [`Seen::apply`] gets the same entries from the
    /// changelog they are only in memory.
    pub fn committed(&mut self, entries: Vec<Entry>) {
        self.recent.extend(entries.into_iter().map(|entry| (entry.event_id, entry.at)));
    }

    /// Entries held in memory only.
    pub fn recent_len(&self) -> usize {
        self.recent.len()
    }

    /// Everything committed so far has been read back.
    fn forget_recent(&mut self) {
        self.recent = HashMap::new();
    }

    /// Next offset of a changelog partition that is not yet applied.
    pub fn mark(&self, partition: u32) -> u64 {
        self.marks.get(&partition).copied().unwrap_or(0)
    }

    /// Applies what was read from one changelog partition, up to but without `next`, and moves its mark, in one
    /// atomic batch. Repeating it changes nothing.
    pub fn apply(&mut self, partition: u32, entries: &[Entry], next: u64) -> Result<(), SeenError> {
        let mut batch = self.database.batch();
        let horizon = self.horizon;
        for entry in entries.iter().filter(|entry| entry.at.appended_at >= horizon) {
            let index = match self.buckets.iter().rposition(|b| b.takes(entry.at.appended_at, self.window_ms))
            {
                Some(index) => index,
                None => self.add_bucket(entry.at.appended_at, &mut batch)?,
            };
            self.buckets[index].insert(&mut batch, entry);
        }
        for bucket in &self.buckets {
            bucket.insert_mark(&mut batch, (self.changelog, partition), next, self.window_ms);
        }
        batch.commit().map_err(|source| SeenError::Access { step: "write", source })?;
        self.marks.insert(partition, next);
        Ok(())
    }

    /// Drops whole buckets that no record from `oldest_pending` (a raw append time) on can need. The newest one
    /// stays, because it keeps the marks.
    pub fn retire(&mut self, oldest_pending: i64) -> Result<(), SeenError> {
        let needed_from = oldest_pending.saturating_sub(self.window_ms).saturating_sub(CLOCK_SLACK_MS);
        self.horizon = self.horizon.max(needed_from);
        self.covered_from = self.covered_from.max(self.horizon);
        let newest = self.buckets.iter().map(|bucket| bucket.start).max();
        let (kept, expired) = std::mem::take(&mut self.buckets)
            .into_iter()
            .partition(|bucket| bucket.ends_after(self.horizon) || Some(bucket.start) == newest);
        self.buckets = kept;
        self.drop_buckets(expired)
    }

    /// Makes room for records that are older than those decided here so far, because another process left them behind:
    /// what they can meet may have been dropped, or never been kept. Forgets the marks of all changelog partitions
    /// but `held`, for which nothing changes, so that the next catch-up reads the others from their beginning.
    pub fn reach_back(&mut self, oldest_pending: i64, held: &BTreeSet<u32>) {
        let needed_from = oldest_pending.saturating_sub(self.window_ms).saturating_sub(CLOCK_SLACK_MS);
        if needed_from < self.covered_from {
            self.horizon = self.horizon.min(needed_from);
            self.covered_from = needed_from;
            self.marks.retain(|partition, _| held.contains(partition));
        }
    }

    /// Puts a new window in force. A shorter one holds at once. A longer one needs entries that were already
    /// dropped: the marks are forgotten, so that the next catch-up reads the changelog from its beginning, which
    /// keeps the window plus the raw retention.
    pub fn set_window(&mut self, window_ms: u64) -> WindowChange {
        let window_ms = i64::try_from(window_ms).unwrap_or(i64::MAX);
        let is_longer = window_ms > self.window_ms;
        self.window_ms = window_ms;
        if !is_longer {
            return WindowChange::Holds;
        }
        self.horizon = i64::MIN;
        self.covered_from = i64::MIN;
        self.marks.clear();
        WindowChange::NeedsCatchUp
    }

    /// Finds the App's buckets and the marks they agree on. A bucket without a mark of this changelog was just made
    /// when the process ended, or belongs to another topic: it is dropped. A mark made under a shorter window than today's
    /// vouches for too little and does not count.
    fn load(&mut self) -> Result<(), SeenError> {
        let mut unmarked = Vec::new();
        let mut marks: Option<BTreeMap<u32, u64>> = None;
        for bucket in Bucket::of_app(&self.database, &self.app)? {
            let found = bucket.marks(self.changelog)?;
            if found.is_empty() {
                unmarked.push(bucket);
                continue;
            }
            let usable = found.into_iter().filter(|(_, mark)| mark.window_ms >= self.window_ms);
            let usable: BTreeMap<u32, u64> = usable.map(|(partition, mark)| (partition, mark.next)).collect();
            marks = Some(match marks {
                None => usable,
                Some(others) => lowest(others, &usable),
            });
            self.buckets.push(bucket);
        }
        self.buckets.sort_by_key(|bucket| bucket.start);
        // Older buckets may have reached the disk with marks beyond what the unmarked one lost to a power cut, so
        // then no mark counts and the changelog is read from its beginning.
        self.marks = if unmarked.is_empty() { marks.unwrap_or_default() } else { BTreeMap::new() };
        // Buckets are dropped from the oldest on, so from the oldest that is left everything is there. A single one may
        // be long expired and kept for its marks only.
        self.covered_from = match self.buckets.as_slice() {
            [] => i64::MIN,
            [only] => only.end(),
            [oldest, ..] => oldest.start,
        };
        self.drop_buckets(unmarked)
    }

    /// A new bucket starts with the marks of all: it holds everything up to them, which is nothing.
    fn add_bucket(
        &mut self,
        appended_at: i64,
        batch: &mut fjall::OwnedWriteBatch,
    ) -> Result<usize, SeenError> {
        let bucket = Bucket::create(&self.database, &self.app, appended_at, self.window_ms)?;
        for (partition, next) in &self.marks {
            bucket.insert_mark(batch, (self.changelog, *partition), *next, self.window_ms);
        }
        let index = self.buckets.partition_point(|other| other.start <= bucket.start);
        self.buckets.insert(index, bucket);
        Ok(index)
    }

    fn drop_buckets(&self, buckets: Vec<Bucket>) -> Result<(), SeenError> {
        for bucket in buckets {
            bucket.delete(&self.database)?;
        }
        Ok(())
    }
}

/// What both vouch for.
fn lowest(left: BTreeMap<u32, u64>, right: &BTreeMap<u32, u64>) -> BTreeMap<u32, u64> {
    let both = left
        .into_iter()
        .filter_map(|(partition, next)| right.get(&partition).map(|other| (partition, next.min(*other))));
    both.collect()
}

/// What a new window asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowChange {
    /// Nothing.
    Holds,
    /// No record may be decided before the changelog was read again.
    NeedsCatchUp,
}

/// Why the dedupe store does not work.
#[derive(Debug, thiserror::Error)]
pub enum SeenError {
    /// Another process has it.
    #[error(
        "the dedupe store at `{path}` is in use by another process; stop it or choose another data directory"
    )]
    Locked {
        /// Its folder.
        path: PathBuf,
    },
    /// It could not be opened.
    #[error("cannot open the dedupe store at `{path}`")]
    Open {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: fjall::Error,
    },
    /// Damaged files could not be removed.
    #[error("cannot remove the damaged dedupe store at `{path}`; remove it by hand, it is built again")]
    Remove {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A read or write failed.
    #[error("the dedupe store failed at `{step}`; after a restart it is built again from its changelog")]
    Access {
        /// What was done.
        step: &'static str,
        /// Why.
        source: fjall::Error,
    },
    /// A bug of ours, in the store or in what was done with it.
    #[error("work on the dedupe store panicked")]
    Panicked {
        /// How.
        source: tokio::task::JoinError,
    },
}
