use std::collections::{BTreeMap, BTreeSet};

use millrace_crds::config::{
    AppConfig, DeviceIds, Events, FieldAction, FieldRule, Format, Ingest, Ip, OnUndeclared, Privacy, Storage,
    UserIds,
};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::*;
use crate::config::PrivacyKeys;
use crate::record::{Origin, RECORD_VERSION, RawRecord};
use crate::secret::Secret;

/// 2026-01-02T03:04:05Z.
const NOW_MS: i64 = 1_767_323_045_000;

/// An App with everything at its default and small limits, and then as `change` makes it.
pub(crate) fn app(change: impl FnOnce(&mut AppConfig)) -> App {
    let mut config = AppConfig {
        format: Format::V1,
        app: "default/shop".parse().unwrap(),
        ingest: Ingest {
            dialects: BTreeSet::new(),
            write_keys: BTreeMap::new(),
            rate_limit: None,
            max_body_bytes: 1 << 20,
            max_event_bytes: 32_768,
            max_batch_events: 100,
            trust_forwarded_client: false,
        },
        events: Events {
            on_undeclared: OnUndeclared::Keep,
            declared: BTreeMap::new(),
            revenue: None,
            conversions: BTreeSet::new(),
            dedupe_window_ms: 86_400_000,
        },
        privacy: Privacy {
            user_ids: UserIds::Hash,
            device_ids: DeviceIds::Encrypt,
            ip: Ip::Truncate,
            fields: Vec::new(),
            required_consent: BTreeSet::new(),
        },
        storage: Storage {
            database: "millrace_default__shop".to_owned(),
            retention_seconds: 63_072_000,
            schema_hash: String::new(),
        },
        topics: Vec::new(),
        integrations: BTreeMap::new(),
    };
    change(&mut config);
    let privacy_keys = PrivacyKeys { epoch: 1, hash: Secret::new([1; 32]), encrypt: Secret::new([2; 64]) };
    App { config, privacy_keys }
}

type Answer = Result<Vec<Result<Admitted, Rejection>>, BodyRejection>;

/// Admits a body under fixed circumstances; random ids count up from 1.
fn admit(app: &App, body: &[u8]) -> Answer {
    let mut count = 0;
    let mut context = RequestContext {
        received_at: Timestamp::from_millisecond(NOW_MS).unwrap(),
        client_ip: Some("198.51.100.9".parse().unwrap()),
        user_agent: Some("Agent/1.0"),
        trace_id: "trace-1",
        ids: &mut || {
            count += 1;
            Uuid::from_u128(count)
        },
    };
    admit_body(app, body, &mut context)
}

#[track_caller]
fn admit_one(app: &App, event: &Value) -> Result<Event, (Code, String)> {
    let [answer] = admit(app, event.to_string().as_bytes()).unwrap().try_into().unwrap();
    answer.map(|admitted| admitted.event).map_err(|rejection| (rejection.code, rejection.message))
}

/// The smallest event, with `members` added or replaced.
fn event(members: Value) -> Value {
    let mut event = json!({"event_type": "page_view", "user_id": "ada", "event_id": "e-1"});
    let (Value::Object(event_members), Value::Object(members)) = (&mut event, members) else {
        panic!("objects")
    };
    event_members.extend(members);
    event
}

#[test]
fn a_full_event_becomes_a_record_with_everything_in_its_place() {
    let app = app(|_| {});
    let body = br#"{"event_type":"purchase","user_id":"ada","anonymous_id":"anon","device_id":"dev",
        "event_id":"0190A5C8-7A3B-7000-8000-0123456789AB","timestamp":"2026-01-02T03:04:00.500Z",
        "sent_at":1767323046000,"session_id":"s1","platform":"iOS","app_version":"2.1",
        "attribution":{"campaign":"spring","source":"news","medium":"email","content":"top","term":"shoes"},
        "consent":{"categories":["analytics","ads"],"version":"3","timestamp":1767000000000},
        "event_data":{ "revenue" : 19.990, "items":[{"sku":"A"}] }}"#;
    let [answer] = admit(&app, body).unwrap().try_into().unwrap();
    let event = answer.unwrap().event;
    assert_eq!(event.event_data.as_ref().unwrap().get(), r#"{ "revenue" : 19.990, "items":[{"sku":"A"}] }"#);
    let device_id = event.device_id.clone().unwrap();
    assert_eq!(open_device_id(&app.config.app, &app.privacy_keys, &device_id).unwrap(), "dev");
    let expected = json!({
        "event_id": "0190a5c8-7a3b-7000-8000-0123456789ab",
        "event_type": "purchase",
        "timestamp": 1_767_323_039_500_i64,
        "received_at": NOW_MS,
        "user_id": stored_user_id(&app, "ada"),
        "anonymous_id": stored_anonymous_id(&app, "anon"),
        "device_id": device_id,
        "session_id": "s1",
        "platform": "ios",
        "app_version": "2.1",
        "attribution":
            {"campaign": "spring", "source": "news", "medium": "email", "content": "top", "term": "shoes"},
        "consent": {"categories": ["analytics", "ads"], "version": "3", "timestamp": 1_767_000_000_000_i64},
        "ip": "198.51.100.0",
        "user_agent": "Agent/1.0",
        "trace_id": "trace-1",
        "event_data": {"revenue": 19.99, "items": [{"sku": "A"}]},
    });
    assert_eq!(serde_json::to_value(&event).unwrap(), expected);
}

#[test]
fn each_bad_event_is_refused_with_the_field_and_without_its_value() {
    for (members, code, words) in [
        (json!({"event_type": null}), Code::MissingField, "`event_type` is required"),
        (json!({"event_type": ""}), Code::InvalidField, "`event_type` must be a string of 1 to 200"),
        (json!({"event_type": 5}), Code::InvalidField, "`event_type` must be a string"),
        (json!({"event_type": "x".repeat(201)}), Code::InvalidField, "`event_type`"),
        (json!({"event_type": "page\u{85}view"}), Code::InvalidField, "`event_type`"),
        (json!({"event_type": "page\nview"}), Code::InvalidField, "control characters"),
        (json!({"user_id": null}), Code::MissingField, "one of `user_id`, `anonymous_id`, `device_id`"),
        (json!({"user_id": 4711}), Code::InvalidField, "`user_id` must be a string"),
        (json!({"user_id": ""}), Code::InvalidField, "`user_id`"),
        (json!({"anonymous_id": "é".repeat(201)}), Code::InvalidField, "`anonymous_id`"),
        (json!({"device_id": ["secret"]}), Code::InvalidField, "`device_id`"),
        (json!({"event_id": "00000000-0000-0000-0000-000000000000"}), Code::InvalidField, "nil"),
        (json!({"timestamp": "yesterday"}), Code::InvalidField, "`timestamp` must be RFC 3339"),
        (json!({"timestamp": NOW_MS + 86_400_001}), Code::TimestampInFuture, "`timestamp`"),
        (json!({"timestamp": 1_767_323_045}), Code::TimestampTooOld, "milliseconds, not seconds"),
        (json!({"timestamp": NOW_MS, "sent_at": "secret"}), Code::InvalidField, "`sent_at`"),
        (json!({"sent_at": {}}), Code::InvalidField, "`sent_at`"),
        (json!({"platform": false}), Code::InvalidField, "`platform`"),
        (json!({"attribution": "secret"}), Code::InvalidField, "`attribution` must be an object"),
        (
            json!({"attribution": {"medum": "secret"}}),
            Code::UnknownField,
            "did you mean `attribution.medium`?",
        ),
        (json!({"attribution": {"term": 5}}), Code::InvalidField, "`attribution.term`"),
        (json!({"consent": {}}), Code::MissingField, "`consent.categories`"),
        (json!({"consent": {"categories": "secret"}}), Code::InvalidField, "`consent.categories`"),
        (json!({"consent": {"categories": [5]}}), Code::InvalidField, "`consent.categories`"),
        (
            json!({"consent": {"categories": [], "timestamp": "secret"}}),
            Code::InvalidField,
            "`consent.timestamp`",
        ),
        (json!({"event_data": ["secret"]}), Code::InvalidField, "`event_data` must be an object"),
        (json!({"event_data": {"a.b": 1, "a": {"b": 2}}}), Code::CollidingKeys, "`event_data`"),
        (json!({"event_data": {"": 1}}), Code::InvalidKey, "empty"),
        (json!({"event_data": {"x": "secret\0"}}), Code::InvalidCharacter, "NUL"),
        (json!({"event_data": {"x": "s".repeat(40_000)}}), Code::EventTooLarge, "`maxEventBytes`"),
        (json!({"properties": {"x": "secret"}}), Code::UnknownField, "did you mean `event_data`?"),
        (json!({"secret@example.com": 1}), Code::UnknownField, "not a plain word"),
        (json!({"ip": "secret"}), Code::ForwardedClientNotTrusted, "spec.ingest.trustForwardedClient"),
        (json!({"user_agent": "secret"}), Code::ForwardedClientNotTrusted, "`user_agent`"),
    ] {
        let (found, message) = admit_one(&app(|_| {}), &event(members.clone())).unwrap_err();
        assert_eq!(found, code, "{members}: {message}");
        assert!(message.contains(words), "{members}: {message}");
        assert!(!message.contains("secret") && !message.contains("4711"), "{message}");
    }
}

#[test]
fn edges_of_what_is_allowed_are_allowed() {
    for members in [
        json!({"event_type": "x".repeat(200)}),
        json!({"event_type": "é".repeat(200)}),
        json!({"timestamp": NOW_MS + 86_400_000}),
        json!({"timestamp": 946_684_800_000_i64}),
        json!({"timestamp": 1, "sent_at": 2}),
        json!({"session_id": "", "platform": null, "attribution": {}, "event_data": {}}),
        json!({"user_id": null, "device_id": "d"}),
        json!({"event_data": {"a.b": 1, "a": {"c": 2}}}),
    ] {
        admit_one(&app(|_| {}), &event(members.clone()))
            .unwrap_or_else(|error| panic!("{members} {error:?}"));
    }
}

#[test]
fn each_bad_body_is_refused_whole() {
    let deep = format!(r#"{{"event_type":"x","user_id":"u","event_data":{}"#, "{\"a\":".repeat(100_000));
    let many = format!(r#"{{"batch":[{}"#, "{},".repeat(1_000_000));
    for (body, status, code) in [
        (&b"\xff"[..], 400, "not_utf8"),
        (b"{\"event_type\":\"\xc3\x28\"}", 400, "not_utf8"),
        (b"", 400, "not_json"),
        (b"not json", 400, "not_json"),
        (b"{\"event_type\":NaN}", 400, "not_json"),
        (b"{} {}", 400, "not_json"),
        (b"[{}]", 400, "not_an_object"),
        (b"7", 400, "not_an_object"),
        (b"{\"batch\":7}", 400, "batch_not_an_array"),
        (b"{\"batch\":[]}", 400, "empty_batch"),
        (b"{\"batch\":[{}],\"sent_at\":\"now\"}", 400, "invalid_field"),
        (b"{\"batch\":[{}],\"sentAt\":1}", 400, "unknown_field"),
        (b"{\"batch\":[{}],\"batch\":[{}]}", 400, "duplicate_key"),
        (deep.as_bytes(), 413, "too_deep"),
        (many.as_bytes(), 413, "too_many_events"),
    ] {
        let rejection = admit(&app(|_| {}), body).unwrap_err();
        assert_eq!((rejection.status().as_u16(), rejection.code()), (status, code), "{rejection}");
    }
}

#[test]
fn the_good_events_of_a_batch_are_admitted_beside_the_bad() {
    let body = br#"{"sent_at":1767323050000,"batch":[
        {"event_type":"a","user_id":"u","event_id":"1","timestamp":1767323050000},
        {"event_type":"b"}, 7,
        {"event_type":"c","user_id":"u","event_data":{"x":1e999}},
        {"event_type":"d","user_id":"u","timestamp":1767323050000,"sent_at":1767323051000}]}"#;
    let answers = admit(&app(|_| {}), body).unwrap();
    let brief: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            Ok(admitted) => Ok(admitted.event.timestamp - NOW_MS),
            Err(rejection) => Err((rejection.index, rejection.code.as_str())),
        })
        .collect();
    assert_eq!(
        brief,
        [
            Ok(0),
            Err((1, "missing_field")),
            Err((2, "not_an_object")),
            Err((3, "number_not_exact")),
            Ok(-1000)
        ]
    );
}

#[test]
fn consent_is_asked_for_where_the_app_requires_it() {
    let app = app(|config| config.privacy.required_consent = BTreeSet::from(["analytics".to_owned()]));
    for consent in [json!(null), json!({"categories": []}), json!({"categories": ["ads"]})] {
        let (code, message) = admit_one(&app, &event(json!({"consent": consent}))).unwrap_err();
        assert_eq!(code.as_str(), "consent_required");
        assert!(message.contains("`analytics`"));
    }
    admit_one(&app, &event(json!({"consent": {"categories": ["ads", "analytics"]}}))).unwrap();
}

#[test]
fn a_trusted_sender_speaks_for_the_end_user() {
    let app = app(|config| config.ingest.trust_forwarded_client = true);
    let admitted =
        admit_one(&app, &event(json!({"ip": "::ffff:203.0.113.7", "user_agent": "Phone/2"}))).unwrap();
    assert_eq!(
        (admitted.ip.as_deref(), admitted.user_agent.as_deref()),
        (Some("203.0.113.0"), Some("Phone/2"))
    );
    let admitted = admit_one(&app, &event(json!({}))).unwrap();
    assert_eq!(admitted.ip.as_deref(), Some("198.51.100.0"));
    let (code, message) = admit_one(&app, &event(json!({"ip": "localhost"}))).unwrap_err();
    assert_eq!((code, message.contains("localhost")), (Code::InvalidField, false));
}

#[test]
fn an_event_is_itself_by_id_then_by_content_then_by_chance() {
    let app = app(|_| {});
    let id = |event: &Value| admit_one(&app, event).unwrap().event_id;
    let by_content =
        json!({"event_type": "x", "user_id": "u", "timestamp": NOW_MS, "event_data": {"a": 1, "b": 2}});
    let spelled_otherwise =
        br#"{"timestamp":1767323045000,"event_data":{"b":2.0, "\u0061":1},"user_id":"u","event_type":"x"}"#;
    let [answer] = admit(&app, spelled_otherwise).unwrap().try_into().unwrap();
    assert_eq!(answer.unwrap().event.event_id, id(&by_content));
    let mut ids = BTreeSet::from([id(&by_content), id(&event(json!({})))]);
    for (member, value) in [
        ("user_id", json!("v")),
        ("anonymous_id", json!("u")),
        ("event_type", json!("y")),
        ("timestamp", json!(NOW_MS + 1)),
        ("timestamp", json!("2026-01-02T03:04:05Z")),
        ("session_id", json!("s")),
        ("event_data", json!({"a": 1, "b": "2"})),
        ("event_data", json!(null)),
        ("attribution", json!({"source": "s"})),
        ("attribution", json!({"medium": "s"})),
    ] {
        let mut other = by_content.clone();
        other[member] = value;
        assert!(ids.insert(id(&other)), "{other}");
    }
    let mut retried = by_content.clone();
    retried["sent_at"] = json!(NOW_MS - 5);
    assert_eq!(id(&retried), id(&by_content));
    assert_eq!(id(&json!({"event_type": "x", "user_id": "u"})), Uuid::from_u128(1));
}

#[test]
fn the_users_word_for_an_id_is_not_an_event_id_of_content() {
    let other = app(|config| config.app = "default/other".parse().unwrap());
    let client_id = json!({"event_type": "x", "user_id": "u", "event_id": "order-1"});
    assert_ne!(
        admit_one(&app(|_| {}), &client_id).unwrap().event_id,
        admit_one(&other, &client_id).unwrap().event_id
    );
}

#[test]
fn codes_are_distinct_and_stable_words() {
    let codes: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(codes.len(), Code::ALL.len());
    assert!(codes.iter().all(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
}

fn raw_record(event: Event) -> String {
    let origin = Origin { instance: "i".to_owned(), minute: 1, replay: 0 };
    serde_json::to_string(&RawRecord { v: RECORD_VERSION, event, origin, set_aside: None }).unwrap()
}

/// An event with a personal value in every place that privacy rules reach.
fn personal_event(value: &str, ip: &str) -> Value {
    json!({
        "event_type": "x", "user_id": format!("u-{value}"), "anonymous_id": format!("a-{value}"),
        "device_id": format!("d-{value}"), "event_id": format!("id-{value}"), "ip": ip,
        "event_data": {
            "email": value, "n": 1,
            "profile": [{"email": value}, {"email": {"deep": [value]}}, {"email": [value, [value]]}],
            "profile.email": value,
        },
    })
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(body in any::<Vec<u8>>()) {
        let _ = admit(&app(|_| {}), &body);
    }

    #[test]
    fn a_body_with_broken_bytes_gets_an_answer(
        places in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = format!("{{\"batch\":[{},{}]}}", personal_event("ada", "::1"), event(json!({}))).into_bytes();
        for (place, byte) in places {
            let place = place.index(body.len());
            body[place] = byte;
        }
        let app = app(|config| {
            config.privacy.fields =
                vec![FieldRule { path: vec!["profile".to_owned(), "email".to_owned()], action: FieldAction::Hash }];
        });
        if let Ok(answers) = admit(&app, &body) {
            prop_assert!((1..=2).contains(&answers.len()));
        }
    }

    #[test]
    fn anything_around_an_event_gets_an_answer(
        start in "\\{?\"?(batch|event_type|user_id)?\"?[:\\[{]*",
        middle in any::<String>(),
        end in "[\\]}\"]*",
    ) {
        let _ = admit(&app(|_| {}), format!("{start}{middle}{end}").as_bytes());
    }

    #[test]
    fn a_value_in_any_member_gets_an_answer(name in "[a-z_]{2,12}", value in any::<String>(), number in any::<f64>()) {
        for value in [json!(value), json!(number), json!({&value: number}), json!([value])] {
            let body = event(json!({&name: value})).to_string();
            let answer = admit(&app(|_| {}), body.as_bytes());
            prop_assert_eq!(answer.map(|answers| answers.len()), Ok(1));
        }
    }

    #[test]
    fn a_batch_is_answered_as_its_events_alone(picks in proptest::collection::vec(0..6_usize, 1..8)) {
        let kinds = [
            r#"{"event_type":"a","user_id":"u","event_id":"1"}"#,
            r#"{"event_type":"a","device_id":"u","timestamp":1767323045000,"event_data":{"x":[1,{"y":2}]}}"#,
            r#"{"event_type":"a"}"#,
            r#"{"event_type":"a","user_id":"u","event_id":"1","a":1,"a":2}"#,
            r#"{"user_id":"u","event_data":{"a.b":1,"a":{"b":[1]}},"event_type":"\u0061"}"#,
            r#"{"event_type":"x","user_id":"v","device_id":"v","event_id":"2","event_data":{"a.b":1}}"#,
        ];
        let events: Vec<_> = picks.iter().map(|pick| kinds[*pick]).collect();
        let app = app(|_| {});
        let batch = admit(&app, format!("{{\"batch\":[{}]}}", events.join(",")).as_bytes()).unwrap();
        for (index, (text, answer)) in events.iter().zip(batch).enumerate() {
            let [alone] = admit(&app, text.as_bytes()).unwrap().try_into().unwrap();
            match (alone, answer) {
                (Ok(alone), Ok(answer)) => prop_assert_eq!(raw_record(alone.event), raw_record(answer.event)),
                (Err(alone), Err(answer)) => prop_assert_eq!(Rejection { index, ..alone }, answer),
                (alone, answer) => prop_assert!(false, "{:?} {:?}", alone, answer),
            }
        }
    }

    #[test]
    fn a_personal_value_does_not_survive_its_rule_and_does_without(
        value in "[a-z]{8}\\+[a-z0-9]{4}@[a-z]{6}\\.test",
        last in 1..=255_u8,
        actions in proptest::array::uniform2(0..4_usize),
        hash_devices in any::<bool>(),
        drop_ip in any::<bool>(),
    ) {
        let ip = format!("203.0.113.{last}");
        let action = |index: usize| {
            [FieldAction::Hash, FieldAction::Truncate, FieldAction::Encrypt, FieldAction::Drop][index]
        };
        let rule = |path: &str, action| FieldRule { path: path.split('.').map(str::to_owned).collect(), action };
        let strict = app(|config| {
            config.ingest.trust_forwarded_client = true;
            config.privacy.device_ids = if hash_devices { DeviceIds::Hash } else { DeviceIds::Encrypt };
            config.privacy.ip = if drop_ip { Ip::Drop } else { Ip::Truncate };
            config.privacy.fields =
                vec![rule("email", action(actions[0])), rule("profile.email", action(actions[1]))];
        });
        let body = personal_event(&value, &ip);
        let written = raw_record(admit_one(&strict, &body).unwrap());
        let survives = written.contains(&value) || written.contains(&ip);
        prop_assert!(!survives, "{}", written);
        prop_assert!(written.contains("\"n\":1"));

        let keep = app(|config| {
            config.ingest.trust_forwarded_client = true;
            config.privacy.user_ids = UserIds::Keep;
            config.privacy.device_ids = DeviceIds::Keep;
            config.privacy.ip = Ip::Keep;
        });
        let written = raw_record(admit_one(&keep, &body).unwrap());
        // Three ids, and six times in `event_data`; the event id is hashed in any case.
        prop_assert_eq!(written.matches(&value).count(), 9);
        let quoted_ip = format!("\"{ip}\"");
        prop_assert!(written.contains(&quoted_ip));
    }
}
