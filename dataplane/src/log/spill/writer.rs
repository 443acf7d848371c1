//! The one thread that writes: what waits becomes one frame and one fsync; then, and only then, everyone who waits is
//! answered. After an fsync that failed nothing more is spilled until the process starts again, because the kernel may
//! have dropped the pages; what was spilled before is still replayed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::store::{Segment, Store};
use super::{Shared, frame};
use crate::failpoint::{self, Point};
use crate::log::{LogError, NewRecord};

/// Bytes of one group: what a single request may bring many times over.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Records that wait to be spilled, and who waits for them.
pub(super) struct Ticket {
    pub(super) records: Vec<NewRecord>,
    pub(super) answer: oneshot::Sender<Result<(), LogError>>,
}

/// The newest segment as this thread holds it.
struct Open {
    number: u64,
    file: File,
}

/// Why a group was not written.
enum Failure {
    /// The bound is reached; there may be room later.
    NoRoom,
    /// The disk is full; it may have room later.
    DiskFull(Arc<io::Error>),
    /// Nothing more can be trusted to this disk.
    Broken(Arc<io::Error>),
}

/// Runs until nobody can bring anything any more.
pub(super) fn run(shared: &Shared, mut waiting: mpsc::Receiver<Ticket>) {
    let (mut open, mut broken) = (None, None);
    while let Some(first) = waiting.blocking_recv() {
        let group = gather(first, &mut waiting);
        let written = match &broken {
            Some(source) => Err(Failure::Broken(Arc::clone(source))),
            None => write(shared, &mut open, &group),
        };
        if let Err(Failure::Broken(source)) = &written
            && broken.is_none()
        {
            let error = source.as_ref() as &dyn std::error::Error;
            tracing::error!(error, "the spill could not be written; nothing is spilled until restart");
            broken = Some(Arc::clone(source));
        }
        if let Err(error) = told(&written, shared) {
            shared.troubles.met("spill", &error);
        }
        if written.is_ok() {
            shared.count("spilled", group.iter().map(|ticket| ticket.records.len()).sum());
        }
        // Also after a failure: the replay may wait for this write to end.
        shared.spilled.notify_one();
        for Ticket { answer, .. } in group {
            // Who does not wait any more does not want to know.
            let _gone = answer.send(told(&written, shared));
        }
        shared.report();
    }
}

fn gather(first: Ticket, waiting: &mut mpsc::Receiver<Ticket>) -> Vec<Ticket> {
    let size = |ticket: &Ticket| -> usize {
        ticket.records.iter().map(|record| record.key.len() + record.value.len()).sum()
    };
    let mut bytes = size(&first);
    let mut group = vec![first];
    while bytes < GROUP_BYTES_MAX
        && let Ok(ticket) = waiting.try_recv()
    {
        bytes += size(&ticket);
        group.push(ticket);
    }
    group
}

fn write(shared: &Shared, open: &mut Option<Open>, group: &[Ticket]) -> Result<(), Failure> {
    let spilled_at = Timestamp::now().as_millisecond();
    let mut bytes = Vec::new();
    frame::encode(group.iter().flat_map(|ticket| &ticket.records), spilled_at, &mut bytes);
    let store = &shared.store;
    let segment = store.begin(bytes.len() as u64).map_err(|_| Failure::NoRoom)?;
    let written = append(store, open, segment, &bytes);
    match &written {
        Ok(()) => store.wrote(bytes.len() as u64, spilled_at),
        Err(_) => store.gave_up(),
    }
    written
}

fn append(store: &Store, open: &mut Option<Open>, segment: Segment, bytes: &[u8]) -> Result<(), Failure> {
    let broken = |source| Failure::Broken(Arc::new(source));
    let reached = |point| failpoint::reach_blocking(point).map_err(|error| broken(io::Error::other(error)));
    reached(Point::SpillGrouped)?;
    let file = match open.take().filter(|open| open.number == segment.number) {
        Some(Open { file, .. }) => file,
        None => create(store, segment.number).map_err(no_room_or_broken)?,
    };
    let file = &open.insert(Open { number: segment.number, file }).file;
    if let Err(error) = (&mut &*file).write_all(bytes) {
        // What is left of it must not stand before the next frame.
        file.set_len(segment.bytes).map_err(broken)?;
        io::Seek::seek(&mut &*file, io::SeekFrom::Start(segment.bytes)).map_err(broken)?;
        return Err(no_room_or_broken(error));
    }
    file.sync_data().map_err(broken)?;
    reached(Point::SpillSynced)
}

fn create(store: &Store, number: u64) -> io::Result<File> {
    // It may be there, empty, from an attempt that found no room.
    let file = OpenOptions::new().create(true).write(true).truncate(true).open(store.path(number))?;
    File::open(store.folder())?.sync_all()?;
    Ok(file)
}

fn no_room_or_broken(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::DiskFull(Arc::new(error)),
        _ => Failure::Broken(Arc::new(error)),
    }
}

fn told(written: &Result<(), Failure>, shared: &Shared) -> Result<(), LogError> {
    match written {
        Ok(()) => Ok(()),
        Err(Failure::NoRoom) => Err(LogError::SpillFull { bytes_max: shared.store.bytes_max() }),
        Err(Failure::DiskFull(source)) => Err(LogError::SpillDiskFull { source: Arc::clone(source) }),
        Err(Failure::Broken(source)) => {
            Err(LogError::Failed { step: "spill", source: Some(Arc::clone(source) as _) })
        }
    }
}
