//! Whatever is sent, there is an answer or an end, and the others are served.

use proptest::prelude::*;

use crate::support::{Ask, BEARER, Running, ScriptedLog, app, soon};

/// Statuses an ingest without a failing log may answer with.
const EXPECTED: [u16; 9] = [200, 400, 401, 403, 404, 405, 413, 415, 431];

fn token() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9-]{1,12}"
}

fn header() -> impl Strategy<Value = (String, String)> {
    let known = prop::sample::select(vec![
        "Authorization",
        "Content-Encoding",
        "Content-Type",
        "Origin",
        "X-Request-Id",
        "traceparent",
        "User-Agent",
        "Accept",
    ])
    .prop_map(str::to_owned);
    let value =
        prop_oneof!["[ -~]{0,40}", "(Bearer|Basic) [A-Za-z0-9+/=]{0,20}", "(gzip|br|zstd|deflate|,| ){0,3}"];
    (prop_oneof![known, "X-[a-zA-Z]{1,8}"], value)
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let json = r#"[\{\}\[\]":,0-9a-z\\u. eE+-]{0,80}"#.prop_map(String::into_bytes);
    let event = r#"\{"event_type":"[^"]{0,10}","user_id":"[^"]{0,10}"(,"timestamp":[-0-9e.]{1,25})?\}"#
        .prop_map(String::into_bytes);
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), json, event]
}

#[test]
fn any_request_gets_an_answer() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ingest = runtime.block_on(async { Running::start(app(), ScriptedLog::open()) });
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let requests = (
        prop_oneof![Just("POST".to_owned()), token()],
        prop_oneof![Just("/v1/events".to_owned()), "/[a-z0-9/?=&%.]{0,20}"],
        prop::collection::vec(header(), 0..6),
        any::<bool>(),
        body(),
    );
    proptest!(config, |((method, path, mut headers, with_key, body) in requests)| {
        if with_key {
            headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
            headers.push((BEARER.0.to_owned(), BEARER.1.to_owned()));
        }
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let ask = Ask { method: &method, path: &path, headers, body: &body };
        // The answer to HEAD announces a body that does not come.
        prop_assume!(method != "HEAD");
        let reply = runtime.block_on(ingest.ask(&ask));
        prop_assert!(EXPECTED.contains(&reply.status) || method == "OPTIONS", "{:?}", reply);
    });
}

#[test]
fn any_bytes_get_an_answer_or_the_end_and_harm_nobody_else() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ingest = runtime.block_on(async { Running::start(app(), ScriptedLog::open()) });
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let starts = prop::sample::select(vec![
        &b""[..],
        b"POST /v1/events HTTP/1.1\r\n",
        b"POST /v1/events HTTP/1.1\r\nAuthorization: Bearer mrw_shop_web\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]);
    proptest!(config, |(start in starts, rest in prop::collection::vec(any::<u8>(), 0..300))| {
        runtime.block_on(async {
            let mut client = ingest.connect().await;
            client.send(&[start, &rest].concat()).await;
            client.finish().await;
            soon(client.end()).await;
            let health = Ask { method: "GET", path: "/health", headers: Vec::new(), body: b"" };
            assert_eq!(ingest.ask(&health).await.status, 200);
        });
    });
}
