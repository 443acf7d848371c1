//! A listening socket in, connections served out: one thread with its own runtime per core, all accepting from
//! the one queue of the socket, so that no connection waits for a loop that is busy while another is free.
//! Every wait is bounded: for a first request, between requests, for a place, for the end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::append::LogState;
use super::body::Budget;
use super::inflate::Inflater;
use super::tenant::Tenants;
use super::{Ingest, IngestError, Limits, Serving, route};
use crate::ledger::keeper::{Books, Keeper};

/// Pause after the system refused a connection, mostly for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Time a connection gets to close once it was told to.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Largest request head, and the chunk in which bodies are read.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Largest header block of HTTP/2.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Ping interval of HTTP/2, and how long the answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What all loops share.
pub(super) struct Server {
    pub(super) ingest: Arc<Ingest>,
    pub(super) limits: Limits,
    pub(super) tenants: Tenants,
    pub(super) bodies: Arc<Budget>,
    pub(super) log_state: LogState,
    connections: Arc<Semaphore>,
}

/// One loop's own things beside what is shared.
pub(super) struct Worker {
    pub(super) server: Arc<Server>,
    /// Decompression state that is worth keeping; locked only within one poll.
    pub(super) inflater: Mutex<Inflater>,
    http: auto::Builder<TokioExecutor>,
}

/// Starts one thread per core and waits for the end of all.
pub(super) async fn run(
    listener: std::net::TcpListener,
    ingest: Arc<Ingest>,
    serving: Serving,
    shutdown: CancellationToken,
) -> Result<(), IngestError> {
    let limits = serving.limits;
    let books = Arc::new(Books::new(&ingest.instance));
    let mut keeper = Keeper::new(Arc::clone(&books), Arc::clone(&ingest.log));
    let server = Arc::new(Server {
        tenants: Tenants::new(books),
        bodies: Arc::new(Budget::new(limits.bodies_bytes_max)),
        log_state: LogState::default(),
        connections: Arc::new(Semaphore::new(limits.connections_max)),
        ingest,
        limits,
    });
    // Cancelled when this future is dropped too, or when one loop fails: none is left behind.
    let stop = shutdown.child_token();
    let _stop_on_drop = stop.clone().drop_guard();
    let mut loops = Vec::new();
    for index in 0..serving.cores.max(1) {
        let name = format!("ingest-{index}");
        let socket =
            listener.try_clone().map_err(|source| IngestError::Start { name: name.clone(), source })?;
        loops.push((name.clone(), start(name, socket, Arc::clone(&server), stop.clone())?));
    }
    drop(listener);
    let stopping = stop.clone();
    let kept = tokio::spawn(async move {
        keeper.keep(stopping).await;
        keeper
    });
    let mut outcome = Ok(());
    for (name, ended) in loops {
        let end = ended.await.unwrap_or(Err(IngestError::LoopDied { name }));
        if end.is_err() {
            stop.cancel();
        }
        outcome = outcome.and(end);
    }
    // No request is left: what is not decided never will be.
    if let Ok(mut keeper) = kept.await {
        keeper.end().await;
    }
    outcome
}

type Ended = oneshot::Receiver<Result<(), IngestError>>;

fn start(
    name: String,
    socket: std::net::TcpListener,
    server: Arc<Server>,
    shutdown: CancellationToken,
) -> Result<Ended, IngestError> {
    let (tell, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.clone());
    let failed = |source| IngestError::Start { name: name.clone(), source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name(format!("{name}-large"))
        // Large bodies of this loop are decided beside it, one at a time; those that wait are within the budget.
        .max_blocking_threads(1)
        .build()
        .map_err(failed)?;
    let loop_name = name.clone();
    thread
        .spawn(move || {
            let end = runtime.block_on(accept_until(socket, server, shutdown));
            runtime.shutdown_timeout(CLOSE_GRACE);
            // Nobody listens when `run` was dropped; then nobody needs to know.
            let _ = tell.send(end.map_err(|source| IngestError::Start { name: loop_name, source }));
        })
        .map_err(failed)?;
    Ok(ended)
}

async fn accept_until(
    socket: std::net::TcpListener,
    server: Arc<Server>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::from_std(socket)?;
    let worker = Arc::new(Worker { inflater: Mutex::default(), http: http(), server });
    let connections = TaskTracker::new();
    let mut refused = false;
    loop {
        let permit = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            permit = Arc::clone(&worker.server.connections).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                report_recovery(&mut refused);
                let talk = converse(Arc::clone(&worker), stream, peer, shutdown.clone());
                connections.spawn(async move {
                    talk.await;
                    drop(permit);
                });
                // A loop with work does that first, and leaves the next connection to one without.
                tokio::task::yield_now().await;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut refused, true) {
                    warn!(%error, "cannot accept connections; raise the limit of open files if this lasts");
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    drop(listener);
    connections.close();
    // Late ones are cut when the runtime ends: their clients saw no answer and retry.
    let _ = tokio::time::timeout(worker.server.limits.drain_max, connections.wait()).await;
    Ok(())
}

fn report_recovery(refused: &mut bool) {
    if std::mem::replace(refused, false) {
        info!("connections are accepted again");
    }
}

/// Errors of `accept` that belong to the connection that was taken off the queue, not to the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        // `converse` bounds the wait for a head, for both versions and without a timer per request.
        .header_read_timeout(None)
        // A client may close its sending side early; what it sent is still taken in and answered.
        .half_close(true)
        .pipeline_flush(true)
        .max_buf_size(HEAD_BYTES_MAX);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    http
}

/// Serves one connection until it ends, is silent for too long, or the listener stops.
async fn converse(worker: Arc<Worker>, stream: TcpStream, peer: SocketAddr, shutdown: CancellationToken) {
    // Failing to set it costs latency, nothing else.
    let _ = stream.set_nodelay(true);
    let client = peer.ip().to_canonical();
    let limits = worker.server.limits;
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request| {
        let worker = Arc::clone(&worker);
        let underway = Underway::begin(&activity);
        async move {
            let answer = route::respond(&worker, client, request).await;
            drop(underway);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = pin!(worker.http.serve_connection(TokioIo::new(stream), service));
    let mut patience = pin!(tokio::time::sleep(limits.first_request_max));
    let mut seen = 0;
    let mut state = State::Open;
    loop {
        tokio::select! {
            // In this order, so that an answer written after the stop always tells its client to close.
            biased;
            () = shutdown.cancelled(), if state == State::Open => {
                state = State::Finishing;
                connection.as_mut().graceful_shutdown();
            }
            // How it ended is the client's affair: cut, garbage, or all said.
            _ = connection.as_mut() => return,
            () = patience.as_mut() => {
                if activity.continues(&mut seen) {
                    patience.as_mut().reset(Instant::now() + limits.idle);
                } else if state == State::Closing {
                    return;
                } else {
                    state = State::Closing;
                    connection.as_mut().graceful_shutdown();
                    patience.as_mut().reset(Instant::now() + CLOSE_GRACE);
                }
            }
        }
    }
}

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Takes requests.
    Open,
    /// The listener stops: what is in flight is finished.
    Finishing,
    /// Silent for too long: told to close.
    Closing,
}

/// Requests of one connection: how many began, how many are underway.
#[derive(Default)]
struct Activity {
    begun: AtomicU32,
    underway: AtomicU32,
}

impl Activity {
    /// Whether a request is underway or began since the last look.
    fn continues(&self, seen: &mut u32) -> bool {
        let begun = self.begun.load(Ordering::Relaxed);
        let new = std::mem::replace(seen, begun) != begun;
        new || self.underway.load(Ordering::Relaxed) > 0
    }
}

/// Counts a request as underway until it is dropped.
struct Underway(Arc<Activity>);

impl Underway {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::Relaxed);
        activity.underway.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.underway.fetch_sub(1, Ordering::Relaxed);
    }
}
