//! Revisions on their way to the pods: refused, held, for a share of the pods first, kept and removed.

use millrace_crds::labels;
use millrace_crds::resolved::Role;
use millrace_crds::state;
use millrace_operator::kind::Kind;
use serde_json::json;

use crate::fixture::World;

#[tokio::test]
async fn a_pod_that_refuses_is_heard_in_its_own_words() {
    let world = World::running(json!({})).await;
    world.app(json!({"events": {"conversions": ["purchase"]}}));
    world.settle().await;
    world.refuse(1, "the privacy keys of App `default/shop` are missing");
    world.settle().await;
    let words = "(and 2 more pods) refuses Revision `shop-2` and runs the one before: the privacy keys";
    world.expect("DataplaneReady", "False", "RevisionRefused", words);
    world.expect("Stalled", "True", "RevisionRefused", "");
    assert!(
        world
            .events()
            .iter()
            .any(|event| event.starts_with("RevisionRefused: DataplaneReady: pod `mr-shared"))
    );
}

#[tokio::test]
async fn a_young_pod_does_not_end_readiness_and_one_that_stays_silent_does() {
    let world = World::running(json!({})).await;
    world.pass(600);
    world.pod(Role::Ingest, "1", "False");
    world.settle().await;
    world.expect("Ready", "True", "Ok", "");
    world.pass(61);
    world.settle().await;
    world.expect("DataplaneReady", "False", "Progressing", "awaited: `mr-shared-ingest-1`");
    world.pass(60);
    world.settle().await;
    let words = "not ready for more than 2 min: `mr-shared-ingest-1`; `kubectl describe pod`";
    world.expect("DataplaneReady", "False", "PodsNotReady", words);
    world.pod(Role::Ingest, "1", "True");
    world.report();
    world.settle().await;
    world.expect("Ready", "True", "Ok", "");
}

#[tokio::test]
async fn the_access_rules_count_too() {
    let world = World::running(json!({})).await;
    let labels =
        json!({"labels": {labels::MANAGED_BY: labels::MANAGER, labels::SCOPE: labels::SCOPE_ACCESS}});
    let spec = json!({"sequence": 4, "format": "v1", "config": "{}"});
    world.put(Kind::Revision, "default", "access-4", json!({"metadata": labels, "spec": spec}));
    world.pass(61);
    world.settle().await;
    world.expect("DataplaneReady", "False", "Progressing", "0 of 3 pods run Revision `access-4`");
    world.report();
    world.settle().await;
    world.expect("Ready", "True", "Ok", "");
}

#[tokio::test]
async fn a_share_of_the_pods_goes_first_and_only_they_count() {
    let world = World::running(json!({})).await;
    for number in 1..20 {
        world.pod(Role::Ingest, &number.to_string(), "True");
    }
    world.report();
    world.app(json!({"rollout": {"percent": 50}, "events": {"conversions": ["purchase"]}}));
    world.settle().await;
    let pods = world.cluster.objects().into_keys().filter(|key| key.kind == Kind::Pod);
    let taking = pods.filter(|pod| state::takes(&pod.name, "shop-2", 50)).count();
    assert_eq!(world.status()["revision"]["total"], taking);
    world.expect(
        "DataplaneReady",
        "False",
        "Progressing",
        &format!("0 of {taking} pods run Revision `shop-2`"),
    );
    world.report();
    world.settle().await;
    let words = format!("{taking} of 22 pods are the 50 percent that take Revision `shop-2`, and run it");
    world.expect("DataplaneReady", "True", "Ok", &words);
}

#[tokio::test]
async fn the_last_five_revisions_stay_and_those_that_pods_run() {
    let world = World::running(json!({})).await;
    let edit = |number: u64| json!({"events": {"conversions": [format!("step-{number}")]}});
    for number in 2..=9 {
        world.app(edit(number));
        world.settle().await;
        world.refuse(1, "no");
    }
    world.settle().await;
    assert_eq!(world.sequences(), [1, 5, 6, 7, 8, 9], "pods run the first");
    world.report();
    world.settle().await;
    assert_eq!(world.sequences(), [5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn a_held_app_publishes_nothing_newer_and_says_so() {
    let world = World::running(json!({})).await;
    let metadata = json!({"annotations": {"millrace.dev/hold-revision": "1"}});
    world.app_with(metadata, json!({"events": {"conversions": ["purchase"]}}));
    world.settle().await;
    assert_eq!(world.sequences(), [1]);
    world.expect(
        "Accepted",
        "True",
        "Held",
        "`millrace-operator rollback shop -n default --resume` publishes",
    );
    world.expect("Ready", "True", "Ok", "");
    world.app(json!({"events": {"conversions": ["purchase"]}}));
    world.settle().await;
    assert_eq!(world.sequences(), [1, 2]);
}

#[tokio::test]
async fn an_app_that_moves_takes_its_revisions_along() {
    let world = World::running(json!({})).await;
    world.app(json!({"dataplane": {"placement": "Dedicated"}}));
    world.settle().await;
    let revision = world.cluster.object(&world.key(Kind::Revision, "shop-1")).unwrap();
    assert_eq!(revision.metadata.labels.as_ref().unwrap()[labels::DATA_PLANE], "shop");
    assert_eq!(world.sequences(), [1], "what pods run is the same");
    assert_eq!(world.status()["endpoints"]["ingest"], "http://mr-shop-ingest.default.svc:8080");
    world.expect("DataplaneReady", "False", "Progressing", "there is no pod yet for ingest");
}
