use std::future::Future;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::backends::memory::Memory as Backends;
use crate::cluster::ObjectKey;
use crate::cluster::memory::Memory;
use crate::context::for_tests;
use crate::kind::Kind;

/// Longest wait for something that must come; the clock of these tests runs by itself.
const WAIT_MAX: Duration = Duration::from_secs(600);

struct World {
    cluster: Arc<Memory>,
    context: Arc<Context>,
    leading: watch::Sender<bool>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The whole of the work on memory: changes wake keys as watches would.
fn world() -> World {
    let (cluster, backends) = (Arc::new(Memory::new()), Backends::new());
    let context = Arc::new(for_tests(Arc::clone(&cluster) as Arc<_>, Arc::new(backends.clone())));
    let queue = Arc::new(Queue::new(Arc::clone(&context.metrics), |bytes| bytes.fill(0)));
    let waker = Arc::new(Waker::new(Arc::clone(&queue)));
    let mut changes = cluster.subscribe();
    let told = Arc::clone(&waker);
    tokio::spawn(async move {
        while let Some(change) = changes.recv().await {
            told.changed(&change);
        }
    });
    let (leading, led) = watch::channel(false);
    let stop = CancellationToken::new();
    let (_, held) = watch::channel(Arc::clone(&context));
    let work = Work { queue, waker, context: held, pods: Arc::new(backends) };
    let until = stop.clone();
    let task = tokio::spawn(async move { work_while_leading(&work, led, &until).await });
    World { cluster, context, leading, stop, task }
}

/// Each in a namespace of its own: with random bytes that are none, two would have the same write key.
fn app(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::App, name, name)
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < WAIT_MAX, "waited in vain for {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

impl World {
    async fn until_accepted(&self, name: &str) {
        until("the App to be accepted", || async {
            let stored = self.cluster.object(&app(name)).unwrap();
            stored.data.pointer("/status/conditions/0/status") == Some(&json!("True"))
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_is_brought_to_what_it_says_and_then_left_alone() {
    let world = world();
    world.leading.send_replace(true);
    world.cluster.put(&app("shop"), &json!({"spec": {}}));
    world.until_accepted("shop").await;
    let revision = ObjectKey::new(Kind::Revision, "shop", "shop-1");
    until("its Revision", || async { world.cluster.object(&revision).is_some() }).await;
    let pods = ObjectKey::new(Kind::Deployment, "shop", "mr-shared-ingest");
    assert!(world.cluster.object(&pods).is_some());
    sleep(Duration::from_secs(300)).await;
    world.cluster.forget_writes();
    let before = world.context.metrics.reconciles.with_label_values(&["app", "ok"]).get();
    // It waits for pods that never come, and looks again and again.
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(world.cluster.writes(), []);
    assert_eq!(world.context.metrics.reconciles.with_label_values(&["app", "error"]).get(), 0);
    let after = world.context.metrics.reconciles.with_label_values(&["app", "ok"]).get();
    assert!(after >= before, "looks: {before}, {after}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_by_whoever_does_not_lead() {
    let world = world();
    world.cluster.put(&app("first"), &json!({"spec": {}}));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.cluster.writes(), []);
    world.leading.send_replace(true);
    world.until_accepted("first").await;
    world.leading.send_replace(false);
    sleep(Duration::from_secs(1)).await;
    world.cluster.forget_writes();
    world.cluster.put(&app("second"), &json!({"spec": {}}));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.cluster.writes(), []);
    world.leading.send_replace(true);
    world.until_accepted("second").await;
}

#[tokio::test(start_paused = true)]
async fn ends_when_told_to() {
    let world = world();
    world.leading.send_replace(true);
    world.cluster.put(&app("shop"), &json!({"spec": {}}));
    world.until_accepted("shop").await;
    world.stop.cancel();
    world.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reconcile_that_panics_is_tried_again() {
    let queue =
        Arc::new(Queue::new(Arc::new(crate::metrics::Metrics::new().unwrap()), |bytes| bytes.fill(0)));
    let key = Key::Namespace("team".to_owned());
    queue.wake(key.clone());
    let taken = Taken { key: Some(queue.next().await), queue: Arc::clone(&queue) };
    let panicked = tokio::spawn(async move {
        let _taken = taken;
        panic!("as a bug of ours would");
    });
    assert!(panicked.await.is_err());
    assert_eq!(queue.next().await, key);
}
