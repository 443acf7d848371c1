//! A spill whose disk is full: told, and over when there is room. The disk is a small one of its own, which only root may
//! mount.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use millrace_dataplane::log::spill::{OFFSET_LATER, SpillLog};
use millrace_dataplane::log::trouble::Trouble;
use millrace_dataplane::log::{Log as _, LogError};

use super::{Gate, open, open_watched, options, record, reopened, troubles, until};

/// A disk of its own for a folder, so small that a test fills it. Only root may mount one.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Most of it is somebody else's file.
    fn nearly_full() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=256k", "spill"]).arg(folder.path());
        assert!(mount.status().unwrap().success(), "run the tests as root: they mount a small disk");
        std::fs::write(folder.path().join("other"), vec![0; 200 << 10]).unwrap();
        Self { folder }
    }

    fn spill(&self) -> PathBuf {
        self.folder.path().join("spill")
    }

    /// The other file goes.
    fn make_room(&self) {
        std::fs::remove_file(self.folder.path().join("other")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What is still open goes with its process.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
        assert!(unmounted.unwrap().success());
    }
}

/// Appends until it is refused.
async fn fill(log: &SpillLog, acknowledged: &mut Vec<String>) -> LogError {
    loop {
        let value = format!("{:0900}", acknowledged.len());
        match log.append(vec![record("raw", &value)]).await {
            Ok(_) => acknowledged.push(value),
            Err(error) => return error,
        }
        assert!(acknowledged.len() < 1000, "256 KiB are full some time");
    }
}

#[tokio::test]
async fn a_full_disk_is_named_with_its_fix_and_events_are_taken_again_when_it_has_room() {
    let (disk, gate, troubles) = (SmallDisk::nearly_full(), Arc::new(Gate::default()), troubles());
    gate.set_away(true);
    let log = open_watched(&gate, &disk.spill(), options(), &troubles).unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        let refused = fill(&log, &mut acknowledged).await;
        assert!(matches!(refused, LogError::SpillDiskFull { .. }) && refused.is_retryable(), "{refused:?}");
    }
    assert!(!acknowledged.is_empty());
    let text = troubles.text().unwrap();
    assert!(text.starts_with("spill_disk_full (spill): the spill's disk is full"), "{text}");
    assert!(text.contains(Trouble::SpillDiskFull.fix()), "{text}");

    disk.make_room();
    assert_eq!(log.append(vec![record("raw", "again")]).await.unwrap(), [OFFSET_LATER]);
    acknowledged.push("again".to_owned());
    gate.set_away(false);
    until("the spill is empty", || log.state().bytes == 0).await;
    assert_eq!(gate.kept(), acknowledged, "what was acknowledged, and nothing that was refused");
    assert_eq!(log.state().set_aside, 0);
}

#[tokio::test]
async fn what_was_spilled_before_the_disk_was_full_goes_in_after_a_restart_on_the_full_disk() {
    let (disk, gate) = (SmallDisk::nearly_full(), Arc::new(Gate::default()));
    gate.set_away(true);
    let log = open(&gate, &disk.spill(), options()).unwrap();
    let mut acknowledged = Vec::new();
    fill(&log, &mut acknowledged).await;
    drop(log);
    let (gate, log) = reopened(&disk.spill()).await;
    until("the spill is empty", || log.state().bytes == 0).await;
    assert_eq!(gate.kept(), acknowledged);
    assert_eq!(log.state().set_aside, 0);
}
