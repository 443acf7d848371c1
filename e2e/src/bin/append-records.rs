//! A process that does nothing but append to an embedded log, for tests that steer its disk or kill it.
//!
//! `append-records FOLDER` says `ready <high watermark>`; then for each line `<count>` on standard input it appends
//! so many records at once and says, as each is answered, `ack <offset> <asked> <answered>` (nanoseconds of
//! `CLOCK_MONOTONIC`) or `error <text>`, and `done` after the last.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use millrace_crds::config::Topic;
use millrace_crds::names::TopicKind;
use millrace_dataplane::log::embedded::{EmbeddedLog, Options};
use millrace_dataplane::log::{Log, NewRecord, TopicPartition};
use millrace_dataplane::metrics::Metrics;

const TOPIC: &str = "millrace.default.shop.events-raw";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("usage: append-records FOLDER")?);
    let log = EmbeddedLog::open(&folder, Options::default(), Arc::new(Metrics::new()?))?;
    let topic = Topic {
        kind: TopicKind::EventsRaw,
        name: TOPIC.to_owned(),
        partitions: 1,
        retention_ms: u64::MAX,
        retention_bytes: None,
    };
    log.ensure_topics(&[topic]).await?;
    let to = TopicPartition { topic: Arc::from(TOPIC), partition: 0 };
    say(&format!("ready {}", log.watermarks(&to).await?.high));
    for line in std::io::stdin().lock().lines() {
        let count: usize = line?.parse()?;
        futures::future::join_all((0..count).map(|_| append(&log, &to))).await;
        say("done");
    }
    log.close().await;
    Ok(())
}

async fn append(log: &EmbeddedLog, to: &TopicPartition) {
    let asked = monotonic_ns();
    let record = NewRecord { to: to.clone(), key: "key".into(), value: asked.to_string().into() };
    match log.append(vec![record]).await {
        Ok(offsets) => say(&format!("ack {} {asked} {}", offsets[0], monotonic_ns())),
        Err(error) => say(&format!("error {error}")),
    }
}

/// A line at once: who reads it may be waiting, and we may be killed.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Who is not there to read does not miss it.
    let _written = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn monotonic_ns() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}
