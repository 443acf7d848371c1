use super::*;

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "team", name)
}

fn intent(key: &ObjectKey, data: Value) -> DynamicObject {
    DynamicObject::new(&key.name, &key.kind.resource()).within(&key.namespace).data(data)
}

fn owned_by(owners: &[&DynamicObject]) -> Value {
    let references = owners.iter().map(|owner| {
        let name = owner.metadata.name.as_deref().unwrap();
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "App", "name": name, "uid": owner.metadata.uid})
    });
    json!({"metadata": {"ownerReferences": references.collect::<Vec<_>>()}})
}

#[tokio::test]
async fn generation_rises_with_the_spec_and_the_version_with_every_change() {
    let cluster = Memory::new();
    let app = key(Kind::App, "shop");
    let created = cluster.put(&app, &json!({"spec": {"a": 1}}));
    assert_eq!(created.metadata.generation, Some(1));
    cluster.set_status(&app, &json!({"observedGeneration": 1})).await.unwrap();
    let stored = cluster.object(&app).unwrap();
    assert_eq!(stored.metadata.generation, Some(1));
    assert_ne!(stored.metadata.resource_version, created.metadata.resource_version);
    let edited = cluster.put(&app, &json!({"spec": {"a": 2}}));
    assert_eq!(
        (edited.metadata.generation, &edited.data["status"]["observedGeneration"]),
        (Some(2), &json!(1))
    );
    assert_eq!(edited.metadata.uid, created.metadata.uid);
    let again = cluster.put(&app, &json!({"spec": {"a": 2}}));
    assert_eq!(again.metadata.resource_version, edited.metadata.resource_version);
}

#[tokio::test]
async fn apply_keeps_what_others_set_and_takes_back_its_own() {
    let cluster = Memory::new();
    let service = key(Kind::Service, "mr-shared-ingest");
    cluster.apply(&service, &intent(&service, json!({"spec": {"a": 1, "b": 1}}))).await.unwrap();
    let mut edited = as_value(&cluster.object(&service).unwrap());
    edited["spec"]["theirs"] = 1.into();
    cluster.put(&service, &edited);
    let stored = cluster.apply(&service, &intent(&service, json!({"spec": {"a": 2}}))).await.unwrap();
    assert_eq!(stored.data["spec"], json!({"a": 2, "theirs": 1}));
    assert_eq!(cluster.writes().len(), 2);
}

#[tokio::test]
async fn status_is_replaced_as_a_whole() {
    let cluster = Memory::new();
    let app = key(Kind::App, "shop");
    cluster.put(&app, &json!({"spec": {}}));
    cluster
        .set_status(&app, &json!({"a": 1, "conditions": [{"type": "Ready"}, {"type": "Gone"}]}))
        .await
        .unwrap();
    cluster.set_status(&app, &json!({"conditions": [{"type": "Ready"}]})).await.unwrap();
    assert_eq!(cluster.object(&app).unwrap().data["status"], json!({"conditions": [{"type": "Ready"}]}));
}

#[tokio::test]
async fn what_has_no_owner_left_goes_and_what_has_one_stays() {
    let cluster = Memory::new();
    let [a, b] = ["a", "b"].map(|name| cluster.put(&key(Kind::App, name), &json!({"spec": {}})));
    cluster.put(&key(Kind::Service, "both"), &owned_by(&[&a, &b]));
    cluster.put(&key(Kind::Service, "only-a"), &owned_by(&[&a]));
    cluster.put(&key(Kind::Secret, "nobody"), &json!({}));
    cluster.remove(&key(Kind::App, "a"));
    let left: Vec<_> = cluster.objects().into_keys().map(|key| key.name).collect();
    assert_eq!(left, ["b", "nobody", "both"]);
    cluster.remove(&key(Kind::App, "b"));
    assert_eq!(cluster.objects().into_keys().map(|key| key.name).collect::<Vec<_>>(), ["nobody"]);
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_taken_off() {
    let cluster = Memory::new();
    let app = key(Kind::App, "shop");
    let seen = cluster.put(&app, &json!({"spec": {}, "metadata": {"finalizers": ["x"]}}));
    cluster.remove(&app);
    let stored = cluster.object(&app).unwrap();
    assert!(stored.metadata.deletion_timestamp.is_some());
    let conflict = cluster.set_finalizers(&seen, &app, Vec::new()).await;
    assert!(matches!(conflict, Err(ClusterError::Conflict { .. })));
    cluster.set_finalizers(&stored, &app, Vec::new()).await.unwrap();
    assert_eq!(cluster.object(&app), None);
}

#[tokio::test]
async fn deletes_this_very_object_only() {
    let cluster = Memory::new();
    let service = key(Kind::Service, "x");
    let uid = cluster.put(&service, &json!({})).metadata.uid.clone().unwrap();
    cluster.delete(&service, "another").await.unwrap();
    assert!(cluster.object(&service).is_some());
    cluster.delete(&service, &uid).await.unwrap();
    cluster.delete(&service, &uid).await.unwrap();
    assert_eq!(cluster.object(&service), None);
}

#[tokio::test]
async fn a_crash_comes_before_or_after_the_write_and_lasts() {
    for (moment, is_written) in [(Moment::Before, false), (Moment::After, true)] {
        let cluster = Memory::new();
        let [first, second, third] = ["1", "2", "3"].map(|name| key(Kind::Service, name));
        cluster.crash_at(2, moment);
        cluster.apply(&first, &intent(&first, json!({}))).await.unwrap();
        assert!(cluster.apply(&second, &intent(&second, json!({}))).await.is_err());
        assert!(cluster.apply(&third, &intent(&third, json!({}))).await.is_err());
        assert_eq!(cluster.object(&second).is_some(), is_written);
        assert!(cluster.has_crashed() && cluster.object(&third).is_none());
        cluster.restart();
        cluster.apply(&third, &intent(&third, json!({}))).await.unwrap();
    }
}

#[tokio::test]
async fn refuses_what_the_server_refuses() {
    let cluster = Memory::new();
    let revision = key(Kind::Revision, "shop-1");
    cluster.apply(&revision, &intent(&revision, json!({"spec": {"config": "{}"}}))).await.unwrap();
    let changed = cluster.apply(&revision, &intent(&revision, json!({"spec": {"config": "{1}"}}))).await;
    assert!(matches!(changed, Err(ClusterError::Refused { .. })));
    assert!(cluster.list(Kind::Secret, None, &BTreeMap::new()).await.is_err());
    let namespace = ObjectKey::new(Kind::Namespace, "", "team");
    cluster.put(&namespace, &json!({"metadata": {"finalizers": ["kubernetes"]}}));
    cluster.remove(&namespace);
    let late = key(Kind::Service, "late");
    assert!(cluster.apply(&late, &intent(&late, json!({}))).await.is_err());
}

#[tokio::test]
async fn tells_who_changed_what() {
    let cluster = Memory::new();
    let mut changes = cluster.subscribe();
    let service = key(Kind::Service, "x");
    cluster.apply(&service, &intent(&service, json!({}))).await.unwrap();
    cluster.apply(&service, &intent(&service, json!({}))).await.unwrap();
    cluster.remove(&service);
    let first = changes.recv().await.unwrap();
    assert_eq!((first.key, first.author, first.is_gone), (service.clone(), Author::Us, false));
    let second = changes.recv().await.unwrap();
    assert_eq!((second.key, second.author, second.is_gone), (service, Author::Others, true));
}
