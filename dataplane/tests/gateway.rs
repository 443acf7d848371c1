//! The gateway as its clients see it: answers, refusals, a store that fails, and the documents about itself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use millrace_dataplane::gateway::problem::Kind;
use millrace_dataplane::gateway::route::{Requirement, table};
use millrace_dataplane::gateway::{Limits, openapi};
use millrace_dataplane::query::StoreError;
use millrace_dataplane::query::scripted::Answer;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

#[path = "gateway/fixture.rs"]
#[expect(dead_code, reason = "shared with another test binary, which uses the rest")]
mod fixture;

use fixture::{ADMIN, DIGEST, Fixture, Seen, figures, gateway, gateway_with, log};

const STATS: &str = "/api/dashboard/stats?app=blog&from=2026-01-01&to=2026-01-31";

#[tokio::test]
async fn stats_are_what_the_store_says() {
    let gateway = gateway();
    let seen = gateway.get(STATS, Some(ADMIN)).await;
    let expected = json!({
        "app": "default/blog",
        "range": { "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z" },
        "total_events": 1234, "active_users": 8, "conversions": 3, "converted_users": 2, "conversion_rate": 0.25,
        "revenue": [{ "currency": "EUR", "amount": "1299.95" }, { "currency": "USD", "amount": "0.5" }],
    });
    assert_eq!((seen.status.as_u16(), seen.json()), (200, expected));
    let [statement] = <[_; 1]>::try_from(gateway.store.seen()).unwrap();
    assert_eq!(statement.params()["database"].to_text(), "millrace_default__blog");
}

#[tokio::test]
async fn without_a_range_it_is_the_last_day_or_week() {
    let gateway = gateway();
    let cases = [
        ("/api/dashboard/stats?app=blog", 24, 3600),
        ("/api/analytics/events-over-time?app=blog&interval=hour", 24, 3600),
        ("/api/analytics/events-over-time?app=blog", 7 * 24, 24 * 3600),
        ("/api/analytics/retention?app=blog", 7 * 24, 24 * 3600),
    ];
    for (url, hours, step) in cases {
        let before = Timestamp::now();
        let range = gateway.get(url, Some(ADMIN)).await.json()["range"].clone();
        let [from, to] =
            ["from", "to"].map(|edge| range[edge].as_str().unwrap().parse::<Timestamp>().unwrap());
        assert_eq!(to.as_second() - from.as_second(), hours * 3600, "{url}");
        let ahead = to.as_second() - before.as_second();
        assert!((0..=step + 60).contains(&ahead), "{url} ends {ahead} s from now");
    }
}

#[tokio::test]
async fn events_over_time_have_no_holes() {
    let gateway = gateway_with(Limits::default(), |_, _| {
        let row = json!({ "start": 1_767_312_000, "total_events": 5, "active_users": "2" });
        Answer::Rows(vec![row.as_object().unwrap().clone()])
    });
    let url = "/api/analytics/events-over-time?app=blog&from=2026-01-01&to=2026-01-03&event_type=purchase";
    let bucket = |day: u8, events: u8, active_users: u8| json!({ "start": format!("2026-01-0{day}T00:00:00Z"), "events": events, "active_users": active_users });
    let expected = json!({
        "app": "default/blog",
        "range": { "from": "2026-01-01T00:00:00Z", "to": "2026-01-04T00:00:00Z" },
        "interval": "day", "event_type": "purchase",
        "buckets": [bucket(1, 0, 0), bucket(2, 5, 2), bucket(3, 0, 0)],
    });
    assert_eq!(gateway.get(url, Some(ADMIN)).await.json(), expected);
}

#[tokio::test]
async fn retention_follows_cohorts() {
    let gateway = gateway_with(Limits::default(), |_, _| {
        let row = |age: u8, users: u8| json!({ "cohort": "2026-01-01", "age": age, "users": users });
        Answer::Rows([row(0, 9), row(2, 4)].map(|row| row.as_object().unwrap().clone()).into())
    });
    let url = "/api/analytics/retention?app=blog&from=2026-01-01&to=2026-01-02&days=3";
    let expected = json!({
        "app": "default/blog",
        "range": { "from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z" },
        "days": 3,
        "cohorts": [
            { "day": "2026-01-01", "users": 9, "active": [9, 0, 4] },
            { "day": "2026-01-02", "users": 0, "active": [0, 0, 0] },
        ],
    });
    assert_eq!(gateway.get(url, Some(ADMIN)).await.json(), expected);
}

#[tokio::test]
async fn an_app_shows_its_shape_and_no_secret() {
    let gateway = gateway();
    let seen = gateway.get("/api/apps/default.shop", Some(ADMIN)).await;
    let mut view = seen.json();
    let revision = view.as_object_mut().unwrap().remove("revision").unwrap();
    assert_eq!(revision.as_str().unwrap().len(), 64);
    let expected = json!({
        "id": "default/shop", "namespace": "default", "name": "shop",
        "declared_events": { "purchase": { "revenue": "Decimal" } }, "on_undeclared": "Keep",
        "conversions": ["purchase"], "retention_seconds": 63_072_000, "write_keys": 1, "integrations": 0,
    });
    assert_eq!(view, expected);
    let list = gateway.get("/api/apps", Some(ADMIN)).await;
    assert_eq!(list.json()["apps"][1]["revision"], revision);
    for text in [seen.text(), list.text()] {
        assert!(!text.contains(DIGEST) && !text.contains("digest"));
    }
}

#[tokio::test]
async fn a_name_that_two_namespaces_have_must_say_which() {
    let gateway = gateway();
    for url in ["/api/dashboard/stats?app=shop", "/api/apps/shop"] {
        let seen = gateway.get(url, Some(ADMIN)).await;
        assert_eq!((seen.status.as_u16(), seen.code()), (400, "ambiguous_app".to_owned()));
        assert_eq!(seen.json()["fix"], "name one of `default.shop`, `team-a.shop`");
    }
    let seen = gateway.get("/api/dashboard/stats?app=team-a.shop", Some(ADMIN)).await;
    assert_eq!(seen.json()["app"], "team-a/shop");
}

#[tokio::test]
async fn a_bad_parameter_is_refused_and_asks_nobody() {
    let gateway = gateway();
    let stats = "/api/dashboard/stats?";
    let over_time = "/api/analytics/events-over-time?app=blog&";
    let retention = "/api/analytics/retention?app=blog&";
    let long = format!("event_type={}", "x".repeat(201));
    let cases = [
        (stats, "", "missing field `app`"),
        (stats, "app=blog&app=shop", "duplicate field `app`"),
        (stats, "app=blog&form=2026-01-01", "unknown field `form`"),
        (stats, "app=blog&from=", "`from` is ``, which is neither"),
        (stats, "app=blog&from=now()", "`from` is `now()`, which is neither"),
        (stats, "app=blog&to=1999-01-01", "`to` is 1999-01-02T00:00:00Z; events lie between"),
        (stats, "app=blog&from=2026-01-02&to=2026-01-01T00:00:00Z", "the range starts at"),
        (stats, "app=blog&from=2024-01-01&to=2026-01-01", "the range is 17568 hours long"),
        (over_time, "interval=minute", "unknown variant `minute`"),
        (over_time, "interval=hour&from=2026-01-01&to=2026-02-01", "the range is 768 hours long"),
        (over_time, "event_type=", "`event_type` has 0 bytes"),
        (over_time, &long, "`event_type` has 201 bytes"),
        (retention, "days=0", "`days` is 0"),
        (retention, "days=93", "`days` is 93"),
        (retention, "days=-1", "invalid digit"),
        (retention, "days=99999999999", "number too large"),
        (retention, "from=2026-01-01&to=2026-12-31", "the range is 365 days long"),
    ];
    for (path, query, expected) in cases {
        let seen = gateway.get(&format!("{path}{query}"), Some(ADMIN)).await;
        assert_eq!(
            (seen.status.as_u16(), seen.code()),
            (400, "invalid_parameter".to_owned()),
            "{path}{query}"
        );
        let detail = seen.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(expected), "{path}{query}: {detail}");
    }
    assert_eq!(gateway.store.seen(), []);
}

#[tokio::test]
async fn what_a_caller_says_only_ever_is_a_parameter() {
    let gateway = gateway();
    let url = "/api/analytics/events-over-time?app=blog&from=2026-01-01&to=2026-01-02&event_type=";
    let benign = gateway.get(&format!("{url}view"), Some(ADMIN)).await;
    assert_eq!(benign.status, 200);
    let hostile = [
        ("x'%20OR%201=1%20--", "x' OR 1=1 --"),
        ("%7Bdatabase:Identifier%7D", "{database:Identifier}"),
        ("%5C%27%0A;DROP%20TABLE%20events", "\\\\'\\n;DROP TABLE events"),
        ("%00%09", "\\0\\t"),
        ("%F0%9F%92%B8", "💸"),
    ];
    for (encoded, param) in hostile {
        let seen = gateway.get(&format!("{url}{encoded}"), Some(ADMIN)).await;
        assert_eq!(seen.status, 200, "{encoded}");
        let statements = gateway.store.seen();
        let (first, last) = (&statements[0], statements.last().unwrap());
        assert_eq!(last.sql(), first.sql(), "{encoded}");
        assert_eq!(last.params()["event_type"].to_text(), param);
        assert_eq!(last.params()["database"], first.params()["database"]);
    }
    for app in ["blog'%20--", "default.blog.x", ".blog", "default.", "default%2Fblog", "BLOG", "*", "%25", ""]
    {
        for url in ["/api/dashboard/stats?app=", "/api/apps/"] {
            let seen = gateway.get(&format!("{url}{app}"), Some(ADMIN)).await;
            assert_eq!(seen.status, 404, "{url}{app}");
        }
    }
    assert_eq!(gateway.store.seen().len(), 1 + hostile.len());
}

fn connection_refused() -> StoreError {
    StoreError::Unavailable { source: "connect to http://10.9.8.7:8123: refused".into() }
}

#[tokio::test]
async fn a_store_that_fails_once_fails_one_request() {
    for failing in 1..=3 {
        let gateway = gateway_with(Limits::default(), move |call, statement| {
            if call == failing {
                Answer::Fail(connection_refused())
            } else {
                Answer::Rows(figures(statement))
            }
        });
        for call in 1..=3 {
            let seen = gateway.get(STATS, Some(ADMIN)).await;
            assert_eq!(seen.status.as_u16(), if call == failing { 503 } else { 200 }, "call {call}");
            if call == failing {
                assert_eq!((seen.code().as_str(), seen.header("retry-after")), ("store_unavailable", "5"));
                assert!(!seen.text().contains("10.9.8.7"), "the cause is for the log");
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_refuses_is_our_problem_and_keeps_its_words_inside() {
    let refused = || StoreError::Refused { source: "Code: 60. UNKNOWN_TABLE millrace_x".into() };
    let gateway = gateway_with(Limits::default(), move |_, _| Answer::Fail(refused()));
    let seen = gateway.get(STATS, Some(ADMIN)).await;
    assert_eq!((seen.status.as_u16(), seen.code().as_str()), (500, "internal"));
    assert_eq!(seen.header("retry-after"), "");
    assert!(!seen.text().contains("UNKNOWN_TABLE") && !seen.text().contains("millrace_x"));
}

#[tokio::test]
async fn rows_of_another_shape_are_our_problem() {
    let gateway = gateway_with(Limits::default(), |_, _| Answer::Rows(Vec::new()));
    assert_eq!(gateway.get(STATS, Some(ADMIN)).await.code(), "internal");
}

#[tokio::test]
async fn a_silent_store_is_not_waited_for_and_keeps_no_place() {
    let silent = AtomicBool::new(true);
    let limits = Limits { queries_max: 1, query_timeout: Duration::from_millis(5), ..Limits::default() };
    let gateway = gateway_with(limits, move |_, statement| {
        if silent.swap(false, Ordering::Relaxed) { Answer::Silence } else { Answer::Rows(figures(statement)) }
    });
    let seen = gateway.get(STATS, Some(ADMIN)).await;
    assert_eq!((seen.status.as_u16(), seen.code().as_str()), (504, "query_timed_out"));
    assert_eq!(seen.header("retry-after"), "5");
    assert_eq!(gateway.get(STATS, Some(ADMIN)).await.status, 200);
}

#[tokio::test]
async fn more_questions_than_places_are_sent_away() {
    let limits = Limits { queries_max: 0, queue_timeout: Duration::from_millis(5), ..Limits::default() };
    let gateway = gateway_with(limits, |_, statement| Answer::Rows(figures(statement)));
    let seen = gateway.get(STATS, Some(ADMIN)).await;
    assert_eq!((seen.status.as_u16(), seen.code().as_str()), (503, "overloaded"));
    assert_eq!(gateway.store.seen(), []);
    assert_eq!(gateway.get("/api/apps", Some(ADMIN)).await.status, 200, "what asks no store goes on");
}

#[tokio::test]
async fn a_problem_is_as_rfc_9457_has_it() {
    let gateway = gateway();
    let request = Request::builder().uri("/api/apps/nope").header("x-request-id", "my-id.1");
    let request = request.header(AUTHORIZATION, format!("Bearer {ADMIN}")).body(Body::empty()).unwrap();
    let seen = gateway.send_request(request).await;
    let expected = json!({
        "type": "/docs#problem-unknown_app",
        "title": "There is no such App for this token",
        "status": 404,
        "detail": "this token has access to no App `nope`",
        "instance": "my-id.1",
        "code": "unknown_app",
        "fix": "`GET /api/apps` lists the Apps it has access to",
    });
    assert_eq!(seen.json(), expected);
    assert_eq!(seen.header("content-type"), "application/problem+json");
    assert_eq!(seen.header("x-request-id"), "my-id.1");
}

#[tokio::test]
async fn every_answer_is_named_and_guarded() {
    let gateway = gateway();
    let mut ids = BTreeSet::new();
    let urls = ["/health", "/docs", "/openapi.json", STATS, "/api/apps", "/api/apps/nope", "/nothing"];
    for (url, token) in urls.iter().flat_map(|url| [(*url, None), (*url, Some(ADMIN))]) {
        let request = Request::builder().uri(url).header("x-request-id", "<script>");
        let request = match token {
            None => request,
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
        };
        let seen = gateway.send_request(request.body(Body::empty()).unwrap()).await;
        assert_eq!(seen.header("x-content-type-options"), "nosniff", "{url}");
        assert_eq!(seen.header("cache-control"), "no-store", "{url}");
        assert_eq!(seen.header("referrer-policy"), "no-referrer", "{url}");
        assert!(seen.header("content-security-policy").starts_with("default-src 'none'"), "{url}");
        assert_eq!(seen.header("x-request-id").len(), 36, "{url}");
        assert!(ids.insert(seen.header("x-request-id").to_owned()), "{url}: an id came twice");
    }
}

#[tokio::test]
async fn head_answers_like_get_without_the_body() {
    let gateway = gateway();
    for url in ["/health", STATS, "/api/apps/nope", "/nothing"] {
        let (get, head) = (gateway.get(url, Some(ADMIN)).await, gateway.send("HEAD", url, Some(ADMIN)).await);
        assert_eq!((head.status, head.body), (get.status, Vec::new()), "{url}");
        assert_eq!(head.headers.get("content-type"), get.headers.get("content-type"), "{url}");
    }
}

#[tokio::test]
async fn oversized_requests_are_refused_before_anything_else() {
    let gateway = gateway();
    let long = format!("/api/apps?{}", "x".repeat(8 * 1024));
    let seen = gateway.get(&long, None).await;
    assert_eq!((seen.status.as_u16(), seen.code().as_str()), (414, "url_too_long"));
    for (name, value) in [("content-length", "5"), ("transfer-encoding", "chunked")] {
        let request = Request::builder().uri("/health").header(name, value).body(Body::from("hello"));
        let seen = gateway.send_request(request.unwrap()).await;
        assert_eq!((seen.status.as_u16(), seen.code().as_str()), (413, "body_not_allowed"), "{name}");
    }
    let request = Request::builder().uri("/health").header("content-length", "0").body(Body::empty());
    assert_eq!(gateway.send_request(request.unwrap()).await.status, 200);
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let gateway = gateway();
    gateway.get("/api/apps/blog", Some(ADMIN)).await;
    gateway.get("/api/apps/nope", Some(ADMIN)).await;
    gateway.get("/api/apps/nope", None).await;
    gateway.get("/wp-admin.php", None).await;
    let count = |route, status| gateway.metrics.gateway_requests.with_label_values(&[route, status]).get();
    for (route, status) in [
        ("/api/apps/{app}", "200"),
        ("/api/apps/{app}", "404"),
        ("/api/apps/{app}", "401"),
        ("unknown", "401"),
    ] {
        assert_eq!(count(route, status), 1, "{route} {status}");
    }
    let timed = gateway.metrics.gateway_request_seconds.with_label_values(&["/api/apps/{app}"]);
    assert_eq!(timed.get_sample_count(), 3);
}

#[tokio::test]
async fn the_log_has_the_cause_once_under_the_id_the_caller_got() {
    let gateway = gateway_with(Limits::default(), |_, _| Answer::Fail(connection_refused()));
    let seen = gateway.get(STATS, Some(ADMIN)).await;
    let lines = log().of(seen.json()["instance"].as_str().unwrap());
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["a request failed for now", "answered"]);
    for line in &lines {
        assert_eq!(line["span"]["http.route"], "/api/dashboard/stats");
        let text = line.to_string();
        assert!(!text.contains(ADMIN) && !text.contains("app=blog"), "{text}");
    }
    assert!(lines[0]["error"].as_str().unwrap().contains("the store did not answer"));
    assert_eq!(
        (&lines[0]["level"], &lines[0]["http.problem"]),
        (&json!("WARN"), &json!("store_unavailable"))
    );
    assert_eq!((&lines[1]["level"], &lines[1]["http.status"]), (&json!("DEBUG"), &json!(503)));
}

async fn document(gateway: &Fixture) -> Value {
    gateway.get("/openapi.json", None).await.json()
}

#[tokio::test]
async fn the_document_has_every_route_with_its_security_and_errors() {
    let document = document(&gateway()).await;
    let mut operations = 0;
    for route in table() {
        let operation = &document["paths"][&route.path][route.method.as_str().to_lowercase()];
        let what = format!("{} {}", route.method, route.path);
        assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{what}");
        assert!(operation["responses"]["200"]["content"].is_object(), "{what}");
        let security = match route.requirement {
            Requirement::Public => Value::Null,
            Requirement::SignedIn => json!([{ "bearer": [] }]),
            Requirement::Permission(_) => json!([{ "bearer": [route.requirement.text()] }]),
        };
        assert_eq!(operation["security"], security, "{what}");
        let problems = openapi::problems(&route);
        for status in problems.keys() {
            let content = &operation["responses"][status.to_string()]["content"];
            let schema = &content["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{what} {status}");
        }
        let needs_token = route.requirement != Requirement::Public;
        assert_eq!(problems.contains_key(&401), needs_token, "{what}");
        operations += 1;
    }
    let paths = document["paths"].as_object().unwrap().values();
    assert_eq!(paths.map(|item| item.as_object().unwrap().len()).sum::<usize>(), operations, "and no other");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

#[tokio::test]
async fn every_reference_in_the_document_leads_somewhere() {
    fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = document(&gateway()).await;
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 5, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
}

#[tokio::test]
async fn answers_have_the_members_that_the_document_promises() {
    let gateway = gateway();
    let document = document(&gateway).await;
    let members = |name: &str| {
        let schema = &document["components"]["schemas"][name];
        let parts = schema["allOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
        let resolved = parts.iter().map(|part| {
            let reference = part["$ref"].as_str().map(|reference| &reference[1..]);
            reference.map_or(part, |pointer| document.pointer(pointer).unwrap())["properties"].clone()
        });
        resolved.flat_map(|properties| keys(&properties)).collect::<BTreeSet<_>>()
    };
    let cases = [
        (STATS, "StatsAnswer"),
        ("/api/analytics/retention?app=blog", "RetentionAnswer"),
        ("/api/analytics/events-over-time?app=blog&event_type=a", "EventsOverTimeAnswer"),
        ("/api/apps/blog", "AppView"),
        ("/api/apps/nope", "Problem"),
        ("/health", "HealthAnswer"),
    ];
    for (url, schema) in cases {
        let seen = gateway.get(url, Some(ADMIN)).await;
        assert_eq!(keys(&seen.json()), members(schema), "{url}");
    }
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn the_page_needs_nothing_from_outside_and_explains_every_problem() {
    let page: Seen = gateway().get("/docs", None).await;
    let html = page.text();
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    for outside in ["http:", "https:", "//", "<script", "<link", "<img", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    let style = html.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
    let digest = STANDARD.encode(Sha256::digest(style));
    assert!(page.header("content-security-policy").contains(&format!("style-src 'sha256-{digest}'")));
    for route in table() {
        assert!(html.contains(&format!("<code>{} {}</code>", route.method, route.path)), "{}", route.path);
    }
    for kind in Kind::ALL {
        let anchor = kind.type_uri().replace("/docs#", "");
        assert_eq!(html.matches(&format!("id=\"{anchor}\"")).count(), 1, "{anchor}");
    }
}
