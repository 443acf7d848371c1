//! The parts of a request in, values a handler can use out. Bounds come first, then shape.

use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::Shared;
use super::problem::{Kind, Problem};

/// Longest path and query, in bytes; what proxies pass on without being told.
const URL_BYTES_MAX: usize = 8 * 1024;

/// Refuses what no route takes, before anything else is looked at.
pub(super) async fn limit(request: Request, next: Next) -> Result<Response, Problem> {
    let url_bytes = request.uri().path_and_query().map_or(0, |url| url.as_str().len());
    if url_bytes > URL_BYTES_MAX {
        return Err(Problem::new(Kind::UrlTooLong, format!("the URL has {url_bytes} bytes"))
            .fix(format!("keep path and query within {URL_BYTES_MAX} bytes")));
    }
    if has_body(request.headers()) {
        return Err(Problem::new(Kind::BodyNotAllowed, "the request has a body").fix("send it without one"));
    }
    Ok(next.run(request).await)
}

/// HTTP/2 allows a body without either header; nothing here reads it.
fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

/// The query of the URL. Unknown, missing and repeated parameters are refused, not guessed about.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(Problem::new(Kind::InvalidParameter, rejection.body_text())
                .fix("see `/docs` for the parameters of this path")),
        }
    }
}

/// The `{app}` of the path.
pub(super) struct AppName(pub(super) String);

impl FromRequestParts<Shared> for AppName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(rejection) => Err(Problem::new(Kind::InvalidParameter, rejection.body_text())
                .fix("write the App's name in the path")),
        }
    }
}
