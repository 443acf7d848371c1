//! Every route of the gateway against everyone: the committed table, and what really happens.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use axum::body::Body;
use axum::http::Request;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millrace_dataplane::gateway::guard::{BootstrapToken, Tokens as _};
use millrace_dataplane::gateway::route::{Requirement, access_table, table};
use millrace_dataplane::secret::Secret;
use serde_json::Value;

#[path = "gateway/fixture.rs"]
#[expect(dead_code, reason = "shared with another test binary, which uses the rest")]
mod fixture;

use fixture::{ADMIN, ANN, BOB, EVE, Fixture, config, gateway, rules};

/// A URL that its route answers with 200 for who may see `default/blog`.
fn url(path: &str) -> String {
    let needs_app = path.starts_with("/api/dashboard/") || path.starts_with("/api/analytics/");
    let query = if needs_app { "?app=blog" } else { "" };
    path.replace("{app}", "blog") + query
}

/// Statuses of one URL for everyone.
async fn statuses(gateway: &Fixture, url: &str, tokens: &[Option<&str>]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for token in tokens {
        statuses.push(gateway.get(url, *token).await.status.as_u16());
    }
    statuses
}

#[test]
fn the_committed_table_is_the_one_in_force() {
    assert_eq!(include_str!("access.txt"), access_table(), "run `make generate` and read the difference");
}

#[tokio::test]
async fn every_route_asks_for_what_the_table_says() {
    let gateway = gateway();
    for route in table() {
        let expected = match route.requirement {
            Requirement::Public => [200, 200, 200, 200],
            Requirement::SignedIn => [401, 401, 200, 200],
            Requirement::Permission(_) => [401, 401, 403, 200],
        };
        let url = url(&route.path);
        let found = statuses(&gateway, &url, &[None, Some("wrong"), Some(EVE), Some(ADMIN)]).await;
        assert_eq!(found, expected, "{url}: no token, wrong token, no permission, admin");
    }
}

#[tokio::test]
async fn who_is_refused_never_reaches_the_store() {
    let gateway = gateway();
    for route in table().iter().filter(|route| route.requirement != Requirement::Public) {
        for token in [None, Some("wrong"), Some(EVE)] {
            gateway.get(&url(&route.path), token).await;
        }
    }
    gateway.get("/api/dashboard/stats?app=blog", Some(ANN)).await;
    assert_eq!(gateway.store.seen(), []);
}

#[tokio::test]
async fn only_the_exact_token_in_the_right_place_is_accepted() {
    let gateway = gateway();
    let basic = format!("Basic {}", STANDARD.encode(format!("{ADMIN}:")));
    let cases: [(&[&str], u16); 14] = [
        (&[&format!("Bearer {ADMIN}")], 200),
        (&[&format!("bearer {ADMIN}")], 200),
        (&[&format!("Bearer   {ADMIN} ")], 200),
        (&[], 401),
        (&[""], 401),
        (&["Bearer"], 401),
        (&["Bearer "], 401),
        (&[ADMIN], 401),
        (&[&basic], 401),
        (&[&format!("Bearer {ADMIN}x")], 401),
        (&[&format!("Bearer {}", &ADMIN[..ADMIN.len() - 1])], 401),
        (&[&format!("Bearer {}", ADMIN.to_uppercase())], 401),
        (&[&format!("Bearer {ADMIN}"), "Bearer wrong"], 401),
        (&[&format!("Bearer {ADMIN}, Bearer wrong")], 401),
    ];
    for (headers, expected) in cases {
        let mut request = Request::builder().uri("/api/apps");
        for header in headers {
            request = request.header(AUTHORIZATION, *header);
        }
        let seen = gateway.send_request(request.body(Body::empty()).unwrap()).await;
        assert_eq!(seen.status.as_u16(), expected, "{headers:?}");
        if expected == 401 {
            assert!(seen.header("www-authenticate").starts_with("Bearer realm=\"millrace\""), "{headers:?}");
            assert!(!seen.text().contains(ADMIN), "{headers:?}");
        }
    }
    let bytes = Request::builder().uri("/api/apps").header(AUTHORIZATION, b"Bearer \xff\xfe".as_slice());
    assert_eq!(gateway.send_request(bytes.body(Body::empty()).unwrap()).await.status, 401);
    assert_eq!(gateway.get(&format!("/api/apps?token={ADMIN}"), None).await.status, 401);
}

#[test]
fn an_empty_bootstrap_token_opens_nothing() {
    let nobody = BootstrapToken::new(Secret::new(String::new()));
    assert_eq!(nobody.principal(b""), None);
    let admin = BootstrapToken::new(Secret::new(ADMIN.to_owned()));
    assert_eq!((admin.principal(b""), admin.principal(ADMIN.as_bytes()).is_some()), (None, true));
}

#[tokio::test]
async fn what_is_not_in_the_table_is_denied_before_it_is_missing() {
    let gateway = gateway();
    let paths = [
        "/",
        "/api",
        "/api/",
        "/api/apps/",
        "/api/apps/blog/keys",
        "/api//apps",
        "/API/apps",
        "/health/",
        "/x",
    ];
    for path in paths {
        let found = statuses(&gateway, path, &[None, Some("wrong"), Some(EVE), Some(ADMIN)]).await;
        assert_eq!(found, [401, 401, 404, 404], "{path}");
    }
    for path in ["/api/../api/apps", "/docs/../api/apps", "/api/apps/..%2f..%2fstate", "/api/apps/%2e%2e"] {
        assert_eq!(gateway.get(path, None).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn a_method_that_is_not_in_the_table_is_denied_before_it_is_refused() {
    let gateway = gateway();
    for route in table() {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"] {
            let url = url(&route.path);
            let denied = gateway.send(method, &url, None).await;
            assert_eq!(denied.status, 401, "{method} {url}");
            let refused = gateway.send(method, &url, Some(ADMIN)).await;
            assert_eq!(
                (refused.status.as_u16(), refused.header("allow")),
                (405, "GET,HEAD"),
                "{method} {url}"
            );
            assert_eq!(refused.code(), "method_not_allowed");
        }
        let url = url(&route.path);
        let (get, head) = (gateway.get(&url, None).await, gateway.send("HEAD", &url, None).await);
        assert_eq!(get.status, head.status, "HEAD asks for what GET does");
    }
}

/// What a caller can compare: everything but the id of the request.
fn comparable(mut problem: Value) -> Value {
    problem.as_object_mut().unwrap().remove("instance");
    problem
}

#[tokio::test]
async fn an_app_of_others_answers_like_one_that_does_not_exist() {
    let gateway = gateway();
    let urls = ["/api/dashboard/stats?app=", "/api/analytics/retention?app=", "/api/apps/"];
    for url in urls {
        let secret = gateway.get(&format!("{url}blog"), Some(ANN)).await;
        let nothing = gateway.get(&format!("{url}nope"), Some(ANN)).await;
        assert_eq!((secret.status.as_u16(), nothing.status.as_u16()), (404, 404), "{url}");
        let renamed = secret.text().replace("blog", "nope");
        assert_eq!(comparable(serde_json::from_str(&renamed).unwrap()), comparable(nothing.json()), "{url}");
        let names = |seen: &fixture::Seen| {
            let mut names: Vec<String> = seen.headers.keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(&secret), names(&nothing), "{url}");
    }
    // Ann's `shop` is not ambiguous: she does not see the other one.
    assert_eq!(gateway.get("/api/dashboard/stats?app=shop", Some(ANN)).await.json()["app"], "default/shop");
    assert_eq!(gateway.get("/api/dashboard/stats?app=shop", Some(BOB)).await.json()["app"], "team-a/shop");
    assert_eq!(gateway.get("/api/dashboard/stats?app=team-a.shop", Some(ANN)).await.status, 404);
}

#[tokio::test]
async fn everyone_sees_their_own_apps_only() {
    let gateway = gateway();
    let listed = async |token| {
        let json = gateway.get("/api/apps", Some(token)).await.json();
        let ids = json["apps"].as_array().unwrap().iter().map(|app| app["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(listed(ADMIN).await, ["default/blog", "default/shop", "team-a/shop"]);
    assert_eq!(listed(ANN).await, ["default/shop"]);
    let (bob, eve) = (gateway.get("/api/apps", Some(BOB)).await, gateway.get("/api/apps", Some(EVE)).await);
    assert_eq!((bob.status.as_u16(), eve.status.as_u16()), (403, 403));
    assert_eq!(bob.json()["detail"], "this needs the permission `apps:read`");
}

#[tokio::test]
async fn access_that_is_taken_away_ends_with_the_next_request() {
    let gateway = gateway();
    let url = "/api/dashboard/stats?app=shop";
    assert_eq!(gateway.get(url, Some(ANN)).await.status, 200);
    let mut access = rules();
    access[0].bindings[0].apps.clear();
    gateway.config.store(config(access).into());
    assert_eq!(gateway.get(url, Some(ANN)).await.status, 404, "the role is left, the App is gone");
    gateway.config.store(config(Vec::new()).into());
    assert_eq!(gateway.get(url, Some(ANN)).await.status, 403, "nothing is left");
    assert_eq!(gateway.store.seen().len(), 1);
}
