//! HTTP requests in, admitted events in the log, one answer per request out.
//! A 200 leaves only after the log acknowledged every record the answer calls accepted; whatever else happens is
//! told per event or as a problem document. Must not write, log or echo anything personal, nor a key.

mod accept;
mod answer;
mod append;
mod body;
mod coding;
mod decide;
mod events;
mod inflate;
mod key;
mod origin;
mod request_id;
mod route;
mod tenant;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Current;
use crate::freshness::Freshness;
use crate::log::Log;
use crate::metrics::Metrics;

/// Connections the kernel keeps for us while every loop is busy; it lowers the number to its own `somaxconn`.
const BACKLOG: i32 = 4096;

/// What ingest works with.
pub struct Ingest {
    /// Apps and their keys; looked at once per request.
    pub config: Current,
    /// Whether a key that is not in `config` is surely unknown.
    pub freshness: Freshness,
    /// Where accepted events become durable.
    pub log: Arc<dyn Log>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Name of this ingest in the records' origin.
    pub instance: String,
    /// Cancelled when this process will stop: everything is still answered, and clients are told to send what comes
    /// next over another connection, before this one is closed between two of their requests.
    pub leaving: CancellationToken,
}

/// Bounds of the listener. Those of an App (body, event, batch, rate) are in its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections at once; more wait in the kernel's queue. Each loop holds one place for the next it accepts.
    pub connections_max: usize,
    /// Most bytes of request bodies held at once, over all connections, as sent and inflated.
    pub bodies_bytes_max: usize,
    /// Longest wait for the first complete request head of a connection.
    pub first_request_max: Duration,
    /// Shortest silence after which a connection is closed; looked at in steps of this length, so it may last
    /// twice as long. Longer than the 60 s after which common load balancers drop an idle connection, so that
    /// they, not we, close first.
    pub idle: Duration,
    /// Longest time from the request's head to the end of its body.
    pub body_max: Duration,
    /// Longest wait for the log; afterwards the client is told to retry.
    pub append_max: Duration,
    /// Longest time the requests in flight get when the listener stops.
    pub drain_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 8192,
            bodies_bytes_max: 256 << 20,
            first_request_max: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body_max: Duration::from_secs(30),
            append_max: Duration::from_secs(15),
            drain_max: Duration::from_secs(20),
        }
    }
}

/// Takes the port, so that a start can fail before anything else runs.
pub fn bind(addr: SocketAddr) -> Result<TcpListener, IngestError> {
    let listener = TcpListener::bind(addr).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => IngestError::PortTaken { addr },
        _ => IngestError::Bind { addr, source },
    })?;
    rustix::net::listen(&listener, BACKLOG)
        .map_err(|errno| IngestError::Bind { addr, source: errno.into() })?;
    listener.set_nonblocking(true).map_err(|source| IngestError::Bind { addr, source })?;
    Ok(listener)
}

/// Serves on one thread per core until `shutdown`, then finishes what is in flight. Returns when all threads ended.
pub async fn serve(
    listener: TcpListener,
    ingest: Arc<Ingest>,
    cores: usize,
    shutdown: CancellationToken,
) -> Result<(), IngestError> {
    serve_within(listener, ingest, Serving { cores, limits: Limits::default() }, shutdown).await
}

/// How widely and within which bounds to serve.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// Threads, at least one.
    pub cores: usize,
    /// Bounds of the listener.
    pub limits: Limits,
}

/// [`serve`] with other bounds than the usual ones.
pub async fn serve_within(
    listener: TcpListener,
    ingest: Arc<Ingest>,
    serving: Serving,
    shutdown: CancellationToken,
) -> Result<(), IngestError> {
    accept::run(listener, ingest, serving, shutdown).await
}

/// Why ingest does not run.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Somebody else listens there.
    #[error("`{addr}` is taken by another process; stop that one or let ingest listen elsewhere")]
    PortTaken {
        /// The address.
        addr: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("ingest cannot listen on `{addr}`; give an address of this machine and a port it may use")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread, its runtime or its handle on the socket could not be made.
    #[error("cannot start the ingest loop `{name}`")]
    Start {
        /// The thread.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A thread ended without being told to.
    #[error("the ingest loop `{name}` ended by a panic")]
    LoopDied {
        /// The thread.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_one_line_that_says_what_to_do() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = first.local_addr().unwrap();
        let error = bind(addr).unwrap_err();
        assert!(matches!(error, IngestError::PortTaken { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("`{addr}` is taken by another process; stop that one or let ingest listen elsewhere")
        );
    }

    #[test]
    fn an_address_of_another_machine_is_refused_with_its_reason() {
        let error = bind("192.0.2.1:80".parse().unwrap()).unwrap_err();
        assert!(matches!(error, IngestError::Bind { .. }), "{error:?}");
    }
}
