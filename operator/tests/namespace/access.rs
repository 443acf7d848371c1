//! RolePolicies: what is published, what keeps the last good one in force, and what people read about it.

use std::collections::BTreeMap;

use millrace_crds::config::AccessConfig;
use millrace_crds::labels;
use millrace_crds::resolved::Role;
use millrace_crds::revision::HOLD_ANNOTATION;
use millrace_crds::state::{RefusedRevision, RunningRevision, ScopeState};
use millrace_operator::kind::Kind;
use serde_json::{Value, json};

use crate::world::{World, key};

fn analysts(email: &str) -> Value {
    json!({
        "roles": [{"name": "analyst", "permissions": ["dashboard:read"]}],
        "bindings": [{"role": "analyst", "subjects": [{"issuer": "local", "email": email}]}],
    })
}

fn config(world: &World, revision: &str) -> AccessConfig {
    let object = world.object(Kind::Revision, revision).unwrap();
    serde_json::from_str(object["spec"]["config"].as_str().unwrap()).unwrap()
}

fn ready(world: &World, policy: &str) -> (String, String, String) {
    world.condition(Kind::RolePolicy, policy, "Ready")
}

#[tokio::test]
async fn a_policy_is_in_force_once_every_pod_runs_it() {
    let mut world = World::new();
    world.app("one", json!({}));
    world.policy("team", analysts("ann@example.com"));
    world.settle().await;
    assert_eq!(config(&world, "access-1").bindings.len(), 1);
    assert_eq!(world.condition(Kind::RolePolicy, "team", "Accepted").0, "True");
    let (status, reason, message) = ready(&world, "team");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Progressing"));
    assert_eq!(message, "Revision `access-1` is published; no pod has reported yet");
    assert_eq!(world.condition(Kind::RolePolicy, "team", "Reconciling").0, "True");

    world.pod("shared", Role::Gateway, &[("access", 1)]);
    world.pod("shared", Role::Ingest, &[]);
    world.settle().await;
    assert_eq!(ready(&world, "team").2, "1 of 2 pods run Revision `access-1`");
    world.pod("shared", Role::Ingest, &[("access", 1)]);
    world.later(5);
    world.settle().await;
    assert_eq!(ready(&world, "team").0, "True");
    assert_eq!(world.condition(Kind::RolePolicy, "team", "Reconciling").0, "False");
    let told: Vec<String> = world.cluster.told().into_iter().map(|(_, told)| told.note).collect();
    assert_eq!(told, ["Ready is True: all pods that should run Revision `access-1`"]);
    let policy = world.object(Kind::RolePolicy, "team").unwrap();
    assert_eq!(policy["status"]["observedGeneration"], 1);
}

#[tokio::test]
async fn a_bad_policy_is_reported_where_it_is_and_the_last_good_revision_stays_whole() {
    let world = World::new();
    world.app("one", json!({}));
    world.policy("good", analysts("ann@example.com"));
    world.policy("masks", json!({"maskedFields": ["event_data.email"]}));
    world.settle().await;
    let before = config(&world, "access-1");
    world.policy("masks", json!({"maskedFields": ["evnt_data.email"], "rateLimits": [{"role": "nobody", "requestsPerMinute": 1}]}));
    world.policy("good", analysts("bob@example.com"));
    world.settle().await;
    assert_eq!(world.names(Kind::Revision), ["access-1"]);
    assert_eq!(config(&world, "access-1"), before);
    let (status, reason, message) = world.condition(Kind::RolePolicy, "masks", "Accepted");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Invalid"));
    assert!(
        message.contains("spec.maskedFields[0]: `evnt_data` is not a field of an event; did you mean"),
        "{message}"
    );
    assert!(message.contains("there is no role `nobody`"), "every problem is listed: {message}");
    assert_eq!(ready(&world, "masks").2, "not accepted; Revision `access-1` stays in force");
    assert_eq!(world.condition(Kind::RolePolicy, "masks", "Stalled").0, "True");
    assert_eq!(world.condition(Kind::RolePolicy, "good", "Accepted").0, "True");
    assert!(ready(&world, "good").2.starts_with("waits for RolePolicy `masks` to be corrected"));

    world.policy("masks", json!({"maskedFields": ["event_data.email"]}));
    world.settle().await;
    assert_eq!(world.names(Kind::Revision), ["access-1", "access-2"]);
    assert!(format!("{:?}", config(&world, "access-2")).contains("bob@example.com"));
    assert_eq!(world.condition(Kind::RolePolicy, "masks", "Stalled").0, "False");
}

#[tokio::test]
async fn a_first_policy_that_is_bad_leaves_everybody_outside() {
    let world = World::new();
    world.app("one", json!({}));
    world.policy("good", analysts("ann@example.com"));
    world.policy(
        "bad",
        json!({"bindings": [{"role": "nobody", "subjects": [{"issuer": "local", "email": "a@b"}]}]}),
    );
    world.settle().await;
    assert!(config(&world, "access-1").bindings.is_empty());
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_is_reported_with_its_field_and_stops_nobody() {
    let world = World::new();
    world.app("one", json!({}));
    world.policy(
        "odd",
        json!({"roles": [{"name": "a", "permissions": ["dashboard:raed"]}], "newer": {"x": 1}}),
    );
    world.settle().await;
    let (_, reason, message) = world.condition(Kind::RolePolicy, "odd", "Accepted");
    assert_eq!(reason, "Invalid");
    assert!(
        message.contains("spec.roles[0].permissions[0]") && message.contains("dashboard:raed"),
        "{message}"
    );
    assert_eq!(world.names(Kind::StatefulSet), ["mr-shared-worker"]);
    let kept = world.object(Kind::RolePolicy, "odd").unwrap();
    assert_eq!(kept["spec"]["newer"]["x"], 1, "what we do not know stays");
}

#[tokio::test]
async fn a_held_revision_keeps_newer_ones_back_until_it_is_let_go() {
    let world = World::new();
    world.app("one", json!({}));
    world.policy("team", analysts("ann@example.com"));
    world.settle().await;
    let mut held = world.object(Kind::Revision, "access-1").unwrap();
    held["metadata"]["annotations"][HOLD_ANNOTATION] = "rollback".into();
    world.put(Kind::Revision, "access-1", &held);
    world.settle().await;
    assert_eq!(world.condition(Kind::RolePolicy, "team", "Accepted").1, "Held");
    assert_eq!(ready(&world, "team").1, "Progressing", "nothing is kept back yet");
    world.policy("team", analysts("bob@example.com"));
    world.settle().await;
    assert_eq!(world.names(Kind::Revision), ["access-1"]);
    let (_, reason, message) = ready(&world, "team");
    assert_eq!(reason, "Held");
    assert!(message.contains(HOLD_ANNOTATION), "{message}");
    held["metadata"]["annotations"].as_object_mut().unwrap().remove(HOLD_ANNOTATION);
    world.put(Kind::Revision, "access-1", &held);
    world.settle().await;
    assert_eq!(world.names(Kind::Revision), ["access-1", "access-2"]);
}

#[tokio::test]
async fn a_paused_policy_keeps_changes_from_being_published() {
    let world = World::new();
    world.app("one", json!({}));
    world.policy("team", analysts("ann@example.com"));
    world.settle().await;
    let annotations = json!({labels::PAUSED_ANNOTATION: "yes"});
    let paused = json!({"metadata": {"annotations": annotations}, "spec": analysts("bob@example.com")});
    world.put(Kind::RolePolicy, "team", &paused);
    world.settle().await;
    assert_eq!(world.names(Kind::Revision), ["access-1"]);
    assert_eq!(world.condition(Kind::RolePolicy, "team", "Accepted").1, "Paused");
}

#[tokio::test]
async fn the_last_five_revisions_are_kept_and_the_one_that_every_pod_runs() {
    let world = World::new();
    world.app("one", json!({}));
    for version in 1..=8 {
        world.policy("team", analysts(&format!("ann{version}@example.com")));
        if version == 2 {
            world.pod("shared", Role::Gateway, &[("access", 1)]);
        }
        world.settle().await;
    }
    assert_eq!(world.names(Kind::Revision), [1, 4, 5, 6, 7, 8].map(|n| format!("access-{n}")));
    world.pod("shared", Role::Gateway, &[("access", 8)]);
    world.settle().await;
    assert_eq!(world.names(Kind::Revision), [4, 5, 6, 7, 8].map(|n| format!("access-{n}")));
}

#[tokio::test]
async fn a_pod_that_refuses_is_quoted_and_a_pod_that_starts_does_not_make_ready_flap() {
    let mut world = World::new();
    world.app("one", json!({}));
    world.policy("team", analysts("ann@example.com"));
    world.pod("shared", Role::Gateway, &[("access", 1)]);
    world.settle().await;
    assert_eq!(ready(&world, "team").0, "True");
    let named = |name: &str| {
        json!({"metadata": {"name": name, "labels": {
        labels::MANAGED_BY: labels::MANAGER, labels::DATA_PLANE: "shared", labels::COMPONENT: "worker"}}})
    };
    world.later(0);
    let pod = world.put(Kind::Pod, "mr-shared-worker-1", &named("mr-shared-worker-1"));
    assert_eq!(world.settle().await, [], "a pod of no age is not counted");
    world.later(61);
    world.settle().await;
    assert_eq!(ready(&world, "team").2, "1 of 2 pods run Revision `access-1`");
    let running = Some(RunningRevision { sequence: 0, hash: String::new() });
    let refused = Some(RefusedRevision { sequence: 1, reason: "too new for me".to_owned() });
    world.says(
        "mr-shared-worker-1",
        &pod,
        BTreeMap::from([("access".to_owned(), ScopeState { running, refused })]),
        None,
    );
    world.settle().await;
    let (_, reason, message) = ready(&world, "team");
    assert_eq!(reason, "RevisionRefused");
    assert_eq!(message, "pod `mr-shared-worker-1` refuses Revision `access-1`: too new for me");
    assert_eq!(world.condition(Kind::RolePolicy, "team", "Stalled").0, "True");
}

#[tokio::test]
async fn a_policy_without_any_app_waits_and_says_so() {
    let world = World::new();
    world.policy("team", json!({"apps": {"names": ["shop"]}}));
    world.settle().await;
    assert!(world.names(Kind::Revision).is_empty());
    assert_eq!(ready(&world, "team").2, "there is no App in this namespace yet");
    let accepted = world.condition(Kind::RolePolicy, "team", "Accepted");
    assert_eq!(
        (accepted.0.as_str(), accepted.2.as_str()),
        ("True", "there is no App `shop` in this namespace")
    );
    world.app("shop", json!({}));
    world.settle().await;
    assert_eq!(world.names(Kind::Revision), ["access-1"]);
    world.cluster.remove(&key(Kind::App, "shop"));
    world.settle().await;
    assert!(world.names(Kind::Revision).is_empty());
}
