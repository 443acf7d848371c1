//! Applying on a real API server: its defaults are no difference, its refusals are told, edits by hand are repaired.

use kube::api::{DeleteParams, Patch, PatchParams};
use millrace_operator::apply::{carry_out, is_as_intended};
use millrace_operator::cluster::{Cluster as _, ClusterError, Severity, Told};
use millrace_operator::kind::Kind;
use millrace_operator::plan::{Plan, Presence, Step};
use serde_json::{Value, json};

use super::world::{World, until, world};

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {
        "securityContext": {"runAsNonRoot": true},
        "containers": [{
            "name": "main", "image": "x", "args": ["a"],
            "ports": [{"name": "http", "containerPort": 8080}],
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"memory": "1024Mi"}},
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}},
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        }],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1024Mi"}}],
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "x"}},
        }],
        "nodeSelector": {}, "tolerations": [],
    }})
}

/// One object of every kind that the operator makes, with what the API server fills in left out.
fn objects() -> Vec<(Kind, Value)> {
    let selector = json!({"matchLabels": {"app": "x"}});
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}},
    }});
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"});
    vec![
        (Kind::ServiceAccount, json!({"automountServiceAccountToken": false})),
        (
            Kind::Role,
            json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["x"]}]}),
        ),
        (
            Kind::RoleBinding,
            json!({
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "x"},
                "subjects": [{"kind": "ServiceAccount", "name": "x"}],
            }),
        ),
        (Kind::Secret, json!({"type": "Opaque", "data": {"a": "MQ=="}})),
        (
            Kind::Service,
            json!({"spec": {"selector": {"app": "x"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}),
        ),
        (Kind::Deployment, json!({"spec": {"selector": selector, "template": template()}})),
        (
            Kind::StatefulSet,
            json!({"spec": {
                "serviceName": "x", "selector": selector, "template": template(), "volumeClaimTemplates": [claim],
            }}),
        ),
        (Kind::PodDisruptionBudget, json!({"spec": {"maxUnavailable": 1, "selector": selector}})),
        (
            Kind::HorizontalPodAutoscaler,
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": target, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
            ]}}),
        ),
        (
            Kind::NetworkPolicy,
            json!({"spec": {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [
                {"ports": [{"port": 8080}], "from": [{"namespaceSelector": {}}]},
            ]}}),
        ),
        (
            Kind::Ingress,
            json!({"spec": {"rules": [{"host": "x.example", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "x", "port": {"name": "http"}}}},
            ]}}]}}),
        ),
        (Kind::Revision, json!({"spec": {"sequence": 1, "format": "v1", "config": "{}"}})),
    ]
}

fn plan(world: &World) -> Plan {
    let steps = objects().into_iter().map(|(kind, data)| Step::Apply {
        key: world.key(kind, "x"),
        intent: Box::new(world.intent(kind, "x", data)),
    });
    Plan { steps: steps.collect(), ..Plan::default() }
}

#[tokio::test]
async fn what_the_server_fills_in_costs_no_second_write() {
    let world = world("defaults").await;
    let plan = plan(&world);
    let applied = carry_out(&world.context, &plan).await.unwrap();
    assert_eq!(applied.written.len(), plan.steps.len());
    let before = world.writes();
    for (kind, data) in objects() {
        let stored = world.live.get(&world.key(kind, "x")).await.unwrap().unwrap();
        assert!(is_as_intended(&stored, &world.intent(kind, "x", data)), "{kind:?}: {:?}", stored.data);
    }
    // By the stores, and by what the server itself says.
    assert!(carry_out(&world.context, &plan).await.unwrap().is_empty());
    for (kind, data) in objects() {
        let stored = world.api(kind).get("x").await.unwrap();
        assert!(is_as_intended(&stored, &world.intent(kind, "x", data)), "{kind:?}: {:?}", stored.data);
    }
    assert_eq!(world.writes(), before);
    world.remove().await;
}

#[tokio::test]
async fn an_edit_by_hand_is_repaired_and_what_is_no_longer_meant_goes() {
    let world = world("repair").await;
    let key = world.key(Kind::NetworkPolicy, "x");
    let with = |spec: Value| Plan {
        steps: vec![Step::Apply {
            key: key.clone(),
            intent: Box::new(world.intent(Kind::NetworkPolicy, "x", json!({"spec": spec}))),
        }],
        ..Plan::default()
    };
    let both = with(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{}]}));
    carry_out(&world.context, &both).await.unwrap();
    let hole = json!({"spec": {"ingress": [{}]}});
    let by_hand = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
    world.api(Kind::NetworkPolicy).patch("x", &by_hand, &Patch::Merge(&hole)).await.unwrap();
    let closed = with(json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []}));
    until("the edit to be seen", || async {
        world.live.get(&key).await.unwrap().unwrap().data.pointer("/spec/ingress").is_some()
    })
    .await;
    assert_eq!(carry_out(&world.context, &closed).await.unwrap().written.len(), 1);
    let stored = world.api(Kind::NetworkPolicy).get("x").await.unwrap();
    assert_eq!(stored.data.pointer("/spec/egress"), None, "no longer meant");
    assert_eq!(stored.data.pointer("/spec/ingress").and_then(Value::as_array).map_or(0, Vec::len), 0);
    assert!(carry_out(&world.context, &closed).await.unwrap().is_empty());
    world.remove().await;
}

#[tokio::test]
async fn a_field_that_does_not_exist_is_refused_by_name() {
    let world = world("strict").await;
    let key = world.key(Kind::Service, "x");
    let intent = world.intent(Kind::Service, "x", json!({"spec": {"prots": []}}));
    let refused = world.live.apply(&key, &intent).await.unwrap_err();
    assert!(!refused.is_retryable());
    let text = refused.to_string();
    assert!(
        text.contains("the API server refuses apply of Service") && text.contains(".spec.prots"),
        "{text}"
    );
    world.remove().await;
}

#[tokio::test]
async fn a_definition_refuses_in_its_own_words() {
    let world = world("rules").await;
    let key = world.key(Kind::Revision, "shop-1");
    let with = |config: &str| {
        world.intent(
            Kind::Revision,
            "shop-1",
            json!({"spec": {"sequence": 1, "format": "v1", "config": config}}),
        )
    };
    world.live.apply(&key, &with("{}")).await.unwrap();
    let refused = world.live.apply(&key, &with("{ }")).await.unwrap_err();
    assert!(matches!(refused, ClusterError::Refused { .. }), "{refused:?}");
    assert!(refused.to_string().contains("a Revision never changes"), "{refused}");
    world.remove().await;
}

#[tokio::test]
async fn status_finalizers_and_events_reach_the_server_and_a_held_app_goes_in_the_end() {
    let world = world("status").await;
    let key = world.key(Kind::App, "shop");
    let app = world.intent(Kind::App, "shop", json!({"spec": {}}));
    world.api(Kind::App).create(&kube::api::PostParams::default(), &app).await.unwrap();
    until("the App to be seen", || async { world.live.get(&key).await.unwrap().is_some() }).await;
    let finalize =
        |finalizer| Plan { steps: vec![Step::Finalize { key: key.clone(), finalizer }], ..Plan::default() };
    carry_out(&world.context, &finalize(Presence::Present)).await.unwrap();
    world.live.set_status(&key, &json!({"observedGeneration": 1, "conditions": []})).await.unwrap();
    let stored = world.live.get(&key).await.unwrap().unwrap();
    assert_eq!(stored.data.pointer("/status/observedGeneration"), Some(&json!(1)));
    let told =
        Told { severity: Severity::Warning, reason: "Invalid", action: "Reconcile", note: "why".to_owned() };
    world.live.tell(&stored, told.clone()).await;
    world.live.tell(&stored, told).await;
    let events: kube::Api<k8s_openapi::api::events::v1::Event> =
        kube::Api::namespaced(world.client.clone(), &world.namespace);
    let events = events.list(&kube::api::ListParams::default()).await.unwrap().items;
    assert_eq!(events.iter().map(|event| event.note.as_deref()).collect::<Vec<_>>(), [Some("why")]);

    world.api(Kind::App).delete("shop", &DeleteParams::default()).await.unwrap();
    until("the deletion to be seen", || async {
        world.live.get(&key).await.unwrap().is_some_and(|app| app.metadata.deletion_timestamp.is_some())
    })
    .await;
    carry_out(&world.context, &finalize(Presence::Absent)).await.unwrap();
    assert_eq!(world.live.get(&key).await.unwrap(), None, "known at once, not by the watch");
    assert!(world.api(Kind::App).get_opt("shop").await.unwrap().is_none());
    world.live.set_status(&key, &json!({"observedGeneration": 2})).await.unwrap();
    world.remove().await;
}
