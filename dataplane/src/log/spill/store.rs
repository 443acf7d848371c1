//! The files of a spill: numbered segments of frames, written at the newest, read and removed at the oldest. Holds the
//! count of bytes and the lock; what is in the frames is not looked at but for the torn end of the newest.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use millrace_crds::state::SpillState;
use rustix::fs::{FlockOperation, flock};

use super::SpillError;
use super::frame;
use crate::log::Later;

/// A segment that reached this gets no more frames. One is read into memory to be replayed.
const SEGMENT_BYTES: u64 = 16 << 20;
const ENDING: &str = "spill";
/// Of a segment that was kept because something in it could not be replayed.
const SET_ASIDE: &str = "set-aside";

/// The folder.
pub(super) struct Store {
    folder: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
    _lock: File,
}

#[derive(Default)]
struct State {
    segments: VecDeque<Segment>,
    /// Number of the next segment.
    next: u64,
    /// The writer is at the newest segment.
    is_writing: bool,
    /// When the oldest frame was spilled, once known.
    oldest_at: Option<i64>,
    set_aside: u64,
}

/// One file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// Bytes of frames that are durable.
    pub(super) bytes: u64,
    /// May get more.
    is_open: bool,
}

/// There is no room left.
pub(super) struct Full;

impl Store {
    /// Takes the lock, and cuts off what the newest segment has of a write that never ended: nobody was told that it
    /// was durable.
    pub(super) fn open(folder: &Path, bytes_max: Option<u64>) -> Result<Self, SpillError> {
        let failed = |source| SpillError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = OpenOptions::new().create(true).append(true).open(folder.join("lock")).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(SpillError::Locked { path: folder.to_owned() });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let state = found(folder).map_err(failed)?;
        let bytes_max = match bytes_max {
            Some(bytes_max) => bytes_max,
            None => default_bytes_max(folder).map_err(failed)?,
        };
        let store = Self { folder: folder.to_owned(), bytes_max, state: Mutex::new(state), _lock: lock };
        store.cut_torn_end().map_err(failed)?;
        Ok(store)
    }

    fn cut_torn_end(&self) -> io::Result<()> {
        let mut state = self.state();
        let Some(newest) = state.segments.back_mut() else { return Ok(()) };
        let path = self.path(newest.number);
        let bytes = fs::read(&path)?;
        let good = frame::good_end(&bytes);
        // A hole is told when it is replayed; frames behind it are good.
        if good < bytes.len() && matches!(frame::next(&bytes, good), frame::Next::Torn) {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(good as u64)?;
            file.sync_all()?;
            tracing::warn!(
                bytes = bytes.len() - good,
                "the spill ended in an unfinished write, which was cut off"
            );
            newest.bytes = good as u64;
        }
        Ok(())
    }

    /// Where frames of these bytes go: the open segment, or a new one whose file is to be made.
    pub(super) fn begin(&self, bytes: u64) -> Result<Segment, Full> {
        let mut state = self.state();
        let held: u64 = state.segments.iter().map(|segment| segment.bytes).sum();
        if held + bytes > self.bytes_max {
            return Err(Full);
        }
        state.is_writing = true;
        if let Some(newest) = state.segments.back_mut().filter(|newest| newest.is_open) {
            if newest.bytes < SEGMENT_BYTES {
                return Ok(*newest);
            }
            newest.is_open = false;
        }
        let segment = Segment { number: state.next, bytes: 0, is_open: true };
        state.next += 1;
        state.segments.push_back(segment);
        Ok(segment)
    }

    /// These bytes of the newest segment are durable.
    pub(super) fn wrote(&self, bytes: u64, spilled_at: i64) {
        let mut state = self.state();
        state.is_writing = false;
        state.oldest_at = state.oldest_at.or(Some(spilled_at));
        if let Some(newest) = state.segments.back_mut() {
            newest.bytes += bytes;
        }
    }

    /// Nothing was written.
    pub(super) fn gave_up(&self) {
        self.state().is_writing = false;
    }

    /// The segment to replay first.
    pub(super) fn oldest(&self) -> Option<Segment> {
        self.state().segments.front().copied()
    }

    /// No more frames go to this segment, if all of it was read and nothing is being written.
    pub(super) fn close(&self, number: u64, read: u64) -> bool {
        let mut state = self.state();
        let is_writing = state.is_writing;
        let Some(oldest) = state.segments.front_mut().filter(|oldest| oldest.number == number) else {
            return false;
        };
        if oldest.bytes > read || oldest.is_open && is_writing {
            return false;
        }
        oldest.is_open = false;
        true
    }

    /// When the first frame that waits was spilled.
    pub(super) fn set_oldest_at(&self, spilled_at: Option<i64>) {
        self.state().oldest_at = spilled_at;
    }

    /// Removes a segment that was replayed.
    pub(super) fn remove(&self, number: u64) -> io::Result<()> {
        match fs::remove_file(self.path(number)) {
            // One that found no room was never made.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => self.forget(number),
        }
        Ok(())
    }

    /// Keeps a segment out of the way, for a person to look at.
    pub(super) fn set_aside(&self, number: u64) -> io::Result<()> {
        fs::rename(self.path(number), self.folder.join(format!("{number:020}.{SET_ASIDE}")))?;
        self.forget(number);
        self.state().set_aside += 1;
        Ok(())
    }

    fn forget(&self, number: u64) {
        let mut state = self.state();
        state.segments.retain(|segment| segment.number != number);
        if state.segments.is_empty() {
            state.oldest_at = None;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().segments.iter().all(|segment| segment.bytes == 0)
    }

    /// What was written, and what of it was replayed, by the numbers of segments.
    pub(super) fn later(&self) -> Later {
        let state = self.state();
        let waiting = state.segments.iter().find(|segment| segment.bytes > 0);
        Later { end: state.next, taken: waiting.map_or(state.next, |segment| segment.number) }
    }

    /// For metrics and `/state`.
    pub(super) fn report(&self, now_ms: i64) -> SpillState {
        let state = self.state();
        let bytes = state.segments.iter().map(|segment| segment.bytes).sum();
        let oldest_milliseconds = state.oldest_at.map_or(0, |at| u64::try_from(now_ms - at).unwrap_or(0));
        SpillState { bytes, oldest_milliseconds, set_aside: state.set_aside }
    }

    /// The most it holds.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:020}.{ENDING}"))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Four fifths of the file system.
fn default_bytes_max(folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_blocks.saturating_mul(found.f_frsize) / 5 * 4)
}

/// What an earlier process left.
fn found(folder: &Path) -> io::Result<State> {
    let mut state = State::default();
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()) else { continue };
        match path.extension().and_then(|ending| ending.to_str()) {
            Some(ENDING) => segments.push(Segment { number, bytes: entry.metadata()?.len(), is_open: false }),
            Some(SET_ASIDE) => state.set_aside += 1,
            _ => continue,
        }
        state.next = state.next.max(number + 1);
    }
    segments.sort_by_key(|segment| segment.number);
    state.segments = segments.into();
    Ok(state)
}
