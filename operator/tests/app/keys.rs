//! The keys of an App: made once, kept for ever, rotated with overlap.

use millrace_operator::context::Next;
use millrace_operator::kind::Kind;
use serde_json::json;

use crate::fixture::World;

fn key_names(world: &World) -> Vec<String> {
    world.config()["ingest"]["writeKeys"].as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn a_rotation_overlaps_for_a_day_and_is_made_once() {
    let world = World::running(json!({})).await;
    let first = world.own_value("write-key").unwrap();
    assert!(first.starts_with("mrw_") && first.len() == "mrw_".len() + 32, "{first}");
    let rotate = |value: &str| json!({"annotations": {"millrace.dev/rotate-write-key": value}});
    world.app_with(rotate("1"), json!({}));
    let next = world.settle().await;
    let second = world.own_value("write-key").unwrap();
    assert_ne!(second, first);
    assert_eq!(world.own_value("write-key-previous").as_ref(), Some(&first));
    assert_eq!(key_names(&world), ["default", "default-previous"]);
    assert!(matches!(next, Next::After(_)));
    world.report();
    let Next::After(wait) = world.settle().await else { panic!("the previous key ends by itself") };
    assert_eq!(wait.as_secs(), 86_400);
    world.expect(
        "Accepted",
        "True",
        "Ok",
        "the write key before the last rotation is taken until 2026-01-02T",
    );

    world.pass(86_401);
    world.settle().await;
    assert_eq!(key_names(&world), ["default"]);
    assert_eq!(world.own_value("write-key-previous"), None);
    assert_eq!(world.own_value("write-key").as_ref(), Some(&second), "the same value rotates once");
    assert_eq!(world.sequences(), [1, 2, 3]);
}

#[tokio::test]
async fn keys_outlive_the_app_and_are_taken_up_again() {
    let world = World::running(json!({})).await;
    let keys = ["write-key", "privacy-keys"].map(|key| world.own_value(key).unwrap());
    world.cluster.remove(&world.key(Kind::App, "shop"));
    assert!(world.sequences().is_empty(), "Revisions go with their App");
    world.settle().await;
    world.app(json!({}));
    world.settle().await;
    assert_eq!(["write-key", "privacy-keys"].map(|key| world.own_value(key).unwrap()), keys);
    assert_eq!(world.sequences(), [1]);
    world.expect("TopicsReady", "True", "Ok", "");
    world.expect("SchemaReady", "True", "Ok", "");
}

#[tokio::test]
async fn an_app_with_its_own_keys_keeps_the_generated_one_for_later_but_does_not_open_to_it() {
    let world = World::running(json!({})).await;
    let generated = world.own_value("write-key");
    world.secret("keys", &[("web", &"k".repeat(32))]);
    world.app(
        json!({"ingest": {"writeKeys": [{"name": "web", "secretRef": {"name": "keys", "key": "web"}}]}}),
    );
    world.settle().await;
    assert_eq!(key_names(&world), ["web"]);
    assert_eq!(world.own_value("write-key"), generated);
    let config = world.config().to_string();
    assert!(!config.contains(&"k".repeat(32)) && !config.contains(generated.unwrap().as_str()));
}

#[tokio::test]
async fn damaged_keys_and_secrets_of_others_are_never_replaced() {
    for (labels, value, words) in [
        (
            json!({"app.kubernetes.io/managed-by": "millrace-operator"}),
            "{}",
            "is damaged; restore the Secret from a backup",
        ),
        (json!({}), "{}", "Secret `millrace-shop` exists and was not made by Millrace"),
    ] {
        let world = World::new();
        let data = json!({"privacy-keys": crate::fixture::base64(value)});
        world.put(
            Kind::Secret,
            "default",
            "millrace-shop",
            json!({"metadata": {"labels": labels}, "data": data}),
        );
        world.app(json!({}));
        world.settle().await;
        world.expect("Accepted", "False", "SecretUnusable", words);
        assert_eq!(world.own_value("privacy-keys").as_deref(), Some(value));
    }
}
