//! What operators and probes ask a process: `/metrics`, `/livez`, `/readyz`, `/state`. Changes nothing.
//! Alive is not ready: a process that waits for its log must not be restarted for it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::{Encoder as _, TextEncoder};
use serde_json::{Value, json};

use crate::access::Principal;
use crate::gateway::guard::{Tokens, authenticate};
use crate::gateway::observe::{add_headers, request_id};
use crate::gateway::problem::{self, Kind, Problem};
use crate::metrics::Metrics;

pub mod changes;
pub mod readiness;
#[cfg(test)]
mod tests;

use readiness::Readiness;

/// What the admin port tells of.
pub struct AdminState {
    /// What `/state` tells.
    pub state: Arc<dyn TellsState>,
    /// Whether the parts of the process are up.
    pub readiness: Arc<Readiness>,
    /// What `/metrics` gathers.
    pub metrics: Arc<Metrics>,
    /// Who may read `/state`: the bootstrap admin.
    pub tokens: Arc<dyn Tokens>,
}

/// What a process runs by, for people and for the operator. Names no secret.
pub trait TellsState: Send + Sync {
    /// The answer at `/state`.
    fn state(&self, readiness: readiness::Report) -> Value;
}

/// The admin port as a service.
pub fn router(state: AdminState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/state", get(report))
        .fallback(async || Problem::new(Kind::UnknownPath, "the admin port serves no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(Kind::MethodNotAllowed, "the admin port is read-only")
        })
        .layer(from_fn(finish))
        .with_state(Arc::new(state))
}

/// Gives every answer its id and headers, and problems their body.
async fn finish(request: Request, next: Next) -> Response {
    let (id, method) = (request_id(request.headers()), request.method().clone());
    let mut response = problem::write_out(next.run(request).await, &method, &id);
    add_headers(response.headers_mut(), &id);
    response
}

/// Prometheus text. Process figures are read anew by their collector.
async fn metrics(State(admin): State<Arc<AdminState>>) -> Result<Response, Problem> {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    admin.metrics.tokio_tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    encoder.encode(&admin.metrics.registry.gather(), &mut text).map_err(Problem::internal)?;
    Ok(([(CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response())
}

/// An answer is the proof.
async fn livez() -> Response {
    Json(json!({ "alive": true })).into_response()
}

/// 200 once every required check is ready, else 503 with the reasons.
async fn readyz(State(admin): State<Arc<AdminState>>) -> Response {
    let report = admin.readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

/// Hashes and times of what is in force, and what was refused; for the bootstrap admin only.
async fn report(State(admin): State<Arc<AdminState>>, request: Request) -> Result<Response, Problem> {
    match authenticate(admin.tokens.as_ref(), request.headers())? {
        Principal::BootstrapAdmin => {}
        Principal::Subject(_) => {
            return Err(Problem::new(Kind::NotPermitted, "this is for the bootstrap admin"));
        }
    }
    Ok(Json(admin.state.state(admin.readiness.report())).into_response())
}
