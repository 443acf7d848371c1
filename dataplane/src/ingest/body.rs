//! A request body in, its bytes out, within the App's limit, a time limit, and a budget over all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

/// What is still read of a body that was refused, so that its sender gets to see the answer: a connection that
/// is closed while its peer writes loses what was sent to the peer.
const LINGER_BYTES_MAX: usize = 1 << 20;
/// How long for.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// Largest first allocation; a body may end long before the length it announced.
const FIRST_ALLOCATION_BYTES_MAX: usize = 64 << 10;

/// Bytes of bodies that all connections together may hold.
pub(super) struct Budget {
    free: AtomicUsize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { free: AtomicUsize::new(bytes_max) }
    }
}

/// A part of the budget, given back when dropped.
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    /// Nothing yet.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Takes more.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), BodyError> {
        let taken = self
            .budget
            .free
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes))
            .is_ok();
        if !taken {
            return Err(BodyError::BudgetSpent);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// How much may be read, and for how long.
#[derive(Clone, Copy)]
pub(super) struct ReadMax {
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// Reads the body to its end. One that announces too many bytes is refused before any is read.
pub(super) async fn read<B>(body: &mut B, max: ReadMax, held: &mut Reservation) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let announced = body.size_hint().lower();
    if announced > max.bytes as u64 {
        return Err(BodyError::TooLarge { bytes_max: max.bytes });
    }
    match tokio::time::timeout(max.time, collect(body, max.bytes, held)).await {
        Ok(read) => read,
        Err(_elapsed) => Err(BodyError::TimedOut { seconds_max: max.time.as_secs_f32() }),
    }
}

async fn collect<B>(body: &mut B, bytes_max: usize, held: &mut Reservation) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let Some(first) = next_chunk(body, (0, bytes_max), held).await? else {
        return Ok(Bytes::new());
    };
    if body.is_end_stream() {
        // Mostly: a body that came in one piece is not copied.
        return Ok(first);
    }
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(0);
    let mut whole = BytesMut::with_capacity(first.len() + announced.min(FIRST_ALLOCATION_BYTES_MAX));
    whole.extend_from_slice(&first);
    drop(first);
    while let Some(chunk) = next_chunk(body, (whole.len(), bytes_max), held).await? {
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

async fn next_chunk<B>(
    body: &mut B,
    (have, bytes_max): (usize, usize),
    held: &mut Reservation,
) -> Result<Option<Bytes>, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        // Trailers say nothing about events.
        let Ok(chunk) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if chunk.len() > bytes_max - have {
            return Err(BodyError::TooLarge { bytes_max });
        }
        held.grow(chunk.len())?;
        if !chunk.is_empty() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}

/// Reads on a little in a body that was refused, beside the answer, and then lets go of it.
pub(super) fn linger(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(LINGER_MAX, async move {
        let mut left = LINGER_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    }));
}

/// Why a body could not be read.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum BodyError {
    /// Larger than the App takes.
    #[error("the body is over the App's limit of {bytes_max} bytes; send smaller batches")]
    TooLarge {
        /// The App's limit.
        bytes_max: usize,
    },
    /// It came too slowly.
    #[error("the body did not arrive within {seconds_max} s")]
    TimedOut {
        /// The limit.
        seconds_max: f32,
    },
    /// The sender broke off, or its framing makes no sense.
    #[error("the body ended early or its framing is broken")]
    Broken,
    /// All connections together hold as much as they may.
    #[error("too many large requests at once; retry later")]
    BudgetSpent,
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    const MAX: ReadMax = ReadMax { bytes: 8, time: Duration::from_secs(5) };

    fn chunks(chunks: &'static [&'static str]) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
        StreamBody::new(futures::stream::iter(
            chunks.iter().map(|chunk| Ok(Frame::data(Bytes::from(*chunk)))),
        ))
    }

    async fn read_of(parts: &'static [&'static str], budget: usize) -> Result<Bytes, BodyError> {
        let budget = Arc::new(Budget::new(budget));
        let mut held = Reservation::new(&budget);
        let read = read(&mut chunks(parts), MAX, &mut held).await;
        drop(held);
        assert!(budget.free.load(Ordering::Relaxed) > 0, "what was held is given back");
        read
    }

    #[tokio::test]
    async fn reads_what_fits_and_stops_where_it_does_not() {
        assert_eq!(read_of(&[], 64).await.unwrap(), "");
        assert_eq!(read_of(&["12345678"], 64).await.unwrap(), "12345678");
        assert_eq!(read_of(&["1234", "", "5678"], 64).await.unwrap(), "12345678");
        assert!(matches!(read_of(&["123456789"], 64).await, Err(BodyError::TooLarge { .. })));
        assert!(matches!(read_of(&["1234", "56789"], 64).await, Err(BodyError::TooLarge { bytes_max: 8 })));
        assert_eq!(read_of(&["1234", "5678"], 7).await, Err(BodyError::BudgetSpent));
    }

    #[tokio::test]
    async fn refuses_an_announced_length_without_reading() {
        let budget = Arc::new(Budget::new(64));
        let mut body = Full::new(Bytes::from_static(b"123456789"));
        let refused = read(&mut body, MAX, &mut Reservation::new(&budget)).await;
        assert_eq!(refused, Err(BodyError::TooLarge { bytes_max: 8 }));
        assert!(!body.is_end_stream(), "nothing was taken from it");
    }

    #[tokio::test]
    async fn gives_up_on_a_body_that_never_ends() {
        let budget = Arc::new(Budget::new(64));
        let stalled = futures::stream::pending::<Result<Frame<Bytes>, std::io::Error>>();
        let max = ReadMax { time: Duration::from_millis(10), ..MAX };
        let refused = read(&mut StreamBody::new(stalled), max, &mut Reservation::new(&budget)).await;
        assert_eq!(refused, Err(BodyError::TimedOut { seconds_max: 0.01 }));
    }
}
