//! Woken keys in, reconciles out: a bounded number at once, each key with the current context, while this process may
//! write. Also asks the pods, whose answers wake keys again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::backends::Pods;
use crate::context::{Context, Next, ReconcileError};
use crate::poller::Poller;
use crate::queue::{Key, Outcome, Queue};
use crate::telemetry::chain;
use crate::watch::Waker;
use crate::{app, namespace};

/// Longest wait for reconciles under way when the process ends; each of their steps may be repeated.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What work needs.
#[derive(Clone)]
pub struct Work {
    /// Where keys come from.
    pub queue: Arc<Queue>,
    /// Who wakes them.
    pub waker: Arc<Waker>,
    /// The context in force: it changes with the accounts.
    pub context: watch::Receiver<Arc<Context>>,
    /// Way to the pods.
    pub pods: Arc<dyn Pods>,
}

/// Works whenever this process leads, until told to stop. What is under way when leadership ends is dropped at once:
/// another may have begun. What is under way at the stop gets a moment to finish.
pub async fn work_while_leading(work: &Work, mut leading: watch::Receiver<bool>, stop: &CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            led = becomes(&mut leading, true) => if led.is_err() { return },
        }
        info!("this replica works now");
        work.waker.wake_all();
        work.queue.begin();
        let asking = CancellationToken::new();
        let _ask_until_here = asking.clone().drop_guard();
        let mut running = JoinSet::new();
        tokio::select! {
            () = reconcile_all(work, &mut running) => {}
            () = ask_pods(work, asking) => {}
            _ = becomes(&mut leading, false) => warn!("this replica lost the Lease and stops its work"),
            () = stop.cancelled() => {
                let drained = timeout(DRAIN_MAX, async { while running.join_next().await.is_some() {} });
                if drained.await.is_err() {
                    warn!("reconciles under way were cut off; they are repeated by whoever works next");
                }
                return;
            }
        }
        running.shutdown().await;
    }
}

/// Waits until leadership is so; an error when nobody will ever say.
async fn becomes(leading: &mut watch::Receiver<bool>, wanted: bool) -> Result<(), watch::error::RecvError> {
    leading.wait_for(|leads| *leads == wanted).await.map(drop)
}

async fn reconcile_all(work: &Work, running: &mut JoinSet<()>) {
    let at_once = work.context.borrow().installation.concurrency.max(1);
    loop {
        tokio::select! {
            Some(_) = running.join_next(), if !running.is_empty() => {}
            key = work.queue.next(), if running.len() < at_once => {
                let context = Arc::clone(&work.context.borrow());
                running.spawn(look(context, Taken { queue: Arc::clone(&work.queue), key: Some(key) }));
            }
        }
    }
}

async fn ask_pods(work: &Work, until: CancellationToken) {
    let (news, mut heard) = mpsc::unbounded_channel();
    let (cluster, reports) = {
        let context = work.context.borrow();
        (Arc::clone(&context.cluster), Arc::clone(&context.reports))
    };
    let published = work.waker.published();
    reports.begin(Timestamp::now());
    let poller = Poller::new(cluster, Arc::clone(&work.pods), reports, news, published);
    let hear = async {
        while let Some(news) = heard.recv().await {
            work.waker.heard(&news);
        }
    };
    tokio::join!(poller.run(until), hear);
}

/// A key under way. One that is dropped before its end, by a panic or because work stopped, counts as failed: it is
/// tried again, and not lost.
struct Taken {
    queue: Arc<Queue>,
    key: Option<Key>,
}

impl Taken {
    fn end(mut self, outcome: Outcome) {
        if let Some(key) = self.key.take() {
            self.queue.done(key, outcome);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.queue.done(key, Outcome::Failed);
        }
    }
}

async fn look(context: Arc<Context>, taken: Taken) {
    let Some(key) = taken.key.clone() else { return };
    let begun = Instant::now();
    let context = context.for_round();
    let looked = async {
        match &key {
            Key::App(app) => app::reconcile(&context, app, Timestamp::now()).await,
            Key::Namespace(namespace) => namespace::reconcile(&context, namespace, Timestamp::now()).await,
        }
    };
    let outcome = judge(&key, looked).await;
    let kind = key.kind();
    let seconds = begun.elapsed().as_secs_f64();
    context.metrics.reconcile_seconds.with_label_values(&[kind]).observe(seconds);
    let word = match outcome {
        Outcome::Done(_) => "ok",
        Outcome::Failed => "error",
    };
    context.metrics.reconciles.with_label_values(&[kind, word]).inc();
    taken.end(outcome);
}

async fn judge(key: &Key, looked: impl Future<Output = Result<Next, ReconcileError>>) -> Outcome {
    match looked.await {
        Ok(next) => {
            debug!(reconcile.key = %key, "looked");
            Outcome::Done(next)
        }
        Err(error) => {
            warn!(reconcile.key = %key, error = chain(&error), "a reconcile failed and is tried again");
            Outcome::Failed
        }
    }
}

#[cfg(test)]
mod tests;
