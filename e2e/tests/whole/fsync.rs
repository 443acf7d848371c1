//! No 2xx leaves before an fsync that covers its record has returned: with the fsync held back, nothing is
//! acknowledged; with the fsync failing, nothing ever is. The shim stands between the process and the C library.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use crate::harness::{Bench, Process, built, event, resources, wait_for};

/// How long an answer is watched for while the fsync is held: many times what a group commit takes.
const WATCH: Duration = Duration::from_millis(800);

/// The folder through which the shim is told what to do.
struct Shim(PathBuf);

impl Shim {
    fn order(&self, name: &str) -> Result<()> {
        Ok(fs::write(self.0.join(name), "")?)
    }

    fn take_back(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.0.join(name))?)
    }

    /// Calls that have returned so far.
    fn calls(&self) -> usize {
        let calls = fs::read_to_string(self.0.join("calls")).unwrap_or_default();
        calls.lines().filter(|line| !line.starts_with("held")).count()
    }
}

async fn start(bench: &mut Bench) -> Result<(Process, Shim)> {
    let control = bench.path("fsync-control");
    fs::create_dir(&control)?;
    // Only the log's files: the engine child has fsyncs of its own.
    fs::write(control.join("prefix"), bench.data().join("log").display().to_string())?;
    bench.set("LD_PRELOAD", built("libmillrace_fsync_shim.so")?.display().to_string());
    bench.set("MILLRACE_FSYNC_CONTROL", control.display().to_string());
    let process = bench.start().await?;
    Ok((process, Shim(control)))
}

fn id(number: u128) -> Uuid {
    uuid::Builder::from_random_bytes(number.to_be_bytes()).into_uuid()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_leaves_while_the_fsync_is_held_back() -> Result<()> {
    let mut bench = Bench::new(&resources(""))?;
    let (process, shim) = start(&mut bench).await?;
    ensure!(process.send(&event(id(1))).await?.status() == 200, "{}", bench.log_tail());

    shim.order("hold")?;
    let before = shim.calls();
    let held = event(id(2));
    let request = process.send(&held);
    tokio::pin!(request);
    let early = tokio::time::timeout(WATCH, &mut request).await;
    ensure!(
        early.is_err(),
        "answered {:?} while the fsync was held back",
        early.map(|answer| answer.map(|a| a.status()))
    );
    ensure!(
        shim.calls() == before,
        "an fsync finished although it was held back: the shim is not in the way"
    );

    shim.take_back("hold")?;
    let answer = tokio::time::timeout(crate::harness::PATIENCE, request)
        .await
        .context("no answer after the fsync")??;
    ensure!(answer.status() == 200, "{}", answer.status());
    ensure!(shim.calls() > before, "answered without any fsync");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fsync_is_never_acknowledged_and_never_papered_over() -> Result<()> {
    let mut bench = Bench::new(&resources(""))?;
    let (process, shim) = start(&mut bench).await?;
    ensure!(process.send(&event(id(1))).await?.status() == 200, "{}", bench.log_tail());

    shim.order("fail")?;
    let answer = process.send(&event(id(2))).await?;
    ensure!(answer.status() == 503, "a failed fsync was answered with {}", answer.status());
    ensure!(answer.headers().contains_key("retry-after"), "503 without Retry-After");

    // The kernel may have dropped the pages: a later fsync that succeeds proves nothing, so the log stays closed.
    shim.take_back("fail")?;
    let answer = process.send(&event(id(3))).await?;
    ensure!(answer.status() == 503, "went on after a failed fsync with {}", answer.status());
    wait_for("the probe to say so", async || {
        Ok(process.admin("/readyz").await?.contains("log").then_some(()))
    })
    .await?;
    drop(process);

    // After a restart what was acknowledged is there, and new events are taken again.
    fs::remove_dir_all(shim_folder(&bench))?;
    let (process, _shim) = start(&mut bench).await?;
    ensure!(process.send(&event(id(4))).await?.status() == 200, "{}", bench.log_tail());
    wait_for("both acknowledged events", async || {
        let ids = process.sql("SELECT toString(event_id) FROM millrace_default__shop.events").await?;
        Ok((ids.contains(&id(1).to_string()) && ids.contains(&id(4).to_string())).then_some(()))
    })
    .await
}

fn shim_folder(bench: &Bench) -> PathBuf {
    Path::new(&bench.path("fsync-control")).to_owned()
}
