//! Stores on a real API server: never older than our own writes, and up to date with everybody else's.

use std::collections::BTreeMap;

use kube::api::{DeleteParams, Patch, PatchParams};
use millrace_operator::cluster::Cluster as _;
use millrace_operator::kind::Kind;
use serde_json::json;

use super::world::{until, world};

#[tokio::test]
async fn a_read_after_our_own_write_shows_it_every_time() {
    let world = world("fresh").await;
    let key = world.key(Kind::Service, "x");
    for round in 0..50 {
        let port = 1_000 + round;
        let spec = json!({"spec": {"ports": [{"name": "p", "port": port}]}});
        world.live.apply(&key, &world.intent(Kind::Service, "x", spec)).await.unwrap();
        let stored = world.live.get(&key).await.unwrap().unwrap();
        assert_eq!(stored.data["spec"]["ports"][0]["port"], json!(port));
        if round % 10 == 9 {
            let uid = stored.metadata.uid.clone().unwrap();
            world.live.delete(&key, &uid).await.unwrap();
            assert_eq!(world.live.get(&key).await.unwrap(), None);
        }
    }
    world.remove().await;
}

#[tokio::test]
async fn what_others_do_is_seen() {
    let world = world("others").await;
    let key = world.key(Kind::Service, "x");
    let intent = world.intent(Kind::Service, "x", json!({"spec": {"ports": [{"port": 1}]}}));
    world.live.apply(&key, &intent).await.unwrap();
    let label = json!({"metadata": {"labels": {"theirs": "1"}}});
    world.api(Kind::Service).patch("x", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    let wanted = BTreeMap::from([("theirs", "1")]);
    until("the label", || async {
        !world.live.list(Kind::Service, Some(&world.namespace), &wanted).await.unwrap().is_empty()
    })
    .await;
    world.api(Kind::Service).delete("x", &DeleteParams::default()).await.unwrap();
    until("the farewell", || async { world.live.get(&key).await.unwrap().is_none() }).await;
    world.remove().await;
}

#[tokio::test]
async fn an_object_that_is_no_app_at_all_stops_no_watch() {
    let world = world("odd").await;
    // The definition lets unknown fields go, and so do we.
    let odd = world.intent(Kind::App, "odd", json!({"spec": {"nonsense": {"a": 1}}}));
    world.api(Kind::App).create(&kube::api::PostParams::default(), &odd).await.unwrap();
    let good = world.intent(Kind::App, "good", json!({"spec": {}}));
    world.api(Kind::App).create(&kube::api::PostParams::default(), &good).await.unwrap();
    for name in ["odd", "good"] {
        let key = world.key(Kind::App, name);
        until("both Apps", || async { world.live.get(&key).await.unwrap().is_some() }).await;
    }
    world.remove().await;
}

#[tokio::test]
async fn a_secret_is_read_from_the_server_and_its_version_tells_of_changes() {
    let world = world("secret").await;
    let key = world.key(Kind::Secret, "x");
    assert_eq!(world.live.secret_version(&key).await.unwrap(), None);
    let mut versions = Vec::new();
    for value in ["MQ==", "Mg=="] {
        let intent = world.intent(Kind::Secret, "x", json!({"data": {"a": value}}));
        world.live.apply(&key, &intent).await.unwrap();
        assert_eq!(world.live.get(&key).await.unwrap().unwrap().data["data"]["a"], json!(value));
        versions.push(world.live.secret_version(&key).await.unwrap().unwrap());
    }
    assert_ne!(versions[0], versions[1]);
    assert!(world.live.list(Kind::Secret, None, &BTreeMap::new()).await.is_err());
    world.remove().await;
}

#[tokio::test]
async fn deletes_this_very_object_only() {
    let world = world("uid").await;
    let key = world.key(Kind::Service, "x");
    let intent = world.intent(Kind::Service, "x", json!({"spec": {"ports": [{"port": 1}]}}));
    let uid = world.live.apply(&key, &intent).await.unwrap().metadata.uid.clone().unwrap();
    world.live.delete(&key, "00000000-0000-4000-8000-000000000000").await.unwrap();
    assert!(world.api(Kind::Service).get_opt("x").await.unwrap().is_some());
    world.live.delete(&key, &uid).await.unwrap();
    world.live.delete(&key, &uid).await.unwrap();
    assert!(world.api(Kind::Service).get_opt("x").await.unwrap().is_none());
    world.remove().await;
}
