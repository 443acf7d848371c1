//! The long-running tasks of a process: noticed when one ends by itself, waited for at the end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Cancelled by SIGINT or SIGTERM. Fails when the process cannot listen for them.
pub fn stop_on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let listen = |kind, name| {
        signal(kind)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen for {name}: {error}")))
    };
    let mut interrupt = listen(SignalKind::interrupt(), "SIGINT")?;
    let mut terminate = listen(SignalKind::terminate(), "SIGTERM")?;
    let cancelled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(stop)
}

/// Lets `broken` know when a task ends before it is told to stop: the process must not go on without it.
pub fn watched(task: JoinHandle<()>, stop: &CancellationToken, broken: &CancellationToken) -> JoinHandle<()> {
    let (stop, broken) = (stop.clone(), broken.clone());
    tokio::spawn(async move {
        let ended = task.await;
        if !stop.is_cancelled() {
            let error = ended.err().map(|error| error.to_string());
            tracing::error!(error, "a part of the process ended by itself");
            broken.cancel();
        }
    })
}

/// Waits for the end of all.
pub async fn ended(tasks: impl IntoIterator<Item = JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(error = %error, "a part of the process did not end well");
        }
    }
}
