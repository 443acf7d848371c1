//! What anyone may read: that the gateway is there, and what it offers.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;

/// The operation [`health`].
pub struct Health;

/// That the gateway is there.
#[derive(Serialize, ToSchema)]
pub struct HealthAnswer {
    /// Always `ok`: an answer is the proof.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Whether the gateway is there.
///
/// Says nothing of what stands behind it: see `/readyz` of the admin port.
#[utoipa::path(
    get,
    impl_for = Health,
    operation_id = "read_health",
    path = "/health",
    responses((status = 200, description = "It is.", body = HealthAnswer)),
)]
pub(super) async fn health() -> Json<HealthAnswer> {
    Json(HealthAnswer { status: "ok" })
}

/// The operation [`document`].
pub struct Document;

/// This API as an OpenAPI document.
#[utoipa::path(
    get,
    impl_for = Document,
    operation_id = "read_document",
    path = "/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1.", content_type = "application/json")),
)]
pub(super) async fn document(State(gateway): State<Shared>) -> Response {
    ([(CONTENT_TYPE, "application/json")], gateway.document.clone()).into_response()
}

/// The operation [`docs`].
pub struct Docs;

/// This API as a page to read.
#[utoipa::path(
    get,
    impl_for = Docs,
    operation_id = "read_docs",
    path = "/docs",
    responses((status = 200, description = "HTML.", content_type = "text/html")),
)]
pub(super) async fn docs(State(gateway): State<Shared>) -> Response {
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let headers = [(CONTENT_TYPE, html), (CONTENT_SECURITY_POLICY, gateway.docs.policy.clone())];
    (headers, gateway.docs.html.clone()).into_response()
}
