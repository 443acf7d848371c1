//! One keyspace of the dedupe store: the entries of one span of raw append times, and the marks that vouch for
//! them. Keys of 16 bytes are event ids, keys of 36 bytes are marks.

use std::collections::BTreeMap;

use fjall::config::{CompressionPolicy, PartitioningPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch};
use millrace_crds::names::AppId;
use uuid::Uuid;

use super::{Entry, Position, SeenError};

/// Shortest span of a bucket. A shorter window is compared exactly all the same; this only keeps the number of
/// keyspaces small.
const WIDTH_MS_MIN: i64 = 60 * 60 * 1000;
/// Entries held in memory per bucket before they go to a table file; in memory they take some times that.
const MEMTABLE_BYTES_MAX: u64 = 2 << 20;
/// Marks are found by this prefix; as an event id (the nil UUID) it is shorter than any mark's key.
const MARK_PREFIX: [u8; 16] = [0; 16];
/// Prefix, changelog topic id, partition.
const MARK_KEY_BYTES: usize = 16 + 16 + 4;

/// The entries appended to raw in `[start, start + width)`.
pub(super) struct Bucket {
    pub(super) start: i64,
    width: i64,
    keyspace: Keyspace,
}

/// How far a bucket has applied a changelog partition, and for which window it kept what it applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) next: u64,
    pub(super) window_ms: i64,
}

impl Bucket {
    /// Every bucket of an App, in no order.
    pub(super) fn of_app(database: &Database, app: &AppId) -> Result<Vec<Self>, SeenError> {
        let names = database.list_keyspace_names();
        let spans = names.iter().filter_map(|name| parse_name(app, name));
        spans.map(|(width, number)| Self::open(database, app, width, number)).collect()
    }

    /// The bucket for a moment, as wide as the window.
    pub(super) fn create(
        database: &Database,
        app: &AppId,
        appended_at: i64,
        window_ms: i64,
    ) -> Result<Self, SeenError> {
        let width = width(window_ms);
        Self::open(database, app, width, appended_at.div_euclid(width))
    }

    fn open(database: &Database, app: &AppId, width: i64, number: i64) -> Result<Self, SeenError> {
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES_MAX)
                // Ids are random bytes.
                .data_block_compression_policy(CompressionPolicy::disabled())
                // Look-ups are random too. Whole filters and indexes of a table would be larger than the cache
                // takes, and be read from disk for each one; parts of them stay in it.
                .filter_block_partitioning_policy(PartitioningPolicy::all(true))
                .index_block_partitioning_policy(PartitioningPolicy::all(true))
        };
        let keyspace = database
            .keyspace(&name(app, width, number), options)
            .map_err(|source| SeenError::Access { step: "open a bucket", source })?;
        Ok(Self { start: number.saturating_mul(width), width, keyspace })
    }

    /// Whether an entry of this moment belongs here under this window.
    pub(super) fn takes(&self, appended_at: i64, window_ms: i64) -> bool {
        self.width == width(window_ms) && self.start <= appended_at && self.ends_after(appended_at)
    }

    /// The first moment behind it.
    pub(super) fn end(&self) -> i64 {
        self.start.saturating_add(self.width)
    }

    /// Whether it may hold an entry of this moment or later.
    pub(super) fn ends_after(&self, moment: i64) -> bool {
        self.end() > moment
    }

    /// The position kept for an event.
    pub(super) fn get(&self, event_id: &Uuid) -> Result<Option<Position>, SeenError> {
        let value = self.keyspace.get(event_id.as_bytes()).map_err(read_failed)?;
        Ok(value.and_then(|value| decode_position(&value)))
    }

    pub(super) fn insert(&self, batch: &mut OwnedWriteBatch, entry: &Entry) {
        batch.insert(&self.keyspace, entry.event_id.as_bytes().as_slice(), encode_position(entry.at));
    }

    /// Writes a mark beside the entries it vouches for. `of` is the changelog topic's id and a partition.
    pub(super) fn insert_mark(
        &self,
        batch: &mut OwnedWriteBatch,
        of: (Uuid, u32),
        next: u64,
        window_ms: i64,
    ) {
        let (topic, partition) = of;
        let key = [&MARK_PREFIX[..], topic.as_bytes(), &partition.to_be_bytes()].concat();
        let value = [next.to_be_bytes(), window_ms.to_be_bytes()].concat();
        batch.insert(&self.keyspace, key, value);
    }

    /// Its marks of one changelog topic, by partition.
    pub(super) fn marks(&self, topic: Uuid) -> Result<BTreeMap<u32, Mark>, SeenError> {
        let mut marks = BTreeMap::new();
        for guard in self.keyspace.prefix([&MARK_PREFIX[..], topic.as_bytes()].concat()) {
            let (key, value) = guard.into_inner().map_err(read_failed)?;
            if key.len() != MARK_KEY_BYTES {
                continue;
            }
            if let (Some(partition), Some(mark)) = (number(&key[32..]), decode_mark(&value)) {
                marks.insert(u32::from_be_bytes(partition), mark);
            }
        }
        Ok(marks)
    }

    /// Drops all of it at once; the files go when the last handle does.
    pub(super) fn delete(self, database: &Database) -> Result<(), SeenError> {
        database
            .delete_keyspace(self.keyspace)
            .map_err(|source| SeenError::Access { step: "drop a bucket", source })
    }
}

fn width(window_ms: i64) -> i64 {
    window_ms.max(WIDTH_MS_MIN)
}

/// `@` stands in no App id, so no App's name is the beginning of another's.
fn name(app: &AppId, width: i64, number: i64) -> String {
    format!("{app}@{width}@{number}")
}

fn parse_name(app: &AppId, name: &str) -> Option<(i64, i64)> {
    let (width, number) = name.strip_prefix(&format!("{app}@"))?.split_once('@')?;
    Some((width.parse().ok()?, number.parse().ok()?))
}

fn read_failed(source: fjall::Error) -> SeenError {
    SeenError::Access { step: "read", source }
}

fn encode_position(at: Position) -> Vec<u8> {
    [&at.partition.to_be_bytes()[..], &at.offset.to_be_bytes(), &at.appended_at.to_be_bytes()].concat()
}

fn decode_position(bytes: &[u8]) -> Option<Position> {
    Some(Position {
        partition: u32::from_be_bytes(number(bytes.get(..4)?)?),
        offset: u64::from_be_bytes(number(bytes.get(4..12)?)?),
        appended_at: i64::from_be_bytes(number(bytes.get(12..)?)?),
    })
}

fn decode_mark(bytes: &[u8]) -> Option<Mark> {
    Some(Mark {
        next: u64::from_be_bytes(number(bytes.get(..8)?)?),
        window_ms: i64::from_be_bytes(number(bytes.get(8..)?)?),
    })
}

fn number<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}
