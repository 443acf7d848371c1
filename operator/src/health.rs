//! How the operator is in, `/metrics`, `/livez` and `/readyz` out. A replica that does not hold the Lease is ready too:
//! its stores are filled, and it may begin at any moment.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus::TextEncoder;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::queue::Queue;

/// Work that was due and did not move for so long is stuck: every call in a reconcile has a far shorter limit.
const STUCK_MAX: Duration = Duration::from_secs(300);

/// How far the start has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The API server was not asked yet, or does not answer.
    Connecting,
    /// These definitions are missing.
    WaitingForDefinitions(Vec<&'static str>),
    /// The stores are being filled.
    Filling,
    /// It can work.
    Ready,
}

/// What the probes judge.
#[derive(Clone)]
pub struct Health {
    /// How far the start has come.
    pub phase: watch::Receiver<Phase>,
    /// Whether this replica works.
    pub leading: watch::Receiver<bool>,
    /// The queue.
    pub queue: Arc<Queue>,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
}

/// Answers probes until the process ends.
pub async fn serve(listener: TcpListener, health: Health) -> Result<(), std::io::Error> {
    axum::serve(listener, router(health)).await
}

fn router(health: Health) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(health)
}

async fn metrics(State(health): State<Health>) -> (StatusCode, String) {
    health.queue.measure();
    match TextEncoder::new().encode_to_string(&health.metrics.registry.gather()) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn livez(State(health): State<Health>) -> (StatusCode, String) {
    // Whoever waits for the Lease leaves its queue alone.
    let stuck = if *health.leading.borrow() { health.queue.stuck_for() } else { Duration::ZERO };
    if stuck < STUCK_MAX {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let seconds = stuck.as_secs();
        (StatusCode::SERVICE_UNAVAILABLE, format!("work is due and nothing has moved for {seconds} s\n"))
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let phase = health.phase.borrow().clone();
    let role = if *health.leading.borrow() { "working" } else { "waiting for the Lease" };
    match phase {
        Phase::Ready => (StatusCode::OK, format!("ready, {role}\n")),
        Phase::Connecting => unavailable("the API server does not answer yet"),
        Phase::Filling => unavailable("the stores are being filled"),
        Phase::WaitingForDefinitions(missing) => unavailable(&format!(
            "missing definitions: {}; install chart `millrace-crds`, or apply what `millrace-operator crds` prints",
            missing.join(", ")
        )),
    }
}

fn unavailable(text: &str) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use crate::queue::Key;

    struct World {
        phase: watch::Sender<Phase>,
        leading: watch::Sender<bool>,
        health: Health,
    }

    fn world() -> World {
        let (phase, phase_seen) = watch::channel(Phase::Connecting);
        let (leading, leading_seen) = watch::channel(false);
        let metrics = Arc::new(Metrics::new().unwrap());
        let queue = Arc::new(Queue::new(Arc::clone(&metrics), |bytes| bytes.fill(0)));
        let health = Health { phase: phase_seen, leading: leading_seen, queue, metrics };
        World { phase, leading, health }
    }

    async fn ask(health: &Health, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router(health.clone()).oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn is_ready_when_definitions_are_there_and_stores_are_filled() {
        let World { phase, leading, health } = world();
        assert_eq!(ask(&health, "/readyz").await.0, 503);
        phase.send_replace(Phase::WaitingForDefinitions(vec!["App", "Revision"]));
        let (status, text) = ask(&health, "/readyz").await;
        assert!(status == 503 && text.contains("App, Revision") && text.contains("millrace-crds"), "{text}");
        phase.send_replace(Phase::Filling);
        assert_eq!(ask(&health, "/readyz").await.0, 503);
        phase.send_replace(Phase::Ready);
        assert_eq!(ask(&health, "/readyz").await, (200, "ready, waiting for the Lease\n".to_owned()));
        leading.send_replace(true);
        assert_eq!(ask(&health, "/readyz").await, (200, "ready, working\n".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn is_alive_while_work_moves() {
        let World { leading, health, phase: _phase } = world();
        health.queue.wake(Key::Namespace("team".to_owned()));
        tokio::time::advance(STUCK_MAX * 2).await;
        assert_eq!(ask(&health, "/livez").await.0, 200, "whoever does not lead has no work");
        leading.send_replace(true);
        let (status, text) = ask(&health, "/livez").await;
        assert!(status == 503 && text.contains("nothing has moved"), "{text}");
        health.queue.next().await;
        assert_eq!(ask(&health, "/livez").await.0, 200);
        tokio::time::advance(STUCK_MAX * 2).await;
        assert_eq!(ask(&health, "/livez").await.0, 503, "a reconcile that never ends");
    }

    #[tokio::test]
    async fn shows_metrics() {
        let World { health, .. } = world();
        health.metrics.wrote(crate::kind::Kind::Service, "apply");
        health.queue.wake_after(Key::Namespace("team".to_owned()), Duration::ZERO);
        let (_, text) = ask(&health, "/metrics").await;
        assert!(text.contains("millrace_operator_writes_total{kind=\"Service\",verb=\"apply\"} 1"), "{text}");
        assert!(text.contains("millrace_operator_queue_depth 1"), "{text}");
    }
}
