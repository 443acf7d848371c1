//! A process that is kept running, as a kubelet does: started again when it dies, each life with its own settings, and
//! woken some time after it was stopped.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How often a process is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// Pause before a process that died is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// What each life starts with.
pub(crate) trait Lives: Send + 'static {
    /// The command of a life, from 0.
    fn command(&self, life: usize) -> Result<Command>;
}

impl<F: Fn(usize) -> Result<Command> + Send + 'static> Lives for F {
    fn command(&self, life: usize) -> Result<Command> {
        self(life)
    }
}

/// The running process; killed when dropped.
pub(crate) struct Role {
    id: Arc<AtomicU32>,
    stop: CancellationToken,
    kept: JoinHandle<Result<()>>,
    _killed_with_it: DropGuard,
}

impl Role {
    /// Starts the first life. A process that stands still is woken after `pause`.
    pub(crate) fn start(lives: impl Lives, pause: Duration) -> Self {
        let (id, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let kept = tokio::spawn(keep(lives, Arc::clone(&id), stop.clone(), pause));
        let _killed_with_it = stop.clone().drop_guard();
        Self { id, stop, kept, _killed_with_it }
    }

    /// Signals the present life, if there is one.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_process(self.id.load(Ordering::Relaxed), signal);
    }

    /// SIGKILL, and no further life.
    pub(crate) async fn end(self) -> Result<()> {
        self.stop.cancel();
        self.kept.await?
    }
}

async fn keep(lives: impl Lives, id: Arc<AtomicU32>, stop: CancellationToken, pause: Duration) -> Result<()> {
    for life in 0.. {
        let mut command = lives.command(life)?;
        let mut child = command.stdin(Stdio::null()).kill_on_drop(true).spawn().context("start a process")?;
        id.store(child.id().unwrap_or(0), Ordering::Relaxed);
        let ended = watch(&mut child, &stop, pause).await?;
        id.store(0, Ordering::Relaxed);
        if ended.is_none() {
            return Ok(());
        }
        if stop.run_until_cancelled(tokio::time::sleep(RESTART_PAUSE)).await.is_none() {
            return Ok(());
        }
    }
    Ok(())
}

/// Until it ended; `None` where it was ended here.
async fn watch(child: &mut Child, stop: &CancellationToken, pause: Duration) -> Result<Option<ExitStatus>> {
    let mut still_since = None;
    loop {
        tokio::select! {
            ended = child.wait() => return Ok(Some(ended?)),
            () = stop.cancelled() => {
                child.kill().await?;
                return Ok(None);
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        let id = child.id().unwrap_or(0);
        if !stands_still(id) {
            still_since = None;
        } else if still_since.get_or_insert_with(Instant::now).elapsed() >= pause {
            signal_process(id, Signal::CONT);
        }
    }
}

fn stands_still(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

fn signal_process(id: u32, signal: Signal) {
    // Already gone is as good.
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(id, signal);
    }
}
