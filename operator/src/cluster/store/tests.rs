use serde_json::json;

use super::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::Service, "team", name)
}

fn object(name: &str, uid: &str, version: u32) -> DynamicObject {
    let metadata =
        json!({"name": name, "namespace": "team", "uid": uid, "resourceVersion": version.to_string()});
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata})).unwrap()
}

fn version(store: &Store, name: &str) -> Option<String> {
    store.get(&key(name)).and_then(|object| object.metadata.resource_version.clone())
}

fn scope() -> Scope {
    Scope { kind: Kind::Service, namespace: None }
}

/// Name, whether gone, by whom.
type Heard = (String, bool, Author);

/// A store, and what it told.
fn store() -> (Store, Arc<Mutex<Vec<Heard>>>) {
    let (store, told) = (Store::new(), Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&told);
    store.listen(move |change| {
        heard.lock().unwrap().push((change.key.name.clone(), change.is_gone, change.author));
    });
    (store, told)
}

#[test]
fn is_never_older_than_what_we_wrote() {
    let (store, told) = store();
    store.wrote(&key("a"), &Arc::new(object("a", "u", 10)));
    store.seen(key("a"), object("a", "u", 9));
    store.seen(key("a"), object("a", "u", 10));
    assert_eq!(version(&store, "a").as_deref(), Some("10"));
    assert_eq!(
        told.lock().unwrap().as_slice(),
        [("a".to_owned(), false, Author::Us)],
        "the echo wakes nobody"
    );
    store.seen(key("a"), object("a", "u", 11));
    assert_eq!(version(&store, "a").as_deref(), Some("11"));
    assert_eq!(told.lock().unwrap().len(), 2);
}

#[test]
fn versions_are_compared_as_numbers() {
    let (store, _) = store();
    store.wrote(&key("a"), &Arc::new(object("a", "u", 10)));
    store.seen(key("a"), object("a", "u", 9));
    assert_eq!(version(&store, "a").as_deref(), Some("10"));
    store.seen(key("a"), object("a", "u", 100));
    assert_eq!(version(&store, "a").as_deref(), Some("100"));
}

#[test]
fn what_we_deleted_does_not_come_back_by_a_late_event() {
    let (store, told) = store();
    store.seen(key("a"), object("a", "u", 1));
    store.deleted(&key("a"), "another");
    assert!(store.get(&key("a")).is_some());
    store.deleted(&key("a"), "u");
    store.seen(key("a"), object("a", "u", 2));
    assert_eq!(version(&store, "a"), None);
    store.gone(key("a"), object("a", "u", 3));
    assert_eq!(told.lock().unwrap().len(), 2, "the echo wakes nobody");
    store.seen(key("a"), object("a", "u2", 4));
    assert_eq!(version(&store, "a").as_deref(), Some("4"));
}

#[test]
fn a_late_farewell_does_not_take_what_we_made_anew() {
    let (store, _) = store();
    store.seen(key("a"), object("a", "u", 1));
    store.deleted(&key("a"), "u");
    store.wrote(&key("a"), &Arc::new(object("a", "u2", 5)));
    store.gone(key("a"), object("a", "u", 4));
    assert_eq!(version(&store, "a").as_deref(), Some("5"));
}

#[test]
fn a_new_list_drops_what_is_gone_but_not_what_we_wrote_meanwhile() {
    let (store, told) = store();
    for name in ["stays", "goes", "deleted"] {
        store.seen(key(name), object(name, name, 1));
    }
    store.deleted(&key("deleted"), "deleted");
    told.lock().unwrap().clear();
    store.list_begins(&scope());
    store.wrote(&key("new"), &Arc::new(object("new", "n", 7)));
    store.listed(&scope(), key("stays"), object("stays", "stays", 1));
    store.list_ends(&scope());
    let left: Vec<_> = store.list(Kind::Service, Some("team"), &BTreeMap::new());
    let left: Vec<_> = left.iter().map(|object| object.metadata.name.clone().unwrap()).collect();
    assert_eq!(left, ["new", "stays"]);
    assert!(told.lock().unwrap().contains(&("goes".to_owned(), true, Author::Others)));
    assert!(store.lock().deleted.is_empty(), "nothing is remembered for ever");
}

#[test]
fn a_list_of_one_namespace_leaves_the_others_alone() {
    let (store, _) = store();
    store.seen(key("a"), object("a", "u", 1));
    let other = Scope { kind: Kind::Service, namespace: Some("other".to_owned()) };
    store.list_begins(&other);
    store.list_ends(&other);
    assert!(store.get(&key("a")).is_some());
}

#[tokio::test]
async fn is_in_sync_when_every_scope_was_listed_once() {
    let (store, _) = store();
    for namespace in ["a", "b"] {
        let scope = Scope { kind: Kind::Service, namespace: Some(namespace.to_owned()) };
        assert!(futures::FutureExt::now_or_never(store.wait_for_sync(2)).is_none());
        store.list_begins(&scope);
        store.list_ends(&scope);
    }
    store.wait_for_sync(2).await;
}
