//! The engine as a process: how it starts, refuses to start, ends, and is kept alive.

use std::process::{Command, Stdio};
use std::sync::Arc;

use millrace_dataplane::engine::{EngineState, Supervised, Supervisor, supervise};
use millrace_dataplane::metrics::Metrics;
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use crate::support::{Engine, answers, free_address, program, wait_until};

/// Starts an engine that must refuse, and gives what it says.
fn refusal(arguments: &[&str]) -> String {
    let output = Command::new(program()).arg("engine").args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}

#[test]
fn a_folder_in_use_is_refused() {
    let engine = Engine::start(&[]);
    let data = engine.dir.path().join("data");
    let text = refusal(&["--data-dir", data.to_str().unwrap(), "--listen", &free_address().to_string()]);
    assert!(text.contains("is used by another engine"), "{text}");
}

#[test]
fn a_port_in_use_is_refused() {
    let engine = Engine::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let text = refusal(&["--data-dir", dir.path().to_str().unwrap(), "--listen", &engine.listen.to_string()]);
    assert!(text.contains("cannot listen on") && text.contains("--listen"), "{text}");
}

#[test]
fn an_open_address_without_users_and_a_missing_library_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    assert!(refusal(&["--data-dir", data, "--listen", "0.0.0.0:0"]).contains("--users"));
    let text = refusal(&["--data-dir", data, "--listen", "127.0.0.1:0", "--library", "/nowhere/libchdb.so"]);
    assert!(text.contains("make engine") && text.contains("/nowhere/libchdb.so"), "{text}");
}

#[test]
fn the_engine_ends_when_its_parent_is_gone() {
    let mut engine = Engine::start(&[]);
    drop(engine.child.stdin.take());
    wait_until("the engine ended", || engine.child.try_wait().unwrap().is_some());
}

#[test]
fn a_termination_signal_ends_it_in_order() {
    let mut engine = Engine::start(&[]);
    kill_process(pid(engine.child.id()), Signal::TERM).unwrap();
    let mut status = None;
    wait_until("the engine ended", || {
        status = engine.child.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success(), "{status:?}");
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}

fn supervised(
    data_dir: &std::path::Path,
    shutdown: &CancellationToken,
) -> (Supervised, Arc<Metrics>, std::net::SocketAddr) {
    let (metrics, listen) = (Arc::new(Metrics::new().unwrap()), free_address());
    let supervisor = Supervisor {
        program: program(),
        data_dir: data_dir.to_owned(),
        listen,
        library: None,
        users: None,
        jitter: Box::new(|| 0.5),
        metrics: Arc::clone(&metrics),
    };
    (supervise(supervisor, shutdown.clone()), metrics, listen)
}

/// Waits for an engine that is up and not the one before.
async fn up(supervised: &mut Supervised, before: u32) -> u32 {
    let other = |state: &EngineState| matches!(state, EngineState::Up { pid } if *pid != before);
    match *supervised.state.wait_for(other).await.unwrap() {
        EngineState::Up { pid } => pid,
        ref state => panic!("{state:?}"),
    }
}

#[tokio::test]
async fn a_killed_engine_is_started_again_and_stopped_with_its_supervisor() {
    let (dir, shutdown) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let (mut supervised, metrics, listen) = supervised(dir.path(), &shutdown);
    let first = up(&mut supervised, 0).await;
    assert_eq!(metrics.engine_up.get(), 1);
    kill_process(pid(first), Signal::KILL).unwrap();
    let second = up(&mut supervised, first).await;
    assert_eq!(metrics.engine_starts.with_label_values(&["restart"]).get(), 1);
    shutdown.cancel();
    supervised.task.await.unwrap();
    assert_eq!(*supervised.state.borrow(), EngineState::Stopped);
    assert!(!answers(listen));
    assert!(kill_process(pid(second), Signal::KILL).is_err(), "the child was reaped");
}

#[tokio::test]
async fn a_hung_engine_is_killed_and_started_again() {
    let (dir, shutdown) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let (mut supervised, _, _) = supervised(dir.path(), &shutdown);
    let first = up(&mut supervised, 0).await;
    kill_process(pid(first), Signal::STOP).unwrap();
    up(&mut supervised, first).await;
    shutdown.cancel();
    supervised.task.await.unwrap();
}
