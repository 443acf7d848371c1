use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use super::*;
use crate::admit::{self, RequestContext};

const KEY: &str = "mrw_test";

/// An ingest endpoint that decides as the real one does and keeps nothing but what it saw.
#[derive(Default)]
struct Server {
    /// Answers 503 to so many requests first.
    busy_for: AtomicU32,
    /// Accepts or refuses everything, whatever it is.
    verdict: Option<bool>,
    user_agents: Mutex<BTreeSet<String>>,
}

async fn ingest(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> Response {
    if server.busy_for.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "0")]).into_response();
    }
    if headers[header::AUTHORIZATION] != format!("Bearer {KEY}") {
        return (StatusCode::UNAUTHORIZED, json!({"detail": "unknown key"}).to_string()).into_response();
    }
    let user_agent = headers[header::USER_AGENT].to_str().unwrap();
    server.user_agents.lock().unwrap().insert(user_agent.to_owned());
    let app = admit::tests::app(|_| {});
    let mut context = RequestContext {
        received_at: Timestamp::now(),
        client_ip: None,
        user_agent: Some(user_agent),
        trace_id: "",
        ids: &mut || panic!("every event has an id"),
    };
    match admit::admit_body(&app, &body, &mut context) {
        Ok(answers) => {
            let lines: Vec<_> = answers.into_iter().map(|answer| line(server.verdict, answer)).collect();
            json!({"results": lines}).to_string().into_response()
        }
        Err(rejection) => (rejection.status(), json!({"code": rejection.code()}).to_string()).into_response(),
    }
}

fn line(verdict: Option<bool>, answer: Result<admit::Admitted, admit::Rejection>) -> Value {
    let refused = |code: &str| json!({"status": "rejected", "error": {"code": code, "message": "m"}});
    match (verdict, answer) {
        (Some(false), _) => refused("always"),
        (Some(true), Err(_)) => json!({"event_id": uuid::Uuid::from_u128(1)}),
        (_, Ok(admitted)) => json!({"status": "accepted", "event_id": admitted.event.event_id}),
        (None, Err(rejection)) => refused(rejection.code.as_str()),
    }
}

async fn run_against(server: Arc<Server>, key: &str, count: u64) -> Summary {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/events", post(ingest)).with_state(server);
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let settings = Settings {
        url,
        key: Secret::new(key.to_owned()),
        rate: None,
        count,
        seed: 11,
        now: Timestamp::now(),
        progress: Progress::Hidden,
    };
    let summary = run(settings).await.unwrap();
    serving.abort();
    summary
}

#[tokio::test]
async fn a_correct_server_agrees_also_when_it_is_busy_at_first() {
    let server = Arc::new(Server { busy_for: AtomicU32::new(5), ..Server::default() });
    let summary = run_against(Arc::clone(&server), KEY, 1_000).await;
    assert_eq!(summary.verdict(), Ok(()), "{summary}");
    assert_eq!(summary.sent, 1_000);
    assert_eq!(summary.accepted, summary.meant_valid);
    assert_eq!(summary.distinct_accepted, summary.accepted - summary.duplicates_sent);
    assert_eq!(summary.distinct_accepted, summary.acknowledged_ids.len() as u64);
    assert_eq!(summary.refused_by_code.values().sum::<u64>(), summary.meant_invalid);
    assert!(
        summary.refused_by_code.len() > 6 && summary.refused_by_code.contains_key("not_json"),
        "{summary}"
    );
    assert!(summary.conversions > 0 && !summary.revenue.is_empty() && summary.active_users > 3);
    assert!(server.user_agents.lock().unwrap().len() > 4);
    let Window { first, last, from, to } = summary.window.unwrap();
    assert!(from <= first && first < last && last < to && last < Timestamp::now());
    assert_eq!((from.as_second() % 3600, to.as_second() % 3600), (0, 0));
    let json: Value = serde_json::from_str(&Output::Json.render(&summary)).unwrap();
    assert_eq!(json["accepted"], summary.accepted);
    assert!(Output::Text.render(&summary).contains("as meant"));
}

#[tokio::test]
async fn a_server_that_accepts_or_refuses_everything_is_found_out() {
    let generous = run_against(Arc::new(Server { verdict: Some(true), ..Server::default() }), KEY, 500).await;
    assert!(matches!(
        generous.verdict(),
        Err(Verdict::Disagreement { wrongly_refused: 0, wrongly_accepted: 1.., .. })
    ));
    assert!(generous.differences[0].starts_with("an event with "));
    let strict = run_against(Arc::new(Server { verdict: Some(false), ..Server::default() }), KEY, 50).await;
    assert!(matches!(
        strict.verdict(),
        Err(Verdict::Disagreement { wrongly_refused: 1.., wrongly_accepted: 0, .. })
    ));
    assert!(strict.differences[0].contains("always"));
}

#[tokio::test]
async fn a_refused_key_ends_the_run_at_once_and_is_not_repeated() {
    let summary = run_against(Arc::default(), "mrw_wrong", 10_000).await;
    let Err(Verdict::Stopped { reason }) = summary.verdict() else { panic!("{summary}") };
    assert!(reason.contains("401") && reason.contains("unknown key") && !reason.contains("mrw_"), "{reason}");
    assert_eq!(summary.sent, 0);
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_before_anything_is_sent() {
    let settings = Settings {
        url: "localhost:8080".to_owned(),
        key: Secret::new(KEY.to_owned()),
        rate: None,
        count: 1,
        seed: 1,
        now: Timestamp::UNIX_EPOCH,
        progress: Progress::Hidden,
    };
    assert!(matches!(run(settings).await, Err(GenerateError::Url { .. })));
}

#[test]
fn the_pace_is_that_of_the_events_before() {
    let start = Instant::now();
    let mut pace = Pace { start, rate: Some(100), events: 0 };
    assert_eq!(pace.next(50), start);
    assert_eq!(pace.next(150), start + Duration::from_millis(500));
    assert_eq!(pace.next(1), start + Duration::from_secs(2));
    let mut free = Pace { start, rate: None, events: 0 };
    assert_eq!((free.next(5), free.next(5)), (start, start));
}

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

#[test]
fn arguments_have_defaults_and_limits_and_never_print_the_key() {
    use clap::{CommandFactory, Parser};
    Command::command().debug_assert();
    let command = Command::try_parse_from(["generate", "--key", KEY]).ok().unwrap();
    assert!(!format!("{:?}", command.args).contains(KEY));
    let settings = command.args.settings(Timestamp::UNIX_EPOCH);
    assert_eq!((settings.count, settings.rate, settings.progress), (5_000, None, Progress::Bar));
    for wrong in [&["--count", "0"][..], &["--rate", "0"], &["--rate", "-1"], &["--output", "xml"]] {
        assert!(Command::try_parse_from([&["generate", "--key", KEY], wrong].concat()).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_bar_can_be_made() {
    for progress in [Progress::Bar, Progress::Hidden] {
        assert_eq!(progress_bar(progress, 7).length(), Some(7));
    }
}
