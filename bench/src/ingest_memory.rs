//! Sizes of queues and events in; out, how much memory ingest takes while Kafka is away and its queue is full, beside what
//! the queue is allowed to take. Ingest runs in a process of its own, on a real broker that is killed.

mod client;
pub(crate) mod process;
mod started;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use client::{Answers, Client};
use started::{Broker, Ingest};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::settings::IngestMemory;

/// Goal of the product: what ingest takes beside its base, as a share of the configured queue.
const RATIO_GOAL: f64 = 1.25;
/// Bytes of events in one request: a batch of an SDK.
const REQUEST_BYTES: usize = 64 << 10;
/// Bodies under way at once: what they take is bounded by itself, with or without Kafka.
const UNDER_WAY: usize = 16;
/// How often each connection is used before the base is taken.
const WARMING_ROUNDS: usize = 2;
/// What is sent beyond the room that the queue has, so that it stays full.
const PRESSURE: f64 = 1.3;
/// How long a process rests before its memory is read.
const REST: Duration = Duration::from_secs(2);
/// Share of the queue that must have been filled for a figure to mean anything.
const FILLED_MIN: f64 = 0.95;

/// Measures and prints; fails when the bound is not held.
pub(crate) fn run(settings: &IngestMemory) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("ingest while Kafka is away; goal: (peak - base) / queue ≤ {RATIO_GOAL}");
    println!(
        "{:>10}{:>12}{:>13}{:>12}{:>11}{:>11}{:>11}{:>9}",
        "queue, MiB", "event, B", "connections", "filled, MiB", "refused", "base, MiB", "peak, MiB", "ratio"
    );
    let mut is_held = true;
    for &queue_mib in &settings.queue_mib {
        for &event_bytes in &settings.event_bytes {
            let run = Run { queue_mib, event_bytes, pressed: Duration::from_secs(settings.seconds) };
            is_held &= runtime.block_on(run.measure())? <= RATIO_GOAL;
        }
    }
    Ok(if is_held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One row.
struct Run {
    queue_mib: usize,
    event_bytes: usize,
    pressed: Duration,
}

impl Run {
    async fn measure(&self) -> Result<f64> {
        let broker = Broker::start()?;
        let queue_bytes = self.queue_mib << 20;
        let mut ingest = Ingest::start(&broker.address, queue_bytes)?;
        let events = (REQUEST_BYTES / self.event_bytes).max(1);
        // What a record holds beside the event's own bytes is in the queue too, so this is more than needed.
        let connections = ((queue_bytes / (events * self.event_bytes)) as f64 * PRESSURE).ceil();
        let body = client::body(events, self.event_bytes);
        let mut clients = Vec::new();
        // Each sends as soon as it is connected: one that says nothing is not waited for.
        while clients.len() < connections as usize {
            let mut together = Vec::new();
            for _ in 0..UNDER_WAY {
                together.push(Client::connect(&ingest.address).await?);
            }
            warm(&mut together, &body).await?;
            clients.extend(together);
        }
        // The base has every connection with its buffers, as large as they become, and next to nothing in the queue.
        for _ in 1..WARMING_ROUNDS {
            for together in clients.chunks_mut(UNDER_WAY) {
                warm(together, &body).await?;
            }
        }
        tokio::time::sleep(REST).await;
        let base = ingest.memory()?.resident_mib;
        broker.kill()?;
        let (answers, filled) = self.press(&mut ingest, clients, &body).await?;
        let memory = ingest.memory()?;
        let filled_share = filled as f64 / queue_bytes as f64;
        ensure!(filled_share >= FILLED_MIN, "only {filled} bytes waited: nothing is shown by that");
        ensure!(answers.accepted == 0, "{} requests were accepted without a broker", answers.accepted);
        let ratio = (memory.peak_mib - base) / self.queue_mib as f64;
        println!(
            "{:>10}{:>12}{:>13}{:>12.1}{:>11}{base:>11.1}{:>11.1}{ratio:>9.2}",
            self.queue_mib,
            self.event_bytes,
            connections,
            filled as f64 / f64::from(1 << 20),
            answers.refused,
            memory.peak_mib,
        );
        Ok(ratio)
    }

    /// Every client sends, and sends again when it was told to come back; returns the most that waited, too.
    async fn press(&self, ingest: &mut Ingest, clients: Vec<Client>, body: &[u8]) -> Result<(Answers, u64)> {
        let (until, under_way) = (Instant::now() + self.pressed, Semaphore::new(UNDER_WAY));
        let sending = futures::future::try_join_all(
            clients.into_iter().map(|client| client.press(body, &under_way, until)),
        );
        let watching = async {
            let mut filled = 0;
            while Instant::now() < until {
                filled = filled.max(ingest.queue_bytes()?);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            anyhow::Ok(filled)
        };
        let (sent, filled) = tokio::join!(sending, watching);
        let answers = sent.context("press on ingest")?.into_iter().fold(Answers::default(), Answers::plus);
        Ok((answers, filled?))
    }
}

/// Every client sends once, and is answered that its events are taken.
async fn warm(clients: &mut [Client], body: &[u8]) -> Result<()> {
    for answer in futures::future::try_join_all(clients.iter_mut().map(|client| client.send(body))).await? {
        ensure!(answer.status == 200, "the broker is there, and ingest answers {}", answer.status);
    }
    Ok(())
}
