//! What process writes into the ledger: one outcome for every record read, also for copies, replays, what cannot be
//! read, and what is committed without an answer.

use std::collections::BTreeMap;

use millrace_crds::names::TopicKind;
use millrace_dataplane::control::ControlState;
use millrace_dataplane::control::protocol::{ReplayDeadLetters, Which};
use millrace_dataplane::ledger::balance::{Fact, Minute};
use millrace_dataplane::ledger::sum::Sum;
use millrace_dataplane::record::{LedgerRecord, event_hash};
use millrace_dataplane::store::{ClickHouse, Endpoint};
use serde_json::json;
use uuid::Uuid;

use crate::fixture::{World, app_config, purchase, topic};
use crate::memory_log::Fault;

/// Everything in the topic, added up as the table would.
fn minutes(world: &World) -> BTreeMap<i64, Minute> {
    let mut minutes: BTreeMap<i64, Minute> = BTreeMap::new();
    for (_, record) in world.log.records(&topic(TopicKind::Ledger)) {
        let row: LedgerRecord = serde_json::from_slice(&record.value).unwrap();
        let sum = Sum { count: row.count, hashes: row.sum };
        let fact =
            Fact { instance: row.instance, kind: row.kind, reason: row.reason, sum, hash: row.sum, rows: 1 };
        minutes.entry(row.minute).or_default().add(fact);
    }
    minutes
}

/// The one minute of a world, with what is stored taken to be what was processed.
fn minute(world: &World) -> Minute {
    let mut minute = minutes(world).remove(&world.now.div_euclid(60_000)).unwrap();
    minute.stored = minute.processed;
    minute
}

fn one(id: Uuid) -> Sum {
    Sum::one(event_hash(&id))
}

#[tokio::test]
async fn every_record_has_one_outcome() {
    let world = World::new(app_config());
    let (kept, bad) = (Uuid::new_v4(), Uuid::new_v4());
    world.send(kept, "purchase", &purchase());
    world.send(kept, "purchase", &purchase());
    world.send(bad, "purchase", &json!({"price": 1}));
    world.send_bytes(b"x", b"not JSON".to_vec());
    world.process_all().await;
    let minute = minute(&world);
    assert_eq!(minute.differences(), BTreeMap::new());
    assert_eq!(minute.instances["test"].raw, one(kept) + one(kept) + one(bad));
    assert_eq!(minute.instances[""].raw.count, 1, "nobody says who accepted it");
    assert_eq!((minute.deduplicated, minute.processed), (one(kept), one(kept)));
    assert_eq!(minute.dead_lettered["missing_property"], one(bad));
    assert_eq!(minute.dead_lettered["unreadable_record"].count, 1);
}

#[tokio::test]
async fn a_transaction_without_an_answer_is_counted_once() {
    let world = World::new(app_config());
    let id = Uuid::new_v4();
    world.log.with(|state| state.faults.push_back(Fault::UnknownButDone));
    world.send(id, "purchase", &purchase());
    world.process_all().await;
    let minute = minute(&world);
    assert_eq!((minute.raw(), minute.processed), (one(id), one(id)));
}

#[tokio::test]
async fn a_replay_takes_back_the_dead_letter_and_is_not_read_again_from_raw() {
    let mut strict = app_config();
    strict.events.on_undeclared = millrace_crds::config::OnUndeclared::DeadLetter;
    let world = World::new(strict);
    let id = Uuid::new_v4();
    world.send(id, "page_view", &json!({}));
    world.process_all().await;
    assert_eq!(minute(&world).dead_lettered["undeclared_event"], one(id));

    world.set_config(app_config());
    let nowhere =
        Endpoint { url: "http://127.0.0.1:9".to_owned(), user: "default".to_owned(), password: None };
    let (config, store) = (std::sync::Arc::clone(&world.config), ClickHouse::new(nowhere));
    let control = ControlState::new(config, world.shared_log(), store, std::sync::Arc::default());
    let call = ReplayDeadLetters { app: "shop".to_owned(), which: Which::All, dry_run: false, cursor: None };
    for _ in 0..2 {
        control.replay(call.clone()).await.unwrap();
        world.process_all().await;
    }
    let minute = minute(&world);
    assert_eq!(minute.differences(), BTreeMap::new());
    assert_eq!((minute.raw(), minute.replayed, minute.processed), (one(id), one(id), one(id)));
    assert_eq!(minute.dead_lettered["undeclared_event"], Sum::ZERO);
}
