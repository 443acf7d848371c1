use super::*;
use crate::cluster::Severity;
use crate::cluster::memory::Memory;

fn at() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "default", name)
}

fn dynamic(kind: Kind, value: Value) -> DynamicObject {
    let resource = kind.resource();
    let mut value = value;
    value["apiVersion"] = resource.api_version.into();
    value["kind"] = resource.kind.into();
    serde_json::from_value(value).unwrap()
}

fn service(port: u16) -> DynamicObject {
    let labels = json!({"app": "x"});
    dynamic(
        Kind::Service,
        json!({"metadata": {"name": "s", "namespace": "default", "labels": labels}, "spec": {"ports": [{"port": port, "protocol": "TCP"}]}}),
    )
}

/// A cluster below whose writes are all counted.
fn below() -> (Arc<Memory>, Overlay) {
    let memory = Arc::new(Memory::new());
    let overlay = Overlay::new(Arc::clone(&memory) as Arc<dyn Cluster>, at());
    (memory, overlay)
}

#[tokio::test]
async fn a_new_object_is_seen_by_name_and_by_list_and_not_below() {
    let (memory, overlay) = below();
    let key = key(Kind::Service, "s");
    overlay.apply(&key, &service(80)).await.unwrap();
    let got = overlay.get(&key).await.unwrap().unwrap();
    assert_eq!(got.metadata.generation, Some(1));
    assert!(got.metadata.uid.is_some() && got.metadata.resource_version.is_some());
    let labels = BTreeMap::from([("app", "x")]);
    assert_eq!(overlay.list(Kind::Service, Some("default"), &labels).await.unwrap().len(), 1);
    assert_eq!(overlay.list(Kind::Service, Some("other"), &labels).await.unwrap().len(), 0);
    assert_eq!(overlay.list(Kind::Service, None, &BTreeMap::from([("app", "y")])).await.unwrap().len(), 0);
    assert_eq!((memory.writes().len(), memory.objects().len()), (0, 0));
}

#[tokio::test]
async fn what_others_wrote_stays_and_what_is_no_longer_wanted_goes() {
    let (memory, overlay) = below();
    let key = key(Kind::Deployment, "d");
    let managed = json!([{
        "manager": MANAGER, "operation": "Apply", "apiVersion": "apps/v1",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:replicas": {}, "f:paused": {}, "f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"old\"}": {".": {}, "f:name": {}},
            "k:{\"name\":\"main\"}": {".": {}, "f:name": {}, "f:image": {}, "f:workingDir": {}},
        }}}}},
    }]);
    memory.put(&key, &json!({
        "metadata": {"managedFields": managed, "annotations": {"other": "keeps"}},
        "spec": {"replicas": 2, "paused": true, "revisionHistoryLimit": 10, "template": {"spec": {"containers": [
            {"name": "main", "image": "a:1", "workingDir": "/x", "terminationMessagePath": "/dev/termination-log"},
            {"name": "old"}, {"name": "injected"},
        ]}}},
    }));
    let containers = json!([{"name": "main", "image": "a:2"}]);
    let intent = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "template": {"spec": {"containers": containers}}}});
    let after = overlay.apply(&key, &dynamic(Kind::Deployment, intent)).await.unwrap();
    let spec = &after.data["spec"];
    assert_eq!((spec.get("paused"), &spec["revisionHistoryLimit"]), (None, &json!(10)));
    assert_eq!(
        spec["template"]["spec"]["containers"],
        json!([
            {"name": "main", "image": "a:2", "terminationMessagePath": "/dev/termination-log"},
            {"name": "injected"},
        ])
    );
    assert_eq!(after.metadata.annotations.as_ref().unwrap()["other"], "keeps");
    assert_eq!(after.metadata.generation, Some(2));
}

#[tokio::test]
async fn applying_the_same_again_is_no_write() {
    let (_, overlay) = below();
    let key = key(Kind::Service, "s");
    for _ in 0..2 {
        overlay.apply(&key, &service(80)).await.unwrap();
    }
    assert_eq!(overlay.writes().len(), 1);
    overlay.apply(&key, &service(81)).await.unwrap();
    let after = overlay.get(&key).await.unwrap().unwrap();
    assert_eq!(after.data["spec"]["ports"], json!([{"port": 81, "protocol": "TCP"}]));
    let changes = overlay.changes();
    assert_eq!((overlay.writes().len(), changes.len()), (2, 1));
    assert!(changes[0].before.is_none(), "two writes to a new object are one new object");
}

#[tokio::test]
async fn deletion_hides_the_object_of_this_uid_alone() {
    let (memory, overlay) = below();
    let key = key(Kind::Service, "s");
    let stored = memory.put(&key, &json!({"metadata": {"labels": {"app": "x"}}, "spec": {}}));
    overlay.delete(&key, "another").await.unwrap();
    assert!(overlay.get(&key).await.unwrap().is_some());
    overlay.delete(&key, stored.metadata.uid.as_deref().unwrap()).await.unwrap();
    assert!(overlay.get(&key).await.unwrap().is_none());
    assert!(overlay.list(Kind::Service, None, &BTreeMap::new()).await.unwrap().is_empty());
    assert!(memory.object(&key).is_some());
    let changes = overlay.changes();
    assert_eq!((changes[0].verb, changes[0].after.is_none()), (Verb::Delete, true));
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let (memory, overlay) = below();
    let key = key(Kind::App, "shop");
    let stored = memory.put(&key, &json!({"metadata": {"finalizers": ["f"]}, "spec": {}}));
    overlay.delete(&key, stored.metadata.uid.as_deref().unwrap()).await.unwrap();
    let held = overlay.get(&key).await.unwrap().unwrap();
    assert!(held.metadata.deletion_timestamp.is_some());
    let conflict = overlay.set_finalizers(&stored, &key, vec![]).await.unwrap_err();
    assert!(matches!(conflict, ClusterError::Conflict { .. }), "{conflict}");
    overlay.set_finalizers(&held, &key, vec![]).await.unwrap();
    assert!(overlay.get(&key).await.unwrap().is_none());
}

#[tokio::test]
async fn a_status_is_seen_and_is_no_change() {
    let (memory, overlay) = below();
    let key = key(Kind::App, "shop");
    memory.put(&key, &json!({"metadata": {}, "spec": {"a": 1}}));
    overlay.set_status(&key, &json!({"observedGeneration": 1})).await.unwrap();
    let after = overlay.get(&key).await.unwrap().unwrap();
    assert_eq!(after.data["status"]["observedGeneration"], 1);
    assert_eq!(after.metadata.generation, Some(1));
    assert_eq!(overlay.writes().len(), 1);
    assert!(overlay.changes().is_empty());
}

#[tokio::test]
async fn a_persons_object_replaces_the_spec_and_keeps_the_status() {
    let (memory, overlay) = below();
    let key = key(Kind::App, "shop");
    memory.put(
        &key,
        &json!({"metadata": {"labels": {"a": "1"}}, "spec": {"x": 1, "y": 2}, "status": {"s": 1}}),
    );
    overlay.lay(&key, &json!({"metadata": {"labels": {"b": "2"}}, "spec": {"x": 3}})).await.unwrap();
    let after = overlay.get(&key).await.unwrap().unwrap();
    assert_eq!((&after.data["spec"], &after.data["status"]), (&json!({"x": 3}), &json!({"s": 1})));
    assert_eq!(after.metadata.labels.as_ref().unwrap().len(), 2);
    assert_eq!(after.metadata.generation, Some(2));
    let told = Told { severity: Severity::Normal, reason: "Ok", action: "Test", note: String::new() };
    overlay.tell(&after, told).await;
    assert!(memory.told().is_empty());
    overlay.lay(&key, &json!({"metadata": {}, "spec": {"x": 1, "y": 2}})).await.unwrap();
    overlay.lay(&key, &json!({"metadata": {"labels": {"b": "2"}}})).await.unwrap();
    assert_eq!(overlay.changes().len(), 1, "the label is still there");
}
