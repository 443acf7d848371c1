use serde_json::{Value, json};

use super::*;

fn app_lines(spec: Value) -> Vec<String> {
    let spec: AppSpec = serde_json::from_value(spec).unwrap();
    lines(app_spec(&AppId::new("default", "shop").unwrap(), &spec))
}

fn integration_lines(spec: Value) -> Vec<String> {
    let spec: IntegrationSpec = serde_json::from_value(spec).unwrap();
    lines(integration_spec("default", "hook", &spec))
}

fn policy_lines(spec: Value) -> Vec<String> {
    let spec: RolePolicySpec = serde_json::from_value(spec).unwrap();
    lines(role_policy_spec("default", "team", &spec))
}

fn lines(problems: Vec<Problem>) -> Vec<String> {
    problems.into_iter().map(|p| format!("{}: {}; {}", p.path, p.message, p.fix)).collect()
}

fn check(found: fn(Value) -> Vec<String>, cases: &[(Value, &str, &str)]) {
    for (spec, path, text) in cases {
        let lines = found(spec.clone());
        let told = |line: &String| line.starts_with(&format!("{path}: ")) && line.contains(text);
        assert!(lines.iter().any(told), "{spec}\nwanted {path}: …{text}…\nfound {lines:#?}");
    }
}

#[test]
fn accepts_sensible_apps() {
    for spec in [
        json!({}),
        json!({"ingest": {"rateLimit": {"eventsPerSecond": 10, "burst": 20}}}),
        json!({"ingest": {"maxEventBytes": 900_000}}),
        json!({"events": {"revenue": {"property": "amount"}, "conversions": ["Order Completed"]}}),
        json!({"events": {"dedupeWindow": "30d"}, "topics": {"raw": {"retention": "30d", "retentionBytes": "1Mi"}}}),
        json!({"dataplane": {"placement": "Dedicated", "ingest": {"replicas": 3, "spill": {"size": "10Gi"}},
            "worker": {"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
            "gateway": {"autoscaling": {"minReplicas": 2, "maxReplicas": 2}}},
            "connections": {"kafka": {"endpoint": "a:9092,b:9092", "credentialsRef": {"name": "kafka"}}}}),
    ] {
        assert_eq!(app_lines(spec.clone()), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn refuses_ingest_that_cannot_work() {
    let key = |name: &str, origins: Value| json!({"name": name, "secretRef": {"name": "s", "key": "k"}, "allowedOrigins": origins});
    let ingest = |value: Value| json!({"ingest": value});
    check(
        app_lines,
        &[
            (
                ingest(json!({"writeKeys": [key("web", json!([])), key("web", json!([]))]})),
                "spec.ingest.writeKeys[1]",
                "`web` is here twice",
            ),
            (
                ingest(json!({"writeKeys": [key("We_b", json!([]))]})),
                "spec.ingest.writeKeys[0].name",
                "`We_b` must be lower-case letters",
            ),
            (
                ingest(json!({"writeKeys": [key("web", json!(["https://shop.example/"]))]})),
                "spec.ingest.writeKeys[0].allowedOrigins[0]",
                "write `https://shop.example`",
            ),
            (
                ingest(json!({"writeKeys": [key("web", json!(["https://a.b", "https://a.b"]))]})),
                "spec.ingest.writeKeys[0].allowedOrigins[1]",
                "is here twice",
            ),
            (
                ingest(json!({"maxEventBytes": 4096, "maxBodyBytes": 2048})),
                "spec.ingest.maxEventBytes",
                "exceeds `maxBodyBytes`",
            ),
            (
                ingest(json!({"maxBatchEvents": 50, "rateLimit": {"eventsPerSecond": 5, "burst": 10}})),
                "spec.ingest.maxBatchEvents",
                "exceeds `rateLimit.burst`",
            ),
            (ingest(json!({"maxBodyBytes": 100})), "spec.ingest.maxBodyBytes", "below the least allowed"),
            (
                ingest(json!({"rateLimit": {"eventsPerSecond": 0}})),
                "spec.ingest.rateLimit.eventsPerSecond",
                "below",
            ),
        ],
    );
}

#[test]
fn refuses_events_that_contradict_each_other() {
    let property = |name: &str, kind: &str| json!({"name": name, "type": kind});
    let event = |name: &str, properties: Value| json!({"name": name, "properties": properties});
    let events = |value: Value| json!({"events": value});
    check(
        app_lines,
        &[
            (
                events(json!({"declared": [event("a", json!([property("p", "Integer")])),
                event("b", json!([property("p", "String")]))]})),
                "spec.events.declared[1].properties[0].type",
                "`p` is String here and Integer in `a`",
            ),
            (
                events(json!({"declared": [event("a", json!([])), event("a", json!([]))]})),
                "spec.events.declared[1]",
                "here twice",
            ),
            (
                events(json!({"declared": [event("a", json!([property("1p", "String")]))]})),
                "spec.events.declared[0].properties[0].name",
                "a letter or `_`",
            ),
            (
                events(
                    json!({"declared": [event("a", json!([property("r", "String")]))], "revenue": {"property": "r"}}),
                ),
                "spec.events.revenue.property",
                "declare it as Decimal",
            ),
            (
                events(
                    json!({"declared": [event("a", json!([property("r", "Decimal"), property("c", "Integer")]))],
                "revenue": {"property": "r", "currencyProperty": "c"}}),
                ),
                "spec.events.revenue.currencyProperty",
                "declare it as String",
            ),
            (
                events(json!({"onUndeclared": "DeadLetter", "revenue": {"property": "r"}})),
                "spec.events.revenue.property",
                "no declared event has",
            ),
            (
                events(json!({"onUndeclared": "DeadLetter", "conversions": ["buy"]})),
                "spec.events.conversions[0]",
                "`buy` is not declared",
            ),
            (events(json!({"conversions": ["a", "a"]})), "spec.events.conversions[1]", "here twice"),
            (events(json!({"conversions": ["a\u{7}"]})), "spec.events.conversions[0]", "control characters"),
            (events(json!({"dedupeWindow": "31d"})), "spec.events.dedupeWindow", "between 1m and 30d"),
            (
                json!({"events": {"dedupeWindow": "2d"}, "topics": {"raw": {"retention": "1d"}}}),
                "spec.events.dedupeWindow",
                "exceeds the raw topic's retention",
            ),
        ],
    );
}

#[test]
fn refuses_privacy_rules_that_undo_each_other() {
    let with = |fields: Value, kind: &str, required: bool| {
        let properties = json!([{"name": "p", "type": kind, "required": required}]);
        json!({"events": {"declared": [{"name": "e", "properties": properties}]}, "privacy": {"fields": fields}})
    };
    let rule = |path: &str, action: &str| json!({"path": path, "action": action});
    check(
        app_lines,
        &[
            (
                with(json!([rule("email", "Hash")]), "String", false),
                "spec.privacy.fields[0].path",
                "below the event's data",
            ),
            (
                with(json!([rule("event_data.", "Hash")]), "String", false),
                "spec.privacy.fields[0].path",
                "below",
            ),
            (
                with(json!([rule("event_data.a.b", "Hash"), rule("event_data.a", "Drop")]), "String", false),
                "spec.privacy.fields[0].path",
                "lies below `event_data.a`",
            ),
            (
                with(json!([rule("event_data.a", "Hash"), rule("event_data.a", "Drop")]), "String", false),
                "spec.privacy.fields[1]",
                "here twice",
            ),
            (
                with(json!([rule("event_data.p", "Drop")]), "String", true),
                "spec.privacy.fields[0].action",
                "required",
            ),
            (
                with(json!([rule("event_data.p", "Hash")]), "Integer", false),
                "spec.privacy.fields[0].action",
                "as String",
            ),
            (
                json!({"privacy": {"consent": {"required": ["analytics", "analytics"]}}}),
                "spec.privacy.consent.required[1]",
                "here twice",
            ),
        ],
    );
    assert_eq!(
        app_lines(with(json!([rule("event_data.p", "Drop")]), "Integer", false)),
        Vec::<String>::new()
    );
    let siblings = json!([rule("event_data.ab", "Hash"), rule("event_data.a", "Drop")]);
    assert_eq!(app_lines(with(siblings, "String", false)), Vec::<String>::new());
}

#[test]
fn refuses_storage_and_topics_out_of_bounds() {
    check(
        app_lines,
        &[
            (json!({"storage": {"retention": "12h"}}), "spec.storage.retention", "between 1d and 3650d"),
            (json!({"storage": {"retention": "4000d"}}), "spec.storage.retention", "between 1d and 3650d"),
            (
                json!({"topics": {"alerts": {"retention": "366d"}}}),
                "spec.topics.alerts.retention",
                "between 1m and 365d",
            ),
            (
                json!({"topics": {"raw": {"partitions": 0}}}),
                "spec.topics.raw.partitions",
                "below the least allowed, 1",
            ),
            (
                json!({"topics": {"raw": {"partitions": 1025}}}),
                "spec.topics.raw.partitions",
                "above the most allowed, 1024",
            ),
            (
                json!({"topics": {"raw": {"retentionBytes": "4Ki"}}}),
                "spec.topics.raw.retentionBytes",
                "below 1Mi",
            ),
            (json!({"rollout": {"percent": 0}}), "spec.rollout.percent", "below the least allowed"),
        ],
    );
}

#[test]
fn refuses_sizes_and_connections_without_a_data_plane_of_its_own() {
    let dedicated = |name: &str, value: Value| json!({"dataplane": {"placement": "Dedicated", name: value}});
    let connections = |value: Value| json!({"dataplane": {"placement": "Dedicated"}, "connections": value});
    let scaling = json!({"minReplicas": 3, "maxReplicas": 2});
    let credentials = json!({"name": "s"});
    check(
        app_lines,
        &[
            (json!({"connections": {}}), "spec.connections", "`dataplane.placement: Dedicated`"),
            (json!({"dataplane": {"ingest": {}}}), "spec.dataplane.ingest", "`placement: Dedicated`"),
            (json!({"dataplane": {"worker": {}}}), "spec.dataplane.worker", "`placement: Dedicated`"),
            (json!({"dataplane": {"gateway": {}}}), "spec.dataplane.gateway", "`placement: Dedicated`"),
            (
                dedicated("ingest", json!({"autoscaling": scaling, "spill": {"size": "1Gi"}})),
                "spec.dataplane.ingest.autoscaling",
                "cannot go with `spill`",
            ),
            (
                dedicated("gateway", json!({"autoscaling": scaling})),
                "spec.dataplane.gateway.autoscaling.minReplicas",
                "exceeds `maxReplicas`",
            ),
            (
                dedicated(
                    "gateway",
                    json!({"replicas": 1, "autoscaling": {"minReplicas": 1, "maxReplicas": 2}}),
                ),
                "spec.dataplane.gateway.replicas",
                "together with `autoscaling`",
            ),
            (
                connections(json!({"kafka": {"endpoint": "a:9092,b", "credentialsRef": credentials}})),
                "spec.connections.kafka.endpoint",
                "`b` has no port",
            ),
            (
                connections(json!({"clickhouse": {"endpoint": "ch:8123", "credentialsRef": credentials}})),
                "spec.connections.clickhouse.endpoint",
                "not a URL",
            ),
            (
                connections(
                    json!({"clickhouse": {"endpoint": "https://u:p@ch", "credentialsRef": credentials}}),
                ),
                "spec.connections.clickhouse.endpoint",
                "without spaces or credentials",
            ),
        ],
    );
}

#[test]
fn refuses_integrations_that_leak_or_never_arrive() {
    let webhook = |changes: Value| {
        let mut webhook = json!({"url": "https://x.example", "signingSecretRef": {"name": "s", "key": "k"}});
        webhook.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({"webhook": webhook})
    };
    assert_eq!(integration_lines(webhook(json!({"timeout": "60s"}))), Vec::<String>::new());
    let header = |name: &str| json!({"headers": [{"name": name, "value": "v"}]});
    check(
        integration_lines,
        &[
            (json!({}), "spec", "exactly one"),
            (webhook(json!({"url": "http://x.example"})), "spec.webhook.url", "use TLS"),
            (webhook(json!({"url": "https://u:p@x.example"})), "spec.webhook.url", "credentials"),
            (webhook(json!({"url": "https:///path"})), "spec.webhook.url", "no host"),
            (webhook(header("Authorization")), "spec.webhook.headers[0].name", "credential in clear text"),
            (webhook(header("Webhook-Id")), "spec.webhook.headers[0].name", "set by Millrace"),
            (webhook(header("X Y")), "spec.webhook.headers[0].name", "letters, digits and `-`"),
            (
                webhook(json!({"headers": [{"name": "A", "value": "a\nb"}]})),
                "spec.webhook.headers[0].value",
                "ASCII",
            ),
            (
                webhook(json!({"headers": [{"name": "A", "value": "1"}, {"name": "a", "value": "2"}]})),
                "spec.webhook.headers[1].name",
                "here twice",
            ),
            (webhook(json!({"template": "{{ a"})), "spec.webhook.template", "without `}}`"),
            (webhook(json!({"timeout": "2m"})), "spec.webhook.timeout", "between 1s and 60s"),
            (json!({"retry": {"maxAttempts": 0}}), "spec.retry.maxAttempts", "below the least"),
            (json!({"retry": {"maxAttempts": 21}}), "spec.retry.maxAttempts", "above the most"),
            (json!({"retry": {"expireAfter": "8d"}}), "spec.retry.expireAfter", "between 1m and 7d"),
            (json!({"apps": {}}), "spec.apps", "exactly one of `names` and `selector`"),
        ],
    );
}

#[test]
fn refuses_policies_that_promise_what_cannot_be_kept() {
    let issuer = |changes: Value| {
        let mut issuer = json!({"name": "clerk", "issuer": "https://i.example", "audiences": ["a"]});
        issuer.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({"issuers": [issuer]})
    };
    let binding = |role: &str, subject: Value| json!({"bindings": [{"role": role, "subjects": [subject]}]});
    let local = json!({"issuer": "local", "email": "a@b.c"});
    assert_eq!(policy_lines(issuer(json!({}))), Vec::<String>::new());
    assert_eq!(policy_lines(binding("admin", local.clone())), Vec::<String>::new());
    let both = json!({"issuer": "local", "email": "a@b.c", "subject": "s"});
    check(
        policy_lines,
        &[
            (issuer(json!({"name": "local"})), "spec.issuers[0].name", "own accounts"),
            (issuer(json!({"audiences": []})), "spec.issuers[0]", "neither `audiences` nor"),
            (
                issuer(json!({"issuer": "http://i.example"})),
                "spec.issuers[0].issuer",
                "starts with `https://`",
            ),
            (issuer(json!({"algorithms": []})), "spec.issuers[0].algorithms", "the fewest allowed is 1"),
            (
                json!({"roles": [{"name": "admin", "permissions": ["apps:read"]}]}),
                "spec.roles[0].name",
                "built in",
            ),
            (json!({"roles": [{"name": "x", "permissions": []}]}), "spec.roles[0].permissions", "fewest"),
            (binding("user", both), "spec.bindings[0].subjects[0]", "exactly one of"),
            (binding("user", json!({"issuer": "clerk"})), "spec.bindings[0].subjects[0]", "exactly one of"),
            (
                binding("user", json!({"issuer": "c", "claim": "g"})),
                "spec.bindings[0].subjects[0]",
                "give both",
            ),
            (
                binding("user", json!({"issuer": "local", "claim": "g", "value": "v"})),
                "spec.bindings[0].subjects[0].claim",
                "have no claims",
            ),
            (
                binding("user", json!({"issuer": "local", "email": "nobody"})),
                "spec.bindings[0].subjects[0].email",
                "not an e-mail",
            ),
            (
                json!({"bindings": [{"role": "admin", "subjects": [local], "apps": ["shop"]}]}),
                "spec.bindings[0].apps",
                "covers every App",
            ),
            (
                json!({"apps": {"names": ["shop"]}, "bindings": [{"role": "admin", "subjects": [local]}]}),
                "spec.bindings[0].role",
                "covers every App",
            ),
            (
                json!({"apps": {"names": ["shop"]}, "bindings": [{"role": "user", "subjects": [local], "apps": ["blog"]}]}),
                "spec.bindings[0].apps[0]",
                "not about App `blog`",
            ),
            (
                json!({"maskedFields": ["event_date.email"]}),
                "spec.maskedFields[0]",
                "did you mean `event_data`?",
            ),
        ],
    );
}

#[test]
fn a_permission_or_algorithm_that_does_not_exist_cannot_be_read() {
    for spec in [
        json!({"roles": [{"name": "x", "permissions": ["everything"]}]}),
        json!({"issuers": [{"name": "i", "issuer": "https://i", "algorithms": ["HS256"]}]}),
        json!({"issuers": [{"name": "i", "issuer": "https://i", "algorithms": ["none"]}]}),
    ] {
        assert!(serde_json::from_value::<RolePolicySpec>(spec.clone()).is_err(), "{spec}");
    }
}

#[test]
fn names_between_policies_must_exist_and_be_defined_once() {
    let spec = |value: Value| serde_json::from_value::<RolePolicySpec>(value).unwrap();
    let role = json!([{"name": "analyst", "permissions": ["apps:read"]}]);
    let a = spec(json!({"roles": role}));
    let b = spec(json!({"roles": role, "apps": {"names": ["shpo"]}, "rateLimits": [{"role": "guest",
        "requestsPerMinute": 1}], "bindings": [{"role": "analist", "subjects": [{"issuer": "clerk", "subject": "s"}],
        "apps": ["blog"]}]}));
    let known = ["shop", "blog"].into();
    let found = lines(namespace_access("default", &[("b", &b), ("a", &a)], Apps::Known(&known)));
    let expected = [
        "spec.roles[0].name: role `analyst` is already defined by RolePolicy `a`",
        "spec.bindings[0].role: there is no role `analist`; did you mean `analyst`?",
        "spec.rateLimits[0].role: there is no role `guest`",
        "spec.bindings[0].subjects[0].issuer: there is no issuer `clerk`",
        "spec.apps.names[0]: there is no App `shpo`; did you mean `shop`?",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (line, start) in found.iter().zip(expected) {
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(namespace_access("default", &[("b", &b), ("a", &a)], Apps::NotJudged).len(), 4);
}

#[test]
fn judges_names_and_namespaces() {
    let named = |namespace: Option<&str>, name: &str| {
        let mut app = App::new(name, AppSpec::default());
        app.metadata.namespace = namespace.map(ToOwned::to_owned);
        lines(super::app(&app))
    };
    assert_eq!(named(None, "shop"), Vec::<String>::new());
    for (namespace, name, expected) in [
        (None, "access", "metadata.name: `access` is reserved"),
        (None, "a--b", "metadata.name: name `a--b` must be a DNS label"),
        (None, "a.b", "metadata.name: name `a.b` must be a DNS label"),
        (Some("a--b"), "shop", "metadata.namespace: namespace `a--b` must be a DNS label"),
    ] {
        let found = named(namespace, name);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
    let policy = RolePolicy::new("Team", RolePolicySpec::default());
    assert_eq!(role_policy(&policy).len(), 1);
}

#[test]
fn finds_everything_at_once() {
    let found = app_lines(json!({
        "ingest": {"maxBodyBytes": 1, "writeKeys": [{"name": "A", "secretRef": {"name": "", "key": "k"},
            "allowedOrigins": ["*"]}]},
        "events": {"dedupeWindow": "1s"},
        "storage": {"retention": "1h"},
        "topics": {"raw": {"partitions": 9999}},
        "connections": {},
    }));
    assert!(found.len() >= 8, "{found:#?}");
}
