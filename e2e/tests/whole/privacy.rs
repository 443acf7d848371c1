//! No personal value that the App hashes, encrypts, truncates or drops appears in any byte on disk: the whole data
//! directory is scanned with compression off, and every record and column is read back. The same scan with `Keep`
//! must find each value, or it would prove nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_dataplane::log::embedded::{EmbeddedLog, Options};
use millrace_dataplane::log::{Log, ReadLimits, TopicPartition};
use millrace_dataplane::metrics::Metrics;
use serde_json::{Value, json};

use crate::harness::{Bench, Process, resources, wait_for};

/// Values that identify a person, each unlike anything else on the disk.
const USER: &str = "user-zanzibar-4711";
const ANONYMOUS: &str = "anonymous-quetzal-0815";
const DEVICE: &str = "device-xylophone-1234";
const IP: &str = "203.0.113.77";
const EMAIL: &str = "jabberwock@wonderland.example";
const PHONE: &str = "+49-171-5550100";
const CARD: &str = "4111-1111-1111-1234";
const STREET: &str = "Bandersnatch-Lane-42";
/// Stood in an event that was refused for want of consent: never written under any rule.
const REFUSED: &str = "user-refused-jubjub";

const PERSONAL: [&str; 8] = [USER, ANONYMOUS, DEVICE, IP, EMAIL, PHONE, CARD, STREET];

fn events() -> Value {
    let person = |event_type: &str| {
        json!({
            "event_type": event_type, "user_id": USER, "anonymous_id": ANONYMOUS, "device_id": DEVICE, "ip": IP,
            "consent": {"categories": ["analytics"]},
            "event_data": {"email": EMAIL, "phone": PHONE, "card": CARD, "street": STREET, "harmless": "harmless-value-77"},
        })
    };
    let mut refused = person("page_view");
    refused["user_id"] = json!(REFUSED);
    refused["consent"] = json!({"categories": []});
    // One is stored, one is dead-lettered, one is refused.
    json!({"batch": [person("page_view"), person("undeclared"), refused]})
}

fn app(rules: &str) -> String {
    let mut text =
        resources(&format!("events: {{onUndeclared: DeadLetter, declared: [{{name: page_view}}]}}\n{rules}"));
    text = text.replace("ingest: {", "ingest: {trustForwardedClient: true, ");
    text
}

const STRICT: &str = "privacy:\n  userIds: Hash\n  deviceIds: Encrypt\n  ip: Truncate\n  consent: {required: [analytics]}\n  fields:\n  \
    - {path: event_data.email, action: Hash}\n  - {path: event_data.phone, action: Truncate}\n  \
    - {path: event_data.card, action: Encrypt}\n  - {path: event_data.street, action: Drop}";
const KEEP: &str =
    "privacy:\n  userIds: Keep\n  deviceIds: Keep\n  ip: Keep\n  consent: {required: [analytics]}";

/// Runs the App once and returns which of the values are on disk, and which are read back.
async fn found(rules: &str) -> Result<(BTreeSet<&'static str>, BTreeSet<&'static str>)> {
    let mut bench = Bench::new(&app(rules))?;
    bench.set("MILLRACE_LOG_COMPRESSION", "none");
    let process = bench.start().await?;
    wait_for("the tables", async || Ok(process.sql("DESCRIBE millrace_default__shop.events").await.ok()))
        .await?;
    uncompress(&process).await?;
    ensure!(process.send(&events()).await?.status() == 200, "{}", bench.log_tail());
    wait_for("the stored event", async || {
        Ok((process.sql("SELECT count() FROM millrace_default__shop.events").await? == "1").then_some(()))
    })
    .await?;
    let mut read = read_columns(&process).await?;
    ensure!(process.terminate().await?.success(), "{}", bench.log_tail());
    read.push_str(&read_records(&bench.data().join("log")).await?);
    ensure!(
        read.contains("harmless-value-77") && read.contains("undeclared_event"),
        "the read-back is incomplete"
    );

    let mut on_disk = BTreeSet::new();
    scan(&bench.data(), &mut on_disk)?;
    scan(&bench.path("log"), &mut on_disk)?;
    ensure!(
        on_disk.contains("harmless-value-77"),
        "the scan does not see what is there: is compression off?"
    );
    let read = all().filter(|value| read.contains(value)).collect();
    Ok((on_disk, read))
}

fn all() -> impl Iterator<Item = &'static str> {
    PERSONAL.into_iter().chain([REFUSED, "harmless-value-77"])
}

/// Columns are compressed one by one; from now on new parts are not.
async fn uncompress(process: &Process) -> Result<()> {
    for table in ["events", "dead_letters", "dashboard_stats", "user_retention"] {
        let columns = process
            .sql(&format!("SELECT name FROM system.columns WHERE database = 'millrace_default__shop' AND table = '{table}' AND default_kind = '' FORMAT TSV"))
            .await?;
        for column in columns.lines() {
            process
                .sql(&format!(
                    "ALTER TABLE millrace_default__shop.{table} MODIFY COLUMN `{column}` CODEC(NONE)"
                ))
                .await?;
        }
    }
    Ok(())
}

async fn read_columns(process: &Process) -> Result<String> {
    let mut text = String::new();
    let tables = process
        .sql("SELECT name FROM system.tables WHERE database = 'millrace_default__shop' AND engine LIKE '%MergeTree' FORMAT TSV")
        .await?;
    ensure!(!tables.is_empty(), "there are no tables");
    for table in tables.lines() {
        text.push_str(
            &process.sql(&format!("SELECT * FROM millrace_default__shop.{table} FORMAT JSONEachRow")).await?,
        );
    }
    Ok(text)
}

async fn read_records(folder: &Path) -> Result<String> {
    let log = EmbeddedLog::open(folder, Options::default(), Arc::new(Metrics::new()?))?;
    let mut text = String::new();
    for topic in log.topics() {
        for partition in 0..topic.partitions {
            let of = TopicPartition { topic: Arc::clone(&topic.name), partition };
            let mut from = 0;
            loop {
                let limits = ReadLimits { records_max: 1000, bytes_max: 1 << 20, wait_max: Duration::ZERO };
                let records = log.read(&of, from, limits).await?;
                let Some(last) = records.last() else { break };
                from = last.offset + 1;
                for record in &records {
                    text.push_str(&String::from_utf8_lossy(&record.key));
                    text.push_str(&String::from_utf8_lossy(&record.value));
                }
            }
        }
    }
    Ok(text)
}

/// Adds every value found in any byte of any file below a path.
fn scan(path: &Path, found: &mut BTreeSet<&'static str>) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            scan(&entry?.path(), found)?;
        }
    } else if path.is_file() {
        let bytes = fs::read(path)?;
        found.extend(
            all().filter(|value| bytes.windows(value.len()).any(|window| window == value.as_bytes())),
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_personal_value_is_in_any_byte_on_disk() -> Result<()> {
    let (on_disk, read) = found(STRICT).await?;
    let leaked: Vec<_> = on_disk.union(&read).filter(|value| **value != "harmless-value-77").collect();
    ensure!(leaked.is_empty(), "written: {leaked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_scan_finds_every_value_that_is_kept() -> Result<()> {
    let (on_disk, read) = found(KEEP).await?;
    for value in PERSONAL {
        ensure!(on_disk.contains(value), "the scan does not find `{value}`");
        ensure!(read.contains(value), "the read-back does not find `{value}`");
    }
    ensure!(!on_disk.contains(REFUSED) && !read.contains(REFUSED), "a refused event was written");
    Ok(())
}
