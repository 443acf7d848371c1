use serde_json::{Value, json};

use super::*;

#[track_caller]
fn check(kind: &str, stored: Value, intent: Value, same: bool) {
    assert_eq!(contains(kind, &stored, &intent), same, "stored {stored}\nintent {intent}");
}

#[test]
fn what_the_server_added_is_no_difference() {
    let stored = json!({"spec": {"replicas": 1, "template": {"spec": {"containers": [
        {"name": "a", "image": "x", "terminationMessagePath": "/dev/termination-log", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
        {"name": "injected", "image": "y"},
    ]}}}});
    let intent = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "a", "image": "x", "ports": [{"containerPort": 80}]},
    ]}}}});
    check("Deployment", stored.clone(), intent, true);
    let other = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "z"}]}}}});
    check("Deployment", stored, other, false);
}

#[test]
fn null_absent_and_empty_are_the_same_but_not_where_something_stands() {
    check("Deployment", json!({}), json!({"a": null, "b": {}, "c": [], "d": {"e": {}}}), true);
    check("NetworkPolicy", json!({"spec": {"ingress": [{}]}}), json!({"spec": {"ingress": []}}), false);
    check("NetworkPolicy", json!({"spec": {}}), json!({"spec": {"ingress": [{}]}}), false);
}

#[test]
fn a_hole_in_a_network_policy_is_a_difference() {
    let with = |ports: Value| json!({"spec": {"ingress": [{"ports": ports}]}});
    let ours = with(json!([{"port": 80, "protocol": "TCP"}]));
    check("NetworkPolicy", with(json!([{"port": 80, "protocol": "TCP"}, {"port": 22}])), ours.clone(), false);
    // The same shape in a Service is a merged list: what another added there is another's.
    let service = |ports: Value| json!({"spec": {"ports": ports}});
    let both = service(json!([{"port": 80, "protocol": "TCP"}, {"port": 22, "protocol": "TCP"}]));
    check("Service", both, service(json!([{"port": 80}])), true);
    check(
        "Service",
        service(json!([{"port": 80, "protocol": "UDP"}])),
        service(json!([{"port": 80}])),
        false,
    );
}

#[test]
fn amounts_are_compared_as_amounts() {
    let with = |cpu: &str, memory: &str| json!({"resources": {"limits": {"cpu": cpu, "memory": memory}}});
    for (stored, intent, same) in [
        (("1", "1Gi"), ("1000m", "1024Mi"), true),
        (("500m", "1Gi"), ("0.5", "1Gi"), true),
        (("1", "1k"), ("1", "1e3"), true),
        (("1", "1Gi"), ("1", "1G"), false),
        (("1", "1Gi"), ("1001m", "1Gi"), false),
        (("1", "1Gi"), ("one", "1Gi"), false),
    ] {
        check("Deployment", with(stored.0, stored.1), with(intent.0, intent.1), same);
    }
    check("Deployment", json!({"env": "1000m"}), json!({"env": "1"}), false);
}

#[test]
fn apply_takes_back_what_is_no_longer_meant_and_leaves_what_others_set() {
    let mut stored = json!({
        "metadata": {"labels": {"ours": "1", "gone": "1", "theirs": "1"}},
        "spec": {"replicas": 3, "template": {"spec": {"containers": [
            {"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "theirs"}]},
            {"name": "gone"}, {"name": "theirs"},
        ]}}, "args": ["a", "b"]},
    });
    let last = json!({
        "metadata": {"labels": {"ours": "1", "gone": "1"}},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "E", "value": "1"}]}, {"name": "gone"}]}}, "args": ["a", "b"]},
    });
    let intent = json!({
        "metadata": {"labels": {"ours": "2"}},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "image": "y"}]}}},
    });
    apply("Deployment", &mut stored, &last, &intent);
    let expected = json!({
        "metadata": {"labels": {"ours": "2", "theirs": "1"}},
        "spec": {"replicas": 3, "template": {"spec": {"containers": [
            {"name": "a", "image": "y", "env": [{"name": "F", "value": "theirs"}]}, {"name": "theirs"},
        ]}}},
    });
    assert_eq!(stored, expected);
    assert!(contains("Deployment", &stored, &intent));
}

#[test]
fn apply_leaves_what_the_server_adds_to_the_items_of_a_list_that_is_one_value() {
    let claim = |size: &str, mode: Option<&str>| json!({"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": size}}, "volumeMode": mode}});
    let set = |claims: Vec<Value>| json!({"spec": {"volumeClaimTemplates": claims}});
    let intent = set(vec![claim("1024Mi", None)]);
    for (stored, expected) in [
        (set(vec![claim("1Gi", Some("Filesystem"))]), set(vec![claim("1Gi", Some("Filesystem"))])),
        (set(vec![claim("2Gi", Some("Filesystem"))]), intent.clone()),
        (
            set(vec![claim("1Gi", Some("Filesystem")), claim("9Gi", None)]),
            set(vec![claim("1Gi", Some("Filesystem"))]),
        ),
        (set(vec![]), intent.clone()),
    ] {
        let mut applied = stored.clone();
        apply("StatefulSet", &mut applied, &intent, &intent);
        assert_eq!(applied, expected, "stored {stored}");
    }
}
