//! The other end of the control socket: a call in, the running process's answer out.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::protocol::{
    Audit, AuditReport, Call, DeadLetterPage, ListDeadLetters, PROTOCOL_VERSION, RebuildReport,
    RebuildRollups, Refusal, ReplayDeadLetters, ReplayReport, Request, Response, ShowDeadLetter,
    ShownDeadLetter,
};

/// Longest answer: a page of summaries, or one dead letter of the largest record a log takes.
const RESPONSE_BYTES_MAX: u64 = 64 << 20;

/// A connection to a running process.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the socket of a running process.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream) }),
            Err(error) if is_nobody_there(error.kind()) => {
                Err(ClientError::NotRunning { path: path.to_owned() })
            }
            Err(source) => Err(ClientError::Connect { path: path.to_owned(), source }),
        }
    }

    /// Some dead letters.
    pub async fn list(&mut self, call: ListDeadLetters) -> Result<DeadLetterPage, ClientError> {
        self.call(Call::ListDeadLetters(call)).await
    }

    /// One dead letter.
    pub async fn show(&mut self, call: ShowDeadLetter) -> Result<ShownDeadLetter, ClientError> {
        self.call(Call::ShowDeadLetter(call)).await
    }

    /// One step of a replay.
    pub async fn replay(&mut self, call: ReplayDeadLetters) -> Result<ReplayReport, ClientError> {
        self.call(Call::ReplayDeadLetters(call)).await
    }

    /// A recount of some minutes.
    pub async fn audit(&mut self, call: Audit) -> Result<AuditReport, ClientError> {
        self.call(Call::Audit(call)).await
    }

    /// Begins to make rollups anew, or asks how far that is.
    pub async fn rebuild_rollups(&mut self, call: RebuildRollups) -> Result<RebuildReport, ClientError> {
        self.call(Call::RebuildRollups(call)).await
    }

    async fn call<T: DeserializeOwned>(&mut self, call: Call) -> Result<T, ClientError> {
        let not_understood = |source| ClientError::NotUnderstood { source };
        let mut line = serde_json::to_vec(&Request { v: PROTOCOL_VERSION, call }).map_err(not_understood)?;
        line.push(b'\n');
        let broken = |source| ClientError::Broken { source };
        self.stream.write_all(&line).await.map_err(broken)?;
        line.clear();
        (&mut self.stream).take(RESPONSE_BYTES_MAX).read_until(b'\n', &mut line).await.map_err(broken)?;
        if !line.ends_with(b"\n") {
            return Err(ClientError::Broken { source: std::io::ErrorKind::UnexpectedEof.into() });
        }
        match serde_json::from_slice(&line).map_err(not_understood)? {
            Response::Ok(value) => serde_json::from_str(value.get()).map_err(not_understood),
            Response::Error(refusal) => Err(ClientError::Refused(refusal)),
        }
    }
}

fn is_nobody_there(kind: std::io::ErrorKind) -> bool {
    matches!(kind, std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens there.
    #[error(
        "no Millrace process answers at `{path}`; start one with `millrace-dataplane standalone DIR`, with the same \
         `--data-dir` as here: its files are read only through the running process"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// Something is there but cannot be reached.
    #[error("cannot connect to `{path}`; only the user who runs the process may")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The process went away.
    #[error("the connection to the process broke; repeat the command")]
    Broken {
        /// How.
        source: std::io::Error,
    },
    /// The two are of different versions.
    #[error("the process and this command do not understand each other; use the same version of both")]
    NotUnderstood {
        /// Where.
        source: serde_json::Error,
    },
    /// The process refused.
    #[error("{}", .0.message)]
    Refused(Refusal),
}
