//! The ingest listener from outside: real sockets, a log that does as it is told.

#![expect(clippy::unwrap_used, reason = "a helper that unwraps in vain fails its test")]

#[path = "ingest/anything.rs"]
mod anything;
#[path = "ingest/compress.rs"]
mod compress;
#[path = "ingest/support.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use compress::{Coding, compress};

use millrace_crds::config::RateLimit;
use millrace_dataplane::freshness::Freshness;
use millrace_dataplane::ingest::Limits;
use millrace_dataplane::log::LogError;
use millrace_dataplane::record::{RawRecord, partition_of};
use serde_json::json;
use support::{
    Ask, BEARER, BODY_BYTES_MAX, PARTITIONS, Running, ScriptedLog, TOPIC, app, batch, event, soon, write_key,
};

// What is accepted.

#[tokio::test]
async fn an_accepted_event_is_a_record_under_its_own_key() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let id = "3f0c9a5e-7d7a-4f43-9a53-0d1b4a2e6c11";
    let body =
        format!(r#"{{"event_id":"{id}","event_type":"purchase","user_id":"u1","event_data":{{"sku":7}}}}"#);
    let reply = ingest.ask(&Ask::post(body.as_bytes()).with("X-Request-Id", "req-1")).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json(), json!({ "results": [{ "index": 0, "status": "accepted", "event_id": id }] }));
    assert_eq!(reply.header("x-request-id"), Some("req-1"));
    assert_eq!(reply.header("content-type"), Some("application/json"));

    let stored = ingest.log.stored.lock().unwrap();
    let record = &stored[0];
    let raw: RawRecord = serde_json::from_slice(&record.value).unwrap();
    assert_eq!(&record.key[..], raw.event.event_id.as_bytes());
    assert_eq!(record.to.topic.as_ref(), TOPIC);
    assert_eq!(record.to.partition, partition_of(&record.key, PARTITIONS));
    assert_eq!(raw.event.event_id.to_string(), id);
    assert_eq!(raw.event.trace_id.as_deref(), Some("req-1"));
    assert_eq!(raw.event.event_data.unwrap().get(), r#"{"sku":7}"#);
    assert_eq!(raw.origin.instance, "ingest-0");
    assert_eq!(raw.origin.minute, raw.event.received_at / 60_000);
}

#[tokio::test]
async fn of_a_mixed_batch_the_good_events_are_stored_and_the_bad_ones_named() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let body = batch(&[event("a"), r#"{"user_id":"b"}"#.to_owned(), event("c")]);
    let reply = ingest.post(&body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let results = &reply.json()["results"];
    let statuses: Vec<_> =
        (0..3).map(|index| (results[index]["index"].clone(), results[index]["status"].clone())).collect();
    assert_eq!(json!(statuses), json!([[0, "accepted"], [1, "rejected"], [2, "accepted"]]));
    assert!(results[1]["error"]["code"].is_string() && results[1]["error"]["message"].is_string());
    assert_eq!(ingest.log.count(), 2);
}

#[tokio::test]
async fn a_lone_bad_event_is_a_400_and_a_bad_batch_a_200_and_neither_is_stored() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let bad = r#"{"user_id":"b"}"#.to_owned();
    let alone = ingest.post(&bad).await;
    assert_eq!(alone.status, 400);
    assert_eq!(alone.json()["results"][0]["status"], "rejected");
    assert_eq!(alone.json()["code"], alone.json()["results"][0]["error"]["code"]);
    let all_bad = ingest.post(batch(&[bad.clone(), bad])).await;
    assert_eq!((all_bad.status, all_bad.json()["results"].as_array().unwrap().len()), (200, 2));
    assert_eq!(ingest.log.count(), 0);
}

#[tokio::test]
async fn events_that_only_the_log_finds_too_large_are_named_and_the_others_stored() {
    let ingest = Running::start(app(), ScriptedLog::narrow(2000));
    let large = format!(
        r#"{{"event_type":"page_view","user_id":"u","event_data":{{"text":"{}"}}}}"#,
        "x".repeat(3000)
    );
    let reply = ingest.post(batch(&[event("a"), large.clone(), event("c")])).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json()["results"][1]["error"]["code"], "event_too_large");
    assert_eq!(reply.json()["results"][2]["status"], "accepted");
    assert_eq!(ingest.log.count(), 2);
    let alone = ingest.post(&large).await;
    assert_eq!((alone.status, alone.code()), (400, "event_too_large".to_owned()));
}

#[tokio::test]
async fn every_content_coding_is_understood_and_gzip_without_its_name_too() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let body = batch(&(0..50).map(|user| event(&user.to_string())).collect::<Vec<_>>());
    for (named, coding) in [
        (Some("gzip"), Coding::Gzip),
        (Some("x-gzip"), Coding::Gzip),
        (None, Coding::Gzip),
        (Some("deflate"), Coding::Zlib),
        (Some("deflate"), Coding::Deflate),
        (Some("br"), Coding::Brotli),
        (Some("zstd"), Coding::Zstd),
        (Some("identity"), Coding::None),
    ] {
        let compressed = compress(coding, body.as_bytes());
        let mut ask = Ask::post(&compressed);
        if let Some(name) = named {
            ask = ask.with("Content-Encoding", name);
        }
        let before = ingest.log.count();
        assert_eq!(ingest.ask(&ask).await.status, 200, "{named:?} {coding:?}");
        assert_eq!(ingest.log.count() - before, 50, "{named:?} {coding:?}");
    }
}

#[tokio::test]
async fn a_batch_large_enough_to_leave_the_loop_is_answered_the_same() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let padded = |user: usize| {
        format!(
            r#"{{"event_type":"a","user_id":"{user}","event_data":{{"text":"{}"}}}}"#,
            format!("{user:04}").repeat(200)
        )
    };
    let body = batch(&(0..500).map(padded).collect::<Vec<_>>());
    assert!(body.len() > 256 << 10);
    let plain = ingest.post(&body).await;
    assert_eq!(plain.status, 200, "{plain:?}");
    let compressed = compress(Coding::Gzip, body.as_bytes());
    let reply = ingest.ask(&Ask::post(&compressed).with("Content-Encoding", "gzip")).await;
    assert_eq!(reply.json()["results"].as_array().map(Vec::len), Some(500));
    assert_eq!(ingest.log.count(), 1000);
}

// Who may send.

#[tokio::test]
async fn a_request_without_a_good_key_is_told_where_it_was_looked_for() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let body = event("a");
    for (headers, code, says) in [
        (&[][..], "key_missing", "no header `Authorization`"),
        (&[("Authorization", "Bearer mrw_other")], "key_unknown", "the Bearer token"),
        // base64 of `mrw_other:`
        (&[("Authorization", "Basic bXJ3X290aGVyOg==")], "key_unknown", "the Basic user name"),
        (&[("Authorization", "Basic ###")], "key_malformed", "not base64"),
        (&[("Authorization", "Digest x")], "key_malformed", "scheme"),
        (&[("Authorization", "Bearer")], "key_malformed", "empty"),
        (&[BEARER, BEARER], "key_malformed", "several"),
    ] {
        let reply = ingest.ask(&Ask::post(body.as_bytes()).only(headers)).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, code), "{headers:?}");
        assert!(reply.json()["message"].as_str().unwrap().contains(says), "{reply:?}");
        assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer"), "{headers:?}");
        assert!(!String::from_utf8_lossy(&reply.body).contains("mrw_other"), "the key is not repeated");
    }
    // base64 of `mrw_shop_web:anything`
    let basic = [("Authorization", "Basic bXJ3X3Nob3Bfd2ViOmFueXRoaW5n")];
    assert_eq!(ingest.ask(&Ask::post(body.as_bytes()).only(&basic)).await.status, 200);
    assert_eq!(ingest.log.count(), 1);
}

#[tokio::test]
async fn while_the_configuration_may_be_out_of_date_an_unknown_key_is_told_to_come_back() {
    let freshness = Freshness::within(Duration::from_secs(3_600));
    let ingest = Running::start_knowing(app(), ScriptedLog::open(), Limits::default(), freshness.clone());
    let body = event("a");
    let unknown = Ask::post(body.as_bytes()).only(&[("Authorization", "Bearer mrw_new")]);
    let reply = ingest.ask(&unknown).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "key_unverified"), "{reply:?}");
    let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((5..=15).contains(&seconds), "{seconds}");
    assert_eq!(reply.header("www-authenticate"), None);
    // What is known keeps working, and what is no key at all is none at any time.
    assert_eq!(ingest.post(&body).await.status, 200);
    assert_eq!(ingest.ask(&Ask::post(body.as_bytes()).only(&[])).await.status, 401);

    freshness.heard();
    let reply = ingest.ask(&unknown).await;
    assert_eq!((reply.status, reply.code().as_str()), (401, "key_unknown"), "{reply:?}");
}

#[tokio::test]
async fn a_revoked_key_is_refused_on_a_connection_that_is_already_open() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let mut client = ingest.connect().await;
    let body = event("a");
    let ask = Ask::post(body.as_bytes()).bytes();
    client.send(&ask).await;
    assert_eq!(client.reply().await.status, 200);
    let mut without = app();
    without.ingest.write_keys.clear();
    ingest.apply(without);
    client.send(&ask).await;
    assert_eq!(client.reply().await.code(), "key_unknown");
}

#[tokio::test]
async fn a_key_with_a_list_of_origins_is_good_for_those_pages_and_for_servers() {
    let mut app = app();
    app.ingest.write_keys.insert("web".to_owned(), write_key(support::KEY, &["https://shop.example"]));
    let ingest = Running::start(app, ScriptedLog::open());
    let body = event("a");
    for (origin, status, readable) in [
        (Some("https://shop.example"), 200, true),
        (Some("https://evil.example"), 403, false),
        (Some("null"), 403, false),
        (None, 200, false),
    ] {
        let mut ask = Ask::post(body.as_bytes());
        if let Some(origin) = origin {
            ask = ask.with("Origin", origin);
        }
        let reply = ingest.ask(&ask).await;
        assert_eq!(reply.status, status, "{origin:?}");
        let mirrored = reply.header("access-control-allow-origin");
        assert_eq!(mirrored, origin.filter(|_| readable), "{origin:?}");
        assert_eq!(reply.header("vary"), Some("Origin"), "{origin:?}");
    }
    assert_eq!(ingest.log.count(), 2);
}

#[tokio::test]
async fn a_page_can_read_errors_too_unless_it_may_not_send() {
    let ingest = Running::start(app(), ScriptedLog::open());
    for (headers, body, status) in [
        (vec![], "{}", 401),
        (vec![("Authorization", "Bearer x")], "{}", 401),
        (vec![BEARER], "not json", 400),
        (vec![BEARER, ("Content-Encoding", "lzma")], "{}", 415),
    ] {
        let ask = Ask::post(body.as_bytes()).only(&headers).with("Origin", "https://shop.example");
        let reply = ingest.ask(&ask).await;
        assert_eq!(reply.status, status, "{headers:?}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://shop.example"));
        assert_eq!(reply.header("access-control-expose-headers"), Some("Retry-After, X-Request-Id"));
    }
}

#[tokio::test]
async fn a_preflight_is_granted_with_what_it_asked_for() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let ask = Ask { method: "OPTIONS", path: "/v1/events/", headers: Vec::new(), body: b"" }
        .with("Origin", "https://shop.example")
        .with("Access-Control-Request-Method", "POST")
        .with("Access-Control-Request-Headers", "authorization, content-type");
    let reply = ingest.ask(&ask).await;
    assert_eq!((reply.status, reply.body.len()), (204, 0));
    for (name, value) in [
        ("access-control-allow-origin", "https://shop.example"),
        ("access-control-allow-headers", "authorization, content-type"),
        ("access-control-allow-methods", "POST, OPTIONS"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "86400"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
}

// What is refused.

#[tokio::test]
async fn bad_requests_get_a_clear_answer_and_nothing_is_stored() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let good = event("a");
    let mut trailing = compress(Coding::Gzip, good.as_bytes());
    let truncated = trailing[..trailing.len() - 5].to_vec();
    trailing.push(0);
    let over = vec![b' '; usize::try_from(BODY_BYTES_MAX).unwrap() + 1];
    let grows_over = compress(Coding::Zstd, &over);
    for (coding, body, status, code) in [
        (None, &b"nonsense"[..], 400, "not_json"),
        (None, b"", 400, "not_json"),
        (None, over.as_slice(), 413, "body_too_large"),
        (Some("zstd"), grows_over.as_slice(), 413, "body_too_large"),
        (Some("gzip"), truncated.as_slice(), 400, "body_truncated"),
        (None, truncated.as_slice(), 400, "body_truncated"),
        (Some("gzip"), trailing.as_slice(), 400, "body_trailing_bytes"),
        (Some("gzip"), good.as_bytes(), 400, "body_corrupt"),
        (Some("zstd"), good.as_bytes(), 400, "body_corrupt"),
        (Some("gzip"), b"", 400, "body_truncated"),
        (Some("compress"), good.as_bytes(), 415, "unsupported_encoding"),
        (Some("gzip, br"), good.as_bytes(), 415, "unsupported_encoding"),
    ] {
        let mut ask = Ask::post(body);
        if let Some(coding) = coding {
            ask = ask.with("Content-Encoding", coding);
        }
        let reply = ingest.ask(&ask).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{coding:?} {}", body.len());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        assert_eq!(reply.json()["request_id"].as_str(), reply.header("x-request-id"));
        assert_eq!(reply.header("accept-encoding").is_some(), status == 415);
    }
    assert_eq!(ingest.log.count(), 0);
}

#[tokio::test]
async fn bombs_are_refused_in_every_coding() {
    let mut roomy = app();
    roomy.ingest.max_body_bytes = 1 << 30;
    let ingest = Running::start(roomy, ScriptedLog::open());
    let zeros = vec![b' '; 64 << 20];
    for (name, coding) in [
        ("gzip", Coding::Gzip),
        ("deflate", Coding::Zlib),
        ("deflate", Coding::Deflate),
        ("br", Coding::Brotli),
        ("zstd", Coding::Zstd),
    ] {
        let bomb = compress(coding, &zeros);
        let reply = ingest.ask(&Ask::post(&bomb).with("Content-Encoding", name)).await;
        assert_eq!((reply.status, reply.code().as_str()), (413, "decompression_bomb"), "{coding:?}");
    }
    assert_eq!(ingest.log.count(), 0);
}

#[tokio::test]
async fn a_batch_of_a_million_and_a_tower_of_brackets_are_refused() {
    let mut roomy = app();
    roomy.ingest.max_body_bytes = 16 << 20;
    let ingest = Running::start(roomy, ScriptedLog::open());
    let million = format!(r#"{{"batch":[{}{{}}]}}"#, "{},".repeat(999_999));
    assert_eq!(ingest.post(&million).await.status, 413);
    let tower = "[".repeat(1 << 20);
    let reply = ingest.post(&tower).await;
    assert!(matches!(reply.status, 400 | 413), "{reply:?}");
    let deep = format!(
        r#"{{"event_type":"a","user_id":"u","event_data":{}1{}}}"#,
        "{\"a\":".repeat(5000),
        "}".repeat(5000)
    );
    let reply = ingest.post(&deep).await;
    assert!(matches!(reply.status, 400 | 413), "{reply:?}");
    assert_eq!(ingest.log.count(), 0);
    assert_eq!(ingest.post(event("a")).await.status, 200);
}

#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_anything_is_sent() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let mut client = ingest.connect().await;
    client
        .send(b"POST /v1/events HTTP/1.1\r\nHost: i\r\nAuthorization: Bearer mrw_shop_web\r\nContent-Length: 99999999999\r\n\r\n")
        .await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "body_too_large"));
}

#[tokio::test]
async fn a_sender_that_asks_first_is_told_before_it_sends() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let head = "POST /v1/events HTTP/1.1\r\nHost: i\r\nAuthorization: Bearer mrw_shop_web\r\nExpect: 100-continue\r\n";
    let mut welcome = ingest.connect().await;
    let body = event("a");
    welcome.send(format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes()).await;
    assert_eq!(welcome.reply().await.status, 100);
    welcome.send(body.as_bytes()).await;
    assert_eq!(welcome.reply().await.status, 200);

    let mut too_large = ingest.connect().await;
    too_large.send(format!("{head}Content-Length: 99999999\r\n\r\n").as_bytes()).await;
    assert_eq!(too_large.reply().await.status, 413);
    too_large.closed().await;
}

#[tokio::test]
async fn a_sender_that_cannot_stop_gets_to_read_its_answer_and_keeps_its_connection() {
    let mut tight = app();
    tight.ingest.max_body_bytes = 10_000;
    let ingest = Running::start(tight, ScriptedLog::open());
    let mut client = ingest.connect().await;
    let head = "POST /v1/events HTTP/1.1\r\nHost: i\r\nAuthorization: Bearer mrw_shop_web\r\n";
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await;
    let chunk = [&b"8000\r\n"[..], &vec![b' '; 0x8000], b"\r\n"].concat();
    for _ in 0..28 {
        client.send(&chunk).await;
    }
    client.send(b"0\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "body_too_large"));
    let body = event("a");
    client.send(&Ask::post(body.as_bytes()).bytes()).await;
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn a_sender_that_never_stops_is_cut_off() {
    let mut tight = app();
    tight.ingest.max_body_bytes = 10_000;
    let ingest = Running::start(tight, ScriptedLog::open());
    let mut client = ingest.connect().await;
    let head = "POST /v1/events HTTP/1.1\r\nHost: i\r\nAuthorization: Bearer mrw_shop_web\r\n";
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await;
    let chunk = [&b"8000\r\n"[..], &vec![b' '; 0x8000], b"\r\n"].concat();
    soon(client.send_until_refused(&chunk)).await;
}

#[tokio::test]
async fn other_paths_and_methods_say_what_there_is() {
    let ingest = Running::start(app(), ScriptedLog::open());
    for (method, path, status, allow) in [
        ("GET", "/health", 200, None),
        ("GET", "/health/", 200, None),
        ("POST", "/health", 405, Some("GET, HEAD")),
        ("GET", "/v1/events", 405, Some("POST, OPTIONS")),
        ("DELETE", "/v1/events", 405, Some("POST, OPTIONS")),
        ("GET", "/", 404, None),
        ("POST", "/v2/events", 404, None),
    ] {
        let reply = ingest.ask(&Ask { method, path, headers: vec![BEARER], body: b"" }).await;
        assert_eq!((reply.status, reply.header("allow")), (status, allow), "{method} {path}");
        assert!(reply.header("x-request-id").is_some());
    }
}

#[tokio::test]
async fn an_app_that_does_not_take_the_dialect_says_so() {
    let mut closed = app();
    closed.ingest.dialects.clear();
    let ingest = Running::start(closed, ScriptedLog::open());
    let reply = ingest.post(event("a")).await;
    assert_eq!((reply.status, reply.code().as_str()), (403, "dialect_not_accepted"));
}

#[tokio::test]
async fn over_its_rate_an_app_is_told_when_to_return() {
    let limit = |events_per_second, burst| {
        let mut app = app();
        app.ingest.rate_limit = Some(RateLimit { events_per_second, burst });
        app
    };
    let ingest = Running::start(limit(1, 600), ScriptedLog::open());
    let events = |count| batch(&(0..count).map(|user: u32| event(&user.to_string())).collect::<Vec<_>>());

    let never = ingest.post(events(601)).await;
    assert_eq!((never.status, never.code().as_str()), (413, "batch_over_burst"));
    assert_eq!(ingest.post(events(500)).await.status, 200);
    let later = ingest.post(events(500)).await;
    assert_eq!((later.status, later.code().as_str()), (429, "rate_limited"));
    let seconds: u32 = later.header("retry-after").unwrap().parse().unwrap();
    assert!((300..=500).contains(&seconds), "{seconds}");
    assert_eq!(ingest.log.count(), 500, "nothing of the refused request is stored");

    ingest.apply(limit(1, 600));
    assert_eq!(ingest.post(events(500)).await.status, 429, "the same numbers keep the bucket");
    ingest.apply(limit(1, 700));
    assert_eq!(ingest.post(events(500)).await.status, 200, "other numbers start anew");
}

#[tokio::test]
async fn more_bodies_than_there_is_room_for_are_put_off() {
    let limits = Limits { bodies_bytes_max: 1000, ..Limits::default() };
    let ingest = Running::start_within(app(), ScriptedLog::open(), limits);
    let large = format!("{}{}", event("a"), " ".repeat(2000));
    let reply = ingest.post(&large).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "overloaded"));
    assert!(reply.header("retry-after").is_some());
    assert_eq!(ingest.post(event("a")).await.status, 200);
}

// Durability.

#[tokio::test]
async fn no_200_leaves_before_the_log_has_answered() {
    let ingest = Running::start(app(), ScriptedLog::closed());
    let body = event("a");
    let mut client = ingest.connect().await;
    client.send(&Ask::post(body.as_bytes()).bytes()).await;
    ingest.log.arrival().await;
    // Others are served meanwhile: the loops are not what holds the answer back.
    for _ in 0..8 {
        let health = Ask { method: "GET", path: "/health", headers: Vec::new(), body: b"" };
        assert_eq!(ingest.ask(&health).await.status, 200);
    }
    let mut reply = Box::pin(client.reply());
    assert!(futures::poll!(&mut reply).is_pending(), "answered without the log");
    ingest.log.let_one_through();
    assert_eq!(reply.await.status, 200);
    assert_eq!(ingest.log.count(), 1);
}

#[tokio::test]
async fn what_the_log_does_not_take_is_a_503_with_a_time_to_retry() {
    let ingest = Running::start(app(), ScriptedLog::open());
    for (failure, code, seconds) in [
        (LogError::QueueFull, "log_busy", 1..=3),
        (LogError::DiskFull { free_bytes_min: 1 }, "log_full", 30..=60),
        (LogError::SpillFull { bytes_max: 1 }, "log_full", 30..=60),
        (
            LogError::SpillDiskFull { source: Arc::new(std::io::Error::other("no space")) },
            "log_full",
            30..=60,
        ),
        (LogError::Failed { step: "fsync", source: None }, "log_unavailable", 5..=15),
        (LogError::Closed, "log_unavailable", 5..=15),
        (LogError::UnknownTopic { topic: TOPIC.to_owned() }, "log_unavailable", 5..=15),
        (LogError::TooLarge { bytes: 1, bytes_max: usize::MAX }, "log_unavailable", 5..=15),
    ] {
        ingest.log.fail_with([failure]);
        let reply = ingest.post(batch(&[event("a"), event("b")])).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, code));
        let after: u32 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!(seconds.contains(&after), "{code}: {after}");
        assert!(reply.json().get("results").is_none(), "nothing is called accepted");
    }
    assert_eq!(ingest.log.count(), 0);
    assert_eq!(ingest.post(event("a")).await.status, 200);
}

#[tokio::test]
async fn a_log_that_never_answers_is_a_503_too() {
    let limits = Limits { append_max: Duration::from_millis(20), ..Limits::default() };
    let ingest = Running::start_within(app(), ScriptedLog::closed(), limits);
    let reply = ingest.post(event("a")).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "log_timeout"));
}

#[tokio::test]
async fn what_a_client_sent_before_it_closed_its_side_is_taken_and_answered() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let body = event("a");
    let mut client = ingest.connect().await;
    client.send(&Ask::post(body.as_bytes()).bytes()).await;
    client.finish().await;
    assert_eq!(client.reply().await.status, 200);
    assert_eq!(ingest.log.count(), 1);
}

// Connections.

#[tokio::test]
async fn many_requests_share_a_connection_one_after_the_other_or_all_at_once() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let body = event("a");
    let one = Ask::post(body.as_bytes()).bytes();
    let mut client = ingest.connect().await;
    for _ in 0..3 {
        client.send(&one).await;
        assert_eq!(client.reply().await.status, 200);
    }
    client.send(&one.repeat(20)).await;
    for _ in 0..20 {
        assert_eq!(client.reply().await.status, 200);
    }
    assert_eq!(ingest.log.count(), 23);
}

#[tokio::test]
async fn speaks_http_2_with_prior_knowledge() {
    // Every client of this library wants a TLS provider, also for plain HTTP. A second test may have set it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ingest = Running::start(app(), ScriptedLog::open());
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}/v1/events", ingest.addr);
    let requests =
        (0..50).map(|user| client.post(&url).bearer_auth(support::KEY).body(event(&user.to_string())).send());
    for reply in soon(futures::future::join_all(requests)).await {
        let reply = reply.unwrap();
        assert_eq!((reply.status().as_u16(), reply.version()), (200, reqwest::Version::HTTP_2));
    }
    assert_eq!(ingest.log.count(), 50);
    let over = vec![b' '; 4 << 20];
    let reply = soon(client.post(&url).bearer_auth(support::KEY).body(over).send()).await.unwrap();
    assert_eq!(reply.status(), 413);
}

#[tokio::test]
async fn who_never_completes_a_request_is_let_go() {
    let short = Duration::from_millis(50);
    let limits = Limits { first_request_max: short, ..Limits::default() };
    let ingest = Running::start_within(app(), ScriptedLog::open(), limits);
    for start in [&b""[..], b"PRI * HTTP/2.0", b"POST /v1/events HTTP/1.1\r\nHost: i\r\nX-Slow: "] {
        let mut client = ingest.connect().await;
        client.send(start).await;
        client.closed().await;
    }
}

#[tokio::test]
async fn who_sends_a_body_too_slowly_is_told_and_let_go() {
    let limits = Limits { body_max: Duration::from_millis(50), ..Limits::default() };
    let ingest = Running::start_within(app(), ScriptedLog::open(), limits);
    let mut client = ingest.connect().await;
    client
        .send(b"POST /v1/events HTTP/1.1\r\nHost: i\r\nAuthorization: Bearer mrw_shop_web\r\nContent-Length: 20\r\n\r\n{")
        .await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (408, "body_timeout"));
    assert_eq!(reply.header("connection"), Some("close"));
    client.closed().await;
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_closed() {
    let limits = Limits {
        first_request_max: Duration::from_secs(1),
        idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let ingest = Running::start_within(app(), ScriptedLog::open(), limits);
    let body = event("a");
    let mut client = ingest.connect().await;
    client.send(&Ask::post(body.as_bytes()).bytes()).await;
    assert_eq!(client.reply().await.status, 200);
    client.closed().await;
}

#[tokio::test]
async fn a_connection_over_the_limit_waits_for_a_place() {
    // Each of the two loops holds a place for the connection it will accept next.
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let ingest = Running::start_within(app(), ScriptedLog::open(), limits);
    let health = Ask { method: "GET", path: "/health", headers: Vec::new(), body: b"" }.bytes();
    let mut first = ingest.connect().await;
    let mut second = ingest.connect().await;
    for client in [&mut first, &mut second] {
        client.send(&health).await;
        assert_eq!(client.reply().await.status, 200);
    }
    let mut third = ingest.connect().await;
    third.send(&health).await;
    let mut reply = Box::pin(third.reply());
    // The other two are still served; the third is not.
    second.send(&health).await;
    assert_eq!(second.reply().await.status, 200);
    assert!(futures::poll!(&mut reply).is_pending());
    drop(first);
    assert_eq!(reply.await.status, 200);
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight_and_takes_nothing_new() {
    let ingest = Running::start(app(), ScriptedLog::closed());
    let body = event("a");
    let mut idle = ingest.connect().await;
    idle.send(&Ask { method: "GET", path: "/health", headers: Vec::new(), body: b"" }.bytes()).await;
    assert_eq!(idle.reply().await.status, 200);
    let mut client = ingest.connect().await;
    client.send(&Ask::post(body.as_bytes()).bytes()).await;
    ingest.log.arrival().await;
    ingest.stop();
    idle.closed().await;
    soon(async { while tokio::net::TcpStream::connect(ingest.addr).await.is_ok() {} }).await;
    ingest.log.let_one_through();
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!(ingest.log.count(), 1);
    ingest.ended().await.unwrap();
}

#[tokio::test]
async fn who_will_stop_answers_on_and_sends_clients_elsewhere() {
    let ingest = Running::start(app(), ScriptedLog::open());
    let body = event("a");
    let mut known = ingest.connect().await;
    known.send(&Ask::post(body.as_bytes()).bytes()).await;
    assert_eq!(known.reply().await.header("connection"), None);
    ingest.leave();
    let mut new = ingest.connect().await;
    for client in [&mut known, &mut new] {
        client.send(&Ask::post(body.as_bytes()).bytes()).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
        client.closed().await;
    }
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let limits = Limits { drain_max: Duration::from_millis(50), ..Limits::default() };
    let ingest = Running::start_within(app(), ScriptedLog::closed(), limits);
    let body = event("a");
    let mut client = ingest.connect().await;
    client.send(&Ask::post(body.as_bytes()).bytes()).await;
    ingest.log.arrival().await;
    ingest.stop();
    ingest.ended().await.unwrap();
    client.closed().await;
}

#[tokio::test]
async fn counts_requests_and_events_by_outcome() {
    let ingest = Running::start(app(), ScriptedLog::open());
    ingest.post(batch(&[event("a"), event("b"), "{}".to_owned()])).await;
    ingest.post("nonsense").await;
    ingest.ask(&Ask::post(b"{}").only(&[])).await;
    let events =
        |app: &str, outcome: &str| ingest.metrics.ingest_events.with_label_values(&[app, outcome]).get();
    assert_eq!(events("default/shop", "accepted"), 2);
    assert_eq!(events("default/shop", "not_json"), 1);
    assert_eq!(events("unknown", "key_missing"), 1);
    let requests = |status: &str| ingest.metrics.ingest_requests.with_label_values(&[status]).get();
    assert_eq!((requests("200"), requests("400"), requests("401")), (1, 1, 1));
}
