//! What only the embedded log has: a queue, a disk, a folder.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use millrace_dataplane::log::embedded::{EmbeddedLog, Environment, Options};
use millrace_dataplane::log::{Log, LogError, NewRecord, TopicPartition};
use millrace_dataplane::metrics::Metrics;

use crate::bench::{EVENTS, LONG, assert_error, at, limits, position, record, topic};

/// A log whose disk says what the test wants, when the test lets it.
struct Disk {
    free: Arc<AtomicU64>,
    /// While it is closed the writer stands still before its next commit.
    is_closed: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        Self {
            free: Arc::new(AtomicU64::new(u64::MAX)),
            is_closed: Arc::default(),
            metrics: Arc::new(Metrics::new().unwrap()),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    async fn open(&self, options: Options) -> Arc<EmbeddedLog> {
        let (free, is_closed) = (Arc::clone(&self.free), Arc::clone(&self.is_closed));
        let free_bytes = Arc::new(move || {
            while is_closed.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            Ok(free.load(Ordering::SeqCst))
        });
        let environment = Environment { free_bytes, ..Environment::of_machine(self.folder.path()) };
        let options = Options { disk_check_interval: Duration::ZERO, ..options };
        let metrics = Arc::clone(&self.metrics);
        let log = EmbeddedLog::open_in(self.folder.path(), options, metrics, environment).unwrap();
        log.ensure_topics(&[topic(EVENTS, 2)]).await.unwrap();
        log
    }
}

fn open(path: &Path) -> Result<Arc<EmbeddedLog>, LogError> {
    EmbeddedLog::open(path, Options::default(), Arc::new(Metrics::new().unwrap()))
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_takes_again_when_it_is_empty() {
    let disk = Disk::new();
    let log = disk.open(Options { queue_bytes_max: 3000, ..Options::default() }).await;
    let kilobyte = || vec![record(0, &"x".repeat(1000))];
    let (appends, refused) = {
        disk.is_closed.store(true, Ordering::SeqCst);
        let spawn = |_| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.append(vec![record(0, &"x".repeat(1000))]).await })
        };
        let appends: Vec<_> = (0..2).map(spawn).collect();
        while disk.metrics.log_queue_bytes.get() < 2000 {
            tokio::task::yield_now().await;
        }
        let refused = futures::FutureExt::now_or_never(log.append(kilobyte()));
        disk.is_closed.store(false, Ordering::SeqCst);
        (appends, refused)
    };
    assert_error(refused.expect("refused without waiting"), |e| {
        matches!(e, LogError::QueueFull) && e.is_retryable()
    });
    for append in appends {
        append.await.unwrap().unwrap();
    }
    let over = log.append(vec![record(0, &"x".repeat(4000))]).await;
    assert_error(over, |error| matches!(error, LogError::TooLarge { bytes_max: 3000, .. }));
    log.close().await;
    assert_eq!(disk.metrics.log_queue_bytes.get(), 0);
}

#[tokio::test]
async fn appends_that_wait_share_one_commit() {
    let disk = Disk::new();
    let log = disk.open(Options::default()).await;
    let commits = || disk.metrics.log_commit_seconds.with_label_values(&["ok"]).get_sample_count();
    let before = commits();
    let append = |n: u32| {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.append(vec![record(n % 2, "v")]).await })
    };
    let appends: Vec<_> = {
        disk.is_closed.store(true, Ordering::SeqCst);
        let appends = (0..100).map(append).collect();
        while disk.metrics.log_queue_bytes.get() < 100 * 64 {
            tokio::task::yield_now().await;
        }
        disk.is_closed.store(false, Ordering::SeqCst);
        appends
    };
    for append in appends {
        append.await.unwrap().unwrap();
    }
    // The writer may have taken the first few before the others came; never one by one.
    assert!((1..=2).contains(&(commits() - before)), "{}", commits() - before);
    assert_eq!(log.watermarks(&at(0)).await.unwrap().high, 50);
}

#[tokio::test]
async fn a_full_disk_refuses_records_but_not_positions_until_space_is_back() {
    let disk = Disk::new();
    let log = disk.open(Options::default()).await;
    log.append(vec![record(0, "before")]).await.unwrap();
    let mut consumer = log.subscribe("g", &[EVENTS.into()]).await.unwrap();
    disk.free.store(1000, Ordering::SeqCst);
    for _ in 0..2 {
        let full = log.append(vec![record(0, "no")]).await;
        assert_error(full, |e| matches!(e, LogError::DiskFull { .. }) && e.is_retryable());
    }
    consumer.commit(vec![position(0, 1, "")]).await.unwrap();
    assert!(matches!(log.health(), Err(LogError::DiskFull { .. })), "who asks is told");
    disk.free.store(u64::MAX, Ordering::SeqCst);
    log.health().unwrap();
    assert_eq!(log.append(vec![record(0, "after")]).await.unwrap(), [1]);
}

#[tokio::test]
async fn a_second_process_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    let Err(LogError::Open { path, source }) = open(folder.path()) else { panic!("opened twice") };
    assert_eq!(path, folder.path().display().to_string());
    assert_eq!(
        source.to_string(),
        "another process has it open; stop that one or choose another data directory"
    );
    drop(first);
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let Err(LogError::Open { source, .. }) = open(&file.join("log")) else { panic!("opened in a file") };
    assert!(source.to_string().contains("folder"), "{source}");
}

#[tokio::test]
async fn a_first_start_that_was_killed_half_way_is_cleared_away() {
    for has_marker in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        for leftover in ["lock", "0.jnl"] {
            std::fs::write(folder.path().join(leftover), "").unwrap();
        }
        if has_marker {
            std::fs::write(folder.path().join("version"), "").unwrap();
        }
        let log = open(folder.path()).unwrap();
        log.ensure_topics(&[topic(EVENTS, 1)]).await.unwrap();
        assert_eq!(log.append(vec![record(0, "v")]).await.unwrap(), [0]);
    }
}

#[tokio::test]
async fn a_batch_cut_short_by_a_crash_is_dropped_and_what_was_acknowledged_stays() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    log.ensure_topics(&[topic(EVENTS, 2)]).await.unwrap();
    log.append(vec![record(0, "acknowledged")]).await.unwrap();
    let journal = folder.path().join("0.jnl");
    let used = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let before = used(&std::fs::read(&journal).unwrap());
    log.append(vec![record(0, "torn"), record(1, "torn")]).await.unwrap();
    let whole = std::fs::read(&journal).unwrap();
    let after = used(&whole);
    drop(log);
    for cut in [before + 1, before + 20, (before + after) / 2, after - 1] {
        let mut torn = whole[..cut].to_vec();
        // What the file system had set aside for the journal reads as zeros.
        torn.resize(torn.len() + 4096, 0);
        std::fs::write(&journal, torn).unwrap();
        let log = open(folder.path()).unwrap();
        for (partition, high) in [(0, 1), (1, 0)] {
            assert_eq!(log.watermarks(&at(partition)).await.unwrap().high, high, "cut at {cut}");
        }
        assert_eq!(log.read(&at(0), 0, limits(10)).await.unwrap()[0].value, "acknowledged");
    }
}

/// A log of three appends, and where each of them ends in the journal.
async fn journal_of_three(folder: &Path) -> (std::path::PathBuf, Vec<u8>, Vec<usize>) {
    let log = open(folder).unwrap();
    log.ensure_topics(&[topic(EVENTS, 1)]).await.unwrap();
    let journal = folder.join("0.jnl");
    let mut ends = Vec::new();
    for _ in 0..3 {
        log.append(vec![record(0, &noise_text(20_000))]).await.unwrap();
        let bytes = std::fs::read(&journal).unwrap();
        ends.push(bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1);
    }
    let bytes = std::fs::read(&journal).unwrap();
    (journal, bytes, ends)
}

/// Text that does not compress.
fn noise_text(length: usize) -> String {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        char::from(b'!' + u8::try_from(x % 90).unwrap())
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn a_hole_in_the_last_batch_costs_only_that_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, whole, ends) = journal_of_three(folder.path()).await;
    // Pages of the last batch that never reached the disk: its start, its middle, all but its end.
    for hole in [ends[1]..ends[1] + 100, ends[1] + 5000..ends[1] + 9096, ends[1] + 1..ends[2] - 10] {
        let mut torn = whole.clone();
        torn[hole.clone()].fill(0);
        std::fs::write(&journal, torn).unwrap();
        let log = open(folder.path()).unwrap();
        assert_eq!(log.watermarks(&at(0)).await.unwrap().high, 2, "{hole:?}");
        assert_eq!(log.append(vec![record(0, "after")]).await.unwrap(), [2]);
        drop(log);
        let log = open(folder.path()).unwrap();
        assert_eq!(log.watermarks(&at(0)).await.unwrap().high, 3, "{hole:?}");
    }
}

#[tokio::test]
async fn damage_before_the_last_batch_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, whole, ends) = journal_of_three(folder.path()).await;
    let mut damaged = whole.clone();
    damaged[ends[0] + 5000..ends[0] + 9096].fill(0);
    std::fs::write(&journal, &damaged).unwrap();
    let Err(LogError::Open { source, .. }) = open(folder.path()) else { panic!("opened in spite of it") };
    assert!(source.to_string().contains("restore"), "{source}");
    assert_eq!(std::fs::read(&journal).unwrap(), damaged);
}

#[tokio::test]
async fn a_full_disk_gets_its_space_back_from_retention_without_new_records() {
    let disk = Disk::new();
    let log =
        disk.open(Options { housekeeping_interval: Duration::from_millis(1), ..Options::default() }).await;
    for _ in 0..40 {
        log.append(vec![record(0, &noise_text(1 << 20))]).await.unwrap();
    }
    let used = || disk.metrics.log_disk_bytes.get();
    // The records once as chunks, and once in the journal, which stays until it is rotated.
    while used() < 65 << 20 {
        tokio::task::yield_now().await;
    }
    disk.free.store(0, Ordering::SeqCst);
    let kept = millrace_crds::config::Topic { retention_bytes: Some(1), ..topic(EVENTS, 2) };
    log.ensure_topics(&[kept]).await.unwrap();
    let given_back = async {
        while used() > 50 << 20 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, given_back).await.expect("the chunks are gone from the disk");
}

#[tokio::test]
async fn a_log_larger_than_memory_is_kept_read_and_removed() {
    let disk = Disk::new();
    let log = disk.open(Options { housekeeping_interval: LONG, ..Options::default() }).await;
    // Several memtables and more than one journal, in records that do not compress.
    let mut x = 1_u64;
    let mut noise = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        x.to_be_bytes()
    };
    let to = TopicPartition { topic: EVENTS.into(), partition: 1 };
    for _ in 0..90 {
        let record = || NewRecord { to: to.clone(), key: "k".into(), value: noise().to_vec().into() };
        let mut batch = Vec::from_iter(std::iter::repeat_with(record).take(10));
        let mut bulk = vec![0; 1 << 20];
        bulk.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&noise()));
        batch.push(NewRecord { to: to.clone(), key: "bulk".into(), value: bulk.into() });
        log.append(batch).await.unwrap();
    }
    drop(log);
    let log =
        disk.open(Options { housekeeping_interval: Duration::from_millis(1), ..Options::default() }).await;
    let mut next = 0;
    while next < 990 {
        let records = log.read(&to, next, limits(100)).await.unwrap();
        assert_eq!(records[0].offset, next);
        next = records.last().unwrap().offset + 1;
    }
    // Housekeeping does the rest by itself.
    let kept = millrace_crds::config::Topic { retention_bytes: Some(1), ..topic(EVENTS, 2) };
    log.ensure_topics(&[kept]).await.unwrap();
    let low = async || log.watermarks(&to).await.unwrap().low;
    while low().await < 989 {
        tokio::task::yield_now().await;
    }
    assert!(disk.metrics.log_disk_bytes.get() > 0);
}
