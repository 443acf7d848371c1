//! The ledger of a whole process: an honest one is balanced, and every loss that is made on purpose is told with the
//! equation that fails, in the API, in the metrics, at `/state` and on the topic `alerts`.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use millrace_dataplane::log::embedded::{EmbeddedLog, Options};
use millrace_dataplane::log::{Log, ReadLimits, TopicPartition};
use millrace_dataplane::metrics::Metrics;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Bench, Process, binary, event, resources, wait_for};

/// Events of one test.
const EVENTS: usize = 40;
/// A minute that began this long ago is not over while a test still works on it.
const LATEST_SECOND: i64 = 35;

/// How a loss is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// A mistake the process is made to have at its first chance.
    Defect(&'static str),
    /// A statement, once everything is stored; `{id}` stands for one of the events.
    Statement(&'static str),
}

/// Waits until enough of the current minute is left.
async fn early_in_a_minute() -> Result<()> {
    early_in_a_minute_after(0).await.map(drop)
}

/// As [`early_in_a_minute`], of one that is later than another; says which.
async fn early_in_a_minute_after(earlier: i64) -> Result<i64> {
    wait_for("the beginning of a minute", async || {
        let now = Timestamp::now().as_second();
        Ok((now / 60 > earlier && now % 60 < LATEST_SECOND).then_some(now / 60))
    })
    .await
}

/// Sends events, each once, and one of them a second time; one event is refused.
async fn send(process: &Process) -> Result<Vec<Uuid>> {
    let ids: Vec<Uuid> = (0..EVENTS).map(|_| Uuid::new_v4()).collect();
    let batch: Vec<_> = ids.iter().map(|id| event(*id)).collect();
    ensure!(process.send(&json!({ "batch": batch })).await?.status() == 200);
    let again = json!({ "batch": [event(ids[0]), { "event_data": {} }] });
    ensure!(process.send(&again).await?.status() == 200);
    Ok(ids)
}

async fn until_stored(process: &Process, count: usize) -> Result<()> {
    wait_for("every event in the table", async || {
        let stored = process.sql("SELECT count() FROM millrace_default__shop.events").await?;
        Ok((stored.parse::<usize>()? == count).then_some(()))
    })
    .await
}

/// The minutes of the ledger, once their verdict is this one.
async fn until(process: &Process, verdict: &str) -> Result<Vec<Value>> {
    wait_for(verdict, async || {
        let answer = process.api("/api/apps/shop/ledger").await?;
        let minutes = answer["minutes"].as_array().cloned().unwrap_or_default();
        ensure!(!minutes.is_empty(), "nothing was counted");
        ensure!(minutes.iter().all(|minute| minute["verdict"] == verdict), "{answer}");
        Ok(Some(minutes))
    })
    .await
}

fn total(minutes: &[Value], kind: &str) -> i64 {
    minutes.iter().filter_map(|minute| minute[kind].as_i64()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_process_is_balanced() -> Result<()> {
    let bench = Bench::new(&resources(""))?;
    let process = bench.start().await?;
    send(&process).await?;
    until_stored(&process, EVENTS).await?;
    // Its end closes the minute.
    process.terminate().await?;
    let process = bench.start().await?;
    let minutes = until(&process, "balanced").await.with_context(|| bench.log_tail())?;
    let sent = i64::try_from(EVENTS)?;
    let found =
        ["acknowledged", "raw", "deduplicated", "processed", "stored"].map(|kind| total(&minutes, kind));
    ensure!(found == [sent + 1, sent + 1, 1, sent, sent], "{minutes:?}");
    let refused: i64 = minutes
        .iter()
        .flat_map(|minute| minute["refused"].as_object().into_iter().flatten())
        .filter_map(|(_, n)| n.as_i64())
        .sum();
    ensure!(refused == 1, "{minutes:?}");
    let (code, report) = audit(&bench)?;
    ensure!(code == Some(0) && report["raw_recounted"] == true, "{report}");
    ensure!(report["acknowledged"] == sent + 1 && report["stored"] == sent, "{report}");
    wait_for("a look without a difference", async || {
        let metrics = process.admin("/metrics").await?;
        let mut shown =
            metrics.lines().filter(|line| line.starts_with("millrace_ledger_breaches{")).peekable();
        let looked = shown.peek().is_some();
        Ok((looked && shown.all(|line| line.ends_with(" 0"))).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_loss_is_told_with_the_equation_that_fails() -> Result<()> {
    let delete = "DELETE FROM millrace_default__shop.events WHERE event_id = '{id}'";
    let double = "INSERT INTO millrace_default__shop.events SELECT * FROM millrace_default__shop.events \
                  WHERE event_id = '{id}'";
    for (loss, equation, missing) in [
        (Loss::Defect("ingest-loses-event@1"), "accepted", 1),
        (Loss::Defect("process-loses-record@1"), "stored", 1),
        (Loss::Statement(delete), "stored", 1),
        (Loss::Statement(double), "stored", -1),
    ] {
        tells(loss, equation, missing).await.with_context(|| format!("{equation} {missing}"))?;
    }
    Ok(())
}

async fn tells(loss: Loss, equation: &str, missing: i64) -> Result<()> {
    let mut bench = Bench::new(&resources(""))?;
    if let Loss::Defect(defect) = loss {
        bench.set("MILLRACE_DEFECTS", defect);
    }
    let process = bench.start().await?;
    early_in_a_minute().await?;
    let ids = send(&process).await?;
    match loss {
        // The mistake is made before the process ends.
        Loss::Defect(_) => until_stored(&process, EVENTS - 1).await?,
        Loss::Statement(statement) => {
            until_stored(&process, EVENTS).await?;
            process.sql(&statement.replace("{id}", &ids[1].to_string())).await?;
        }
    }
    process.terminate().await?;
    bench.set("MILLRACE_DEFECTS", "");
    let process = bench.start().await?;
    let minutes = until(&process, "breached").await.with_context(|| bench.log_tail())?;
    let differences: Vec<_> =
        minutes.iter().flat_map(|minute| minute["differences"].as_array().into_iter().flatten()).collect();
    ensure!(differences.len() == 1, "{differences:?}");
    let told = (&differences[0]["equation"], &differences[0]["missing"], &differences[0]["recorded"]);
    ensure!(told == (&json!(equation), &json!(missing), &json!(true)), "{differences:?}");
    let named = match loss {
        Loss::Statement(_) => Some((&ids[1], if missing > 0 { "lost" } else { "stored_twice" })),
        // Which event it was, nobody chose.
        Loss::Defect(_) => None,
    };
    let (code, report) = audit(&bench)?;
    ensure!(code == Some(2) && !report["differences"].as_array().context("a list")?.is_empty(), "{report}");
    if let Some((id, what)) = named {
        let events = report["events"].as_array().context("a list")?;
        ensure!(events.len() == 1, "{report}");
        ensure!(events[0]["event_id"] == json!(id) && events[0]["what"] == what, "{report}");
    }
    let metric = format!("millrace_ledger_breaches{{app=\"default/shop\",equation=\"{equation}\"}} 1");
    wait_for("the metric", async || Ok(process.admin("/metrics").await?.contains(&metric).then_some(())))
        .await?;
    process.terminate().await?;
    let alerts = alerts(&bench).await?;
    ensure!(alerts.len() == 1, "told once: {alerts:?}");
    ensure!(alerts[0]["equation"] == equation && alerts[0]["missing"] == missing, "{alerts:?}");
    Ok(())
}

/// A release forgets a property that its App requires. Two minutes of it are one surge, told by two lives of the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_surge_of_dead_letters_is_told_once() -> Result<()> {
    // The event that is sent twice is set aside twice: only what is processed is known again.
    const SET_ASIDE: usize = EVENTS + 1;
    const DECLARED: &str = "events:\n  declared:\n  - name: page_view\n    properties: [{name: title, type: String, required: true}]";
    let bench = Bench::new(&resources(DECLARED))?;
    let metric = "millrace_dead_letter_surges_total{app=\"default/shop\"} 1";
    let mut minute = 0;
    for (round, told) in [(1, true), (2, false)] {
        let process = bench.start().await?;
        minute = early_in_a_minute_after(minute).await?;
        send(&process).await?;
        wait_for("the dead letters", async || {
            let set_aside = process.sql("SELECT count() FROM millrace_default__shop.dead_letters").await?;
            Ok((set_aside.parse::<usize>()? == round * SET_ASIDE).then_some(()))
        })
        .await?;
        // Its end closes the minute.
        process.terminate().await?;
        let process = bench.start().await?;
        until(&process, "balanced").await.with_context(|| bench.log_tail())?;
        let counted = wait_for("a look at every minute", async || {
            let metrics = process.admin("/metrics").await?;
            let is_settled = metrics.contains("millrace_ledger_open_minutes{app=\"default/shop\"} 0");
            Ok(is_settled.then_some(metrics.contains(metric)))
        })
        .await?;
        ensure!(counted == told, "counted: {counted}");
        process.terminate().await?;
    }
    let alerts = alerts(&bench).await?;
    ensure!(alerts.len() == 1, "told once: {alerts:?}");
    let surge = json!({"kind": "dead_letters", "set_aside": SET_ASIDE, "raw": SET_ASIDE, "reasons": {"missing_property": SET_ASIDE}});
    let told = surge.as_object().context("an object")?;
    ensure!(told.iter().all(|(name, value)| alerts[0][name] == *value), "{alerts:?}");
    Ok(())
}

/// Exit code and report of `millrace-dataplane audit` over the last minutes, the running one included.
fn audit(bench: &Bench) -> Result<(Option<i32>, Value)> {
    let mut command = std::process::Command::new(binary()?);
    command.args(["audit", "--app", "shop", "--from", "10m", "--to", "0s", "--output", "json", "--data-dir"]);
    let output = command.arg(bench.data()).output()?;
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), report))
}

/// What stands in the topic `alerts`, read from the log of a process that ended.
async fn alerts(bench: &Bench) -> Result<Vec<Value>> {
    let log = EmbeddedLog::open(&bench.data().join("log"), Options::default(), Arc::new(Metrics::new()?))?;
    let of = TopicPartition { topic: "millrace.default.shop.alerts".into(), partition: 0 };
    let limits = ReadLimits { records_max: 100, bytes_max: 1 << 20, wait_max: std::time::Duration::ZERO };
    let records = log.read(&of, 0, limits).await?;
    log.close().await;
    records.iter().map(|record| Ok(serde_json::from_slice(&record.value)?)).collect()
}
