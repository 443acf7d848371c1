//! Workers that come, go, die and freeze in the midst of transactions while events keep coming: every event is
//! processed once, and soon after the last change. What happens is drawn from a seed that a failure prints.

#![expect(clippy::print_stdout, reason = "what was drawn, beside a failure")]

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use millrace_dataplane::log::kafka::Options;
use millrace_dataplane::member::Member;
use millrace_dataplane::process::seen::SeenStore;
use millrace_dataplane::process::{self, Worker};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::process::World;

/// As an App has by default.
const RAW_PARTITIONS: u32 = 12;
/// Pods of the StatefulSet.
const PODS: usize = 3;
/// Rounds of one run, and what happens at once in each; after a round everything has to be processed.
const ROUNDS: usize = 6;
const CHANGES: usize = 3;
/// Sent at once, every [`SEND_PAUSE`].
const EVENTS: usize = 20;
const SEND_PAUSE: Duration = Duration::from_millis(25);
/// Silent members are given up after this; also longest work between two looks at the group.
const SESSION: Duration = Duration::from_secs(6);
/// Longer than a worker looks for records: a frozen one that was looking has seen the last of the group after it.
const LOOK: Duration = Duration::from_millis(700);
/// From the last change of a round until everything sent before is processed: a zombie's session, a rebalance, a
/// transaction left open until its own time-out.
const SETTLE_MAX: Duration = Duration::from_secs(40);

/// Stops a future from being polled, as SIGSTOP stops a process.
#[derive(Default)]
struct Freezer(Mutex<(bool, Option<Waker>)>);

impl Freezer {
    fn set(&self, frozen: bool) {
        let mut state = self.0.lock().unwrap();
        state.0 = frozen;
        if let (false, Some(waker)) = (frozen, state.1.take()) {
            waker.wake();
        }
    }

    async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|context| {
            let mut state = self.0.lock().unwrap();
            if state.0 {
                state.1 = Some(context.waker().clone());
                return Poll::Pending;
            }
            drop(state);
            work.as_mut().poll(context)
        })
        .await
    }
}

struct Running {
    stop: CancellationToken,
    freezer: Arc<Freezer>,
    task: JoinHandle<()>,
}

/// One pod of the StatefulSet: its name and its volume outlive its processes.
struct Pod {
    name: String,
    seen: Arc<SeenStore>,
    running: Option<Running>,
}

impl Pod {
    fn new(world: &World, ordinal: usize) -> Self {
        let seen = SeenStore::open(&world.folder.path().join(ordinal.to_string())).unwrap();
        Self { name: format!("worker-{ordinal}"), seen: Arc::new(seen), running: None }
    }

    /// A process with clients of its own; its stages start again when they fail, as those of a worker do.
    fn start(&mut self, world: &World) {
        let options = Options { session_max: SESSION, batch_max: SESSION, ..world.bench.options() };
        let log = world.bench.open_as(&self.name, options);
        let (app, config, metrics) =
            (world.app.clone(), Arc::clone(&world.config), Arc::clone(&world.bench.metrics));
        let (seen, member) = (Arc::clone(&self.seen), Member::new("millrace", &self.name));
        let (stop, freezer) = (CancellationToken::new(), Arc::new(Freezer::default()));
        let (stopped, frozen, name) = (stop.clone(), Arc::clone(&freezer), self.name.clone());
        let work = async move {
            let once = || {
                let (app, config) = (app.clone(), Arc::clone(&config));
                let (log, seen, member) = (Arc::clone(&log) as _, Arc::clone(&seen), member.clone());
                process::run(
                    Worker { app, config, log, seen, member, metrics: Arc::clone(&metrics) },
                    stopped.clone(),
                )
            };
            while let Err(error) = once().await {
                println!("{name}: {error:?}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            log.close().await;
        };
        let task = tokio::spawn(async move { frozen.run(work).await });
        self.running = Some(Running { stop, freezer, task });
    }

    /// Ends at whatever it does.
    async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            drop(running.task.await);
        }
    }

    async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.freezer.set(false);
            running.stop.cancel();
            running.task.await.unwrap();
        }
    }

    fn freeze(&self, frozen: bool) {
        if let Some(running) = &self.running {
            running.freezer.set(frozen);
        }
    }

    async fn freeze_for(&self, time: Duration) {
        self.freeze(true);
        tokio::time::sleep(time).await;
        self.freeze(false);
    }

    async fn suffer(&mut self, change: Change, pause: Duration, world: &World) {
        match change {
            Change::Kill | Change::KillAndStart => self.kill().await,
            Change::Stop | Change::StopAndStart => self.stop().await,
            Change::FreezeLong => self.freeze_for(SESSION + pause).await,
            Change::FreezeBriefly => self.freeze_for(3 * pause).await,
        }
        if let Change::KillAndStart | Change::StopAndStart = change {
            tokio::time::sleep(pause).await;
            self.start(world);
        }
    }
}

/// What happens to a pod that runs.
#[derive(Clone, Copy, Debug)]
enum Change {
    Kill,
    KillAndStart,
    Stop,
    StopAndStart,
    /// For longer than the group waits.
    FreezeLong,
    FreezeBriefly,
}

const ALL: [Change; 8] = [
    Change::Kill,
    Change::KillAndStart,
    Change::KillAndStart,
    Change::Stop,
    Change::StopAndStart,
    Change::FreezeLong,
    Change::FreezeBriefly,
    Change::FreezeBriefly,
];

/// Draws what happens next to whom, and does it.
async fn change(draw: &mut Xoshiro256PlusPlus, world: &World, pods: &mut [Pod]) {
    let pause = Duration::from_millis(draw.random_range(0..400));
    let pod = &mut pods[draw.random_range(0..PODS)];
    if pod.running.is_none() {
        println!("{} starts, then {pause:?}", pod.name);
        pod.start(world);
    } else {
        let change = ALL[draw.random_range(0..ALL.len())];
        println!("{} {change:?}, then {pause:?}", pod.name);
        pod.suffer(change, pause, world).await;
    }
    tokio::time::sleep(2 * pause).await;
}

/// Sends until it is over.
async fn send(world: &World, sent: &RefCell<Vec<Uuid>>, is_over: &Cell<bool>) {
    while !is_over.get() {
        let events: Vec<Uuid> = (0..EVENTS).map(|_| Uuid::new_v4()).collect();
        world.send(&events).await;
        sent.borrow_mut().extend(events);
        tokio::time::sleep(SEND_PAUSE).await;
    }
}

/// Waits until everything sent so far is processed.
async fn settle(world: &World, sent: &RefCell<Vec<Uuid>>) {
    let begun = Instant::now();
    let count = sent.borrow().len();
    loop {
        let processed = world.processed().await.len();
        let waited = begun.elapsed();
        if processed >= count {
            println!("{count} events, settled in {waited:?}");
            return;
        }
        assert!(waited < SETTLE_MAX, "{processed} of {count} after {waited:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One pod after the other is new to the group. Those that are there are at work while the group makes room for it, and
/// die before they hear of that.
async fn grow(draw: &mut Xoshiro256PlusPlus, world: &World, pods: &mut [Pod], sent: &RefCell<Vec<Uuid>>) {
    for count in 0..pods.len() {
        let (old, new) = pods.split_at_mut(count);
        old.iter().for_each(|pod| pod.freeze(true));
        tokio::time::sleep(LOOK).await;
        new[0].start(world);
        tokio::time::sleep(Duration::from_millis(draw.random_range(500..3000))).await;
        for pod in old {
            pod.kill().await;
            pod.start(world);
        }
        settle(world, sent).await;
    }
}

async fn storm(seed: u64) {
    println!("seed {seed}");
    let world = World::with_raw_partitions(RAW_PARTITIONS).await;
    let mut pods: Vec<Pod> = (0..PODS).map(|ordinal| Pod::new(&world, ordinal)).collect();
    let (sent, is_over) = (RefCell::new(Vec::new()), Cell::new(false));
    let changes = async {
        let mut draw = Xoshiro256PlusPlus::seed_from_u64(seed);
        grow(&mut draw, &world, &mut pods, &sent).await;
        for _ in 0..ROUNDS {
            for _ in 0..CHANGES {
                change(&mut draw, &world, &mut pods).await;
            }
            if pods.iter().all(|pod| pod.running.is_none()) {
                pods[0].start(&world);
            }
            settle(&world, &sent).await;
        }
        is_over.set(true);
    };
    tokio::join!(send(&world, &sent, &is_over), changes);

    settle(&world, &sent).await;
    let mut sent = sent.into_inner();
    for pod in &mut pods {
        pod.stop().await;
    }
    let mut processed = world.processed().await;
    processed.sort();
    sent.sort();
    assert!(processed == sent, "seed {seed}: {} sent, {} processed", sent.len(), processed.len());
}

#[tokio::test]
async fn a_storm_of_rebalances_loses_nothing_doubles_nothing_and_leaves_nothing_waiting() {
    storm(1).await;
}

#[tokio::test]
async fn another_storm_of_rebalances_does_neither() {
    storm(2).await;
}
