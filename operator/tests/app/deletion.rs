//! The end of an App under both policies, with everything that can stand in its way.

use std::time::Duration;

use millrace_crds::schema::Owner;
use millrace_operator::backends::memory::{Failure, Which};
use millrace_operator::context::Next;
use millrace_operator::kind::Kind;
use serde_json::json;

use crate::fixture::World;

fn is_there(world: &World) -> bool {
    world.cluster.object(&world.key(Kind::App, "shop")).is_some()
}

async fn deleted() -> World {
    let world = World::running(json!({"deletionPolicy": "Delete"})).await;
    world.cluster.remove(&world.key(Kind::App, "shop"));
    assert!(is_there(&world), "the finalizer keeps it");
    world
}

#[tokio::test]
async fn under_retain_there_is_no_finalizer_and_everything_stays() {
    let world = World::running(json!({})).await;
    world.cluster.remove(&world.key(Kind::App, "shop"));
    assert!(!is_there(&world));
    assert_eq!(world.settle().await, Next::OnChange);
    assert_eq!(world.backends.topics_there().len(), 6);
    assert_eq!(world.backends.databases_there().len(), 1);
    assert!(world.own_value("privacy-keys").is_some());
}

#[tokio::test]
async fn under_delete_pods_let_go_first_and_then_all_goes_in_order() {
    let world = deleted().await;
    assert_eq!(world.settle().await, Next::After(Duration::from_secs(1)));
    assert!(world.sequences().is_empty(), "the Revisions are withdrawn");
    world.expect(
        "Ready",
        "False",
        "Progressing",
        "pods let go of the App first; awaited: `mr-shared-gateway-0`",
    );
    assert_eq!(world.backends.topics_there().len(), 6);
    world.report();
    world.settle().await;
    assert!(!is_there(&world));
    assert_eq!(
        world.backends.take_writes(),
        ["delete topics of default/shop", "drop database millrace_default__shop"]
    );
    assert!(world.backends.topics_there().is_empty() && world.backends.databases_there().is_empty());
    assert_eq!(world.backends.owner_of(&world.id), None);
    assert_eq!(world.own_value("privacy-keys"), None);
}

#[tokio::test]
async fn pods_that_do_not_answer_are_waited_for_a_minute() {
    let world = deleted().await;
    world.pass(59);
    world.settle().await;
    assert!(is_there(&world));
    world.pass(1);
    world.settle().await;
    assert!(!is_there(&world));
}

#[tokio::test]
async fn a_back_end_that_is_away_is_named_until_a_person_says_go_on() {
    let world = deleted().await;
    world.backends.fail(Which::ClickHouse, Some(Failure::Unreachable));
    world.round().await.unwrap();
    world.report();
    world.settle().await;
    world.expect("Ready", "False", "Progressing", "cannot remove the database: ClickHouse at");
    world.expect(
        "Reconciling",
        "True",
        "Progressing",
        "the annotation millrace.dev/skip-cleanup leaves it behind",
    );
    assert!(world.backends.topics_there().is_empty(), "what can be removed is");
    world.pass(60 + 2 * 120 + 1);
    let Next::After(_) = world.settle().await else { panic!("it is tried again") };
    world.expect("Stalled", "True", "Refused", "cannot remove the database");
    assert!(is_there(&world) && world.own_value("privacy-keys").is_some(), "data is never orphaned silently");

    let app = world.cluster.object(&world.key(Kind::App, "shop")).unwrap();
    let mut metadata = serde_json::to_value(&app.metadata).unwrap();
    metadata["annotations"] = json!({"millrace.dev/skip-cleanup": "true"});
    world.app_with(metadata, app.data["spec"].clone());
    world.settle().await;
    assert!(!is_there(&world));
    assert!(
        world
            .events()
            .iter()
            .any(|event| event.starts_with("CleanupSkipped: database left behind: ClickHouse"))
    );
}

#[tokio::test]
async fn a_back_end_that_comes_back_is_enough() {
    let world = deleted().await;
    world.backends.fail(Which::Kafka, Some(Failure::Refused));
    world.pass(61);
    world.settle().await;
    assert!(is_there(&world));
    world.backends.fail(Which::Kafka, None);
    world.settle().await;
    assert!(!is_there(&world));
}

#[tokio::test]
async fn in_a_namespace_that_ends_what_cannot_be_removed_is_left_after_its_deadline() {
    let world = deleted().await;
    let ends = json!({"metadata": {"finalizers": ["kubernetes"]}});
    world.put(Kind::Namespace, "", "default", ends);
    world.cluster.remove(&millrace_operator::cluster::ObjectKey::new(Kind::Namespace, "", "default"));
    world.backends.fail(Which::Kafka, Some(Failure::Unreachable));
    world.pass(61);
    world.settle().await;
    assert!(is_there(&world));
    world.pass(121);
    world.settle().await;
    assert!(!is_there(&world));
    assert!(
        world.events().iter().any(|event| event.starts_with("CleanupSkipped: topics left behind: Kafka"))
    );
    assert!(world.backends.databases_there().is_empty(), "what can be removed is");
}

#[tokio::test]
async fn what_belongs_to_another_is_not_deleted() {
    let world = deleted().await;
    let owner = Owner { cluster: "cluster-b".to_owned(), ..world.backends.owner_of(&world.id).unwrap() };
    world.backends.put_owner(&world.id, owner.clone());
    world.backends.put_database("millrace_default__shop", &serde_json::to_string(&owner).unwrap());
    world.pass(61);
    world.settle().await;
    assert!(!is_there(&world));
    assert_eq!(world.backends.topics_there().len(), 6);
    assert_eq!(world.backends.databases_there().len(), 1);
    assert!(
        world
            .events()
            .iter()
            .any(|event| event.contains("belong to App `default/shop` of cluster `cluster-b`"))
    );
}

#[tokio::test]
async fn a_policy_switched_to_retain_takes_the_finalizer_away() {
    let world = World::running(json!({"deletionPolicy": "Delete"})).await;
    world.app(json!({}));
    world.settle().await;
    let app = world.cluster.object(&world.key(Kind::App, "shop")).unwrap();
    assert!(app.metadata.finalizers.iter().flatten().next().is_none());

    // Even under deletion.
    let world = deleted().await;
    world.app(json!({"deletionPolicy": "Retain"}));
    world.settle().await;
    assert!(!is_there(&world));
    assert_eq!(world.backends.topics_there().len(), 6);
}

#[tokio::test]
async fn an_account_that_is_gone_before_the_app_keeps_nobody_for_ever() {
    let world = World::new();
    world.secret("account", &[("username", "shop"), ("password", "secret-password")]);
    let own = json!({"endpoint": "kafka.shop:9092", "credentialsRef": {"name": "account"}});
    world.app(json!({
        "deletionPolicy": "Delete", "dataplane": {"placement": "Dedicated"}, "connections": {"kafka": own},
    }));
    world.settle().await;
    world.expect("TopicsReady", "True", "Ok", "");
    let writes = world.backends.take_writes();
    assert!(writes.contains(&"claim topics of default/shop at kafka.shop:9092".to_owned()), "{writes:?}");
    assert!(world.backends.topics_there().is_empty(), "nothing on the installation's Kafka");
    world.cluster.remove(&world.key(Kind::Secret, "account"));
    world.cluster.remove(&world.key(Kind::App, "shop"));
    world.settle().await;
    world.expect(
        "Ready",
        "False",
        "Progressing",
        "Secret `account` with the account for `kafka.shop:9092` is gone",
    );
    world.pass(60 + 120 + 1);
    world.settle().await;
    assert!(!is_there(&world));
    assert!(!format!("{:?}{:?}", world.events(), world.cluster.objects()).contains("secret-password"));
}
