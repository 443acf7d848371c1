//! The dedupe store: positions, windows, buckets, restarts, damage.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_crds::names::{AppId, TopicKind};
use millrace_dataplane::log::{Log, LogRecord, TopicInfo};
use millrace_dataplane::process::seen::changelog::{self, Changelog};
use millrace_dataplane::process::seen::{
    Entry, Position, Seen, SeenError, SeenStore, SharedSeen, WindowChange,
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::fixture::{DAY_MS, app_config, app_id, topic};
use crate::memory_log::MemoryLog;

const HOUR_MS: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR_MS;
const T0: i64 = 1_700_000_000_000;
const CHANGELOG: Uuid = Uuid::from_u128(1);

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn at(partition: u32, offset: u64, appended_at: i64) -> Position {
    Position { partition, offset, appended_at }
}

fn entry(number: u128, offset: u64, appended_at: i64) -> Entry {
    Entry { event_id: id(number), at: at(0, offset, appended_at) }
}

fn open(dir: &TempDir, window_ms: u64) -> Seen {
    SeenStore::open(dir.path()).unwrap().app(&app_id(), CHANGELOG, window_ms).unwrap()
}

fn is_duplicate(seen: &Seen, number: u128, own: Position) -> bool {
    seen.lookup(&id(number), own).unwrap().is_some()
}

#[test]
fn an_earlier_position_within_the_window_makes_a_duplicate() {
    let dir = TempDir::new().unwrap();
    let mut seen = open(&dir, DAY_MS);
    seen.apply(0, &[entry(1, 10, T0)], 1).unwrap();
    for (own, expected, why) in [
        (at(0, 11, T0), true, "later, at the same moment"),
        (at(0, 10, T0), false, "itself, read again"),
        (at(0, 9, T0), false, "an earlier one"),
        (at(1, 0, T0), true, "in another partition, after growth"),
        (at(0, 11, T0 + DAY), true, "at the end of the window"),
        (at(0, 11, T0 + DAY + 1), false, "behind the window"),
        (at(1, 5, T0 + DAY + 1), false, "behind the window in another partition"),
        (at(1, 5, T0 - HOUR_MS), true, "processed first although appended later"),
    ] {
        assert_eq!(is_duplicate(&seen, 1, own), expected, "{why}");
    }
    assert!(!is_duplicate(&seen, 2, at(0, 11, T0)), "another event");
}

#[test]
fn what_is_committed_counts_at_once_and_is_on_disk_only_once_applied() {
    let dir = TempDir::new().unwrap();
    let mut seen = open(&dir, DAY_MS);
    seen.committed(vec![entry(1, 10, T0)]);
    assert!(is_duplicate(&seen, 1, at(0, 11, T0)));
    drop(seen);
    let mut seen = open(&dir, DAY_MS);
    assert!(!is_duplicate(&seen, 1, at(0, 11, T0)));
    assert_eq!(seen.mark(0), 0);
    seen.apply(0, &[entry(1, 10, T0)], 5).unwrap();
    drop(seen);
    let seen = open(&dir, DAY_MS);
    assert!(is_duplicate(&seen, 1, at(0, 11, T0)));
    assert_eq!((seen.mark(0), seen.mark(1)), (5, 0));
}

#[test]
fn expired_buckets_are_dropped_and_needed_ones_stay() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(SeenStore::open(dir.path()).unwrap());
    let mut seen = store.app(&app_id(), CHANGELOG, DAY_MS).unwrap();
    let days: Vec<Entry> = (0..5).map(|day| entry(day, day as u64, T0 + day as i64 * DAY)).collect();
    seen.apply(0, &days, 5).unwrap();
    seen.retire(T0 + 4 * DAY).unwrap();
    // Everything a record of day 4 can meet is still there, as is the mark.
    assert!(is_duplicate(&seen, 4, at(0, 9, T0 + 4 * DAY)));
    assert!(is_duplicate(&seen, 3, at(0, 9, T0 + 4 * DAY)));
    drop(seen);
    let seen = store.app(&app_id(), CHANGELOG, DAY_MS).unwrap();
    assert!(is_duplicate(&seen, 3, at(0, 9, T0 + 4 * DAY)));
    assert_eq!(seen.mark(0), 5);
    // Day 0 is gone: even a record of that day meets nothing.
    assert!(!is_duplicate(&seen, 0, at(0, 9, T0)));
}

#[test]
fn what_an_older_record_of_another_worker_can_meet_is_read_again() {
    let dir = TempDir::new().unwrap();
    let mut seen = open(&dir, DAY_MS);
    let days: Vec<Entry> = (0..5).map(|day| entry(day, day as u64, T0 + day as i64 * DAY)).collect();
    seen.apply(0, &days, 5).unwrap();
    seen.apply(1, &[], 9).unwrap();
    seen.retire(T0 + 4 * DAY).unwrap();
    seen.reach_back(T0 + 4 * DAY, &BTreeSet::new());
    assert_eq!((seen.mark(0), seen.mark(1)), (5, 9), "as old as what was decided");
    // Partition 1 was left behind two days ago; partition 0 is held and stays where it is.
    seen.reach_back(T0 + 2 * DAY, &BTreeSet::from([0]));
    assert_eq!((seen.mark(0), seen.mark(1)), (5, 0));
    seen.apply(1, &[Entry { event_id: id(9), at: at(1, 3, T0 + DAY + HOUR_MS) }], 9).unwrap();
    assert!(is_duplicate(&seen, 9, at(1, 4, T0 + 2 * DAY)));
}

#[test]
fn a_restart_does_not_vouch_for_what_was_dropped_before_it() {
    let dir = TempDir::new().unwrap();
    let mut seen = open(&dir, DAY_MS);
    let days: Vec<Entry> = (0..5).map(|day| entry(day, day as u64, T0 + day as i64 * DAY)).collect();
    seen.apply(0, &days, 5).unwrap();
    seen.retire(T0 + 4 * DAY).unwrap();
    drop(seen);
    let mut seen = open(&dir, DAY_MS);
    seen.reach_back(T0 + 4 * DAY + HOUR_MS, &BTreeSet::new());
    assert_eq!(seen.mark(0), 5);
    seen.reach_back(T0 + 2 * DAY, &BTreeSet::new());
    assert_eq!(seen.mark(0), 0);
}

#[test]
fn the_newest_bucket_keeps_the_marks_of_a_quiet_app() {
    let dir = TempDir::new().unwrap();
    let mut seen = open(&dir, DAY_MS);
    seen.apply(0, &[entry(1, 10, T0)], 7).unwrap();
    seen.retire(T0 + 30 * DAY).unwrap();
    drop(seen);
    assert_eq!(open(&dir, DAY_MS).mark(0), 7);
}

#[test]
fn a_shorter_window_holds_at_once_and_a_longer_one_asks_for_the_changelog() {
    let dir = TempDir::new().unwrap();
    let mut seen = open(&dir, DAY_MS);
    seen.apply(0, &[entry(1, 10, T0)], 3).unwrap();
    assert_eq!(seen.set_window(1000), WindowChange::Holds);
    assert!(is_duplicate(&seen, 1, at(0, 11, T0 + 1000)));
    assert!(!is_duplicate(&seen, 1, at(0, 11, T0 + 1001)));
    // Written under the short window, found although it stands in a narrower bucket.
    seen.apply(0, &[entry(2, 20, T0 + 5)], 4).unwrap();
    assert!(is_duplicate(&seen, 2, at(0, 21, T0 + 5)));
    assert_eq!(seen.set_window(DAY_MS), WindowChange::NeedsCatchUp);
    assert_eq!(seen.mark(0), 0);
    drop(seen);
    // A mark made under the short window does not vouch for the long one after a restart either.
    assert_eq!(open(&dir, DAY_MS).mark(0), 0);
    assert_eq!(open(&dir, 1000).mark(0), 4);
}

#[test]
fn entries_of_a_deleted_topic_and_of_other_apps_do_not_count() {
    let dir = TempDir::new().unwrap();
    let store = SeenStore::open(dir.path()).unwrap();
    store.app(&app_id(), CHANGELOG, DAY_MS).unwrap().apply(0, &[entry(1, 10, T0)], 3).unwrap();
    let other = AppId::new("default", "shop-two").unwrap();
    let seen = store.app(&other, CHANGELOG, DAY_MS).unwrap();
    assert!(!is_duplicate(&seen, 1, at(0, 11, T0)));
    let seen = store.app(&app_id(), Uuid::from_u128(2), DAY_MS).unwrap();
    assert!(!is_duplicate(&seen, 1, at(0, 11, T0)));
    assert_eq!(seen.mark(0), 0);
}

#[test]
fn a_damaged_store_is_replaced_and_a_locked_one_refused() {
    let dir = TempDir::new().unwrap();
    let store = SeenStore::open(dir.path()).unwrap();
    store.app(&app_id(), CHANGELOG, DAY_MS).unwrap().apply(0, &[entry(1, 10, T0)], 3).unwrap();
    assert!(matches!(SeenStore::open(dir.path()), Err(SeenError::Locked { .. })));
    drop(store);
    std::fs::write(dir.path().join("version"), b"not a version").unwrap();
    let seen = open(&dir, DAY_MS);
    assert_eq!(seen.mark(0), 0);
    assert!(!is_duplicate(&seen, 1, at(0, 11, T0)));
}

#[test]
fn the_nil_event_id_is_an_id_like_any_other() {
    let dir = TempDir::new().unwrap();
    let mut seen = open(&dir, DAY_MS);
    seen.apply(0, &[entry(0, 10, T0)], 3).unwrap();
    assert!(is_duplicate(&seen, 0, at(0, 11, T0)));
    drop(seen);
    assert_eq!(open(&dir, DAY_MS).mark(0), 3);
}

#[test]
fn a_worker_reads_only_the_changelog_partitions_its_raw_ones_write_to() {
    let topic = |partitions| TopicInfo { name: "seen".into(), id: CHANGELOG, partitions };
    for (seen, raw, ours, expected) in [
        (1, 4, vec![0, 3], vec![0]),
        (4, 4, vec![1, 3], vec![1, 3]),
        (4, 12, vec![1, 5], vec![1]),
        (3, 4, vec![1], vec![0, 1, 2]),
        (3, 4, vec![], vec![]),
    ] {
        let changelog = Changelog::new(topic(seen), &ours.into_iter().collect(), raw);
        assert_eq!(changelog.partitions.into_iter().collect::<Vec<_>>(), expected, "{seen} {raw}");
    }
    // Where an entry stands agrees with where its raw record stands, before and after raw grows.
    for number in 0..200 {
        let event_id = Uuid::new_v5(&Uuid::NAMESPACE_OID, &[number]);
        let entry = Entry { event_id, at: at(0, 0, T0) };
        let partition = changelog::encode(&topic(4), &entry).to.partition;
        for raw in [4, 8, 24] {
            let raw_partition = millrace_dataplane::record::partition_of(event_id.as_bytes(), raw);
            let ours = Changelog::new(topic(4), &[raw_partition].into(), raw).partitions;
            assert!(ours.contains(&partition));
        }
    }
}

fn shared(dir: &TempDir, changelog: &Changelog) -> SharedSeen {
    let store = SeenStore::open(dir.path()).unwrap();
    SharedSeen::new(store.app(&app_id(), changelog.topic.id, DAY_MS).unwrap())
}

/// A changelog with one entry a day for ten days.
async fn ten_days() -> (MemoryLog, Changelog) {
    let name = topic(TopicKind::Seen);
    let topics: Vec<_> = app_config().topics.iter().map(|t| (t.name.clone(), t.partitions)).collect();
    let log = MemoryLog::new(&topics, T0);
    let info = log.topic(&name).await.unwrap();
    for day in 0..10_u8 {
        log.put(changelog::encode(&info, &entry(day.into(), day.into(), T0 + i64::from(day) * DAY)));
    }
    let changelog = Changelog::new(info, &[0].into(), 4);
    (log, changelog)
}

#[tokio::test]
async fn a_new_store_restores_what_the_oldest_pending_record_needs() {
    let (log, changelog) = ten_days().await;
    for (oldest_pending, kept, gone) in [(Some(T0 + 5 * DAY), 4, 1), (None, 8, 1), (Some(T0), 0, 99)] {
        let dir = TempDir::new().unwrap();
        let seen = shared(&dir, &changelog);
        assert_eq!(changelog.catch_up(&log, &seen, oldest_pending).await.unwrap(), 10);
        let own = |day: u128| at(0, 100, T0 + day as i64 * DAY + 1);
        let found = seen.with(|seen| [kept, gone].map(|day| is_duplicate(seen, day, own(day)))).await;
        assert_eq!(found, [true, false], "{oldest_pending:?}");
        assert_eq!(
            changelog.catch_up(&log, &seen, oldest_pending).await.unwrap(),
            0,
            "nothing is read twice"
        );
    }
}

#[tokio::test]
async fn entries_this_build_does_not_know_are_passed_over() {
    let (log, changelog) = ten_days().await;
    log.with(|state| {
        let records: &mut Vec<LogRecord> = &mut state.topics.get_mut(&changelog.topic.name).unwrap().1[0];
        records[3].value = vec![9; 21].into();
        records[4].key = vec![1].into();
        records[5].value = vec![1].into();
    });
    let dir = TempDir::new().unwrap();
    let seen = shared(&dir, &changelog);
    assert_eq!(changelog.catch_up(&log, &seen, Some(T0)).await.unwrap(), 7);
    assert_eq!(seen.with(|seen| seen.mark(0)).await, 10);
}
