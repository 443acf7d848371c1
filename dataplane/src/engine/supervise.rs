//! Keeps the engine alive as a child process: starts it, waits until it answers, kills it when it hangs, starts
//! it again after a pause. Its caller never waits: it sees the state in a channel and in the metrics.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Pauses before a restart: the first, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// An engine that ran this long starts again without a history.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Opening a large data folder may take a while.
const START_MAX: Duration = Duration::from_secs(120);
/// Between two looks at a starting engine, and at a running one.
const START_PROBE: Duration = Duration::from_millis(20);
const HEALTH_PROBE: Duration = Duration::from_secs(3);
/// A probe without an answer in this time has failed; so many in a row and the engine hangs.
const PROBE_MAX: Duration = Duration::from_secs(5);
const PROBES_FAILED_MAX: u32 = 2;
/// How long a stopping engine may take before it is killed: its own drain and a little.
const STOP_MAX: Duration = Duration::from_secs(17);
/// Longest line of the child that is forwarded.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What to keep alive.
pub struct Supervisor {
    /// The program; `engine …` are its arguments. Usually the running executable.
    pub program: PathBuf,
    /// See [`super::Settings::data_dir`].
    pub data_dir: PathBuf,
    /// A fixed address: clients come back to it after a restart.
    pub listen: SocketAddr,
    /// See [`super::Settings::library`].
    pub library: Option<PathBuf>,
    /// See [`super::Settings::users`].
    pub users: Option<PathBuf>,
    /// Values in 0..1 that spread restarts: a pause is shortened by up to half.
    pub jitter: Box<dyn FnMut() -> f64 + Send + Sync>,
    /// Where starts and state are counted.
    pub metrics: Arc<Metrics>,
}

/// What the engine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// Started and not yet answering.
    Starting,
    /// Answering; the process id is for people and tests.
    Up {
        /// The child.
        pid: u32,
    },
    /// Ended; it will be started again.
    Down {
        /// Exit status and the child's last line, for people.
        reason: String,
    },
    /// Stopped for good.
    Stopped,
}

/// A supervised engine.
pub struct Supervised {
    /// The state now, and its changes.
    pub state: watch::Receiver<EngineState>,
    /// Ends after the child was stopped and reaped.
    pub task: JoinHandle<()>,
}

/// Starts supervising; returns at once. Needs a running tokio runtime.
pub fn supervise(supervisor: Supervisor, shutdown: CancellationToken) -> Supervised {
    let (send, state) = watch::channel(EngineState::Starting);
    let task = tokio::spawn(Keeper { supervisor, state: send, shutdown }.keep());
    Supervised { state, task }
}

struct Keeper {
    supervisor: Supervisor,
    state: watch::Sender<EngineState>,
    shutdown: CancellationToken,
}

/// Why a child is no more.
enum End {
    Shutdown,
    Exited(String),
}

impl Keeper {
    async fn keep(mut self) {
        let mut failures = 0;
        let mut cause = "first";
        loop {
            self.supervisor.metrics.engine_starts.with_label_values(&[cause]).inc();
            let begun = Instant::now();
            let end = self.live().await;
            self.supervisor.metrics.engine_up.set(0);
            let End::Exited(reason) = end else { break };
            failures = if begun.elapsed() > STABLE_AFTER { 0 } else { failures + 1 };
            cause = "restart";
            tracing::warn!(reason, "the engine ended and will be started again");
            self.state.send_replace(EngineState::Down { reason });
            let pause = pause(failures, (self.supervisor.jitter)());
            tokio::select! {
                () = sleep(pause) => {}
                () = self.shutdown.cancelled() => break,
            }
        }
        self.state.send_replace(EngineState::Stopped);
    }

    /// One life of the child.
    async fn live(&mut self) -> End {
        self.state.send_replace(EngineState::Starting);
        let mut child = match self.start() {
            Ok(child) => child,
            Err(error) => return End::Exited(format!("it cannot be started: {error}")),
        };
        // Held here: `wait` would close it, and the child would end at once.
        let _stdin = child.stdin.take();
        let last_line = forward_lines(&mut child);
        let pid = child.id().unwrap_or_default();
        let end = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => End::Shutdown,
            status = child.wait() => End::Exited(describe(status, &last_line)),
            hung = self.watch(pid) => End::Exited(hung),
        };
        match end {
            End::Shutdown => stop(&mut child).await,
            // Already reaped, or hung: then nothing but a kill helps.
            End::Exited(_) => kill(&mut child).await,
        }
        end
    }

    fn start(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.supervisor.program);
        command.arg("engine").arg("--data-dir").arg(&self.supervisor.data_dir);
        command.arg("--listen").arg(self.supervisor.listen.to_string()).arg("--exit-with-stdin");
        if let Some(library) = &self.supervisor.library {
            command.arg("--library").arg(library);
        }
        if let Some(users) = &self.supervisor.users {
            command.arg("--users").arg(users);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()
    }

    /// Waits until the child answers, then until it does not any more; the reason is returned.
    async fn watch(&self, pid: u32) -> String {
        let answers = async {
            while !probe(self.supervisor.listen).await {
                sleep(START_PROBE).await;
            }
        };
        if timeout(START_MAX, answers).await.is_err() {
            return format!("it did not answer within {} s of its start", START_MAX.as_secs());
        }
        self.supervisor.metrics.engine_up.set(1);
        self.state.send_replace(EngineState::Up { pid });
        let mut failed = 0;
        while failed < PROBES_FAILED_MAX {
            sleep(HEALTH_PROBE).await;
            failed = if probe(self.supervisor.listen).await { 0 } else { failed + 1 };
            self.supervisor.metrics.engine_up.set(i64::from(failed == 0));
        }
        format!("it did not answer {PROBES_FAILED_MAX} probes in a row")
    }
}

/// The pause after so many failures in a row: doubling from the first to the longest, shortened by jitter.
fn pause(failures: u32, jitter: f64) -> Duration {
    let doubled = PAUSE_FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(PAUSE_MAX).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

/// Whether the engine answers a statement: `/replicas_status` runs `SELECT 1` without credentials.
async fn probe(address: SocketAddr) -> bool {
    matches!(timeout(PROBE_MAX, ask(address)).await, Ok(Ok(true)))
}

async fn ask(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /replicas_status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

/// Asks the child to end, then makes it.
async fn stop(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // An error means that it has ended already.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if timeout(STOP_MAX, child.wait()).await.is_err() {
        tracing::warn!("the engine did not stop in time and is killed");
        kill(child).await;
    }
}

async fn kill(child: &mut Child) {
    if let Err(error) = child.kill().await {
        tracing::debug!(%error, "the engine was gone before it was killed");
    }
}

/// Forwards the child's lines to our log and keeps the last one.
fn forward_lines(child: &mut Child) -> Arc<Mutex<String>> {
    let last = Arc::new(Mutex::new(String::new()));
    if let Some(stdout) = child.stdout.take() {
        tokio::spawn(forward(stdout, Arc::clone(&last)));
    }
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(forward(stderr, Arc::clone(&last)));
    }
    last
}

async fn forward(stream: impl AsyncRead + Unpin, last: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while matches!((&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await, Ok(1..)) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if !text.is_empty() {
            tell(&text);
            *last.lock().unwrap_or_else(PoisonError::into_inner) = text;
        }
    }
}

/// One line of the child as a line of ours: its own level and words where it logs as we do.
fn tell(text: &str) {
    let line: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let message = line["message"].as_str().unwrap_or(text);
    let error = line["error"].as_str();
    match line["level"].as_str() {
        Some("error") => tracing::error!(target: "engine", error, "{message}"),
        Some("warn") => tracing::warn!(target: "engine", error, "{message}"),
        _ => tracing::info!(target: "engine", error, "{message}"),
    }
}

fn describe(status: io::Result<ExitStatus>, last_line: &Mutex<String>) -> String {
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let line = last_line.lock().unwrap_or_else(PoisonError::into_inner);
    if line.is_empty() { status } else { format!("{status}; its last words: {line}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_jitter_only_shortens_them() {
        let check = |failures: u32, jitter: f64, millis: u64| {
            assert_eq!(pause(failures, jitter), Duration::from_millis(millis), "{failures} {jitter}");
        };
        check(1, 0.0, 100);
        check(2, 0.0, 200);
        check(4, 0.5, 600);
        check(8, 0.0, 10_000);
        check(4_000_000_000, 1.0, 5_000);
    }

    #[tokio::test]
    async fn a_program_that_cannot_start_is_down_and_stops_on_request() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let shutdown = CancellationToken::new();
        let supervised = supervise(
            Supervisor {
                program: PathBuf::from("/nowhere/millrace"),
                data_dir: PathBuf::from("/nowhere"),
                listen: "127.0.0.1:9".parse().unwrap(),
                library: None,
                users: None,
                jitter: Box::new(|| 0.0),
                metrics: Arc::clone(&metrics),
            },
            shutdown.clone(),
        );
        let mut state = supervised.state;
        let down = state.wait_for(|state| matches!(state, EngineState::Down { .. })).await.unwrap().clone();
        assert!(matches!(down, EngineState::Down { reason } if reason.contains("cannot be started")));
        shutdown.cancel();
        supervised.task.await.unwrap();
        assert_eq!(*state.borrow(), EngineState::Stopped);
        assert_eq!(metrics.engine_up.get(), 0);
    }
}
