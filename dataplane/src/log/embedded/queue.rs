//! The bounded queue in front of the writer. In come operations, out go groups of them; once the log has failed or
//! was closed, everything is answered at once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::log::LogError;
use crate::log::local::plan::{Operation, Outcome};
use crate::log::local::{Cause, lock};

/// Most bytes written by one commit, so that the first in a group does not wait long for the last.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What the caller waits for.
pub(super) type Answer = oneshot::Receiver<Result<Outcome, LogError>>;

/// An operation and who waits for it.
pub(super) struct Ticket {
    pub(super) operation: Operation,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Outcome, LogError>>,
}

/// The queue.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    bytes_max: usize,
}

#[derive(Default)]
struct Waiting {
    tickets: VecDeque<Ticket>,
    /// Of the tickets here and of those being written.
    bytes: usize,
    end: Option<End>,
}

/// Why nothing more is taken.
#[derive(Clone)]
pub(super) enum End {
    Closed,
    Failed { step: &'static str, source: Option<Cause> },
}

impl End {
    /// What a caller is told.
    pub(super) fn error(&self) -> LogError {
        match self {
            Self::Closed => LogError::Closed,
            Self::Failed { step, source } => LogError::Failed { step, source: source.clone() },
        }
    }
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { waiting: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    /// Why nothing more is taken, if so.
    pub(super) fn ended(&self) -> Option<LogError> {
        lock(&self.waiting).end.as_ref().map(End::error)
    }

    /// Adds an operation, or refuses it when there is no room. What does not add records is small and always taken:
    /// a full queue must not keep consumers from committing what they have done.
    pub(super) fn push(&self, operation: Operation) -> Result<Answer, LogError> {
        let bytes = operation.bytes();
        let mut waiting = lock(&self.waiting);
        if let Some(end) = &waiting.end {
            return Err(end.error());
        }
        if operation.adds_records() {
            if bytes > self.bytes_max {
                return Err(LogError::TooLarge { bytes, bytes_max: self.bytes_max });
            }
            if waiting.bytes + bytes > self.bytes_max {
                return Err(LogError::QueueFull);
            }
        }
        let (answer, receiver) = oneshot::channel();
        waiting.bytes += bytes;
        waiting.tickets.push_back(Ticket { operation, bytes, answer });
        drop(waiting);
        self.changed.notify_one();
        Ok(receiver)
    }

    /// What there is, up to [`GROUP_BYTES_MAX`]; waits for a first one. `None` when the log has ended and nothing
    /// is left to do. No lingering for more: while one group is written the next one gathers by itself.
    pub(super) fn take(&self) -> Option<Vec<Ticket>> {
        let mut waiting = lock(&self.waiting);
        while waiting.tickets.is_empty() {
            if waiting.end.is_some() {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = 0;
        let fitting = waiting
            .tickets
            .iter()
            .take_while(|ticket| {
                bytes += ticket.bytes;
                bytes <= GROUP_BYTES_MAX
            })
            .count();
        Some(waiting.tickets.drain(..fitting.max(1)).collect())
    }

    /// Gives back the room of operations that were answered.
    pub(super) fn give_back(&self, bytes: usize) {
        lock(&self.waiting).bytes -= bytes;
    }

    /// Bytes waiting or being written.
    pub(super) fn bytes(&self) -> usize {
        lock(&self.waiting).bytes
    }

    /// Why nothing more is taken, if so.
    pub(super) fn end(&self) -> Option<End> {
        lock(&self.waiting).end.clone()
    }

    /// Takes nothing more. What waits is still written.
    pub(super) fn close(&self) {
        lock(&self.waiting).end.get_or_insert(End::Closed);
        self.changed.notify_all();
    }

    /// Takes nothing more, ever, and tells so to all who wait.
    pub(super) fn fail(&self, step: &'static str, source: Option<Cause>) -> End {
        let end = End::Failed { step, source };
        let mut waiting = lock(&self.waiting);
        waiting.end = Some(end.clone());
        let tickets = std::mem::take(&mut waiting.tickets);
        waiting.bytes -= tickets.iter().map(|ticket| ticket.bytes).sum::<usize>();
        drop(waiting);
        for ticket in tickets {
            let _gone = ticket.answer.send(Err(end.error()));
        }
        self.changed.notify_all();
        end
    }
}
