use std::collections::BTreeMap;

use millrace_crds::names::AppId;
use millrace_crds::schema::Owner;
use serde_json::json;

use super::*;
use crate::backends::Connection;
use crate::backends::memory::{Failure, Memory as Backends, Which};
use crate::cluster::memory::Memory;
use crate::context::for_tests;

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "team", name)
}

fn intent(key: &ObjectKey, data: Value) -> DynamicObject {
    let mut object = DynamicObject::new(&key.name, &key.kind.resource()).within(&key.namespace).data(data);
    object.metadata.labels = Some(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    object
}

fn step(key: &ObjectKey, data: Value) -> Plan {
    let intent = Box::new(intent(key, data));
    Plan { steps: vec![Step::Apply { key: key.clone(), intent }], ..Plan::default() }
}

struct World {
    cluster: Arc<Memory>,
    backends: Backends,
    context: Context,
}

fn world() -> World {
    let (cluster, backends) = (Arc::new(Memory::new()), Backends::new());
    let context = for_tests(Arc::clone(&cluster) as Arc<_>, Arc::new(backends.clone()));
    World { cluster, backends, context }
}

#[tokio::test]
async fn the_same_plan_again_writes_nothing() {
    let World { cluster, context, .. } = world();
    let service = key(Kind::Service, "x");
    let plan = step(&service, json!({"spec": {"ports": [{"port": 1}], "clusterIP": null}}));
    assert_eq!(carry_out(&context, &plan).await.unwrap().written, std::slice::from_ref(&service));
    let mut defaulted = serde_json::to_value(&*cluster.object(&service).unwrap()).unwrap();
    defaulted["spec"]["ports"][0]["protocol"] = "TCP".into();
    defaulted["spec"]["clusterIP"] = "10.0.0.1".into();
    cluster.put(&service, &defaulted);
    cluster.forget_writes();
    assert!(carry_out(&context, &plan).await.unwrap().is_empty());
    assert_eq!(cluster.writes(), []);
    assert_eq!(context.metrics.plans.with_label_values(&["unchanged"]).get(), 1);
}

#[tokio::test]
async fn a_field_that_is_no_longer_meant_is_taken_back() {
    let World { cluster, context, .. } = world();
    let service = key(Kind::Service, "x");
    carry_out(&context, &step(&service, json!({"spec": {"a": 1, "b": 1}}))).await.unwrap();
    let applied = carry_out(&context, &step(&service, json!({"spec": {"a": 1}}))).await.unwrap();
    assert_eq!(applied.written.len(), 1);
    assert_eq!(cluster.object(&service).unwrap().data["spec"], json!({"a": 1}));
}

#[tokio::test]
async fn an_edit_by_hand_is_repaired() {
    let World { cluster, context, .. } = world();
    let role = key(Kind::Role, "x");
    let plan = step(&role, json!({"rules": [{"verbs": ["get"]}]}));
    carry_out(&context, &plan).await.unwrap();
    let mut edited = serde_json::to_value(&*cluster.object(&role).unwrap()).unwrap();
    edited["rules"][0]["verbs"] = json!(["get", "list"]);
    cluster.put(&role, &edited);
    assert_eq!(carry_out(&context, &plan).await.unwrap().written.len(), 1);
    assert_eq!(cluster.object(&role).unwrap().data["rules"], json!([{"verbs": ["get"]}]));
}

#[tokio::test]
async fn an_object_that_the_server_writes_in_other_words_is_written_once() {
    let World { cluster, context, .. } = world();
    let service = key(Kind::Service, "x");
    let hash = intent_hash(&intent(&service, json!({"spec": {"a": "1.0"}})));
    let mut stored = intent(&service, json!({"spec": {"a": "1"}}));
    stored.metadata.annotations = Some(BTreeMap::from([(INTENT_ANNOTATION.to_owned(), hash.clone())]));
    let stored = cluster.put(&service, &serde_json::to_value(&stored).unwrap());
    let plan = step(&service, json!({"spec": {"a": "1.0"}}));
    context.settled.keep(&service, hash, &stored);
    cluster.put_status(&service, json!({"ready": true}));
    assert!(carry_out(&context, &plan).await.unwrap().is_empty());
    let mut edited = serde_json::to_value(&*stored).unwrap();
    edited["spec"]["a"] = "2".into();
    cluster.put(&service, &edited);
    assert_eq!(carry_out(&context, &plan).await.unwrap().written.len(), 1);
}

#[test]
fn the_hash_of_a_secret_says_nothing_of_its_values() {
    let secret = |data: Value| intent_hash(&intent(&key(Kind::Secret, "x"), json!({"data": data})));
    assert_eq!(secret(json!({"a": "MQ=="})), secret(json!({"a": "Mg=="})));
    assert_ne!(secret(json!({"a": "MQ=="})), secret(json!({"a": "MQ==", "b": "MQ=="})));
    let stored = |data: Value| {
        let mut stored = intent(&key(Kind::Secret, "x"), json!({"data": data}));
        stored.metadata.annotations =
            Some(BTreeMap::from([(INTENT_ANNOTATION.to_owned(), secret(json!({"a": ""})))]));
        stored
    };
    let wanted = intent(&key(Kind::Secret, "x"), json!({"data": {"a": "MQ=="}}));
    assert!(is_as_intended(&stored(json!({"a": "MQ=="})), &wanted));
    assert!(!is_as_intended(&stored(json!({"a": "Mg=="})), &wanted));
}

#[tokio::test]
async fn what_is_gone_already_needs_no_delete() {
    let World { cluster, context, .. } = world();
    let service = key(Kind::Service, "x");
    let uid = cluster.put(&service, &json!({})).metadata.uid.clone().unwrap();
    let delete = |uid: &str| Plan {
        steps: vec![Step::Delete { key: service.clone(), uid: uid.to_owned() }],
        ..Plan::default()
    };
    assert!(carry_out(&context, &delete("another")).await.unwrap().is_empty());
    assert_eq!(carry_out(&context, &delete(&uid)).await.unwrap().written.len(), 1);
    assert!(carry_out(&context, &delete(&uid)).await.unwrap().is_empty());
    assert_eq!(cluster.writes().len(), 1);
}

#[tokio::test]
async fn our_finalizer_comes_and_goes_beside_others() {
    let World { cluster, context, .. } = world();
    let app = key(Kind::App, "shop");
    cluster.put(&app, &json!({"spec": {}, "metadata": {"finalizers": ["theirs/x"]}}));
    let plan =
        |finalizer| Plan { steps: vec![Step::Finalize { key: app.clone(), finalizer }], ..Plan::default() };
    for (presence, expected, writes) in [
        (Presence::Present, vec!["theirs/x", FINALIZER], 1),
        (Presence::Present, vec!["theirs/x", FINALIZER], 1),
        (Presence::Absent, vec!["theirs/x"], 2),
        (Presence::Absent, vec!["theirs/x"], 2),
    ] {
        carry_out(&context, &plan(presence)).await.unwrap();
        assert_eq!(cluster.object(&app).unwrap().metadata.finalizers.clone().unwrap(), expected);
        assert_eq!(cluster.writes().len(), writes);
    }
    cluster.remove(&app);
    assert!(carry_out(&context, &plan(Presence::Present)).await.unwrap().is_empty());
}

#[tokio::test]
async fn steps_on_back_ends_go_where_the_plan_says() {
    let World { backends, context, .. } = world();
    let app = AppId::new("team", "shop").unwrap();
    let owner = Owner { cluster: "c".into(), namespace: "team".into(), app: "shop".into(), uid: "u".into() };
    let credentials = serde_json::from_value(json!({"username": "a", "password": "b"})).unwrap();
    let own = Connection { endpoint: "own:9092".to_owned(), credentials };
    let plan = Plan {
        kafka: Some(own.clone()),
        steps: vec![Step::ClaimTopics { app: app.clone(), owner: owner.clone() }],
        ..Plan::default()
    };
    carry_out(&context, &plan).await.unwrap();
    assert_eq!(backends.owner_of(&app), None, "the installation's Kafka was not asked");
    assert_eq!(context.backends.topics(Some(&own)).owner(&app).await.unwrap(), Some(owner));
}

#[tokio::test]
async fn a_step_that_fails_ends_the_plan() {
    let World { cluster, backends, context } = world();
    let app = AppId::new("team", "shop").unwrap();
    let mut plan = step(&key(Kind::Service, "x"), json!({}));
    plan.steps.insert(0, Step::DeleteTopics { app, names: vec!["t".to_owned()] });
    backends.fail(Which::Kafka, Some(Failure::Unreachable));
    let failed = carry_out(&context, &plan).await.unwrap_err();
    assert_eq!(failed.to_string(), "cannot delete the topics of `team/shop`");
    assert_eq!(cluster.writes(), []);
    assert_eq!(context.metrics.backend_steps.with_label_values(&["error"]).get(), 1);
}
