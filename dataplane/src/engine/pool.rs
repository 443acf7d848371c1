//! Work in, its outcome out: one engine handle per statement in flight, opened for it and closed after it, so
//! that no statement sees another's settings, parameters or database. Opening a handle costs 0.06 ms, less than
//! checking that a used one is clean. How many run and wait is bounded here.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::spawn_blocking;

use super::ffi::{Api, Connection, LibraryError, Output, Stats};
use super::guard;
use super::refusal::{Refusal, code};
use super::users::User;

/// Statements that run at once.
pub(super) const RUNNING_MAX: usize = 64;
/// Requests that send their body or wait for a place. More are told to come back.
const WAITING_MAX: usize = 256;
/// Longest wait for a place to run.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often a cancelled statement is told again, and for how long: it may not have begun yet.
const KILL_PAUSE: Duration = Duration::from_millis(200);
const KILL_ATTEMPTS: usize = 50;
/// How long running statements may take to end when the engine stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// The engine, open on one data folder.
pub(super) struct Pool {
    engine: Arc<Engine>,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    ids: Arc<Mutex<HashSet<String>>>,
}

struct Engine {
    api: &'static Api,
    data_dir: PathBuf,
    /// Keeps the engine up between statements; taken when it stops.
    anchor: Mutex<Option<Connection>>,
}

/// One statement and all that goes with it.
pub(super) struct Work {
    /// Statements that prepare the handle: settings, database.
    pub(super) setup: Vec<String>,
    /// Whom the statement must be checked for, and the text to check.
    pub(super) check: Option<Check>,
    /// Runs after the check, before the statement.
    pub(super) readonly: Option<u8>,
    pub(super) sql: Vec<u8>,
    pub(super) format: String,
    pub(super) parameters: Vec<(String, String)>,
    /// The file that the statement reads from or writes to; open until the statement ended.
    pub(super) file: Held,
}

/// A restricted user and what to look at.
pub(super) struct Check {
    pub(super) user: Arc<User>,
    pub(super) database: String,
    pub(super) sql: Vec<u8>,
}

/// What is kept open for a statement: the file that it names by its descriptor.
pub(super) type Held = Option<Box<dyn Send>>;

/// What a statement left behind.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) stats: Stats,
    /// Rows that were not written to a file.
    pub(super) bytes: Vec<u8>,
}

/// What happens to a statement whose caller went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// It is stopped: nobody reads what it computes.
    Stop,
    /// It runs to its end, as on a server: a change that was sent in full is made in full.
    Finish,
}

impl Pool {
    /// Opens the engine and checks that it answers.
    pub(super) fn open(api: &'static Api, data_dir: &Path) -> Result<Self, LibraryError> {
        let anchor = api.connect(data_dir)?;
        let engine = Engine { api, data_dir: data_dir.to_owned(), anchor: Mutex::new(Some(anchor)) };
        Ok(Self {
            engine: Arc::new(engine),
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            ids: Arc::default(),
        })
    }

    /// A place among those that send and wait.
    pub(super) fn queue(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let full = |_| too_many(format!("{WAITING_MAX} requests wait already"));
        Arc::clone(&self.waiting).try_acquire_owned().map_err(full)
    }

    /// Reserves a query id, so that no two statements run under one.
    pub(super) fn reserve_id(&self, id: &str) -> Result<ReservedId, Refusal> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if !ids.insert(id.to_owned()) {
            let text = format!("Query with id = {id} is already running");
            return Err(Refusal::new(code::QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING, text));
        }
        Ok(ReservedId { ids: Arc::clone(&self.ids), id: id.to_owned() })
    }

    /// Starts a statement as soon as there is a place.
    pub(super) async fn start(
        &self,
        work: Work,
        id: ReservedId,
        abandoned: Abandoned,
    ) -> Result<Running, Refusal> {
        let place = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.running).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(too_many(format!("no place to run became free in {} s", WAIT_MAX.as_secs())));
        };
        Ok(self.launch(work, abandoned, (place, id)))
    }

    /// Starts a small statement of our own beside all others: a busy engine must not look like a hung one.
    pub(super) fn start_now(&self, work: Work) -> Running {
        self.launch(work, Abandoned::Stop, ())
    }

    /// Runs a statement on a thread of its own; `kept` is let go when it ended.
    fn launch<K: Send + 'static>(&self, work: Work, abandoned: Abandoned, kept: K) -> Running {
        let (send, outcome) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let (engine, seen) = (Arc::clone(&self.engine), Arc::clone(&ticket));
        spawn_blocking(move || {
            let result = engine.run(work, &seen);
            drop(kept);
            // The receiver is gone when the caller went away; then nobody wants the outcome.
            let _ = send.send(result);
        });
        Running { engine: Arc::clone(&self.engine), outcome: Some(outcome), ticket, abandoned }
    }

    /// Waits for running statements, then stops the engine. False when some did not end in time.
    pub(super) async fn close(&self) -> bool {
        let all = u32::try_from(RUNNING_MAX).expect("a small constant");
        let drained = tokio::time::timeout(DRAIN_MAX, self.running.acquire_many(all)).await.is_ok();
        self.running.close();
        let anchor = self.engine.anchor.lock().unwrap_or_else(PoisonError::into_inner).take();
        match spawn_blocking(move || drop(anchor)).await {
            Ok(()) => drained,
            Err(_) => false,
        }
    }
}

fn too_many(text: String) -> Refusal {
    Refusal::new(
        code::TOO_MANY_SIMULTANEOUS_QUERIES,
        format!("Too many simultaneous queries. Maximum: {RUNNING_MAX}; {text}"),
    )
}

/// A query id in use; free again when dropped.
pub(super) struct ReservedId {
    ids: Arc<Mutex<HashSet<String>>>,
    id: String,
}

impl Drop for ReservedId {
    fn drop(&mut self) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// A statement on its way.
pub(super) struct Running {
    engine: Arc<Engine>,
    outcome: Option<oneshot::Receiver<Result<Done, Refusal>>>,
    ticket: Arc<Ticket>,
    abandoned: Abandoned,
}

impl Running {
    /// Waits for the end. To be awaited to completion once.
    pub(super) async fn outcome(&mut self) -> Result<Done, Refusal> {
        let lost = || Refusal::new(code::UNKNOWN_EXCEPTION, "the statement ended without an outcome");
        let Some(outcome) = self.outcome.as_mut() else { return Err(lost()) };
        let result = outcome.await.unwrap_or_else(|_| Err(lost()));
        self.outcome = None;
        result
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.outcome.is_none() || self.abandoned == Abandoned::Finish {
            return;
        }
        self.ticket.cancelled.store(true, Ordering::Release);
        let (engine, ticket) = (Arc::clone(&self.engine), Arc::clone(&self.ticket));
        tokio::spawn(async move {
            for _ in 0..KILL_ATTEMPTS {
                let (engine, seen) = (Arc::clone(&engine), Arc::clone(&ticket));
                match spawn_blocking(move || engine.kill(&seen)).await {
                    Ok(Alive::Yes) => tokio::time::sleep(KILL_PAUSE).await,
                    Ok(Alive::No) | Err(_) => return,
                }
            }
            tracing::warn!("a cancelled statement of the engine did not stop");
        });
    }
}

/// Where a statement runs, for whoever must stop it.
#[derive(Default)]
struct Ticket {
    cancelled: AtomicBool,
    stage: Mutex<Stage>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Preparing,
    /// In the engine, on the thread with this kernel id.
    InEngine(u32),
    Ended,
}

enum Alive {
    Yes,
    No,
}

impl Ticket {
    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

impl Engine {
    fn run(&self, work: Work, ticket: &Ticket) -> Result<Done, Refusal> {
        let result = self.prepare_and_run(&work, ticket);
        ticket.set(Stage::Ended);
        // Only now: a reader of the statement's pipe sees its end.
        drop(work.file);
        result
    }

    fn prepare_and_run(&self, work: &Work, ticket: &Ticket) -> Result<Done, Refusal> {
        let mut connection =
            self.api.connect(&self.data_dir).map_err(|error| Refusal::new(code::UNKNOWN_EXCEPTION, error))?;
        for statement in &work.setup {
            ask(&mut connection, statement.as_bytes(), &[])?;
        }
        if let Some(check) = &work.check {
            let question = [b"EXPLAIN AST ", &check.sql[..]].concat();
            let tree = ask(&mut connection, &question, &work.parameters)?;
            guard::check_tree(&String::from_utf8_lossy(tree.bytes()), &check.database, &check.user)?;
        }
        if let Some(level) = work.readonly {
            ask(&mut connection, format!("SET readonly = {level}").as_bytes(), &[])?;
        }
        ticket.set(Stage::InEngine(thread_id()));
        if ticket.cancelled.load(Ordering::Acquire) {
            return Err(Refusal::new((394, "QUERY_WAS_CANCELLED"), "Query was cancelled before it began"));
        }
        // The comment keeps the engine's client from taking `exit` and its like for a command to itself.
        let sql = [b"/**/", &work.sql[..]].concat();
        let output = connection
            .query(&sql, &work.format, &work.parameters)
            .map_err(|text| Refusal::from_engine(&text))?;
        Ok(Done { stats: output.stats(), bytes: output.bytes().to_vec() })
    }

    /// Stops whatever statement runs on the ticket's thread. The lock keeps the thread from going on to
    /// another statement meanwhile.
    fn kill(&self, ticket: &Ticket) -> Alive {
        let stage = ticket.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match *stage {
            Stage::Ended => Alive::No,
            Stage::Preparing => Alive::Yes,
            Stage::InEngine(thread) => {
                let sql =
                    format!("KILL QUERY WHERE has(thread_ids, {thread}) AND query_id != queryID() ASYNC");
                let killed = self
                    .api
                    .connect(&self.data_dir)
                    .map(|mut connection| connection.query(sql.as_bytes(), "Null", &[]).map(drop));
                if let Ok(Err(error)) = killed {
                    tracing::warn!(error, "the engine refused to stop a statement");
                }
                Alive::Yes
            }
        }
    }
}

fn ask(connection: &mut Connection, sql: &[u8], parameters: &[(String, String)]) -> Result<Output, Refusal> {
    connection.query(sql, "TSVRaw", parameters).map_err(|text| Refusal::from_engine(&text))
}

/// The kernel's id of this thread, which the engine lists in `system.processes`; 0 names no thread.
fn thread_id() -> u32 {
    let link = fs::read_link("/proc/thread-self").unwrap_or_default();
    link.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).unwrap_or(0)
}
