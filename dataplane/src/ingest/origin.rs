//! The `Origin` of a browser in, whether it may send and the CORS headers out. Pure.
//!
//! A key without a list takes every origin. With a list, a request that names an origin must name one of it;
//! a request without `Origin` comes from a server (browsers always send it on POST) and is let through.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::answer::{self, Page};

/// How long a browser may remember the answer to a preflight: a day. Browsers cap it themselves.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("86400");
/// What page scripts may read of our answers.
const EXPOSED: HeaderValue = HeaderValue::from_static("Retry-After, X-Request-Id");
const METHODS: HeaderValue = HeaderValue::from_static("POST, OPTIONS");
const TRUE: HeaderValue = HeaderValue::from_static("true");
/// A preflight's answer depends on these two.
const VARY_PREFLIGHT: HeaderValue = HeaderValue::from_static("Origin, Access-Control-Request-Headers");
const VARY: HeaderValue = HeaderValue::from_static("Origin");

/// Whether a key with this list takes the request.
pub(super) fn is_allowed(list: &BTreeSet<String>, headers: &HeaderMap) -> bool {
    list.is_empty() || headers.get_all(header::ORIGIN).iter().all(|origin| is_listed(list, origin))
}

fn is_listed(list: &BTreeSet<String>, origin: &HeaderValue) -> bool {
    let origin = origin.as_bytes();
    list.iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(origin))
}

/// Lets the page that sent the request read the answer, errors included.
pub(super) fn expose(answer: &mut HeaderMap, origin: Option<HeaderValue>) {
    answer.insert(header::VARY, VARY);
    if let Some(origin) = origin {
        mirror(answer, origin);
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

/// Credentials are allowed because `sendBeacon` always asks for them; nothing here reads a cookie.
fn mirror(answer: &mut HeaderMap, origin: HeaderValue) {
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
}

/// The answer to a preflight. It carries no key, so any origin passes; the POST that follows is checked.
pub(super) fn preflight(asked: &HeaderMap) -> Response<Page> {
    let mut response = answer::empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, METHODS);
    headers.insert(header::VARY, VARY_PREFLIGHT);
    if let Some(origin) = asked.get(header::ORIGIN) {
        mirror(headers, origin.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
        copy(asked, header::ACCESS_CONTROL_REQUEST_HEADERS, headers, header::ACCESS_CONTROL_ALLOW_HEADERS);
    }
    response
}

fn copy(from: &HeaderMap, name: HeaderName, to: &mut HeaderMap, as_name: HeaderName) {
    for value in from.get_all(name) {
        to.append(as_name.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(origins: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(header::ORIGIN, HeaderValue::from_static(origin));
        }
        headers
    }

    #[test]
    fn lists_bind_browsers_and_only_them() {
        const SHOP: &str = "https://shop.example";
        for (list, origins, expected) in [
            (&[][..], &["https://anywhere.example"][..], true),
            (&[][..], &[], true),
            (&[SHOP], &[SHOP], true),
            (&[SHOP], &["HTTPS://SHOP.example"], true),
            (&[SHOP], &[], true),
            (&[SHOP], &["https://shop.example.evil.example"], false),
            (&[SHOP], &["https://shop.example:8443"], false),
            (&[SHOP], &["http://shop.example"], false),
            (&[SHOP], &["null"], false),
            (&[SHOP], &[""], false),
            (&[SHOP], &[SHOP, "https://evil.example"], false),
            (&["https://other.example", SHOP], &[SHOP], true),
        ] {
            let set = list.iter().map(|origin| (*origin).to_owned()).collect();
            assert_eq!(is_allowed(&set, &from(origins)), expected, "{list:?} {origins:?}");
        }
    }
}
