//! The engine is killed at random moments of an insert, again and again, and every event is stored once.

use std::time::Duration;

use millrace_dataplane::load;
use tokio_util::sync::CancellationToken;

use crate::engine::{OwnEngine, store_at};
use crate::fixture::{Fixture, PARTITIONS};
use crate::proxy::Proxy;

const ROUNDS: u64 = 20;
const EVENTS_PER_ROUND: u64 = 80;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_killed_while_it_inserts_stores_every_event_once() {
    let rounds = ROUNDS;
    let mut engine = OwnEngine::start();
    let fixture = Fixture::at("killed", store_at(&engine.url())).await;
    let mut proxy = Proxy::start(&engine.url(), []).await;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(load::run(fixture.loader(store_at(&proxy.url)), cancel.clone()));
    let mut pushed = 0;
    for round in 0..rounds {
        let begun = proxy.begun();
        fixture.push(pushed..pushed + EVENTS_PER_ROUND);
        pushed += EVENTS_PER_ROUND;
        proxy.inserts(begun + 1).await;
        // A moment of the insert, another one each round: an insert takes some ten milliseconds.
        tokio::time::sleep(Duration::from_micros(round * 7_919 % 40_000)).await;
        engine.kill_and_start_again();
        for partition in 0..PARTITIONS {
            fixture.log.loaded_up_to(partition, pushed / u64::from(PARTITIONS)).await;
        }
    }
    fixture.assert_stored_once(pushed).await;
    cancel.cancel();
    running.await.unwrap().unwrap();
}
