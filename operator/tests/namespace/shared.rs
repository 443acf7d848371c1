//! Data planes: which come into being, who owns them, what hand edits do, and what goes when Apps go.

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_crds::labels;
use millrace_crds::resolved::Role;
use millrace_operator::context::Next;
use millrace_operator::kind::Kind;
use millrace_operator::workloads::KINDS;
use serde_json::{Value, json};

use crate::world::{World, installation, key};

const PLANE: [&str; 3] = ["mr-shared-gateway", "mr-shared-ingest", "mr-shared-worker"];

fn dedicated(more: Value) -> Value {
    let mut dataplane = json!({"placement": "Dedicated"});
    dataplane.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"dataplane": dataplane})
}

fn owners(world: &World, kind: Kind, name: &str) -> BTreeSet<String> {
    let object = world.object(kind, name).unwrap();
    let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    owners.iter().map(|owner| owner["name"].as_str().unwrap().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Every object of the shared data plane, its Secrets among them.
fn everything(world: &World) -> Vec<(Kind, String)> {
    let found = world.cluster.objects().into_keys().map(|key| (key.kind, key.name));
    found.filter(|(kind, name)| KINDS.contains(kind) || name.starts_with("millrace.shared.")).collect()
}

#[tokio::test]
async fn the_smallest_app_gets_a_whole_data_plane() {
    let world = World::new();
    world.app("hello", json!({}));
    world.settle().await;
    assert_eq!(world.names(Kind::Deployment), ["mr-shared-gateway", "mr-shared-ingest"]);
    assert_eq!(world.names(Kind::StatefulSet), ["mr-shared-worker"]);
    for kind in [Kind::Role, Kind::RoleBinding, Kind::Service, Kind::NetworkPolicy, Kind::PodDisruptionBudget]
    {
        assert_eq!(world.names(kind), PLANE, "{kind:?}");
    }
    assert_eq!(world.names(Kind::ServiceAccount), [&[labels::SHARED_ANCHOR][..], &PLANE].concat());
    assert_eq!(world.names(Kind::Revision), ["access-1"]);
    let secrets = ["millrace-hello", "millrace.admin", "millrace.pepper", "millrace.shared.gateway"];
    assert_eq!(world.names(Kind::Secret)[..4], secrets);
    assert!(world.names(Kind::Ingress).is_empty() && world.names(Kind::HttpRoute).is_empty());
}

#[tokio::test]
async fn a_namespace_without_apps_is_left_alone() {
    let world = World::new();
    assert_eq!(world.settle().await, []);
    assert!(world.cluster.objects().is_empty());
}

#[tokio::test]
async fn an_app_that_comes_or_goes_never_touches_the_pods_of_the_others() {
    let world = World::new();
    world.app("one", json!({}));
    world.settle().await;
    let before = |kind, name: &str| world.object(kind, name).unwrap()["spec"].clone();
    let workloads =
        [(Kind::Deployment, PLANE[0]), (Kind::Deployment, PLANE[1]), (Kind::StatefulSet, PLANE[2])];
    let specs = workloads.map(|(kind, name)| before(kind, name));
    world.app("two", json!({}));
    let written: Vec<String> = world.settle().await.into_iter().map(|write| write.key.name).collect();
    let with_apps_in_them = [labels::SHARED_ANCHOR, "millrace.shared.ingest", "millrace.shared.gateway"];
    assert_eq!(written, with_apps_in_them);
    assert_eq!(workloads.map(|(kind, name)| before(kind, name)), specs);
    for (kind, name) in everything(&world) {
        let expected: &[&str] =
            if name == labels::SHARED_ANCHOR { &["one", "two"] } else { &[labels::SHARED_ANCHOR] };
        assert_eq!(owners(&world, kind, &name), set(expected), "{kind:?} {name}");
    }
    assert_eq!(world.resolved("shared", Role::Ingest).privacy.len(), 2);

    world.cluster.remove(&key(Kind::App, "one"));
    let written: Vec<String> = world.settle().await.into_iter().map(|write| write.key.name).collect();
    assert_eq!(written, with_apps_in_them);
    assert_eq!(workloads.map(|(kind, name)| before(kind, name)), specs);
    for (kind, name) in workloads {
        let object = world.object(kind, name).unwrap();
        assert_eq!(object["metadata"]["generation"], 1, "{name} was changed");
    }
    assert_eq!(owners(&world, Kind::ServiceAccount, labels::SHARED_ANCHOR), set(&["two"]));
    assert_eq!(world.resolved("shared", Role::Ingest).privacy.len(), 1);
}

#[tokio::test]
async fn an_anchor_that_somebody_deleted_is_made_anew_with_everything_that_it_owned() {
    let world = World::new();
    world.app("one", json!({}));
    world.settle().await;
    let before = everything(&world);
    world.cluster.remove(&key(Kind::ServiceAccount, labels::SHARED_ANCHOR));
    assert_eq!(everything(&world), [], "the garbage collector takes it all");
    world.settle().await;
    assert_eq!(everything(&world), before);
}

#[tokio::test]
async fn what_is_shared_stays_as_it_is_while_its_anchor_is_on_its_way_out() {
    let world = World::new();
    world.app("one", json!({}));
    world.settle().await;
    let mut anchor = world.object(Kind::ServiceAccount, labels::SHARED_ANCHOR).unwrap();
    anchor["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    world.put(Kind::ServiceAccount, labels::SHARED_ANCHOR, &anchor);
    world.cluster.remove(&key(Kind::ServiceAccount, labels::SHARED_ANCHOR));
    world.app("two", json!({}));
    world.settle().await;
    assert_eq!(
        world.resolved("shared", Role::Ingest).privacy.len(),
        1,
        "nothing is given an owner that goes"
    );
}

#[tokio::test]
async fn with_the_last_app_everything_goes_but_keys_and_volumes() {
    let world = World::new();
    world.app("one", json!({}));
    world.settle().await;
    let volume =
        json!({"metadata": {"labels": {labels::MANAGED_BY: labels::MANAGER, labels::DATA_PLANE: "shared"}}});
    world.put(Kind::Pod, "stands-for-a-volume", &volume);
    world.cluster.remove(&key(Kind::App, "one"));
    world.settle().await;
    let left: Vec<String> = world.cluster.objects().into_keys().map(|key| key.name).collect();
    assert_eq!(left, ["millrace-one", "millrace.admin", "millrace.pepper", "stands-for-a-volume"]);
}

#[tokio::test]
async fn what_nobody_owns_any_more_is_removed_without_the_garbage_collector() {
    let world = World::new();
    world.app("one", dedicated(json!({})));
    world.settle().await;
    assert!(world.object(Kind::StatefulSet, "mr-one-worker").is_some());
    world.app("one", json!({}));
    world.settle().await;
    let of_old = |name: &String| name.starts_with("mr-one-") || name.starts_with("millrace.one.");
    let left: Vec<_> = world.cluster.objects().into_keys().filter(|key| of_old(&key.name)).collect();
    assert_eq!(left, []);
    assert!(world.object(Kind::StatefulSet, "mr-shared-worker").is_some());
}

#[tokio::test]
async fn an_app_that_moves_keeps_its_old_place_until_its_revision_has_moved() {
    let world = World::new();
    world.app("one", json!({}));
    world.revision("one", 1, "shared");
    world.settle().await;
    world.app("one", dedicated(json!({})));
    world.settle().await;
    assert_eq!(world.names(Kind::StatefulSet), ["mr-one-worker", "mr-shared-worker"]);
    // Its Revisions belong to nobody while the old pods let go.
    let annotations = json!({labels::MOVING_FROM_ANNOTATION: "shared"});
    let labels = json!({labels::MANAGED_BY: labels::MANAGER, labels::SCOPE: "one"});
    let metadata = json!({"labels": labels, "annotations": annotations});
    let spec = json!({"sequence": 1, "format": "v1", "config": "{}"});
    world.put(Kind::Revision, "one-1", &json!({"metadata": metadata, "spec": spec}));
    assert_eq!(world.settle().await, [], "the old place stays for as long");
    world.revision("one", 2, "one");
    world.settle().await;
    assert_eq!(world.names(Kind::StatefulSet), ["mr-one-worker"]);
}

#[tokio::test]
async fn a_dedicated_data_plane_stands_beside_the_shared_one_with_sizes_of_its_own() {
    let world = World::new();
    world.app("small", json!({}));
    world.app("big", dedicated(json!({"worker": {"replicas": 9}, "ingest": {"spill": {"size": "2048Mi"}}})));
    world.settle().await;
    let worker = world.object(Kind::StatefulSet, "mr-big-worker").unwrap();
    assert_eq!(worker["spec"]["replicas"], 9);
    assert_eq!(worker["metadata"]["ownerReferences"][0]["controller"], true);
    let ingest = world.object(Kind::StatefulSet, "mr-big-ingest").unwrap();
    assert_eq!(ingest["spec"]["serviceName"], "mr-big-ingest-pods");
    assert_eq!(ingest["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"], "2Gi");
    assert_eq!(world.object(Kind::Service, "mr-big-ingest-pods").unwrap()["spec"]["clusterIP"], "None");
    assert_eq!(world.object(Kind::StatefulSet, "mr-shared-worker").unwrap()["spec"]["replicas"], 2);
    assert_eq!(world.resolved("big", Role::Ingest).privacy.len(), 1);
    assert_eq!(world.resolved("shared", Role::Ingest).privacy.len(), 1);
    world.cluster.remove(&key(Kind::App, "small"));
    world.settle().await;
    assert_eq!(world.names(Kind::StatefulSet), ["mr-big-ingest", "mr-big-worker"]);
}

#[tokio::test]
async fn a_spill_that_is_given_up_turns_the_set_into_a_deployment() {
    let world = World::new();
    world.app("big", dedicated(json!({"ingest": {"spill": {"size": "1Gi"}}})));
    world.settle().await;
    world.app("big", dedicated(json!({})));
    for held in [7, 0] {
        world.pod_with_spill("big", 0, 0);
        world.pod_with_spill("big", 1, held);
        world.settle().await;
        let is_there = world.object(Kind::StatefulSet, "mr-big-ingest").is_some();
        assert_eq!(is_there, held > 0, "with {held} bytes on a volume");
    }
    assert_eq!(world.names(Kind::Deployment), ["mr-big-gateway", "mr-big-ingest"]);
    assert_eq!(world.names(Kind::StatefulSet), ["mr-big-worker"]);
    assert!(world.object(Kind::Service, "mr-big-ingest-pods").is_none());
}

#[tokio::test]
async fn ingest_shrinks_only_past_pods_with_nothing_on_their_volumes() {
    let world = World::new();
    let with_pods = |count: u32| {
        let ingest = json!({"replicas": count, "spill": {"size": "1Gi"}});
        world.app("big", dedicated(json!({"ingest": ingest})));
    };
    let pods = || world.object(Kind::StatefulSet, "mr-big-ingest").unwrap()["spec"]["replicas"].clone();
    with_pods(4);
    world.settle().await;
    with_pods(1);
    world.settle().await;
    assert_eq!(pods(), 4, "nobody said anything yet");
    for (held, expected) in [([0, 5, 0, 0], 2), ([5, 0, 0, 0], 1)] {
        (0..).zip(held).for_each(|(number, bytes)| world.pod_with_spill("big", number, bytes));
        world.settle().await;
        assert_eq!(pods(), expected, "{held:?}");
    }
    with_pods(3);
    world.settle().await;
    assert_eq!(pods(), 3, "growing waits for nobody");
}

#[tokio::test]
async fn pods_by_load_are_counted_by_the_autoscaler_alone() {
    let world = World::new();
    let bounds = json!({"minReplicas": 3, "maxReplicas": 30, "targetCpuPercent": 60});
    world.app("big", dedicated(json!({"gateway": {"autoscaling": bounds}})));
    world.settle().await;
    let gateway = world.object(Kind::Deployment, "mr-big-gateway").unwrap();
    assert_eq!(gateway["spec"]["replicas"], 3, "the fewest, until the autoscaler says how many");
    let autoscaler = world.object(Kind::HorizontalPodAutoscaler, "mr-big-gateway").unwrap();
    assert_eq!(autoscaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    let mut scaled = gateway.clone();
    scaled["spec"]["replicas"] = 17.into();
    scaled["metadata"]["managedFields"] = json!([autoscalers_fields()]);
    world.put(Kind::Deployment, "mr-big-gateway", &scaled);
    assert_eq!(world.settle().await.len(), 1, "we let go of the number");
    let mut scaled = world.object(Kind::Deployment, "mr-big-gateway").unwrap();
    scaled["spec"]["replicas"] = 29.into();
    world.put(Kind::Deployment, "mr-big-gateway", &scaled);
    assert_eq!(world.settle().await, []);
    assert_eq!(world.object(Kind::Deployment, "mr-big-gateway").unwrap()["spec"]["replicas"], 29);
    world.app("big", dedicated(json!({"gateway": {"replicas": 4}})));
    world.settle().await;
    assert!(world.object(Kind::HorizontalPodAutoscaler, "mr-big-gateway").is_none());
    assert_eq!(world.object(Kind::Deployment, "mr-big-gateway").unwrap()["spec"]["replicas"], 4);
}

/// Who owns the number of pods once an autoscaler has set it.
fn autoscalers_fields() -> Value {
    json!({
        "manager": "kube-controller-manager", "operation": "Update", "subresource": "scale",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}},
    })
}

#[tokio::test]
async fn autoscaling_that_is_switched_on_leaves_the_pods_until_the_autoscaler_counts_them() {
    let world = World::new();
    world.app("big", dedicated(json!({"gateway": {"replicas": 7}})));
    world.settle().await;
    let bounds = json!({"minReplicas": 3, "maxReplicas": 30});
    world.app("big", dedicated(json!({"gateway": {"autoscaling": bounds}})));
    world.settle().await;
    let replicas = || world.object(Kind::Deployment, "mr-big-gateway").unwrap()["spec"]["replicas"].clone();
    assert_eq!(replicas(), 7);
    let mut scaled = world.object(Kind::Deployment, "mr-big-gateway").unwrap();
    scaled["spec"]["replicas"] = 5.into();
    scaled["metadata"]["managedFields"] = json!([autoscalers_fields()]);
    world.put(Kind::Deployment, "mr-big-gateway", &scaled);
    world.settle().await;
    assert_eq!(replicas(), 5);
}

#[tokio::test]
async fn a_hand_edit_of_our_fields_is_repaired_and_other_fields_stay() {
    let world = World::new();
    world.app("one", json!({}));
    world.settle().await;
    let mut edited = world.object(Kind::Deployment, "mr-shared-ingest").unwrap();
    edited["spec"]["replicas"] = 0.into();
    edited["spec"]["template"]["spec"]["containers"][0]["image"] = "somebody/elses:1".into();
    edited["spec"]["template"]["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/restartedAt": "now"});
    edited["metadata"]["labels"]["team"] = "web".into();
    world.put(Kind::Deployment, "mr-shared-ingest", &edited);
    assert_eq!(world.settle().await.len(), 1);
    let repaired = world.object(Kind::Deployment, "mr-shared-ingest").unwrap();
    assert_eq!(repaired["spec"]["replicas"], 2);
    let template = &repaired["spec"]["template"];
    assert_eq!(template["spec"]["containers"][0]["image"], "millrace/millrace-dataplane:0.1.0");
    assert_eq!(template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"], "now");
    assert_eq!(repaired["metadata"]["labels"]["team"], "web");
}

#[tokio::test]
async fn what_is_not_ours_is_never_removed() {
    let world = World::new();
    world.app("one", json!({}));
    world.settle().await;
    let plane = json!({labels::MANAGED_BY: labels::MANAGER, labels::DATA_PLANE: "gone"});
    world.put(Kind::Service, "copied-labels", &json!({"metadata": {"labels": plane}}));
    world.put(
        Kind::Service,
        "mr-gone-ingest",
        &json!({"metadata": {"labels": {labels::DATA_PLANE: "gone"}}}),
    );
    world.put(Kind::Service, "mr-gone-gateway", &json!({"metadata": {"labels": plane}}));
    world.secret("millrace.gone.ingest", &[("resolved.json", "{}")], &json!({"team": "web"}));
    world.settle().await;
    assert!(world.object(Kind::Service, "copied-labels").is_some());
    assert!(world.object(Kind::Service, "mr-gone-ingest").is_some());
    assert!(world.object(Kind::Service, "mr-gone-gateway").is_none(), "this one is ours");
    assert!(world.object(Kind::Secret, "millrace.gone.ingest").is_some());
}

#[tokio::test]
async fn an_app_that_becomes_invalid_or_paused_leaves_its_running_data_plane_as_it_is() {
    let world = World::new();
    world.app("big", dedicated(json!({"worker": {"replicas": 5}})));
    world.revision("big", 1, "big");
    world.settle().await;
    let invalid = dedicated(json!({"worker": {"replicas": 100_000}}));
    let unreadable = dedicated(json!({"worker": {"replicas": "many"}}));
    for spec in [invalid, unreadable] {
        world.app("big", spec);
        assert_eq!(world.settle().await, []);
        assert_eq!(world.object(Kind::StatefulSet, "mr-big-worker").unwrap()["spec"]["replicas"], 5);
    }
    let paused = json!({
        "metadata": {"annotations": {labels::PAUSED_ANNOTATION: "for now"}},
        "spec": dedicated(json!({"worker": {"replicas": 7}})),
    });
    world.put(Kind::App, "big", &paused);
    assert_eq!(world.settle().await, []);
    world.put(Kind::App, "big", &json!({"metadata": {"annotations": {}}, "spec": paused["spec"]}));
    world.settle().await;
    assert_eq!(world.object(Kind::StatefulSet, "mr-big-worker").unwrap()["spec"]["replicas"], 7);
}

#[tokio::test]
async fn an_invalid_app_that_never_ran_gets_nothing() {
    let world = World::new();
    world.app("bad", json!({"dataplane": {"ingest": {"replicas": 3}}}));
    world.settle().await;
    assert!(world.names(Kind::Deployment).is_empty());
    world.app("good", json!({}));
    world.settle().await;
    assert_eq!(world.names(Kind::StatefulSet), ["mr-shared-worker"]);
    assert_eq!(owners(&world, Kind::ServiceAccount, labels::SHARED_ANCHOR), set(&["good"]));
}

#[tokio::test]
async fn an_app_under_deletion_keeps_its_data_plane_until_it_is_gone() {
    let world = World::new();
    world.put(Kind::App, "one", &json!({"metadata": {"finalizers": [labels::FINALIZER]}, "spec": {}}));
    world.settle().await;
    world.cluster.remove(&key(Kind::App, "one"));
    assert_eq!(world.settle().await, []);
    assert_eq!(world.names(Kind::StatefulSet), ["mr-shared-worker"]);
}

#[tokio::test]
async fn a_namespace_that_ends_gets_nothing_new() {
    let world = World::new();
    let namespace = millrace_operator::cluster::ObjectKey::new(Kind::Namespace, "", "default");
    world.cluster.put(&namespace, &json!({"metadata": {"finalizers": ["kubernetes"]}}));
    world.cluster.remove(&namespace);
    world.app("one", json!({}));
    assert_eq!(world.settle().await, []);
}

#[tokio::test]
async fn the_volume_of_a_set_that_is_there_keeps_its_size() {
    let small = World::new();
    small.app("one", json!({}));
    small.settle().await;
    let worker = small.object(Kind::StatefulSet, "mr-shared-worker").unwrap();
    let mut world = World::with(installation(json!({"dataplane": {"workerVolume": {"size": "50Gi"}}})));
    world.cluster = small.cluster;
    world.context.cluster = world.cluster.clone();
    assert_eq!(world.settle().await, []);
    assert_eq!(world.object(Kind::StatefulSet, "mr-shared-worker").unwrap(), worker);
}

#[tokio::test]
async fn ways_in_from_outside_are_made_and_taken_back() {
    let ingress = json!({"ingestHost": "in.{namespace}.example", "gatewayHost": "{dataPlane}.example",
        "tlsSecretName": "tls", "annotations": {"a": "b"}});
    let route = json!({"gatewayName": "gw", "gatewayNamespace": "infra", "ingestHost": "i.example",
        "gatewayHost": "g.example"});
    let mut world = World::with(installation(json!({"expose": {"ingress": ingress, "httpRoute": route}})));
    world.app("one", json!({}));
    world.settle().await;
    let made = world.object(Kind::Ingress, "mr-shared-ingest").unwrap();
    assert_eq!(made["spec"]["rules"][0]["host"], "in.default.example");
    assert_eq!(made["spec"]["tls"][0], json!({"hosts": ["in.default.example"], "secretName": "tls"}));
    assert_eq!(made["metadata"]["annotations"]["a"], "b");
    let made = world.object(Kind::Ingress, "mr-shared-gateway").unwrap();
    assert_eq!(made["spec"]["rules"][0]["host"], "shared.example");
    let made = world.object(Kind::HttpRoute, "mr-shared-ingest").unwrap();
    assert_eq!(made["spec"]["hostnames"], json!(["i.example"]));
    assert_eq!(made["spec"]["rules"][0]["backendRefs"][0]["port"], 8080);
    world.context.installation = std::sync::Arc::new(installation(json!({})));
    world.settle().await;
    assert!(world.names(Kind::Ingress).is_empty() && world.names(Kind::HttpRoute).is_empty());
}

#[tokio::test]
async fn an_app_without_its_secret_is_looked_for_again_soon() {
    let world = World::new();
    world.put(Kind::App, "one", &json!({"spec": {}}));
    world.settle().await;
    assert!(world.resolved("shared", Role::Ingest).privacy.is_empty());
    assert_eq!(world.reconcile().await, Next::After(Duration::from_secs(1)));
    world.app("one", json!({}));
    assert_eq!(world.settle().await.len(), 2, "ingest and gateway get the keys, the worker needs none");
    assert_eq!(world.reconcile().await, Next::OnChange);
}
