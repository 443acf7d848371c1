//! An App from its creation through edits and troubles, none of which needs more than its cause to go away.

use millrace_crds::resolved::Role;
use millrace_crds::schema::Owner;
use millrace_crds::topics::Observed;
use millrace_operator::backends::Durability;
use millrace_operator::backends::memory::{Failure, Which};
use millrace_operator::context::Next;
use millrace_operator::kind::Kind;
use serde_json::json;

use crate::fixture::World;

#[tokio::test]
async fn a_new_app_gets_keys_topics_tables_and_a_revision_and_is_ready_once_all_pods_run_it() {
    let world = World::new();
    world.app(json!({}));
    world.settle().await;
    let verbs: Vec<String> =
        world.cluster.writes().iter().map(|write| format!("{} {}", write.verb, write.key)).collect();
    assert_eq!(
        verbs,
        [
            "apply Secret default/millrace-shop",
            "apply Revision default/shop-1",
            "set the status of App default/shop"
        ]
    );
    assert_eq!(world.backends.topics_there().len(), 6);
    assert_eq!(world.backends.databases_there()["millrace_default__shop"].len(), 8);
    world.expect("DataplaneReady", "False", "Progressing", "there is no pod yet for ingest, worker, gateway");
    world.expect("Ready", "False", "Progressing", "DataplaneReady: there is no pod yet");
    world.expect("Reconciling", "True", "Progressing", "there is no pod yet");
    assert_eq!(world.condition("Stalled").0, "absent");

    world.pods();
    world.settle().await;
    world.expect("DataplaneReady", "False", "Progressing", "0 of 3 pods run Revision `shop-1`");
    world.report();
    world.settle().await;
    for condition in ["Accepted", "TopicsReady", "SchemaReady", "DataplaneReady", "Durable", "Ready"] {
        world.expect(condition, "True", "Ok", "");
    }
    assert_eq!(world.condition("Reconciling").0, "absent");
    let status = world.status();
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!((&status["revision"]["applied"], &status["revision"]["total"]), (&json!(3), &json!(3)));
    assert_eq!(status["endpoints"]["ingest"], "http://mr-shared-ingest.default.svc:8080");
    assert_eq!(status["endpoints"]["gateway"], "http://mr-shared-gateway.default.svc:8081");
    assert_eq!(world.events(), ["Ready: Ready: events flow by the current configuration"]);
}

#[tokio::test]
async fn a_second_reconcile_of_anything_writes_nothing() {
    let specs =
        [json!({}), json!({"deletionPolicy": "Delete"}), json!({"topics": {"raw": {"partitions": 0}}})];
    for spec in specs {
        let world = World::new();
        world.app(spec);
        world.pods();
        world.settle().await;
        world.report();
        let next = world.settle().await;
        world.cluster.forget_writes();
        world.backends.take_calls();
        let told = world.events().len();
        world.pass(3_600);
        world.round().await.unwrap();
        assert_eq!(world.cluster.writes(), []);
        assert_eq!(world.backends.take_writes(), Vec::<String>::new());
        assert_eq!(world.events().len(), told);
        let is_ready = world.condition("Ready").0 == "True";
        assert_eq!(next == Next::OnChange, is_ready, "only what is not as wanted is looked at again");
    }
}

#[tokio::test]
async fn an_edit_becomes_a_new_revision_that_pods_take_up() {
    let world = World::running(json!({})).await;
    world.app(json!({"events": {"conversions": ["purchase"]}}));
    world.settle().await;
    assert_eq!(world.sequences(), [1, 2]);
    world.expect("DataplaneReady", "False", "Progressing", "0 of 3 pods run Revision `shop-2`");
    world.report();
    world.settle().await;
    world.expect("Ready", "True", "Ok", "");
    assert_eq!(world.status()["observedGeneration"], 2);

    let declared = json!([{"name": "purchase", "properties": [{"name": "total", "type": "Decimal"}]}]);
    world.app(json!({"events": {"declared": declared}, "topics": {"raw": {"partitions": 24}}}));
    world.settle().await;
    let columns = world.backends.columns_there("millrace_default__shop", "events");
    assert!(columns.contains(&"p_total".to_owned()), "{columns:?}");
    let changes = world.backends.take_writes();
    for topic in ["events-raw", "seen"] {
        let grown = format!("grow topic millrace.default.shop.{topic} to 24");
        assert!(changes.contains(&grown), "{changes:?}");
    }
}

#[tokio::test]
async fn everything_wrong_is_said_at_once_and_the_old_revision_stays() {
    let world = World::running(json!({})).await;
    world.app(json!({
        "storage": {"retention": "1h"},
        "ingest": {"writeKeys": [{"name": "web", "secretRef": {"name": "keys", "key": "web"}}]},
    }));
    world.settle().await;
    world.expect("Accepted", "False", "Invalid", "spec.storage.retention: `1h` is not between 1d and 3650d");
    world.expect(
        "Accepted",
        "False",
        "Invalid",
        "there is no Secret `keys` in this namespace; add it, with the label",
    );
    world.expect("Ready", "False", "Invalid", "Accepted: ");
    world.expect("Stalled", "True", "Invalid", "");
    assert_eq!(world.sequences(), [1]);
    world.expect("DataplaneReady", "True", "Ok", "all 3 pods run Revision `shop-1`");
    world.app(json!({}));
    world.settle().await;
    world.expect("Ready", "True", "Ok", "");
    assert_eq!(world.condition("Stalled").0, "absent");
}

#[tokio::test]
async fn an_app_that_is_not_understood_says_where() {
    let world = World::new();
    world.app(json!({"storage": {"retention": 7}}));
    world.settle().await;
    world.expect("Accepted", "False", "Invalid", "the App as stored is not understood");
    assert!(world.sequences().is_empty());
}

#[tokio::test]
async fn a_missing_secret_is_awaited_and_one_without_the_label_is_not_used() {
    let world = World::new();
    world.app(
        json!({"ingest": {"writeKeys": [{"name": "web", "secretRef": {"name": "keys", "key": "web"}}]}}),
    );
    world.pods();
    let next = world.settle().await;
    world.expect("Accepted", "False", "SecretUnusable", "there is no Secret `keys`");
    assert!(matches!(next, Next::After(_)));
    world.put(
        Kind::Secret,
        "default",
        "keys",
        json!({"data": {"web": crate::fixture::base64(&"k".repeat(32))}}),
    );
    world.settle().await;
    world.expect(
        "Accepted",
        "False",
        "SecretUnusable",
        "not labelled for use by Millrace; give it the label",
    );
    assert!(world.sequences().is_empty());
    world.secret("keys", &[("web", &"k".repeat(32))]);
    world.settle().await;
    world.expect("Accepted", "True", "Ok", "");
    assert_eq!(world.sequences(), [1]);
    assert!(world.config()["ingest"]["writeKeys"]["web"]["digest"].is_string());
}

#[tokio::test]
async fn a_broken_kafka_hides_nothing_else_and_its_return_is_enough() {
    for (failure, reason, words) in [
        (Failure::Unreachable, "Unreachable", "`kafka.test:9092` does not answer; check that it runs"),
        (Failure::Refused, "Refused", "refuses us; check the account and its rights"),
    ] {
        let world = World::new();
        world.app(json!({}));
        world.backends.fail(Which::Kafka, Some(failure));
        let Next::After(first) = world.settle().await else { panic!("it is tried again") };
        world.expect("TopicsReady", "False", reason, words);
        world.expect("SchemaReady", "True", "Ok", "database `millrace_default__shop` is as wanted");
        world.expect("DataplaneReady", "False", "Progressing", "topics and tables are not in place");
        assert!(world.sequences().is_empty(), "rows need a place first");
        world.pass(600);
        let Next::After(later) = world.settle().await else { panic!("it is tried again") };
        assert!(first.as_secs() == 5 && later.as_secs() > 100, "{first:?} {later:?}");
        world.backends.fail(Which::Kafka, None);
        world.settle().await;
        world.expect("TopicsReady", "True", "Ok", "all 6 topics are as wanted");
        assert_eq!(world.sequences(), [1]);
    }
}

#[tokio::test]
async fn a_broken_clickhouse_is_said_and_a_running_app_keeps_its_revision() {
    let world = World::running(json!({})).await;
    world.backends.fail(Which::ClickHouse, Some(Failure::Unreachable));
    world.app(json!({"events": {"conversions": ["purchase"]}}));
    world.settle().await;
    world.expect("SchemaReady", "False", "Unreachable", "does not answer");
    world.expect("TopicsReady", "True", "Ok", "");
    world.expect("DataplaneReady", "True", "Ok", "");
    assert_eq!(world.sequences(), [1]);
    world.backends.fail(Which::ClickHouse, None);
    world.settle().await;
    assert_eq!(world.sequences(), [1, 2]);
    assert!(world.events().iter().any(|event| event.starts_with("Unreachable: SchemaReady")));
}

#[tokio::test]
async fn partitions_never_shrink_and_only_grow_by_multiples() {
    let world = World::running(json!({})).await;
    for (partitions, words) in [
        (
            6,
            "topic `millrace.default.shop.events-raw` has 12 partitions and cannot shrink to 6; set at least 12",
        ),
        (18, "can only grow to a multiple of that, not to 18; set 24"),
    ] {
        world.app(json!({"topics": {"raw": {"partitions": partitions}}}));
        world.settle().await;
        world.expect("TopicsReady", "False", "Incompatible", words);
        world.expect("Stalled", "True", "Incompatible", "TopicsReady: ");
        assert_eq!(world.sequences(), [1]);
    }
}

#[tokio::test]
async fn a_column_of_another_type_is_refused_with_both_definitions() {
    let declared =
        |kind: &str| json!([{"name": "purchase", "properties": [{"name": "total", "type": kind}]}]);
    let world = World::running(json!({"events": {"declared": declared("Decimal")}})).await;
    world.app(json!({"events": {"declared": declared("String")}}));
    world.settle().await;
    world.expect(
        "SchemaReady",
        "False",
        "Incompatible",
        "`millrace_default__shop`.`events` cannot be changed in place",
    );
    assert_eq!(world.sequences(), [1]);
}

#[tokio::test]
async fn topics_and_databases_of_another_owner_are_left_alone() {
    let stranger = |cluster: &str, uid: &str| Owner {
        cluster: cluster.to_owned(),
        namespace: "default".to_owned(),
        app: "shop".to_owned(),
        uid: uid.to_owned(),
    };
    let world = World::new();
    world.app(json!({}));
    world.backends.put_owner(&world.id, stranger("cluster-b", "7"));
    let comment = serde_json::to_string(&stranger("cluster-b", "7")).unwrap();
    world.backends.put_database("millrace_default__shop", &comment);
    world.settle().await;
    world.expect(
        "TopicsReady",
        "False",
        "OwnedByAnother",
        "belong to App `default/shop` (uid `7`) of cluster `cluster-b`",
    );
    world.expect("TopicsReady", "False", "OwnedByAnother", "choose another App name or prefix");
    world.expect("SchemaReady", "False", "OwnedByAnother", "of cluster `cluster-b`, not to App");
    assert_eq!(world.backends.take_writes(), Vec::<String>::new());

    // The same App, deleted and made again: it takes its data up again.
    let world = World::new();
    world.app(json!({}));
    world.backends.put_owner(&world.id, stranger("cluster-a", "before"));
    world.settle().await;
    world.expect("TopicsReady", "True", "Ok", "");
    assert_ne!(world.backends.owner_of(&world.id).unwrap().uid, "before");
}

#[tokio::test]
async fn a_topic_that_nobody_claimed_is_not_taken() {
    let world = World::new();
    world.app(json!({}));
    let name = "millrace.default.shop.seen".to_owned();
    world.backends.put_topic(Observed { name, partitions: 12, retention_ms: 1, retention_bytes: None });
    world.settle().await;
    world.expect(
        "TopicsReady",
        "False",
        "OwnedByAnother",
        "`millrace.default.shop.seen` exists and no App has claimed it",
    );
}

#[tokio::test]
async fn one_key_cannot_open_two_apps() {
    let world = World::new();
    let spec =
        json!({"ingest": {"writeKeys": [{"name": "web", "secretRef": {"name": "keys", "key": "web"}}]}});
    world.secret("keys", &[("web", &"k".repeat(32))]);
    world.app(spec.clone());
    world.settle().await;
    let config = world.config().to_string();
    let spec_of = |sequence: i64| json!({"sequence": sequence, "format": "v1", "config": config});
    let labels = json!({"labels": {
        "app.kubernetes.io/managed-by": "millrace-operator", "millrace.dev/scope": "blog", "millrace.dev/data-plane": "shared",
    }});
    world.put(Kind::Revision, "default", "blog-1", json!({"metadata": labels, "spec": spec_of(1)}));
    world.settle().await;
    world.expect("Accepted", "True", "Ok", "");
    // For the App that comes second, the key is taken.
    world.cluster.remove(&world.key(Kind::Revision, "shop-1"));
    world.settle().await;
    world.expect(
        "Accepted",
        "False",
        "Invalid",
        "write key `web` opens App `blog` already; give each App its own",
    );
}

#[tokio::test]
async fn too_few_copies_are_said_with_their_number_and_keep_nobody_from_being_ready() {
    let world = World::running(json!({})).await;
    world.backends.set_durability(Durability { replication: 1, in_sync_min: 1 });
    world.settle().await;
    world.expect(
        "Durable",
        "False",
        "TooFewReplicas",
        "each partition has 1 copies, of which 1 must have an event",
    );
    world.expect("Ready", "True", "Ok", "");
}

#[tokio::test]
async fn without_a_pepper_all_but_the_revision_is_made() {
    let world = World::new();
    world.cluster.remove(&world.key(Kind::Secret, "millrace.pepper"));
    world.app(json!({}));
    let next = world.settle().await;
    world.expect("DataplaneReady", "False", "Progressing", "waiting for Secret `millrace.pepper`");
    assert_eq!(next, Next::After(std::time::Duration::from_secs(2)));
    assert_eq!(world.backends.topics_there().len(), 6);
    assert!(world.own_value("privacy-keys").is_some() && world.sequences().is_empty());
    world.secret("millrace.pepper", &[("pepper", "00ff")]);
    world.settle().await;
    assert_eq!(world.sequences(), [1]);
}

#[tokio::test]
async fn fields_of_a_newer_app_survive_an_older_operator() {
    let world = World::new();
    world.app(json!({"newer": {"field": 1}, "ingest": {"newer": true}}));
    world.pods();
    world.settle().await;
    world.report();
    world.settle().await;
    world.expect("Ready", "True", "Ok", "");
    let app = world.cluster.object(&world.key(Kind::App, "shop")).unwrap();
    assert_eq!(app.data["spec"]["newer"]["field"], 1);
    assert_eq!(app.data["spec"]["ingest"]["newer"], true);
}

#[tokio::test]
async fn a_paused_app_is_only_watched() {
    let world = World::running(json!({})).await;
    let metadata = json!({"annotations": {"millrace.dev/paused": ""}});
    world.app_with(metadata, json!({"deletionPolicy": "Delete", "events": {"conversions": ["purchase"]}}));
    world.pod(Role::Ingest, "1", "True");
    world.settle().await;
    world.expect(
        "Accepted",
        "True",
        "Paused",
        "nothing is written until the annotation millrace.dev/paused is gone",
    );
    assert_eq!(world.sequences(), [1]);
    assert!(world.cluster.writes().iter().all(|write| write.verb == "set the status of"));
    assert_eq!(world.backends.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_bad_integration_is_left_out_and_named() {
    let world = World::running(json!({})).await;
    let webhook = json!({"url": "http://plain.example", "signingSecretRef": {"name": "s", "key": "k"}});
    world.put(Kind::Integration, "default", "crm", json!({"spec": {"webhook": webhook}}));
    world.settle().await;
    world.expect("Accepted", "True", "Ok", "without Integration `crm`, which has problems of its own");
    world.put(
        Kind::Integration,
        "default",
        "crm",
        json!({"spec": {"webhook": {
            "url": "https://crm.example/hook", "signingSecretRef": {"name": "s", "key": "k"},
        }}}),
    );
    world.settle().await;
    assert!(world.config()["integrations"]["crm"].is_object());
}

#[tokio::test]
async fn a_pod_that_stays_for_what_it_holds_is_told() {
    let mut world = World::running(json!({})).await;
    let claim = json!({"spec": {"resources": {"requests": {"storage": "1Gi"}}}});
    let spec = json!({"replicas": 3, "volumeClaimTemplates": [claim]});
    world.put(Kind::StatefulSet, "default", "mr-shared-ingest", json!({"spec": spec}));
    world.settle().await;
    world.expect("VolumesReady", "False", "NotEmpty", "keeps 3 pods though none with a spill is wanted");
    let mut installation = (*world.context.installation).clone();
    installation.dataplane.ingest =
        serde_json::from_value(json!({"replicas": 1, "spill": {"size": "1Gi"}})).unwrap();
    world.context.installation = std::sync::Arc::new(installation);
    world.settle().await;
    world.expect("VolumesReady", "False", "NotEmpty", "pod `mr-shared-ingest-2` has not said");
    world.expect("Ready", "True", "Ok", "");
    world.put(
        Kind::StatefulSet,
        "default",
        "mr-shared-ingest",
        json!({"spec": {"replicas": 1, "volumeClaimTemplates": [claim]}}),
    );
    world.settle().await;
    world.expect("VolumesReady", "True", "Ok", "");
}

#[tokio::test]
async fn a_volume_that_is_not_as_wanted_is_told_with_the_way_out_and_the_app_stays_ready() {
    let mut world = World::running(json!({})).await;
    let set = |size: &str| {
        let claim = json!({"spec": {"resources": {"requests": {"storage": size}}}});
        world.put(
            Kind::StatefulSet,
            "default",
            "mr-shared-worker",
            json!({"spec": {"volumeClaimTemplates": [claim]}}),
        );
    };
    set("10Gi");
    world.settle().await;
    assert_eq!(world.condition("VolumesReady").0, "absent", "it costs no write while all is well");
    let with_volume = |world: &mut World, size: &str| {
        let mut installation = (*world.context.installation).clone();
        installation.dataplane.worker_volume.size = size.to_owned();
        world.context.installation = std::sync::Arc::new(installation);
    };
    with_volume(&mut world, "50Gi");
    world.settle().await;
    world.expect("VolumesReady", "False", "ResizeNeeded", "have 10Gi, and 50Gi is wanted");
    world.expect("Ready", "True", "Ok", "");
    assert!(
        world.events().iter().any(|event| event.contains("patch pvc data-mr-shared-worker-0")),
        "{:?}",
        world.events()
    );
    with_volume(&mut world, "5Gi");
    world.settle().await;
    world.expect("VolumesReady", "False", "Incompatible", "never shrink");
    // As after the set was made anew.
    with_volume(&mut world, "50Gi");
    let claim = json!({"spec": {"resources": {"requests": {"storage": "50Gi"}}}});
    world.put(
        Kind::StatefulSet,
        "default",
        "mr-shared-worker",
        json!({"spec": {"volumeClaimTemplates": [claim]}}),
    );
    world.settle().await;
    world.expect("VolumesReady", "True", "Ok", "");
}
