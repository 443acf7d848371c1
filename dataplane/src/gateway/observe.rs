//! Around every request: its id, its log line, its figures, the headers every answer carries.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{Shared, problem};
use crate::telemetry;

/// Carries a request's id, in and out.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The `route` of what is not in the table; paths themselves would be labels without bound.
const ROUTE_UNKNOWN: &str = "unknown";

/// Names, times, counts and logs a request, and finishes its answer.
pub(super) async fn observe(
    State(gateway): State<Shared>,
    matched: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = matched.as_ref().map_or(ROUTE_UNKNOWN, MatchedPath::as_str);
    let span = tracing::info_span!("request", request.id = id, http.method = %method, http.route = route);
    let response = next.run(request).instrument(span.clone()).await;

    let _entered = span.entered();
    let mut response = problem::write_out(response, &method, &id);
    add_headers(response.headers_mut(), &id);
    let (status, seconds) = (response.status(), started.elapsed().as_secs_f64());
    gateway.metrics.gateway_requests.with_label_values(&[route, status.as_str()]).inc();
    gateway.metrics.gateway_request_seconds.with_label_values(&[route]).observe(seconds);
    tracing::debug!(http.status = status.as_u16(), duration_seconds = seconds, "answered");
    response
}

/// The id of a request, the client's if it is harmless.
pub(crate) fn request_id(headers: &HeaderMap) -> String {
    telemetry::request_id(headers.get(REQUEST_ID).map(HeaderValue::as_bytes), Uuid::new_v4)
}

/// What every answer carries. JSON is no page: it may load nothing and be framed by nobody.
pub(crate) fn add_headers(headers: &mut HeaderMap, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}
