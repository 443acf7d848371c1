//! Topics on a real broker: made, grown, changed, deleted; and what is said when that is not possible.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod broker;

use std::time::{Duration, Instant};

use millrace_crds::config::Topic;
use millrace_crds::names::TopicKind;
use millrace_crds::schema::Owner;
use millrace_crds::topics::{Change, diff};
use millrace_provision::kafka::{
    Admin, KafkaError, Mechanism, Owners, Password, RECORD_BYTES_MAX, Replication, Sasl, Settings,
};

const SINGLE: Replication = Replication { factor: 1, min_in_sync: 1 };

fn topic(name: &str, partitions: u32) -> Topic {
    Topic {
        kind: TopicKind::EventsRaw,
        name: name.to_owned(),
        partitions,
        retention_ms: 7 * 86_400_000,
        retention_bytes: None,
    }
}

async fn admin() -> Admin {
    Admin::connect(&Settings::plain(broker::shared())).await.unwrap()
}

/// Plans and carries out; returns what was planned.
async fn bring(admin: &Admin, desired: &[Topic]) -> Vec<Change> {
    let names: Vec<&str> = desired.iter().map(|topic| topic.name.as_str()).collect();
    let observed = admin.observe(&names).await.unwrap();
    let observed: Vec<_> = observed.into_iter().map(|found| found.topic).collect();
    let changes = diff(&observed, desired).unwrap();
    admin.carry_out(&changes, SINGLE).await.unwrap();
    changes
}

#[tokio::test]
async fn topics_become_what_is_desired_and_then_nothing_is_left_to_do() {
    let admin = admin().await;
    let name = "admin.default.shop.events-raw";
    assert!(matches!(bring(&admin, &[topic(name, 2)]).await[..], [Change::Create(_)]));
    assert_eq!(bring(&admin, &[topic(name, 2)]).await, []);
    let made = admin.observe(&[name, "admin.nowhere"]).await.unwrap();
    let [made] = &made[..] else { panic!("{made:?}") };
    assert_eq!((made.topic.partitions, made.replication, made.has_append_times), (2, SINGLE, true));
    assert_eq!(made.record_bytes_max, RECORD_BYTES_MAX);
    assert!(!made.id.is_nil());

    let larger = Topic { retention_ms: u64::MAX, retention_bytes: Some(1 << 30), ..topic(name, 6) };
    let changes = bring(&admin, std::slice::from_ref(&larger)).await;
    assert!(matches!(changes[..], [Change::Grow { to: 6, .. }, Change::SetRetention { .. }]), "{changes:?}");
    assert_eq!(bring(&admin, &[larger]).await, []);
    admin.carry_out(&changes, SINGLE).await.expect("each change may be repeated");
    let grown = &admin.observe(&[name]).await.unwrap()[0];
    assert_eq!(grown.id, made.id);
    assert!(grown.has_append_times, "changing one setting leaves the others");

    admin.delete(&[name]).await.unwrap();
    admin.delete(&[name]).await.expect("deleting may be repeated");
    assert_eq!(admin.observe(&[name]).await.unwrap(), []);
    bring(&admin, &[topic(name, 1)]).await;
    assert_ne!(admin.describe(&[name]).await.unwrap()[0].id, made.id);
}

#[tokio::test]
async fn more_copies_than_brokers_is_refused_by_name() {
    let admin = admin().await;
    let create = Change::Create(topic("admin.copies", 1));
    let error = admin.carry_out(&[create], Replication { factor: 3, min_in_sync: 2 }).await.unwrap_err();
    assert!(matches!(error, KafkaError::TooFewBrokers { wanted: 3, .. }), "{error}");
    assert_eq!(admin.cluster().await.unwrap().brokers, 1);
    assert!(!admin.cluster().await.unwrap().id.is_empty());
}

#[tokio::test]
async fn a_name_that_kafka_does_not_take_is_final() {
    let error = admin().await.carry_out(&[Change::Create(topic("no/slash", 1))], SINGLE).await.unwrap_err();
    assert!(matches!(&error, KafkaError::Topic { topic, .. } if topic == "no/slash"), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn nobody_at_the_port_is_said_within_a_bounded_time() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let started = Instant::now();
    let address = format!("127.0.0.1:{port}");
    let error = Admin::connect(&Settings::plain(&address)).await.err().expect("nobody listens");
    assert!(matches!(&error, KafkaError::Unreachable { brokers, .. } if *brokers == address), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(error.is_retryable());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_broker_that_does_not_speak_our_protocol_is_not_mistaken_for_success() {
    // The broker has no SASL on this listener, so it cuts the connection or refuses the mechanism.
    let sasl = Sasl {
        mechanism: Mechanism::ScramSha512,
        username: "worker".to_owned(),
        password: Password::new("hunter2".to_owned()),
    };
    let settings = Settings { sasl: Some(sasl), ..Settings::plain(broker::shared()) };
    let error = Admin::connect(&settings).await.err().expect("it must not connect");
    let is_named = matches!(&error, KafkaError::Refused { .. } | KafkaError::Unreachable { .. });
    assert!(is_named && !error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn owners_are_written_down_taken_over_and_removed_and_every_installation_sees_them() {
    let app = millrace_crds::names::AppId::new("default", "shop").unwrap();
    let owner = |cluster: &str| Owner {
        cluster: cluster.to_owned(),
        namespace: "default".to_owned(),
        app: "shop".to_owned(),
        uid: "1".to_owned(),
    };
    let here = Owners::new(admin().await, "owned", SINGLE);
    assert_eq!(here.of(&app).await.unwrap(), None, "without the topic nobody owns anything");
    here.clear(&app).await.expect("nothing to remove is no error");
    assert_eq!(here.set(&app, &owner("a")).await.unwrap(), Some(owner("a")));
    assert_eq!(here.of(&app).await.unwrap(), Some(owner("a")));
    let there = Owners::new(admin().await, "owned", SINGLE);
    assert_eq!(there.of(&app).await.unwrap(), Some(owner("a")));
    assert_eq!(there.set(&app, &owner("b")).await.unwrap(), Some(owner("b")));
    let observed = admin().await.observe(&["owned.owners"]).await.unwrap();
    assert_eq!(observed[0].topic.partitions, 1);
    there.clear(&app).await.unwrap();
    let later = Owners::new(admin().await, "owned", SINGLE);
    assert_eq!(later.of(&app).await.unwrap(), None);
}
