//! The spill in front of a log that comes and goes: what was acknowledged gets there, whatever is cut, damaged or full.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails them")]

/// A small disk that is filled: mounted, so it needs root.
#[cfg(feature = "services")]
#[path = "spill/full_disk.rs"]
mod full_disk;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_dataplane::log::spill::{OFFSET_LATER, Options, SpillError, SpillLog};
use millrace_dataplane::log::watched::Troubles;
use millrace_dataplane::log::{
    Committed, Consumer, Log, LogError, LogRecord, NewRecord, ReadLimits, TopicInfo, TopicPartition,
    Transactor, Watermarks,
};
use millrace_dataplane::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(30);

/// A log that keeps the values it was given, while it is there.
#[derive(Default)]
struct Gate {
    is_away: AtomicBool,
    kept: Mutex<Vec<String>>,
}

impl Gate {
    fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    fn kept(&self) -> Vec<String> {
        self.kept.lock().unwrap().clone()
    }
}

#[async_trait]
impl Log for Gate {
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<u64>, LogError> {
        if self.is_away.load(Ordering::SeqCst) {
            let source = Arc::new(std::io::Error::other("away"));
            return Err(LogError::Unavailable { step: "append", source });
        }
        if let Some(gone) = records.iter().find(|record| &*record.to.topic == "huge") {
            return Err(LogError::TooLarge { bytes: gone.value.len(), bytes_max: 0 });
        }
        let mut kept = self.kept.lock().unwrap();
        kept.extend(records.iter().map(|record| String::from_utf8(record.value.to_vec()).unwrap()));
        Ok((0..records.len() as u64).collect())
    }

    async fn subscribe(&self, _: &str, _: &[Arc<str>]) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Closed)
    }

    async fn transactor(&self, _: &str) -> Result<Box<dyn Transactor>, LogError> {
        Err(LogError::Closed)
    }

    async fn topic(&self, _: &str) -> Result<TopicInfo, LogError> {
        Err(LogError::Closed)
    }

    async fn watermarks(&self, _: &TopicPartition) -> Result<Watermarks, LogError> {
        Err(LogError::Closed)
    }

    async fn committed(&self, _: &str, _: &[TopicPartition]) -> Result<Vec<Option<Committed>>, LogError> {
        Err(LogError::Closed)
    }

    async fn read(&self, _: &TopicPartition, _: u64, _: ReadLimits) -> Result<Vec<LogRecord>, LogError> {
        Err(LogError::Closed)
    }
}

fn options() -> Options {
    Options { bytes_max: Some(1 << 20), direct_max: Duration::from_millis(200), record_bytes_max: 1000 }
}

fn open(gate: &Arc<Gate>, folder: &Path, options: Options) -> Result<Arc<SpillLog>, SpillError> {
    open_watched(gate, folder, options, &troubles())
}

fn troubles() -> Arc<Troubles> {
    Arc::new(Troubles::new(Arc::new(Metrics::new().unwrap())))
}

fn open_watched(
    gate: &Arc<Gate>,
    folder: &Path,
    options: Options,
    troubles: &Arc<Troubles>,
) -> Result<Arc<SpillLog>, SpillError> {
    SpillLog::open(Arc::clone(gate) as _, folder, options, Arc::clone(troubles))
}

fn record(topic: &str, value: &str) -> NewRecord {
    let to = TopicPartition { topic: topic.into(), partition: 0 };
    NewRecord { to, key: Bytes::new(), value: Bytes::from(value.to_owned()) }
}

/// Spills these values, each by an append of its own, and leaves as a killed process would.
async fn left_behind(folder: &Path, values: &[&str]) {
    let gate = Arc::new(Gate::default());
    gate.set_away(true);
    let log = open(&gate, folder, options()).unwrap();
    for value in values {
        assert_eq!(log.append(vec![record("raw", value)]).await.unwrap(), [OFFSET_LATER]);
    }
    drop(log);
    until("the lock is free", || open_once(folder)).await;
}

/// The writer's thread ends a moment after the log is dropped.
fn open_once(folder: &Path) -> bool {
    let gate = Arc::new(Gate::default());
    gate.set_away(true);
    open(&gate, folder, options()).is_ok()
}

async fn reopened(folder: &Path) -> (Arc<Gate>, Arc<SpillLog>) {
    let gate = Arc::new(Gate::default());
    let begun = Instant::now();
    loop {
        match open(&gate, folder, options()) {
            Ok(log) => return (gate, log),
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let found = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    found.filter(|path| path.extension().is_some_and(|own| own == ending)).collect()
}

#[tokio::test]
async fn what_the_log_does_not_take_goes_in_later_in_order_and_the_spill_is_empty() {
    let (folder, gate) = (tempfile::tempdir().unwrap(), Arc::new(Gate::default()));
    let log = open(&gate, folder.path(), options()).unwrap();
    assert_eq!(log.append(vec![record("raw", "a")]).await.unwrap(), [0]);
    assert!(files(folder.path(), "spill").is_empty());
    gate.set_away(true);
    for value in ["b", "c", "d"] {
        assert_eq!(log.append(vec![record("raw", value)]).await.unwrap(), [OFFSET_LATER]);
    }
    let state = log.state();
    assert!(state.bytes > 0 && state.set_aside == 0, "{state:?}");
    assert_eq!(gate.kept(), ["a"]);
    gate.set_away(false);
    until("the spill is empty", || log.state().bytes == 0).await;
    assert_eq!(gate.kept(), ["a", "b", "c", "d"]);
    assert!(files(folder.path(), "spill").is_empty());
    assert_eq!(log.append(vec![record("raw", "e")]).await.unwrap(), [0]);
}

#[tokio::test]
async fn what_a_killed_process_left_goes_in() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), &["a", "b"]).await;
    let (gate, log) = reopened(folder.path()).await;
    until("the spill is empty", || log.state().bytes == 0).await;
    assert_eq!(gate.kept(), ["a", "b"]);
}

#[tokio::test]
async fn an_unfinished_write_is_cut_off_and_nothing_before_it() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), &["a", "b", "c"]).await;
    let newest = files(folder.path(), "spill").into_iter().max().unwrap();
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() - 1]).unwrap();
    let (gate, log) = reopened(folder.path()).await;
    until("the spill is empty", || log.state().bytes == 0).await;
    assert_eq!(gate.kept(), ["a", "b"]);
    assert_eq!(log.state().set_aside, 0);
}

#[tokio::test]
async fn damage_in_the_middle_is_kept_aside_and_what_follows_goes_in() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), &["a", "b", "c"]).await;
    let newest = files(folder.path(), "spill").into_iter().max().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, &bytes).unwrap();
    let (gate, log) = reopened(folder.path()).await;
    until("the spill is empty", || log.state().bytes == 0).await;
    assert_eq!(gate.kept(), ["a", "c"]);
    until("the file is kept aside", || log.state().set_aside == 1).await;
    assert_eq!(files(folder.path(), "set-aside").len(), 1);
}

#[tokio::test]
async fn records_that_can_never_go_in_hold_up_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    gate.set_away(true);
    let log = open(&gate, folder.path(), options()).unwrap();
    let batch = vec![record("raw", "a"), record("huge", "b"), record("raw", "c")];
    assert_eq!(log.append(batch).await.unwrap(), [OFFSET_LATER; 3]);
    gate.set_away(false);
    until("the file is kept aside", || log.state().set_aside == 1).await;
    assert_eq!(gate.kept(), ["a", "c"]);
}

#[tokio::test]
async fn a_full_spill_refuses_and_takes_again_when_it_has_room() {
    let (folder, gate) = (tempfile::tempdir().unwrap(), Arc::new(Gate::default()));
    gate.set_away(true);
    let log = open(&gate, folder.path(), Options { bytes_max: Some(300), ..options() }).unwrap();
    let mut acknowledged = Vec::new();
    let refused = loop {
        let value = format!("{:0100}", acknowledged.len());
        match log.append(vec![record("raw", &value)]).await {
            Ok(_) => acknowledged.push(value),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, LogError::SpillFull { bytes_max: 300 }) && refused.is_retryable(),
        "{refused:?}"
    );
    assert!(!acknowledged.is_empty() && log.state().bytes <= 300);
    gate.set_away(false);
    until("the spill is empty", || log.state().bytes == 0).await;
    assert_eq!(gate.kept(), acknowledged);
    gate.set_away(true);
    assert_eq!(log.append(vec![record("raw", "again")]).await.unwrap(), [OFFSET_LATER]);
}

#[tokio::test]
async fn a_second_process_on_the_folder_is_refused() {
    let (folder, gate) = (tempfile::tempdir().unwrap(), Arc::new(Gate::default()));
    let _first = open(&gate, folder.path(), options()).unwrap();
    let refused = open(&gate, folder.path(), options()).err().unwrap();
    assert!(matches!(refused, SpillError::Locked { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_record_that_the_log_would_never_take_is_not_spilled() {
    let (folder, gate) = (tempfile::tempdir().unwrap(), Arc::new(Gate::default()));
    gate.set_away(true);
    let log = open(&gate, folder.path(), options()).unwrap();
    let refused = log.append(vec![record("raw", &"x".repeat(1001))]).await.unwrap_err();
    assert!(matches!(refused, LogError::TooLarge { bytes: 1001, bytes_max: 1000 }), "{refused:?}");
}
