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
async fn an_operator_that_starts_leaves_what_is_ready_until_it_has_asked() {
    let mut world = World::running(json!({})).await;
    world.pass(600);
    let before = world.status();
    world.another_operator();
    world.settle().await;
    assert_eq!(world.status(), before);
    world.pass(61);
    world.settle().await;
    world.expect("DataplaneReady", "False", "Progressing", "it was not asked yet");
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
    world.let_go();
    world.settle().await;
    let revision = world.cluster.object(&world.key(Kind::Revision, "shop-1")).unwrap();
    assert_eq!(revision.metadata.labels.as_ref().unwrap()[labels::DATA_PLANE], "shop");
    assert_eq!(world.sequences(), [1], "what pods run is the same");
    assert_eq!(world.status()["endpoints"]["ingest"], "http://mr-shop-ingest.default.svc:8080");
    world.expect("DataplaneReady", "False", "Progressing", "there is no pod yet for ingest");
}

/// A pod of the App's own data plane, and of the shared one, with what they run.
fn data_plane_of(world: &World, revision: &str) -> (Option<String>, Option<String>) {
    let revision = world.cluster.object(&world.key(Kind::Revision, revision)).unwrap();
    let text =
        |of: &Option<std::collections::BTreeMap<String, String>>, name: &str| of.as_ref()?.get(name).cloned();
    (
        text(&revision.metadata.labels, labels::DATA_PLANE),
        text(&revision.metadata.annotations, labels::MOVING_FROM_ANNOTATION),
    )
}

#[tokio::test]
async fn an_app_that_moves_is_given_to_its_new_data_plane_only_when_the_old_one_let_go() {
    let world = World::running(json!({})).await;
    let shared = || (Some("shared".to_owned()), None);
    let leaving = || (None, Some("shared".to_owned()));
    let moved = || (Some("shop".to_owned()), None);
    assert_eq!(data_plane_of(&world, "shop-1"), shared());
    world.app(json!({"dataplane": {"placement": "Dedicated"}}));
    world.settle().await;
    assert_eq!(data_plane_of(&world, "shop-1"), leaving(), "nobody runs it");
    world.expect(
        "DataplaneReady",
        "False",
        "Progressing",
        "the pods of data plane `shared` let go of the App first",
    );
    world.pass(30);
    world.settle().await;
    assert_eq!(data_plane_of(&world, "shop-1"), leaving(), "they still run it");
    world.let_go();
    world.settle().await;
    assert_eq!(data_plane_of(&world, "shop-1"), moved());
}

#[tokio::test]
async fn a_data_plane_that_does_not_let_go_is_waited_for_a_minute_and_one_that_is_gone_not_at_all() {
    let world = World::running(json!({})).await;
    world.app(json!({"dataplane": {"placement": "Dedicated"}}));
    world.settle().await;
    world.pass(59);
    world.settle().await;
    assert_eq!(data_plane_of(&world, "shop-1").0, None);
    world.pass(2);
    world.settle().await;
    assert_eq!(data_plane_of(&world, "shop-1").0.as_deref(), Some("shop"));

    let gone = World::running(json!({})).await;
    gone.app(json!({"dataplane": {"placement": "Dedicated"}}));
    gone.settle().await;
    for role in Role::ALL {
        gone.cluster.remove(&gone.key(Kind::Pod, &format!("mr-shared-{role}-0")));
    }
    gone.settle().await;
    assert_eq!(data_plane_of(&gone, "shop-1").0.as_deref(), Some("shop"));
}

#[tokio::test]
async fn an_app_that_goes_back_before_it_left_stays_where_it_is() {
    let world = World::running(json!({})).await;
    world.app(json!({"dataplane": {"placement": "Dedicated"}}));
    world.settle().await;
    assert_eq!(data_plane_of(&world, "shop-1").0, None);
    world.app(json!({}));
    world.settle().await;
    assert_eq!(data_plane_of(&world, "shop-1"), (Some("shared".to_owned()), None));
    world.report();
    world.settle().await;
    world.expect("Ready", "True", "Ok", "");
}
