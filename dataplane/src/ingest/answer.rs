//! Results and errors in, responses out. Errors are problem documents (RFC 9457) that also carry `code` and
//! `message`, which client libraries look for, and the request's id. The operator's cause never stands in them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use uuid::Uuid;

use super::append::AppendError;
use super::body::BodyError;
use super::coding::{self, CodingError};
use super::decide::{DecideError, Outcome};
use super::inflate::InflateError;
use super::key::KeyError;
use super::tenant::{RateError, Tenant};
use crate::admit::BodyRejection;

/// Body of a response.
pub(super) type Page = Full<Bytes>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Seconds until there should be room again.
const RETRY_ROOM_SECONDS: std::ops::RangeInclusive<u32> = 1..=3;

/// Seconds until the configuration should be up to date again.
const RETRY_STALE_SECONDS: std::ops::RangeInclusive<u32> = 5..=15;

/// A response, and what the log line of the request says about it.
pub(super) struct Answer {
    pub(super) response: Response<Page>,
    pub(super) app: Option<Arc<Tenant>>,
    pub(super) accepted: usize,
    pub(super) rejected: usize,
}

impl Answer {
    /// A response that is not about events.
    pub(super) fn of(response: Response<Page>) -> Self {
        Self { response, app: None, accepted: 0, rejected: 0 }
    }
}

/// What is wrong with a request as a whole.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct ProblemPage<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    message: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<&'a [Line<'a>]>,
}

#[derive(Serialize)]
struct ResultsPage<'a> {
    results: &'a [Line<'a>],
}

/// What the client reads about one event.
#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<LineError<'a>>,
}

#[derive(Serialize)]
struct LineError<'a> {
    code: &'a str,
    message: &'a str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), header: None }
    }

    /// Adds the one header its status calls for.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    fn retry_after(self, seconds: u32) -> Self {
        self.with(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// For metrics.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn into_response(self, request_id: &str) -> Response<Page> {
        let mut response = self.response(request_id, None);
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }

    fn response(&self, request_id: &str, results: Option<&[Line<'_>]>) -> Response<Page> {
        let page = ProblemPage {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.message,
            code: self.code,
            message: &self.message,
            request_id,
            results,
        };
        json(self.status, PROBLEM_JSON, &page)
    }
}

/// The answer to events that were decided: 200 with one result each. Only a request that carried a single event
/// and had it refused is a 400: the same results, as members of a problem document.
pub(super) fn results(outcomes: &[Outcome], request_id: &str) -> Response<Page> {
    let lines: Vec<Line<'_>> = outcomes.iter().enumerate().map(line).collect();
    if let [Outcome::Rejected { code, message }] = outcomes {
        let problem = Problem::new(StatusCode::BAD_REQUEST, code, message.as_str());
        return problem.response(request_id, Some(&lines));
    }
    json(StatusCode::OK, JSON, &ResultsPage { results: &lines })
}

fn line((index, outcome): (usize, &Outcome)) -> Line<'_> {
    match outcome {
        Outcome::Accepted(id) => Line { index, status: "accepted", event_id: Some(id), error: None },
        Outcome::Rejected { code, message } => {
            Line { index, status: "rejected", event_id: None, error: Some(LineError { code, message }) }
        }
    }
}

/// This process answers.
pub(super) fn health() -> Response<Page> {
    json(StatusCode::OK, JSON, &serde_json::json!({ "status": "ok" }))
}

/// A response without a body.
pub(super) fn empty(status: StatusCode) -> Response<Page> {
    let mut response = Response::new(Page::default());
    *response.status_mut() = status;
    response
}

fn json(status: StatusCode, kind: HeaderValue, page: &impl Serialize) -> Response<Page> {
    let text = serde_json::to_vec(page).expect("the pages have text keys only");
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        // No Basic challenge: it would make browsers ask their user for a password.
        let (code, challenge) = match error {
            KeyError::Unverified { .. } => {
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "key_unverified", error.to_string())
                    .retry_after(rand::random_range(RETRY_STALE_SECONDS));
            }
            KeyError::Missing => ("key_missing", r#"Bearer realm="millrace""#),
            KeyError::Unknown { .. } => ("key_unknown", r#"Bearer realm="millrace", error="invalid_token""#),
            KeyError::Several
            | KeyError::Scheme
            | KeyError::NotBase64
            | KeyError::NoColon
            | KeyError::Empty { .. } => {
                ("key_malformed", r#"Bearer realm="millrace", error="invalid_request""#)
            }
        };
        Self::new(StatusCode::UNAUTHORIZED, code, error.to_string())
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }
}

impl From<CodingError> for Problem {
    fn from(error: CodingError) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", error.to_string())
            .with(header::ACCEPT_ENCODING, HeaderValue::from_static(coding::SUPPORTED))
    }
}

impl From<RateError> for Problem {
    fn from(error: RateError) -> Self {
        match error {
            RateError::Spent { wait } => {
                let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                let seconds = u32::try_from(whole.max(1)).unwrap_or(u32::MAX);
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", error.to_string())
                    .retry_after(seconds)
            }
            // Not 429: clients would repeat for ever what can never pass.
            RateError::OverBurst { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_over_burst", error.to_string())
            }
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let message = error.to_string();
        match error {
            BodyError::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message),
            BodyError::TimedOut { .. } => Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message),
            BodyError::Broken => Self::new(StatusCode::BAD_REQUEST, "body_incomplete", message),
            BodyError::BudgetSpent => Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
                .retry_after(rand::random_range(RETRY_ROOM_SECONDS)),
        }
    }
}

impl From<InflateError> for Problem {
    fn from(error: InflateError) -> Self {
        let (status, code) = match error {
            InflateError::Corrupt => (StatusCode::BAD_REQUEST, "body_corrupt"),
            InflateError::Truncated => (StatusCode::BAD_REQUEST, "body_truncated"),
            InflateError::TrailingBytes => (StatusCode::BAD_REQUEST, "body_trailing_bytes"),
            InflateError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            InflateError::Bomb { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "decompression_bomb"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<BodyRejection> for Problem {
    fn from(rejection: BodyRejection) -> Self {
        Self::new(rejection.status(), rejection.code(), rejection.to_string())
    }
}

impl From<DecideError> for Problem {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Inflate(error) => error.into(),
            DecideError::Held(error) => error.into(),
            DecideError::Body(rejection) => rejection.into(),
            DecideError::Panicked => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "this request met a bug in Millrace; report its request id",
            ),
            DecideError::Stopping => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", error.to_string())
                    .retry_after(rand::random_range(RETRY_ROOM_SECONDS))
            }
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        let message = "the events could not be made durable; none is acknowledged, retry all of them with the \
                       same event ids after the time in `Retry-After`";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.code(), message)
            .retry_after(rand::random_range(error.retry_seconds()))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;

    async fn page(response: Response<Page>) -> (u16, Value) {
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    fn rejected() -> Outcome {
        Outcome::Rejected { code: "invalid_field", message: "no".to_owned() }
    }

    #[tokio::test]
    async fn results_are_by_index_and_only_a_lone_refused_event_is_a_400() {
        let id = Uuid::nil();
        let accepted = json!({ "index": 0, "status": "accepted", "event_id": id });
        let refused = |index| json!({ "index": index, "status": "rejected", "error": { "code": "invalid_field", "message": "no" } });
        for (outcomes, status, lines) in [
            (vec![Outcome::Accepted(id)], 200, json!([accepted])),
            (vec![Outcome::Accepted(id), rejected()], 200, json!([accepted, refused(1)])),
            (vec![rejected(), rejected()], 200, json!([refused(0), refused(1)])),
            (vec![rejected()], 400, json!([refused(0)])),
        ] {
            let (answered, page) = page(results(&outcomes, "r")).await;
            assert_eq!((answered, &page["results"]), (status, &lines));
            assert_eq!(page.get("code").is_some(), status == 400);
        }
    }

    #[tokio::test]
    async fn a_rate_limit_answer_rounds_its_wait_up() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_999, "60")] {
            let wait = std::time::Duration::from_millis(millis);
            let response = Problem::from(RateError::Spent { wait }).into_response("r");
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
        }
    }

    #[tokio::test]
    async fn a_problem_has_the_fields_of_rfc_9457_and_those_clients_look_for() {
        let (status, page) = page(Problem::from(KeyError::Missing).into_response("r-1")).await;
        assert_eq!(status, 401);
        assert_eq!(page["status"], 401);
        assert_eq!(page["title"], "Unauthorized");
        assert_eq!(page["code"], "key_missing");
        assert_eq!(page["message"], page["detail"]);
        assert_eq!(page["request_id"], "r-1");
    }
}
