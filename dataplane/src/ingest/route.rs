//! Method and path in, the right handler out; every answer gets its request id, is counted and logged here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use tracing::debug;

use super::accept::Worker;
use super::answer::{self, Answer, Page, Problem};
use super::{events, origin, request_id};

/// Who asks, and under which id it is answered.
pub(super) struct Asked {
    pub(super) id: String,
    pub(super) client: IpAddr,
}

/// The paths served, without a trailing slash, which is accepted on each.
const ROUTES: [(&str, Route); 2] = [("/v1/events", Route::Events), ("/health", Route::Health)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// Takes events.
    Events,
    /// Says that this process answers.
    Health,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Take these events.
    Events,
    /// A browser asks whether it may send.
    Preflight,
    /// Are you there?
    Health,
    /// The path exists, the method does not.
    WrongMethod {
        /// Those that do.
        allowed: &'static str,
    },
    /// No such path.
    Nowhere,
}

fn target(method: &Method, path: &str) -> Target {
    let path = path.strip_suffix('/').unwrap_or(path);
    let Some((_, route)) = ROUTES.iter().find(|(known, _)| *known == path) else {
        return Target::Nowhere;
    };
    match (route, method) {
        (Route::Events, &Method::POST) => Target::Events,
        (Route::Events, &Method::OPTIONS) => Target::Preflight,
        (Route::Events, _) => Target::WrongMethod { allowed: "POST, OPTIONS" },
        (Route::Health, &Method::GET | &Method::HEAD) => Target::Health,
        (Route::Health, _) => Target::WrongMethod { allowed: "GET, HEAD" },
    }
}

/// Answers one request. Always.
pub(super) async fn respond(
    worker: &Arc<Worker>,
    client: IpAddr,
    request: Request<Incoming>,
) -> Response<Page> {
    let started = Instant::now();
    let asked = Asked { id: request_id::of(request.headers(), rand::random), client };
    let is_leaving = worker.server.ingest.leaving.is_cancelled() && request.version() < Version::HTTP_2;
    let mut answer = match target(request.method(), request.uri().path()) {
        Target::Events => events::receive(worker, &asked, request).await,
        Target::Preflight => Answer::of(origin::preflight(request.headers())),
        Target::Health => Answer::of(answer::health()),
        Target::WrongMethod { allowed } => Answer::of(wrong_method(allowed).into_response(&asked.id)),
        Target::Nowhere => Answer::of(nowhere().into_response(&asked.id)),
    };
    if let Ok(id) = HeaderValue::from_str(&asked.id) {
        answer.response.headers_mut().insert(request_id::HEADER, id);
    }
    if is_leaving {
        answer.response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    tell(worker, &asked, &answer, started);
    answer.response
}

fn tell(worker: &Worker, asked: &Asked, answer: &Answer, started: Instant) {
    let took = started.elapsed();
    let status = answer.response.status();
    let metrics = &worker.server.ingest.metrics;
    metrics.ingest_requests.with_label_values(&[status.as_str()]).inc();
    metrics.ingest_request_seconds.with_label_values(&[status.as_str()]).observe(took.as_secs_f64());
    debug!(
        request.id = asked.id,
        http.status = status.as_u16(),
        app = answer.app.as_ref().map(|tenant| tenant.label.as_str()),
        events.accepted = answer.accepted,
        events.rejected = answer.rejected,
        duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "request answered"
    );
}

fn wrong_method(allowed: &'static str) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("this path takes {allowed}; see the header `Allow`"),
    )
    .with(header::ALLOW, HeaderValue::from_static(allowed))
}

fn nowhere() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "nothing is served here; events go to `POST /v1/events`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_by_path_and_method_with_or_without_a_trailing_slash() {
        let wrong = |allowed| Target::WrongMethod { allowed };
        for (method, path, expected) in [
            (Method::POST, "/v1/events", Target::Events),
            (Method::POST, "/v1/events/", Target::Events),
            (Method::OPTIONS, "/v1/events", Target::Preflight),
            (Method::GET, "/v1/events", wrong("POST, OPTIONS")),
            (Method::GET, "/health", Target::Health),
            (Method::HEAD, "/health/", Target::Health),
            (Method::POST, "/health", wrong("GET, HEAD")),
            (Method::POST, "/v1/events//", Target::Nowhere),
            (Method::POST, "/v1/event", Target::Nowhere),
            (Method::POST, "/V1/events", Target::Nowhere),
            (Method::GET, "/", Target::Nowhere),
            (Method::CONNECT, "", Target::Nowhere),
        ] {
            assert_eq!(target(&method, path), expected, "{method} {path}");
        }
    }
}
