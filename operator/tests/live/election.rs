//! Leadership on a real API server: one leads, another follows at once when it stops.

use std::time::Duration;

use millrace_operator::leader::{LiveLeases, lead};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::world::world;

#[tokio::test]
async fn the_lease_passes_on_when_its_holder_stops() {
    let world = world("lease").await;
    let replica = |name: &'static str| {
        let leases = LiveLeases::new(world.client.clone(), &world.namespace);
        let (sender, leading) = watch::channel(false);
        let stop = CancellationToken::new();
        let until = stop.clone();
        let task = tokio::spawn(async move { lead(&leases, name, &sender, until).await });
        (leading, stop, task)
    };
    let soon = Duration::from_secs(10);
    let (mut first, stop, task) = replica("a");
    timeout(soon, first.wait_for(|leads| *leads)).await.unwrap().unwrap();
    let (mut second, stop_second, _task) = replica("b");
    let leads_early = timeout(Duration::from_secs(3), second.wait_for(|leads| *leads)).await.is_ok();
    assert!(!leads_early, "two lead at once");
    stop.cancel();
    task.await.unwrap();
    timeout(soon, second.wait_for(|leads| *leads)).await.unwrap().unwrap();
    stop_second.cancel();
    world.remove().await;
}
