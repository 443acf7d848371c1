//! The oldest segment in, its records appended to the log, the segment gone. Frame by frame, in order; a frame that
//! the log does not take is tried again until it does. What can never go in is kept aside and told, so that the records
//! of one App never hold up another's.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use super::frame::{self, Frame, Next};
use super::store::Segment;
use crate::failpoint::{self, Point};
use crate::log::{Log, LogError, NewRecord};

/// First pause after the log did not take a frame.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// Longest: how late the log is noticed to be back.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a topic may be unknown before its records are kept aside: brokers that come back do not know all at once.
const UNKNOWN_MAX: Duration = Duration::from_secs(60);
/// Pause after the disk failed.
const DISK_PAUSE: Duration = Duration::from_secs(5);

/// Replays what is spilled.
pub(super) struct Replay {
    inner: Arc<dyn Log>,
    shared: Arc<Shared>,
    /// Which segment is read, how far, and whether something in it must be kept.
    number: u64,
    read: usize,
    is_kept: bool,
}

/// Whether the log has a record now, or never will.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Appended,
    Refused,
}

impl Replay {
    pub(super) fn new(inner: Arc<dyn Log>, shared: Arc<Shared>) -> Self {
        Self { inner, shared, number: u64::MAX, read: 0, is_kept: false }
    }

    /// For ever.
    pub(super) async fn run(mut self) {
        loop {
            let Some(segment) = self.shared.store.oldest() else {
                self.shared.spilled.notified().await;
                continue;
            };
            if let Err(error) = self.segment(segment).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    segment = segment.number,
                    "the spill cannot be read; tried again"
                );
                tokio::time::sleep(DISK_PAUSE).await;
            }
            self.shared.report();
        }
    }

    /// Replays what a segment has, and takes it away if it gets no more.
    async fn segment(&mut self, segment: Segment) -> io::Result<()> {
        if self.number != segment.number {
            (self.number, self.read, self.is_kept) = (segment.number, 0, false);
        }
        if self.read as u64 >= segment.bytes {
            return self.finish(segment).await;
        }
        let (path, length) = (self.shared.store.path(segment.number), segment.bytes);
        let read = tokio::task::spawn_blocking(move || std::fs::read(path));
        let mut bytes = read.await.map_err(io::Error::other)??;
        // What is behind may be being written.
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        if bytes.len() as u64 != length {
            self.damaged("its end is missing");
            self.read = usize::try_from(length).unwrap_or(usize::MAX);
        }
        while self.read < bytes.len() {
            match frame::next(&bytes, self.read) {
                Next::Frame(frame) => self.frame(frame).await,
                Next::Hole { resumes } => {
                    self.damaged("something in the middle of it");
                    self.read = resumes;
                }
                Next::Torn => {
                    self.damaged("its last frame");
                    self.read = bytes.len();
                }
                Next::End => break,
            }
        }
        Ok(())
    }

    fn damaged(&mut self, what: &'static str) {
        self.is_kept = true;
        tracing::error!(
            segment = self.number,
            at = self.read,
            "a spilled segment is damaged ({what}): events in there are lost; the file is kept aside, check the disk"
        );
    }

    async fn frame(&mut self, frame: Frame) {
        self.shared.store.set_oldest_at(Some(frame.spilled_at));
        let mut records = frame.records.as_slice();
        while let Some(first) = records.first() {
            // One topic at a time: what is wrong with one must not be the fault of another.
            let count = records.iter().take_while(|record| record.to.topic == first.to.topic).count();
            let (same, others) = records.split_at(count);
            self.deliver(same).await;
            records = others;
        }
        self.read = frame.end;
    }

    async fn deliver(&mut self, records: &[NewRecord]) {
        match self.append(records).await {
            Fate::Appended => self.shared.count("replayed", records.len()),
            Fate::Refused if records.len() > 1 => {
                // Only one of them may be at fault.
                for record in records {
                    match self.append(std::slice::from_ref(record)).await {
                        Fate::Appended => self.shared.count("replayed", 1),
                        Fate::Refused => self.refused(),
                    }
                }
            }
            Fate::Refused => self.refused(),
        }
    }

    fn refused(&mut self) {
        self.is_kept = true;
        self.shared.count("refused", 1);
    }

    /// Tries until the log takes them or says that it never will.
    async fn append(&self, records: &[NewRecord]) -> Fate {
        let begun = Instant::now();
        let mut pause = BACK_OFF_MIN;
        loop {
            let answer = tokio::time::timeout(ANSWER_MAX, self.inner.append(records.to_vec())).await;
            match answer {
                Ok(Ok(_)) => {
                    if self.shared.is_away.swap(false, Ordering::Relaxed) {
                        tracing::info!("the log takes events again; what was spilled goes in");
                    }
                    return Fate::Appended;
                }
                Ok(Err(error)) if is_final(&error, begun.elapsed()) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        records = records.len(),
                        "the log refuses spilled events; they are kept aside"
                    );
                    return Fate::Refused;
                }
                Ok(Err(error)) if error.took_nothing() => {}
                Ok(Err(_)) | Err(_) => self.shared.repeat(records),
            }
            self.shared.is_away.store(true, Ordering::Relaxed);
            self.shared.report();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }

    async fn finish(&mut self, segment: Segment) -> io::Result<()> {
        if !self.shared.store.close(segment.number, self.read as u64) {
            // Something is just being written to it.
            self.shared.spilled.notified().await;
            return Ok(());
        }
        failpoint::reach(Point::SpillReplayed).await.map_err(io::Error::other)?;
        match self.is_kept {
            true => self.shared.store.set_aside(segment.number)?,
            false => self.shared.store.remove(segment.number)?,
        }
        failpoint::reach(Point::SpillRemoved).await.map_err(io::Error::other)
    }
}

/// Whether trying again can never help.
fn is_final(error: &LogError, tried: Duration) -> bool {
    match error {
        LogError::TooLarge { .. } => true,
        LogError::UnknownTopic { .. } | LogError::UnknownPartition { .. } => tried >= UNKNOWN_MAX,
        LogError::QueueFull
        | LogError::DiskFull { .. }
        | LogError::SpillFull { .. }
        | LogError::SpillDiskFull { .. }
        | LogError::Failed { .. }
        | LogError::Fenced { .. }
        | LogError::UnknownOutcome
        | LogError::Refused { .. }
        | LogError::Unsupported { .. }
        | LogError::Unavailable { .. }
        | LogError::Closed
        | LogError::Open { .. } => false,
    }
}
