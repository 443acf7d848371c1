//! The control socket: commands of the same user in, answers of the running process out. A Unix socket in the
//! data directory; one JSON request a line, one JSON answer a line. Everything about a connection is bounded.
//!
//! [`protocol`] is what both sides say, [`dead_letters`], `audit` and [`rollups`] what the process does for it, [`Client`]
//! the other end, [`command`], [`audit_command`] and [`rollups_command`] the command lines on top of it.

mod audit;
pub mod audit_command;
mod client;
pub mod command;
pub mod dead_letters;
pub mod protocol;
mod replays;
pub mod rollups;
pub mod rollups_command;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use client::{Client, ClientError};
pub use dead_letters::ControlState;
use protocol::{Call, PROTOCOL_VERSION, Refusal, RefusalCode, Request, Response};

/// Name of the socket in the data directory.
pub const SOCKET_NAME: &str = "control.sock";
/// Longest request in bytes: ids of a replay, some thousand at most.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Connections served at the same time; more wait.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may say nothing.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Longest path of a Unix socket, the closing zero not counted (`sun_path` has 108 bytes on Linux).
const PATH_BYTES_MAX: usize = 107;
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound control socket.
pub struct Listener {
    path: PathBuf,
    listener: UnixListener,
}

impl Listener {
    /// Binds the socket, readable by its owner only. One that a dead process left behind is replaced; one that
    /// answers is an error.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            return Err(ControlError::PathTooLong { path: path.to_owned(), bytes });
        }
        let failed = |step| move |source| ControlError::Bind { path: path.to_owned(), step, source };
        if path.exists() {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ControlError::InUse { path: path.to_owned() });
            }
            std::fs::remove_file(path).map_err(failed("remove what a dead process left"))?;
        }
        let listener = UnixListener::bind(path).map_err(failed("bind"))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("set the mode"))?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Answers until cancelled, then removes the socket.
    pub async fn serve(self, state: ControlState, cancel: CancellationToken) {
        let state = Arc::new(state);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let connections = tokio_util::task::TaskTracker::new();
        while let Some(stream) = self.accept(&cancel).await {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
            let state = Arc::clone(&state);
            let cancel = cancel.clone();
            connections.spawn(async move {
                let _permit = permit;
                tokio::select! {
                    () = cancel.cancelled() => {}
                    ended = converse(stream, &state) => {
                        if let Err(error) = ended {
                            tracing::debug!(error = &error as &dyn std::error::Error, "a control connection broke");
                        }
                    }
                }
            });
        }
        connections.close();
        connections.wait().await;
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }

    /// The next connection of our own user; `None` once cancelled.
    async fn accept(&self, cancel: &CancellationToken) -> Option<UnixStream> {
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => return None,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) if is_ours(&stream) => return Some(stream),
                Ok(_) => tracing::warn!("a control connection of another user was refused"),
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a control connection was not accepted"
                    );
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Binds and answers until cancelled.
pub async fn serve(path: &Path, state: ControlState, cancel: CancellationToken) -> Result<(), ControlError> {
    Listener::bind(path)?.serve(state, cancel).await;
    Ok(())
}

/// The mode keeps others out; this also covers the moment before it is set.
fn is_ours(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == ours || peer.uid() == 0)
}

/// Serves one connection until the other end closes it, falls silent or sends what cannot be a request.
async fn converse(stream: UnixStream, state: &ControlState) -> Result<(), std::io::Error> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut read).take(REQUEST_BYTES_MAX as u64 + 1);
        let Ok(read) = tokio::time::timeout(IDLE_MAX, limited.read_until(b'\n', &mut line)).await else {
            return Ok(());
        };
        if read? == 0 {
            return Ok(());
        }
        let is_complete = line.ends_with(b"\n");
        let response =
            if is_complete { answer(&line, state).await } else { Response::Error(incomplete(&line)) };
        let mut bytes = serde_json::to_vec(&response).map_err(std::io::Error::other)?;
        bytes.push(b'\n');
        write.write_all(&bytes).await?;
        if !is_complete {
            return write.shutdown().await;
        }
    }
}

fn incomplete(line: &[u8]) -> Refusal {
    if line.len() > REQUEST_BYTES_MAX {
        let message = format!("a request has at most {REQUEST_BYTES_MAX} bytes; ask in several");
        return Refusal { code: RefusalCode::RequestTooLarge, message };
    }
    Refusal {
        code: RefusalCode::InvalidRequest,
        message: "the request does not end with a line feed".to_owned(),
    }
}

async fn answer(line: &[u8], state: &ControlState) -> Response {
    let result = match parse(line) {
        Ok(Call::ListDeadLetters(call)) => state.list(call).await.and_then(json),
        Ok(Call::ShowDeadLetter(call)) => state.show(call).await.and_then(json),
        Ok(Call::ReplayDeadLetters(call)) => state.replay(call).await.and_then(json),
        Ok(Call::RebuildRollups(call)) => state.rebuild_rollups(&call).and_then(json),
        Ok(Call::Audit(call)) => state.audit(call).await.and_then(json),
        Err(refusal) => Err(refusal),
    };
    match result {
        Ok(value) => Response::Ok(value),
        Err(refusal) => Response::Error(refusal),
    }
}

/// The version is looked at first, so that a newer client is told so and not that its request is malformed.
fn parse(line: &[u8]) -> Result<Call, Refusal> {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u8,
    }
    let invalid = |error: serde_json::Error| Refusal {
        code: RefusalCode::InvalidRequest,
        message: format!("not a request: {error}"),
    };
    let Version { v } = serde_json::from_slice(line).map_err(invalid)?;
    if v != PROTOCOL_VERSION {
        let message = format!("this process speaks version {PROTOCOL_VERSION}, the request version {v}");
        return Err(Refusal { code: RefusalCode::UnsupportedVersion, message });
    }
    serde_json::from_slice::<Request>(line).map(|request| request.call).map_err(invalid)
}

fn json(value: impl serde::Serialize) -> Result<Box<serde_json::value::RawValue>, Refusal> {
    serde_json::value::to_raw_value(&value).map_err(|error| Refusal {
        code: RefusalCode::Failed,
        message: format!("cannot write the answer: {error}"),
    })
}

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process answers there.
    #[error("another process answers at `{path}`; stop it or choose another data directory")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The operating system's limit.
    #[error(
        "`{path}` has {bytes} bytes; a socket's path has at most {PATH_BYTES_MAX}, choose a shorter data directory"
    )]
    PathTooLong {
        /// The socket.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// A step of binding failed.
    #[error("cannot {step} at `{path}`")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Which step.
        step: &'static str,
        /// Why.
        source: std::io::Error,
    },
}
