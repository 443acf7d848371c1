//! The process ends at every single write, before or after it happens: the next one comes to the same end.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_operator::cluster::memory::Moment;
use millrace_operator::kind::Kind;
use serde_json::{Value, json};

use crate::fixture::World;

/// What the world looks like in the end, random values and times apart.
fn end_of(world: &World) -> BTreeMap<String, Value> {
    let mut end = BTreeMap::new();
    for (key, object) in world.cluster.objects() {
        let mut conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter_mut().for_each(|condition| condition["lastTransitionTime"] = Value::Null);
        let finalizers = object.metadata.finalizers.clone().unwrap_or_default();
        let data: Vec<&String> =
            object.data["data"].as_object().into_iter().flat_map(|data| data.keys()).collect();
        let sequence = &object.data["spec"]["sequence"];
        end.insert(key.to_string(), json!([conditions, finalizers, data, sequence]));
    }
    let topics: Vec<String> =
        world.backends.topics_there().iter().map(|topic| format!("{topic:?}")).collect();
    end.insert("topics".to_owned(), json!(topics));
    end.insert("databases".to_owned(), json!(world.backends.databases_there()));
    end.insert("owner".to_owned(), json!(world.backends.owner_of(&world.id).map(|owner| owner.app)));
    end
}

/// Where the crash comes.
#[derive(Clone, Copy, Debug)]
enum Place {
    Cluster,
    Backends,
}

/// Tells a story, crashing at one write; whether the crash came.
async fn crashing(story: &Story, place: Place, write: usize, moment: Moment) -> (bool, World) {
    let world = (story.before)().await;
    match place {
        Place::Cluster => world.cluster.crash_at(write, moment),
        Place::Backends => {
            let cluster = Arc::clone(&world.cluster);
            world.backends.crash_at(write, moment, move || cluster.crash_at(1, Moment::Before));
        }
    }
    (story.change)(&world);
    // Errors are what a crash looks like from inside; what counts is what the next process makes of it.
    for _ in 0..4 {
        _ = world.round().await;
    }
    let has_crashed = world.cluster.has_crashed() | world.backends.restart();
    world.cluster.restart();
    world.settle().await;
    world.report();
    world.settle().await;
    (has_crashed, world)
}

type Before = fn() -> std::pin::Pin<Box<dyn Future<Output = World>>>;

struct Story {
    name: &'static str,
    before: Before,
    change: fn(&World),
}

const STORIES: [Story; 4] = [
    Story {
        name: "created",
        before: || {
            Box::pin(async {
                let world = World::new();
                world.pods();
                world
            })
        },
        change: |world| world.app(json!({"deletionPolicy": "Delete"})),
    },
    Story {
        name: "edited",
        before: || Box::pin(World::running(json!({}))),
        change: |world| {
            let declared =
                json!([{"name": "purchase", "properties": [{"name": "total", "type": "Decimal"}]}]);
            let raw = json!({"partitions": 24, "retention": "9d"});
            world.app(json!({
                "deletionPolicy": "Delete", "events": {"declared": declared}, "topics": {"raw": raw},
                "storage": {"retention": "30d"},
            }));
        },
    },
    Story {
        name: "rotated",
        before: || Box::pin(World::running(json!({}))),
        change: |world| {
            world.app_with(json!({"annotations": {"millrace.dev/rotate-write-key": "1"}}), json!({}));
        },
    },
    Story {
        name: "deleted",
        before: || {
            Box::pin(async {
                let world = World::running(json!({"deletionPolicy": "Delete"})).await;
                world.pass(1);
                world
            })
        },
        change: |world| {
            world.cluster.remove(&world.key(Kind::App, "shop"));
            world.pass(61);
        },
    },
];

#[tokio::test]
async fn a_crash_at_any_write_ends_where_no_crash_ends() {
    let mut points = 0;
    for story in &STORIES {
        let (_, world) = crashing(story, Place::Cluster, usize::MAX, Moment::Before).await;
        let expected = end_of(&world);
        for place in [Place::Cluster, Place::Backends] {
            for moment in [Moment::Before, Moment::After] {
                for write in 1.. {
                    let (has_crashed, world) = crashing(story, place, write, moment).await;
                    if !has_crashed {
                        break;
                    }
                    let at = format!("{}: {moment:?} write {write} on {place:?}", story.name);
                    assert_eq!(end_of(&world), expected, "{at}");
                    world.cluster.forget_writes();
                    world.backends.take_calls();
                    world.round().await.unwrap();
                    assert_eq!(world.cluster.writes(), [], "{at}");
                    assert_eq!(world.backends.changes(), 0, "{at}");
                    points += 1;
                }
            }
        }
    }
    println!("{points} points of crash");
    assert!(points > 60, "only {points} points were tried");
}
