//! A crash before and after every write, of every story: the next rounds come to the same end.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use kube::core::DynamicObject;
use millrace_crds::labels;
use millrace_operator::cluster::Cluster as _;
use millrace_operator::cluster::memory::Moment;
use millrace_operator::kind::Kind;
use serde_json::{Value, json};

use crate::world::{World, key};

type Story = fn(&World);

/// What leads up to the round that crashes, and what that round must cope with.
const STORIES: [(&str, Story, Story); 5] = [
    ("a first App", |_| (), |world| world.app("one", json!({}))),
    (
        "a second App with a data plane of its own",
        |world| world.app("one", json!({})),
        |world| {
            world.app(
                "two",
                json!({"dataplane": {"placement": "Dedicated", "ingest": {"spill": {"size": "1Gi"}}}}),
            );
            world.policy("team", json!({"maskedFields": ["ip"]}));
        },
    ),
    (
        "a change of placement",
        |world| {
            world.app("one", json!({"dataplane": {"placement": "Dedicated"}}));
        },
        |world| world.app("one", json!({})),
    ),
    (
        "what an older release made goes over to the anchor",
        |world| {
            world.app("one", json!({}));
            world.app("two", json!({}));
        },
        owned_by_apps,
    ),
    (
        "the last App goes",
        |world| world.app("one", json!({})),
        |world| {
            world.cluster.remove(&key(Kind::App, "one"));
        },
    ),
];

/// As before there was an anchor: every shared object names every App.
fn owned_by_apps(world: &World) {
    let apps = world.cluster.objects().into_iter().filter(|(key, _)| key.kind == Kind::App);
    let owners: Vec<Value> = apps
        .map(|(key, app)| json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "App", "name": key.name, "uid": app.metadata.uid}))
        .collect();
    let anchor = key(Kind::ServiceAccount, labels::SHARED_ANCHOR);
    let uid = world.cluster.object(&anchor).unwrap().metadata.uid.clone();
    for (key, object) in world.cluster.objects() {
        let mut object = DynamicObject::clone(&object);
        let names =
            object.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == uid.as_ref());
        if names {
            object.metadata.owner_references = Some(serde_json::from_value(owners.clone().into()).unwrap());
            object
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(labels::INTENT_ANNOTATION.to_owned(), "older".to_owned());
            world.cluster.apply(&key, &object).now_or_never().unwrap().unwrap();
        }
    }
    world.cluster.remove(&anchor);
}

/// The same bytes at every call, so that two runs can be compared.
fn same(bytes: &mut [u8]) {
    bytes.fill(7);
}

fn world() -> World {
    let mut world = World::new();
    world.context.random = same;
    world
}

/// Everything stored, without what a second run numbers otherwise.
fn end(world: &World) -> BTreeMap<String, Value> {
    let strip = |object: Value| {
        let mut object = object;
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
            object["metadata"].as_object_mut().unwrap().remove(field);
        }
        for owner in object["metadata"]["ownerReferences"].as_array_mut().into_iter().flatten() {
            owner.as_object_mut().unwrap().remove("uid");
        }
        object
    };
    let objects = world.cluster.objects().into_iter();
    objects.map(|(key, object)| (key.to_string(), strip(serde_json::to_value(&*object).unwrap()))).collect()
}

#[tokio::test]
async fn a_crash_at_any_write_is_mended_by_the_next_round() {
    for (name, before, change) in STORIES {
        let whole = world();
        before(&whole);
        whole.settle().await;
        change(&whole);
        let writes = whole.settle().await.len();
        let expected = end(&whole);
        assert!(writes > 0 || name == "the last App goes", "{name} writes nothing");
        for (write, moment) in (1..=writes).flat_map(|n| [(n, Moment::Before), (n, Moment::After)]) {
            let world = world();
            before(&world);
            world.settle().await;
            change(&world);
            world.cluster.crash_at(write, moment);
            let crashed = world.bring().await;
            assert!(crashed.is_err() && world.cluster.has_crashed(), "{name}: write {write} did not come");
            world.cluster.restart();
            world.settle().await;
            assert_eq!(end(&world), expected, "{name}: a crash {moment:?} write {write}");
        }
    }
}

#[tokio::test]
async fn objects_that_the_garbage_collector_left_are_removed_by_us_also_after_a_crash() {
    let story = || async {
        let world = world();
        world.app("one", json!({}));
        world.settle().await;
        // Another owner keeps the garbage collector away.
        for (key, object) in world.cluster.objects() {
            if key.name.starts_with("mr-shared") || key.name.starts_with("millrace.shared") {
                let mut value = serde_json::to_value(&*object).unwrap();
                value["metadata"]["ownerReferences"] = json!([]);
                world.cluster.put(&key, &value);
            }
        }
        world.cluster.remove(&key(Kind::App, "one"));
        world
    };
    let writes = story().await.settle().await.len();
    assert!(writes > 20, "{writes}");
    for (write, moment) in (1..=writes).flat_map(|n| [(n, Moment::Before), (n, Moment::After)]) {
        let world = story().await;
        world.cluster.crash_at(write, moment);
        assert!(world.bring().await.is_err());
        world.cluster.restart();
        world.settle().await;
        let left: Vec<String> = world.cluster.objects().into_keys().map(|key| key.name).collect();
        assert_eq!(
            left,
            ["millrace-one", labels::ADMIN_SECRET, labels::PEPPER_SECRET],
            "{moment:?} write {write}"
        );
    }
}
