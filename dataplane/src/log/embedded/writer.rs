//! The one thread that writes. A group of operations becomes one batch and one fsync; then, and only then, everyone
//! who waits is answered. After a write or fsync that failed nothing is tried again: the kernel may have dropped
//! the dirty pages and would report success the next time.

use std::sync::Arc;
use std::time::Instant;

use crate::failpoint::{self, Point};
use crate::log::LogError;
use crate::log::embedded::Inner;
use crate::log::embedded::queue::Ticket;
use crate::log::local::plan::{Outcome, Plan, Publication, Unread, WriteSet};
use crate::log::local::{Cause, lock};

/// Bytes written after which the free space is looked at before its time.
const BYTES_BETWEEN_LOOKS_MAX: usize = 16 * 1024 * 1024;

/// An operation that was planned: who waits for it, and what they will be told.
type Planned = (Ticketless, Outcome);
type Ticketless = tokio::sync::oneshot::Sender<Result<Outcome, LogError>>;

/// Runs until the queue has ended.
pub(super) fn run(inner: &Inner) {
    let _guard = FailOnPanic { inner };
    let mut disk = DiskWatch { looked_at: None, bytes_since: 0, is_low: false };
    while let Some(tickets) = inner.queue.take() {
        let bytes = tickets.iter().map(|ticket| ticket.bytes).sum();
        disk.look(inner, bytes);
        commit_group(inner, tickets, disk.is_low);
        inner.queue.give_back(bytes);
        inner.report_queue();
    }
}

fn commit_group(inner: &Inner, tickets: Vec<Ticket>, is_disk_low: bool) {
    let (plan, planned) = plan(inner, tickets, is_disk_low);
    if plan.is_empty() {
        answer(planned);
        return;
    }
    let (writes, publication) = plan.finish(inner.options.compression);
    match write(inner, writes, publication.records) {
        Ok(()) => {
            publish(inner, publication);
            answer(planned);
        }
        Err(source) => {
            tracing::error!(
                error = &source as &dyn std::error::Error,
                "the log could not be written; nothing is accepted until restart",
            );
            let end = inner.queue.fail("write", Some(source));
            for (answer, _) in planned {
                let _gone = answer.send(Err(end.error()));
            }
        }
    }
}

/// Decides every operation; those that are refused are answered here.
fn plan(inner: &Inner, tickets: Vec<Ticket>, is_disk_low: bool) -> (Plan, Vec<Planned>) {
    let now = (inner.environment.clock)();
    let mut plan = Plan::default();
    let mut planned = Vec::with_capacity(tickets.len());
    let mut state = lock(&inner.state);
    for Ticket { operation, answer, .. } in tickets {
        let outcome = if is_disk_low && operation.adds_records() {
            Err(inner.disk_full())
        } else {
            plan.add(&mut state, operation, now, inner.options.record_bytes_max)
        };
        match outcome {
            Ok(outcome) => planned.push((answer, outcome)),
            Err(error) => {
                let _gone = answer.send(Err(error));
            }
        }
    }
    (plan, planned)
}

fn write(inner: &Inner, writes: WriteSet, records: usize) -> Result<(), Cause> {
    let started = Instant::now();
    failpoint::reach_blocking(Point::EmbeddedPlanned).map_err(|error| Arc::new(error) as Cause)?;
    let written = inner.store.write(writes);
    let outcome = if written.is_ok() { "ok" } else { "failed" };
    inner.metrics.log_commit_seconds.with_label_values(&[outcome]).observe(started.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a count far below 2⁵³")]
    inner.metrics.log_commit_records.with_label_values::<&str>(&[]).observe(records as f64);
    written.map_err(|error| Arc::new(error) as Cause)?;
    failpoint::reach_blocking(Point::EmbeddedSynced).map_err(|error| Arc::new(error) as Cause)
}

fn publish(inner: &Inner, publication: Publication) {
    let unread = publication.publish(&mut lock(&inner.state));
    for Unread { group, topic, records } in unread {
        tracing::warn!(%group, %topic, records, "retention removed records that a group had not read");
        inner.metrics.log_unread_removed_records.with_label_values(&[&*group, &*topic]).inc_by(records);
    }
}

fn answer(planned: Vec<Planned>) {
    for (answer, outcome) in planned {
        // Who does not wait any more does not want to know.
        let _gone = answer.send(Ok(outcome));
    }
}

/// Looks at the free space now and then. Below the limit records are refused, and taken again when space is back;
/// the limit leaves room for what must still be written: positions, removals, tables made from the journal.
struct DiskWatch {
    looked_at: Option<Instant>,
    bytes_since: usize,
    is_low: bool,
}

impl DiskWatch {
    fn look(&mut self, inner: &Inner, bytes: usize) {
        self.bytes_since += bytes;
        let is_fresh = self.looked_at.is_some_and(|at| at.elapsed() < inner.options.disk_check_interval);
        if is_fresh && self.bytes_since < BYTES_BETWEEN_LOOKS_MAX {
            return;
        }
        self.looked_at = Some(Instant::now());
        self.bytes_since = 0;
        let is_low = inner.is_disk_low();
        if is_low != self.is_low {
            self.is_low = is_low;
            if is_low {
                tracing::error!(
                    free_bytes_min = inner.options.free_bytes_min,
                    "the log's disk is full; records are refused until space is back",
                );
            } else {
                tracing::info!("the log's disk has space again");
            }
        }
    }
}

/// A panic here is a bug of ours; it must not leave callers waiting.
struct FailOnPanic<'a> {
    inner: &'a Inner,
}

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.inner.queue.fail("writer", None);
        }
    }
}
