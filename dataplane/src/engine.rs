//! ClickHouse itself: libchdb, opened at run time, behind ClickHouse's HTTP protocol.
//!
//! In: a data folder, an address, perhaps a users file. Out: a server that `curl`, the `clickhouse` crate and
//! our own store cannot tell from ClickHouse within the contract (`tests/engine.rs`). It may crash: [`run`] is
//! meant for a process of its own, and [`supervise`] keeps that process alive.
//!
//! A request goes [`http`] (what is asked) → [`sql`] (which statement) → [`guard`] (may this user) → [`pool`]
//! (a handle of its own) → [`ffi`] (the engine).

mod deduplication;
mod ffi;
mod frames;
mod guard;
mod http;
pub mod library;
mod pool;
mod refusal;
mod spool;
mod sql;
mod supervise;
mod users;

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub use ffi::LibraryError;
pub use supervise::{EngineState, Supervised, Supervisor, supervise};
pub use users::UsersError;

/// How long open requests may take to end when the engine stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How to run the engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything the engine keeps. One process at a time.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The library; None looks into the cache of `make engine` and beside the program.
    pub library: Option<PathBuf>,
    /// Who may ask; None admits every program of this machine and no one else.
    pub users: Option<PathBuf>,
    /// End at once when standard input ends, because whoever started us is gone.
    pub exit_with_stdin: bool,
}

/// Arguments of `millrace-dataplane engine`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Folder for everything the engine keeps; created if missing
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address of the ClickHouse HTTP interface; other than loopback only with --users
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8123")]
    pub listen: SocketAddr,
    /// Path of libchdb.so; default: where `make engine` put it, or beside this program
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
    /// YAML or JSON file with `users: [{name, password_sha256, databases, readonly}]`
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// End when standard input ends (for a supervising parent)
    #[arg(long)]
    pub exit_with_stdin: bool,
}

impl From<Args> for Settings {
    fn from(args: Args) -> Self {
        let Args { data_dir, listen, library, users, exit_with_stdin } = args;
        Self { data_dir, listen, library, users, exit_with_stdin }
    }
}

/// Why the engine does not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Everyone could do everything.
    #[error(
        "without a users file the engine listens on loopback only, not on `{listen}`; give it one with `--users`"
    )]
    NotLoopback {
        /// The address.
        listen: SocketAddr,
    },
    /// The users file is not right.
    #[error("the engine's users are not known")]
    Users {
        /// Why.
        source: UsersError,
    },
    /// The data folder cannot be made or locked.
    #[error("cannot use the data folder `{}`", path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the data folder `{}` is used by another engine; stop it, or choose another `--data-dir`", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on `{listen}`; choose another address with `--listen`")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No library.
    #[error(transparent)]
    Missing {
        /// Where it was looked for.
        #[from]
        source: library::Missing,
    },
    /// The library is not usable.
    #[error("the engine does not start")]
    Library {
        /// Why.
        source: LibraryError,
    },
    /// It started, but answers nothing.
    #[error("the engine opened its data but does not answer: {text}")]
    Silent {
        /// The engine's words.
        text: String,
    },
    /// The listener broke.
    #[error("the engine stopped serving")]
    Serve {
        /// Why.
        source: io::Error,
    },
}

/// Serves until `shutdown`, then lets open requests end and closes the data folder.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), EngineError> {
    if settings.exit_with_stdin {
        end_with_stdin();
    }
    let users = load_users(&settings)?;
    let library = library::find(&library::places(
        settings.library.as_deref(),
        library::default_cache().as_deref(),
        std::env::current_exe().ok().as_deref(),
    ))?;
    let (_lock, data_dir) = lock(&settings.data_dir)?;
    let listen_error = |source| EngineError::Listen { listen: settings.listen, source };
    let listener = TcpListener::bind(settings.listen).await.map_err(listen_error)?;
    let repaired = deduplication::repair(&data_dir)
        .map_err(|source| EngineError::DataDir { path: settings.data_dir.clone(), source })?;
    if repaired > 0 {
        tracing::warn!(
            records = repaired,
            "blocks that were lost when the engine was killed may be sent again"
        );
    }
    let pool = open(library, data_dir.clone()).await?;
    let server =
        http::Server::start(pool, users, data_dir).await.map_err(|text| EngineError::Silent { text })?;
    let server = Arc::new(server);
    tracing::info!(listen = %settings.listen, "the engine answers");
    let served = serve(listener, Arc::clone(&server), shutdown).await;
    if !server.pool.close().await {
        tracing::warn!(
            "the engine stopped while statements were running; they are undone or repeated by their senders"
        );
    }
    served.map_err(|source| EngineError::Serve { source })
}

async fn serve(
    listener: TcpListener,
    server: Arc<http::Server>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let graceful = shutdown.clone();
    let served =
        axum::serve(listener, http::router(server)).with_graceful_shutdown(graceful.cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        served = async { served.await } => served,
        () = overdue => Ok(()),
    }
}

fn load_users(settings: &Settings) -> Result<Option<users::Users>, EngineError> {
    match &settings.users {
        Some(path) => users::Users::load(path).map(Some).map_err(|source| EngineError::Users { source }),
        None if settings.listen.ip().is_loopback() => Ok(None),
        None => Err(EngineError::NotLoopback { listen: settings.listen }),
    }
}

/// Makes and locks the data folder; the lock lasts as long as the file.
fn lock(path: &Path) -> Result<(File, PathBuf), EngineError> {
    let error = |source| EngineError::DataDir { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error)?;
    let path = path.canonicalize().map_err(error)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("engine.lock"))
        .map_err(error)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((file, path)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(EngineError::Locked { path }),
        Err(source) => Err(error(source.into())),
    }
}

async fn open(library: PathBuf, data_dir: PathBuf) -> Result<pool::Pool, EngineError> {
    let open = move || ffi::Api::load(&library).and_then(|api| pool::Pool::open(api, &data_dir));
    match spawn_blocking(open).await {
        Ok(opened) => opened.map_err(|source| EngineError::Library { source }),
        Err(error) => Err(EngineError::Silent { text: error.to_string() }),
    }
}

/// Ends the process when standard input ends: no drain, no destructors, as if it had been killed. What was
/// acknowledged is on disk; the rest its senders repeat. A thread, so that a stuck runtime cannot delay it.
fn end_with_stdin() {
    std::thread::spawn(|| {
        let mut stdin = io::stdin().lock();
        let mut ignored = [0; 256];
        while !matches!(stdin.read(&mut ignored), Ok(0) | Err(_)) {}
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(listen: &str, data_dir: &Path) -> Settings {
        Settings {
            data_dir: data_dir.to_owned(),
            listen: listen.parse().unwrap(),
            library: Some(PathBuf::from("/nowhere/libchdb.so")),
            users: None,
            exit_with_stdin: false,
        }
    }

    async fn refused(settings: Settings) -> EngineError {
        run(settings, CancellationToken::new()).await.unwrap_err()
    }

    #[tokio::test]
    async fn listens_beyond_loopback_only_with_users() {
        let dir = tempfile::tempdir().unwrap();
        let error = refused(settings("0.0.0.0:0", dir.path())).await;
        assert!(matches!(error, EngineError::NotLoopback { .. }), "{error}");
        assert!(error.to_string().contains("--users"));
    }

    #[tokio::test]
    async fn a_missing_library_is_one_clear_line() {
        let dir = tempfile::tempdir().unwrap();
        let text = refused(settings("127.0.0.1:0", dir.path())).await.to_string();
        assert!(text.contains("make engine") && text.contains("--library") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn a_locked_folder_is_refused_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = lock(dir.path()).unwrap();
        let text = lock(dir.path()).unwrap_err().to_string();
        assert!(text.contains("another engine") && text.contains("--data-dir"), "{text}");
    }
}
