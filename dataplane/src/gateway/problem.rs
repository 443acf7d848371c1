//! What went wrong in, an RFC 9457 problem out: `application/problem+json` for the caller, the cause for the log.
//! The two never mix: the caller's fields hold nothing of the cause.

use std::error::Error;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::query::QueryError;
use crate::query::range::RangeError;

/// Media type of a problem (RFC 9457).
pub const MEDIA_TYPE: &str = "application/problem+json";
/// When to come back to a store that is away, in seconds: a restarted engine answers within about that time.
const RETRY_AFTER_SECONDS: &str = "5";

/// Every kind of problem the API knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A parameter is missing, unknown or cannot be read.
    InvalidParameter,
    /// Several Apps have this name.
    AmbiguousApp,
    /// Nobody we know asks.
    NotAuthenticated,
    /// The caller lacks the permission.
    NotPermitted,
    /// No such App, or not for this caller, who cannot tell the two apart.
    UnknownApp,
    /// No such path.
    UnknownPath,
    /// The path has no such method.
    MethodNotAllowed,
    /// The request has a body.
    BodyNotAllowed,
    /// The URL is too long.
    UrlTooLong,
    /// A bug, or a store that refuses or answers nonsense.
    Internal,
    /// The store is away.
    StoreUnavailable,
    /// Too many questions at once.
    Overloaded,
    /// The store takes too long.
    QueryTimedOut,
}

impl Kind {
    /// Every kind, by status.
    pub const ALL: [Self; 13] = [
        Self::InvalidParameter,
        Self::AmbiguousApp,
        Self::NotAuthenticated,
        Self::NotPermitted,
        Self::UnknownApp,
        Self::UnknownPath,
        Self::MethodNotAllowed,
        Self::BodyNotAllowed,
        Self::UrlTooLong,
        Self::Internal,
        Self::StoreUnavailable,
        Self::Overloaded,
        Self::QueryTimedOut,
    ];

    /// The name programs go by; never changes.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidParameter => "invalid_parameter",
            Self::AmbiguousApp => "ambiguous_app",
            Self::NotAuthenticated => "not_authenticated",
            Self::NotPermitted => "not_permitted",
            Self::UnknownApp => "unknown_app",
            Self::UnknownPath => "unknown_path",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyNotAllowed => "body_not_allowed",
            Self::UrlTooLong => "url_too_long",
            Self::Internal => "internal",
            Self::StoreUnavailable => "store_unavailable",
            Self::Overloaded => "overloaded",
            Self::QueryTimedOut => "query_timed_out",
        }
    }

    /// Its HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidParameter | Self::AmbiguousApp => StatusCode::BAD_REQUEST,
            Self::NotAuthenticated => StatusCode::UNAUTHORIZED,
            Self::NotPermitted => StatusCode::FORBIDDEN,
            Self::UnknownApp | Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyNotAllowed => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UrlTooLong => StatusCode::URI_TOO_LONG,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::StoreUnavailable | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::QueryTimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What it is in a few words, the same for every occurrence.
    pub fn title(self) -> &'static str {
        match self {
            Self::InvalidParameter => "A parameter cannot be used",
            Self::AmbiguousApp => "Several Apps have this name",
            Self::NotAuthenticated => "A known token is needed",
            Self::NotPermitted => "The permission is missing",
            Self::UnknownApp => "There is no such App for this token",
            Self::UnknownPath => "There is no such path",
            Self::MethodNotAllowed => "The path has no such method",
            Self::BodyNotAllowed => "No body is taken here",
            Self::UrlTooLong => "The URL is too long",
            Self::Internal => "Something is wrong on our side",
            Self::StoreUnavailable => "The store does not answer",
            Self::Overloaded => "Too many questions at once",
            Self::QueryTimedOut => "The answer took too long",
        }
    }

    /// Whether the same request may succeed later, as it is.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::StoreUnavailable | Self::Overloaded | Self::QueryTimedOut)
    }

    /// Where it is described: relative to any path of the API.
    pub fn type_uri(self) -> String {
        format!("/docs#problem-{}", self.code())
    }
}

/// One occurrence of a problem.
#[derive(Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    fix: Option<String>,
    challenge: Option<HeaderValue>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Problem {
    /// A problem, and what the caller is told about this occurrence.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), fix: None, challenge: None, cause: None }
    }

    /// A problem of ours. The caller learns nothing of the cause.
    pub fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::new(Kind::Internal, "the request could not be answered; the log has the cause")
            .fix("tell your operator the `instance` of this answer")
            .cause(cause)
    }

    /// What the caller can do about it.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The `WWW-Authenticate` header.
    pub fn challenge(mut self, challenge: HeaderValue) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// The inside cause, for the log only.
    pub fn cause(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Box::new(cause));
        self
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Logs the cause, once: here it is handled.
    fn log(&self) {
        let Some(cause) = &self.cause else { return };
        let error: &(dyn Error + 'static) = cause.as_ref();
        let problem = self.kind.code();
        if self.kind.is_retryable() {
            tracing::warn!(error, http.problem = problem, "a request failed for now");
        } else {
            tracing::error!(error, http.problem = problem, "a request failed");
        }
    }
}

impl IntoResponse for Problem {
    /// Status only; [`write_out`] adds the rest once the request's id is known.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        Self::internal(error)
    }
}

impl From<RangeError> for Problem {
    fn from(error: RangeError) -> Self {
        Self::new(Kind::InvalidParameter, error.to_string()).fix(error.fix())
    }
}

/// A problem as the caller sees it (RFC 9457, with the members `code` and `fix`).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// Where this kind of problem is described.
    #[serde(rename = "type")]
    #[schema(example = "/docs#problem-unknown_app")]
    kind: String,
    /// This kind of problem in a few words.
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 404)]
    status: u16,
    /// What is wrong with this request.
    detail: &'a str,
    /// Id of the request, also in `X-Request-Id` and in the log.
    instance: &'a str,
    /// The kind, for programs.
    #[schema(example = "unknown_app")]
    code: &'static str,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'a str>,
}

/// Turns a response that carries a [`Problem`] into what the caller gets; leaves any other as it is.
pub fn write_out(mut response: Response, method: &Method, request_id: &str) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Arc<Problem>>() else { return response };
    problem.log();
    let body = serde_json::to_vec(&ProblemBody {
        kind: problem.kind.type_uri(),
        title: problem.kind.title(),
        status: problem.kind.status().as_u16(),
        detail: &problem.detail,
        instance: request_id,
        code: problem.kind.code(),
        fix: problem.fix.as_deref(),
    })
    .expect("text and numbers always serialise");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.remove(axum::http::header::CONTENT_LENGTH);
    if problem.kind.is_retryable() {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    if let Some(challenge) = &problem.challenge {
        headers.insert(WWW_AUTHENTICATE, challenge.clone());
    }
    *response.body_mut() = if *method == Method::HEAD { Body::empty() } else { Body::from(body) };
    response
}
