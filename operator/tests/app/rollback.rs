//! A rollback and what the next reconciles make of it.

use std::sync::Arc;

use kube::core::DynamicObject;
use millrace_crds::labels;
use millrace_operator::kind::Kind;
use millrace_operator::rollback::{self, Output, RollbackArgs, RollbackError, Seen};
use serde_json::json;

use crate::fixture::World;

fn args(app: &str, to: Option<i64>) -> RollbackArgs {
    RollbackArgs {
        app: app.to_owned(),
        namespace: "default".to_owned(),
        to,
        resume: false,
        output: Output::Text,
    }
}

fn seen(world: &World, scope: &str) -> Seen {
    let objects = world.cluster.objects();
    let is_of = |object: &DynamicObject| {
        object.metadata.labels.as_ref().and_then(|l| l.get(labels::SCOPE)).is_some_and(|s| s == scope)
    };
    let revisions = objects.iter().filter(|(key, object)| key.kind == Kind::Revision && is_of(object));
    Seen {
        app: objects.get(&world.key(Kind::App, scope)).cloned(),
        revisions: revisions.map(|(_, object)| Arc::clone(object)).collect(),
    }
}

async fn run(world: &World, args: &RollbackArgs) -> Result<(), RollbackError> {
    let decided = rollback::decide(args, &seen(world, &args.app))?;
    Ok(rollback::write(&*world.cluster, &decided).await?)
}

#[tokio::test]
async fn the_old_bytes_come_back_as_a_new_revision_and_stay_until_resumed() {
    let world = World::running(json!({})).await;
    let edit = |name: &str| json!({"events": {"conversions": [name]}});
    world.app(edit("purchase"));
    world.settle().await;
    world.report();
    world.settle().await;
    run(&world, &args("shop", None)).await.unwrap();
    world.settle().await;
    assert_eq!(world.sequences(), [1, 2, 3]);
    assert_eq!(world.config()["events"]["conversions"], json!([]));
    world.expect("Accepted", "True", "Held", "held at Revision `shop-3`");
    world.report();
    world.settle().await;
    world.expect("DataplaneReady", "True", "Ok", "all 3 pods run Revision `shop-3`");

    world.cluster.forget_writes();
    world.round().await.unwrap();
    assert_eq!(world.cluster.writes(), [], "the rollback survives");

    let resume = RollbackArgs { resume: true, ..args("shop", None) };
    run(&world, &resume).await.unwrap();
    world.settle().await;
    assert_eq!(world.config()["events"]["conversions"], json!(["purchase"]));
    assert_eq!(world.sequences(), [1, 2, 3, 4]);
    assert!(matches!(run(&world, &resume).await, Err(RollbackError::NotHeld { .. })));
}

#[tokio::test]
async fn a_hold_set_by_hand_is_ended_too() {
    let world = World::running(json!({})).await;
    let by_hand = json!({"annotations": {"millrace.dev/hold-revision": "by hand"}});
    world.app_with(by_hand, json!({"events": {"conversions": ["purchase"]}}));
    world.settle().await;
    assert_eq!(world.sequences(), [1]);
    run(&world, &RollbackArgs { resume: true, ..args("shop", None) }).await.unwrap();
    world.settle().await;
    assert_eq!(world.sequences(), [1, 2]);
}

#[tokio::test]
async fn the_access_rules_hold_themselves() {
    let world = World::new();
    for (sequence, config) in [(1, "{}"), (2, "{\"a\":1}")] {
        let labels = json!({labels::MANAGED_BY: labels::MANAGER, labels::SCOPE: labels::SCOPE_ACCESS});
        let spec = json!({"sequence": sequence, "format": "v1", "config": config});
        let object = json!({"metadata": {"labels": labels}, "spec": spec});
        world.put(Kind::Revision, "default", &format!("access-{sequence}"), object);
    }
    run(&world, &args("access", None)).await.unwrap();
    let new = world.cluster.object(&world.key(Kind::Revision, "access-3")).unwrap();
    assert_eq!(new.data["spec"]["config"], "{}");
    assert_eq!(new.metadata.annotations.as_ref().unwrap()["millrace.dev/hold-revision"], "3");
    assert_eq!(new.metadata.labels.as_ref().unwrap()[labels::SCOPE], "access");
}

#[tokio::test]
async fn what_cannot_be_rolled_back_says_why() {
    let world = World::running(json!({})).await;
    for (args, words) in [
        (args("blog", None), "there is no App `blog` in namespace `default`"),
        (args("shop", None), "`shop` has no older Revision that says something else"),
        (args("shop", Some(7)), "`shop` has no Revision 7; there are 1"),
    ] {
        let error = run(&world, &args).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
