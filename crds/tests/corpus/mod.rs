//! Objects and the verdict on them: run through kube-cel and `validate` here, and through a real API server in the stories
//! on a cluster.

use serde_json::{Value, json};

/// An object by kind, name and spec, and part of the message of the CEL rule it breaks; empty if it breaks none.
pub(crate) type Case = (&'static str, &'static str, Value, &'static str);

/// Every case; each CEL rule is broken by some of them.
pub(crate) fn corpus() -> Vec<Case> {
    [apps(), workloads(), integrations(), policies()].concat()
}

fn apps() -> Vec<Case> {
    let app = |spec: Value, expected| ("App", "shop", spec, expected);
    let kafka = json!({"kafka": {"endpoint": "a:9092", "credentialsRef": {"name": "s"}}});
    let dedicated = json!({"placement": "Dedicated"});
    let burst = json!({"eventsPerSecond": 1, "burst": 8});
    vec![
        app(json!({}), ""),
        ("App", "access", json!({}), "reserved"),
        ("App", "a--b", json!({}), "DNS label"),
        ("App", "a234567890123456789012345678901234567890x", json!({}), "at most 40"),
        app(json!({"connections": kafka}), "shared data plane has one set"),
        app(json!({"connections": kafka, "dataplane": dedicated}), ""),
        app(json!({"ingest": {"maxEventBytes": 4096, "maxBodyBytes": 2048}}), "travels in a body"),
        app(json!({"ingest": {"maxEventBytes": 2048, "maxBodyBytes": 2048}}), ""),
        app(json!({"ingest": {"maxBatchEvents": 9, "rateLimit": burst}}), "could never pass"),
    ]
}

fn workloads() -> Vec<Case> {
    let shared = |name: &str, expected| ("App", "shop", json!({"dataplane": {name: {}}}), expected);
    let dedicated = |name: &str, workload: Value, expected| {
        ("App", "shop", json!({"dataplane": {"placement": "Dedicated", name: workload}}), expected)
    };
    let scaling = |least: u32| json!({"minReplicas": least, "maxReplicas": 2});
    let spill = json!({"size": "1Gi"});
    vec![
        shared("ingest", "`ingest` needs"),
        shared("worker", "`worker` needs"),
        shared("gateway", "`gateway` needs"),
        dedicated("ingest", json!({"replicas": 2, "spill": spill}), ""),
        dedicated("ingest", json!({"replicas": 2, "autoscaling": scaling(1)}), "either"),
        dedicated("gateway", json!({"replicas": 2, "autoscaling": scaling(1)}), "either"),
        dedicated("ingest", json!({"spill": spill, "autoscaling": scaling(1)}), "cannot go with `spill`"),
        dedicated("gateway", json!({"autoscaling": scaling(3)}), "cannot exceed `maxReplicas`"),
        dedicated("gateway", json!({"autoscaling": scaling(2)}), ""),
    ]
}

fn integrations() -> Vec<Case> {
    let webhook = |field: &str, value: Value| {
        let mut webhook = json!({"url": "https://x.example", "signingSecretRef": {"name": "s", "key": "k"}});
        webhook[field] = value;
        json!({"webhook": webhook})
    };
    let hook = |spec: Value, expected| ("Integration", "hook", spec, expected);
    let header = |name: &str| webhook("headers", json!([{"name": name, "value": "v"}]));
    vec![
        hook(header("X-Source"), ""),
        ("Integration", "ho.ok", header("X-Source"), "DNS label"),
        hook(json!({}), "exactly one service"),
        hook(webhook("url", json!("http://x.example")), "must start with `https://`"),
        hook(webhook("url", json!("https://u@x.example")), "must start with `https://`"),
        hook(webhook("url", json!("https://x.example/a b")), "must start with `https://`"),
        hook(header("Authorization"), "cannot carry credentials"),
        hook(header("HOST"), "set by Millrace itself"),
    ]
}

fn policies() -> Vec<Case> {
    let policy = |spec: Value, expected| ("RolePolicy", "team", spec, expected);
    let issuer = |field: &str, value: Value, expected| {
        let mut issuer = json!({"name": "clerk", "issuer": "https://i.example", "authorizedParties": ["p"]});
        issuer[field] = value;
        policy(json!({"issuers": [issuer]}), expected)
    };
    let subject = |subject: Value, expected| {
        policy(json!({"bindings": [{"role": "user", "subjects": [subject]}]}), expected)
    };
    vec![
        policy(json!({}), ""),
        ("RolePolicy", "te--am", json!({}), "DNS label"),
        policy(json!({"apps": {}}), "exactly one of `names`"),
        policy(
            json!({"apps": {"names": ["a"], "selector": {"matchLabels": {"a": "b"}}}}),
            "exactly one of `names`",
        ),
        policy(json!({"apps": {"selector": {"matchLabels": {"a": "b"}}}}), ""),
        policy(json!({"roles": [{"name": "user", "permissions": ["apps:read"]}]}), "cannot be redefined"),
        issuer("audiences", json!(["a"]), ""),
        issuer("audiences", json!([]), ""),
        issuer("name", json!("local"), "own accounts"),
        issuer("authorizedParties", json!([]), "another service would pass"),
        subject(json!({"issuer": "local", "email": "a@b.c"}), ""),
        subject(json!({"issuer": "clerk", "claim": "c", "value": "v"}), ""),
        subject(json!({"issuer": "local"}), "exactly one of `subject`"),
        subject(json!({"issuer": "local", "email": "a@b.c", "subject": "s"}), "exactly one of `subject`"),
        subject(json!({"issuer": "clerk", "claim": "c"}), "go together"),
    ]
}
