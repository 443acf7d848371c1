//! Bad states on a real broker: each is named, counted, and shown with its fix.

use std::sync::Arc;

use millrace_crds::config::Topic;
use millrace_dataplane::log::trouble::Trouble;
use millrace_dataplane::log::watched::{Troubles, Watched};
use millrace_dataplane::log::{GroupHandle, Log, LogError, Transaction};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use crate::bench::{Bench, at, own, record, topic};
use crate::broker;

/// A log with an eye on it, and what the eye saw.
struct World {
    bench: Bench,
    troubles: Arc<Troubles>,
    log: Watched,
}

impl World {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let troubles = Arc::new(Troubles::new(Arc::clone(&bench.metrics)));
        let log = Watched::new(bench.shared_log(), Arc::clone(&troubles));
        Self { bench, troubles, log }
    }

    /// Whether exactly this stands, with this in its sentence.
    fn assert_stands(&self, trouble: Trouble, subject: &str, words: &str) {
        let count = self.bench.metrics.log_troubles.with_label_values(&[trouble.name(), subject]).get();
        assert!(count > 0, "{} of {subject} is counted", trouble.name());
        let text = self.troubles.text().expect("something stands");
        let head = format!("{} ({subject}): ", trouble.name());
        assert!(text.contains(&head) && text.contains(words) && text.contains(trouble.fix()), "{text}");
    }
}

#[tokio::test]
async fn a_missing_topic_is_named() {
    let world = World::new().await;
    assert_eq!(world.troubles.text(), None);
    let name = own("nowhere");
    assert!(matches!(world.log.topic(&name).await, Err(LogError::UnknownTopic { .. })));
    world.assert_stands(Trouble::TopicMissing, &name, "does not exist");
}

#[tokio::test]
async fn fewer_partitions_than_planned_are_named() {
    let world = World::new().await;
    let refused = world.log.append(vec![record(7, "planned")]).await;
    assert!(matches!(refused, Err(LogError::UnknownPartition { .. })), "{refused:?}");
    world.assert_stands(Trouble::TooFewPartitions, &at(7).topic, &at(7).to_string());
}

#[tokio::test]
async fn a_record_that_the_broker_takes_no_more_is_named_and_not_dropped() {
    let world = World::new().await;
    let name = own("small");
    let small: Topic = topic(&name, 1);
    world.bench.ensure(std::slice::from_ref(&small)).await;
    // Somebody lowers the limit behind our back.
    let admin: AdminClient<DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", broker::shared()).create().unwrap();
    let limit = AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", "2000");
    admin.alter_configs(&[limit], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let mut large = record(0, &"x".repeat(50_000));
    large.to.topic = name.as_str().into();
    large.value = (0..50_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let refused = world.log.append(vec![large]).await;
    assert!(matches!(refused, Err(LogError::TooLarge { .. })), "{refused:?}");
    world.assert_stands(Trouble::RecordTooLarge, &name, "over the limit");
}

#[tokio::test]
async fn a_transactor_that_was_fenced_is_named() {
    let world = World::new().await;
    let id = own("worker-0");
    let mut first = world.log.transactor(&id).await.unwrap();
    let _second = world.bench.log().transactor(&id).await.unwrap();
    let group = GroupHandle { name: own("g").into(), inner: None };
    let transaction = Transaction { records: vec![record(0, "late")], positions: Vec::new(), group };
    let fenced = first.commit(transaction).await;
    assert!(matches!(&fenced, Err(LogError::Fenced { id: of }) if *of == id), "{fenced:?}");
    world.assert_stands(Trouble::TransactorFenced, &id, "fenced by a newer one");
}
