//! A body and its App in; what becomes of every event, and the records to append, out.
//! All of a request that costs CPU is one synchronous call, so that a large one can run beside the loop.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use super::accept::Worker;
use super::append::{Destination, Encoder};
use super::body::{BodyError, Reservation};
use super::coding::Coding;
use super::inflate::{InflateError, Inflater};
use super::request_id;
use crate::admit::{Admitted, BodyRejection, Rejection, RequestContext, admit_body};
use crate::config::App;
use crate::log::NewRecord;

/// Plain bodies up to this are decided on the loop: a few hundred events of usual size, about a millisecond in
/// which the other connections of the loop wait. Larger ones go beside it, at the price of two thread switches.
const INLINE_BYTES_MAX: usize = 256 << 10;
/// The same for compressed bodies; events shrink 15 to 30 times.
const INLINE_COMPRESSED_BYTES_MAX: usize = 16 << 10;

/// A request body and all that its decision needs.
pub(super) struct Job {
    pub(super) app: Arc<App>,
    pub(super) body: Bytes,
    pub(super) coding: Option<Coding>,
    pub(super) sender: Sender,
    pub(super) destination: Destination,
    pub(super) held: Reservation,
}

/// Who sent the body, and when it was complete.
pub(super) struct Sender {
    pub(super) received_at: Timestamp,
    pub(super) client: IpAddr,
    pub(super) user_agent: Option<String>,
    pub(super) request_id: String,
}

/// What became of the events, in their order, and the records of the accepted ones, in the same order.
pub(super) struct Decided {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) records: Vec<NewRecord>,
    /// Size of the body, inflated.
    pub(super) body_bytes: usize,
    /// Kept until the answer, because the records are as large as the body was.
    pub(super) held: Reservation,
}

/// What became of one event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Admitted; durable once the log says so.
    Accepted(Uuid),
    /// Not taken.
    Rejected {
        /// For programs and metrics.
        code: &'static str,
        /// For the person who wrote the sender.
        message: String,
    },
}

/// Decides on the loop, or beside it when that would keep others waiting.
pub(super) async fn run(worker: &Worker, job: Job) -> Result<Decided, DecideError> {
    if job.is_small() {
        let mut inflater = worker.inflater.lock().unwrap_or_else(PoisonError::into_inner);
        return guarded(|| job.run(&mut inflater));
    }
    let beside = tokio::task::spawn_blocking(move || guarded(|| job.run(&mut Inflater::default())));
    // The only way not to get an answer is a runtime that ends.
    beside.await.unwrap_or(Err(DecideError::Stopping))
}

impl Job {
    fn is_small(&self) -> bool {
        let inline_max = if self.coding.is_some() { INLINE_COMPRESSED_BYTES_MAX } else { INLINE_BYTES_MAX };
        self.body.len() <= inline_max
    }

    fn run(mut self, inflater: &mut Inflater) -> Result<Decided, DecideError> {
        let body = self.inflated(inflater)?;
        let decided = decide(&self.app, &body, &self.sender)?;
        let mut encoder = Encoder::new(self.destination, self.sender.received_at, body.len());
        // Room for outcomes only: collected from the events, the list would keep the events' room until the answer.
        let mut outcomes = Vec::with_capacity(decided.len());
        for event in decided {
            outcomes.push(match event {
                Ok(Admitted { event }) => {
                    let id = event.event_id;
                    encoder.add(event);
                    Outcome::Accepted(id)
                }
                Err(Rejection { index: _, code, message }) => {
                    Outcome::Rejected { code: code.as_str(), message }
                }
            });
        }
        Ok(Decided { outcomes, records: encoder.finish(), body_bytes: body.len(), held: self.held })
    }

    fn inflated(&mut self, inflater: &mut Inflater) -> Result<Bytes, DecideError> {
        let Some(coding) = self.coding else { return Ok(self.body.clone()) };
        let bytes_max = bytes_max(&self.app);
        let body = inflater.inflate(coding, &self.body, bytes_max)?;
        self.held.grow(body.len())?;
        Ok(body.into())
    }
}

/// Largest body of the App, before and after decompression.
pub(super) fn bytes_max(app: &App) -> usize {
    usize::try_from(app.config.ingest.max_body_bytes).unwrap_or(usize::MAX - 1)
}

/// The one place that asks admission.
fn decide(
    app: &App,
    body: &[u8],
    sender: &Sender,
) -> Result<Vec<Result<Admitted, Rejection>>, BodyRejection> {
    let mut context = RequestContext {
        received_at: sender.received_at,
        client_ip: Some(sender.client),
        user_agent: sender.user_agent.as_deref(),
        trace_id: &sender.request_id,
        ids: &mut request_id::new_event_id,
    };
    admit_body(app, body, &mut context)
}

/// A panic in there is our bug. It costs the one request that met it, not the loop with all its connections.
fn guarded<T>(decide: impl FnOnce() -> Result<T, DecideError>) -> Result<T, DecideError> {
    catch_unwind(AssertUnwindSafe(decide)).unwrap_or(Err(DecideError::Panicked))
}

/// Why a body as a whole is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecideError {
    /// It could not be decompressed.
    #[error(transparent)]
    Inflate(#[from] InflateError),
    /// There is no room for it now.
    #[error(transparent)]
    Held(#[from] BodyError),
    /// It is no event and no batch.
    #[error(transparent)]
    Body(#[from] BodyRejection),
    /// A bug of ours.
    #[error("the decision on a request panicked")]
    Panicked,
    /// The listener ends.
    #[error("ingest is stopping; retry elsewhere or later")]
    Stopping,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_of_one_request() {
        let panicked = guarded::<()>(|| panic!("a bug"));
        assert!(matches!(panicked, Err(DecideError::Panicked)));
        assert!(matches!(guarded(|| Ok(1)), Ok(1)));
    }
}
