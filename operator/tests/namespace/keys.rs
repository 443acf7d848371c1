//! Keys, tokens and credentials: made once, and each where it belongs and nowhere else.

use millrace_crds::labels;
use millrace_crds::resolved::Role;
use millrace_operator::kind::Kind;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn keys_are_made_once_and_never_replaced() {
    let world = World::new();
    world.app("one", json!({}));
    world.settle().await;
    let all = |world: &World| {
        [
            world.secret_text(labels::PEPPER_SECRET, labels::PEPPER).unwrap(),
            world.secret_text(labels::ADMIN_SECRET, labels::ADMIN_TOKEN).unwrap(),
            world.secret_text(labels::ADMIN_SECRET, labels::STATE_TOKEN).unwrap(),
        ]
    };
    let [pepper, admin, state] = all(&world);
    assert!(pepper.len() == 64 && pepper.bytes().all(|byte| byte.is_ascii_hexdigit()), "{pepper}");
    assert!(admin.starts_with("mra_") && admin.len() == 47, "{admin}");
    assert!(state.len() == 43 && !admin.contains(&state) && !pepper.contains(&state));
    world.app("two", json!({}));
    world.settle().await;
    assert_eq!(all(&world), [pepper.clone(), admin, state.clone()]);

    world.secret(labels::ADMIN_SECRET, &[(labels::ADMIN_TOKEN, "mine-0123456789")], &json!({}));
    world.settle().await;
    let [kept, admin, remade] = all(&world);
    assert_eq!((kept, admin.as_str()), (pepper, "mine-0123456789"), "what a person put there stays");
    assert_ne!(remade, state, "what a person removed is made anew");
    assert_eq!(world.resolved("shared", Role::Gateway).admin_token.unwrap().expose(), "mine-0123456789");
}

#[tokio::test]
async fn each_role_gets_what_it_needs_and_nothing_else() {
    let world = World::new();
    world.app("one", json!({}));
    world.settle().await;
    let pepper = world.secret_text(labels::PEPPER_SECRET, labels::PEPPER).unwrap();
    let admin = world.secret_text(labels::ADMIN_SECRET, labels::ADMIN_TOKEN).unwrap();
    let state = world.secret_text(labels::ADMIN_SECRET, labels::STATE_TOKEN).unwrap();
    let every = [
        pepper.as_str(),
        &admin,
        &state,
        "hash-of-one",
        "encrypt-of-one",
        "hush-kafka-ingest",
        "hush-kafka-worker",
        "hush-ch-worker",
        "hush-ch-gateway",
    ];
    for (role, needed) in [
        (Role::Ingest, &[pepper.as_str(), &state, "hash-of-one", "encrypt-of-one", "hush-kafka-ingest"][..]),
        (Role::Worker, &[&state, "hush-kafka-worker", "hush-ch-worker"]),
        (Role::Gateway, &[&state, &admin, "hash-of-one", "encrypt-of-one", "hush-ch-gateway"]),
    ] {
        let text = world.secret_text(&labels::resolved_secret("shared", role), labels::RESOLVED).unwrap();
        for value in every {
            assert_eq!(text.contains(value), needed.contains(&value), "{role}: {value}");
        }
    }
}

#[tokio::test]
async fn no_secret_value_is_in_any_other_object() {
    let world = World::new();
    world.app("one", json!({}));
    world.settle().await;
    let values = [
        world.secret_text(labels::PEPPER_SECRET, labels::PEPPER).unwrap(),
        world.secret_text(labels::ADMIN_SECRET, labels::ADMIN_TOKEN).unwrap(),
        world.secret_text(labels::ADMIN_SECRET, labels::STATE_TOKEN).unwrap(),
        "hash-of-one".to_owned(),
        "hush-".to_owned(),
    ];
    for (key, object) in world.cluster.objects() {
        let text = serde_json::to_string(&*object).unwrap();
        let shown = values.iter().find(|value| key.kind != Kind::Secret && text.contains(value.as_str()));
        assert_eq!(shown, None, "{key}");
    }
}

#[tokio::test]
async fn an_apps_own_back_ends_are_reached_with_its_own_credentials_only() {
    let world = World::new();
    let own = |endpoint: &str, name: &str| json!({"endpoint": endpoint, "credentialsRef": {"name": name}});
    let connections = json!({"kafka": own("kafka.own:9092", "own-kafka")});
    world.app("big", json!({"dataplane": {"placement": "Dedicated"}, "connections": connections}));
    world.settle().await;
    assert!(world.names(Kind::Deployment).is_empty(), "it waits for the credentials");

    let values = [("username", "big"), ("password", "hush-of-big")];
    world.secret("own-kafka", &values, &json!({}));
    world.settle().await;
    assert!(world.names(Kind::Deployment).is_empty(), "the Secret is not labelled for use");

    world.secret("own-kafka", &values, &json!({"millrace.dev/app-use": "true"}));
    world.settle().await;
    let ingest = world.object(Kind::Deployment, "mr-big-ingest").unwrap();
    let env = ingest["spec"]["template"]["spec"]["containers"][0]["env"].to_string();
    assert!(env.contains("kafka.own:9092") && !env.contains("kafka:9092\""), "{env}");
    for role in [Role::Ingest, Role::Worker] {
        let account = world.resolved("big", role).kafka.unwrap();
        assert_eq!((account.username.as_str(), account.password.expose()), ("big", "hush-of-big"));
    }
    assert_eq!(world.resolved("big", Role::Worker).clickhouse.unwrap().username, "ch-worker");

    // The Secret is lost: what runs goes on with what it has.
    world.cluster.remove(&crate::world::key(Kind::Secret, "own-kafka"));
    assert_eq!(world.settle().await, []);
}

#[tokio::test]
async fn a_changed_key_reaches_the_secret_and_no_pod_template() {
    let world = World::new();
    world.app("one", json!({}));
    world.settle().await;
    let keys = json!({"epoch": 2, "hash": "new-hash", "encrypt": "new-encrypt"}).to_string();
    world.secret("millrace-one", &[(labels::PRIVACY_KEYS, &keys)], &json!({}));
    let written: Vec<String> = world.settle().await.into_iter().map(|write| write.key.name).collect();
    assert_eq!(written, ["millrace.shared.ingest", "millrace.shared.gateway"]);
}
