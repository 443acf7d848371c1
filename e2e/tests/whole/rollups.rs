//! `millrace-dataplane rollups rebuild` on a whole process: a rollup that lost its rows is what a count says again, and
//! events that come meanwhile are in it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Bench, Process, binary, event, resources, wait_for};

const EVENTS: usize = 40;
const DATABASE: &str = "millrace_default__shop";

async fn send(process: &Process) -> Result<()> {
    let batch: Vec<_> = (0..EVENTS).map(|_| event(Uuid::new_v4())).collect();
    ensure!(process.send(&json!({ "batch": batch })).await?.status() == 200);
    Ok(())
}

async fn until_counted(process: &Process, count: usize) -> Result<()> {
    let question = format!(
        "SELECT (SELECT count() FROM {DATABASE}.events), (SELECT sum(events) FROM {DATABASE}.dashboard_stats)"
    );
    wait_for("every event in the table and in the rollup", async || {
        Ok((process.sql(&question).await? == format!("{count}\t{count}")).then_some(()))
    })
    .await
}

/// Exit code, report and progress of the command.
fn rebuild(bench: &Bench, app: &str) -> Result<(Option<i32>, Option<Value>, String)> {
    let mut command = std::process::Command::new(binary()?);
    command.args(["rollups", "rebuild", "--app", app, "--output", "json", "--data-dir"]);
    let output = command.arg(bench.data()).output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), serde_json::from_slice(&output.stdout).ok(), told))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollup_that_lost_its_rows_is_made_anew_by_a_command() -> Result<()> {
    let bench = Bench::new(&resources(""))?;
    let process = bench.start().await?;
    send(&process).await?;
    until_counted(&process, EVENTS).await?;
    process.sql(&format!("TRUNCATE TABLE {DATABASE}.dashboard_stats")).await?;
    send(&process).await?;

    let (code, report, told) = rebuild(&bench, "shop")?;
    let report = report.with_context(|| told.clone())?;
    ensure!(code == Some(0) && report["stage"] == "done", "{report}");
    ensure!(report["done"] == report["of"] && report["of"].as_u64() > Some(10), "{report}");
    let end = format!("{0} of {0}", report["of"]);
    ensure!(told.lines().last() == Some(end.as_str()), "progress is told to its end: {told}");
    until_counted(&process, 2 * EVENTS).await?;
    let fence = format!(
        "SELECT position(create_table_query, 'CONSTRAINT') FROM system.tables WHERE database = '{DATABASE}' AND name = 'events'"
    );
    ensure!(process.sql(&fence).await? == "0", "the fence is gone");

    let (code, _, told) = rebuild(&bench, "other")?;
    ensure!(code == Some(1) && told.contains("no App `other` here"), "{told}");
    process.terminate().await?;
    let (code, _, told) = rebuild(&bench, "shop")?;
    ensure!(code == Some(1) && told.contains("no Millrace process answers"), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_a_dead_process_left_is_lifted_by_the_next_one() -> Result<()> {
    let bench = Bench::new(&resources(""))?;
    let process = bench.start().await?;
    send(&process).await?;
    until_counted(&process, EVENTS).await?;
    let fence = format!("ALTER TABLE {DATABASE}.events ADD CONSTRAINT millrace_paused_1 CHECK 0");
    process.sql(&fence).await?;
    process.sql(&format!("TRUNCATE TABLE {DATABASE}.dashboard_stats")).await?;
    send(&process).await?;
    process.kill()?;
    let process = bench.start().await?;
    until_counted(&process, 2 * EVENTS).await?;
    process.terminate().await?;
    Ok(())
}
