//! The operator's own machinery in a process of its own, with back ends and pods' answers that are faked: leads, watches,
//! reconciles. One word a line in on standard input (`settle`, `resync`), one JSON document a line out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;
use millrace_operator::backends::{Backends, Pods};
use millrace_operator::cluster::Cluster;
use millrace_operator::cluster::live::{self, Live};
use millrace_operator::context::{self, Context};
use millrace_operator::leader::{self, LiveLeases};
use millrace_operator::metrics::Metrics;
use millrace_operator::poller::Poller;
use millrace_operator::queue::{Key, Outcome, Queue};
use millrace_operator::watch::Waker;
use millrace_operator::{app, namespace};
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::fakes::{Both, Obedient};

/// Namespace of the Lease.
pub(crate) const NAMESPACE: &str = "millrace-system";
/// The queue has settled when nothing was due for so long: longer than pods are asked again.
pub(crate) const SETTLED: Duration = Duration::from_secs(2);

/// Runs until standard input ends.
pub(crate) fn run(identity: &str) -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(identity))
}

struct Operator {
    context: Arc<Context>,
    queue: Arc<Queue>,
    waker: Arc<Waker>,
    pods: Arc<dyn Pods>,
}

async fn serve(identity: &str) -> Result<()> {
    let client = live::connect().await?;
    let metrics = Arc::new(Metrics::new()?);
    let live = Arc::new(Live::new(client.clone(), Arc::clone(&metrics), identity.to_owned()));
    let queue = Arc::new(Queue::new(Arc::clone(&metrics), random));
    let waker = Arc::new(Waker::new(Arc::clone(&queue)));
    let listener = Arc::clone(&waker);
    live.listen(move |change| listener.changed(change));
    let cluster: Arc<dyn Cluster> = live.clone();
    let backends: Arc<dyn Backends> = Arc::new(Both::default());
    let context = Context {
        random,
        metrics,
        operator_namespace: NAMESPACE.to_owned(),
        ..context::for_tests(Arc::clone(&cluster), backends)
    };
    let watches = live.watch(&context.installation).await;
    watches.wait_for_sync().await;
    let pods: Arc<dyn Pods> = Arc::new(Obedient { cluster });
    let operator = Operator { context: Arc::new(context), queue, waker, pods };
    say("standing by", &operator);
    let (leading, mut is_leading) = watch::channel(false);
    let leases = LiveLeases::new(client, NAMESPACE);
    let stop = CancellationToken::new();
    let commands = async {
        is_leading.wait_for(|is_leading| *is_leading).await?;
        operator.work(&stop);
        say("leading", &operator);
        operator.obey().await
    };
    tokio::select! {
        () = leader::lead(&leases, identity, &leading, stop.clone()) => bail!("the Lease is held no more"),
        done = commands => done,
    }
}

impl Operator {
    /// Starts whatever works, until the process ends.
    fn work(&self, stop: &CancellationToken) {
        let (news, mut heard) = mpsc::unbounded_channel();
        let (cluster, reports) = (Arc::clone(&self.context.cluster), Arc::clone(&self.context.reports));
        tokio::spawn(Poller::new(cluster, Arc::clone(&self.pods), reports, news).run(stop.clone()));
        let waker = Arc::clone(&self.waker);
        tokio::spawn(async move {
            while let Some(news) = heard.recv().await {
                waker.heard(&news.namespace, &news.data_plane);
            }
        });
        self.waker.wake_all();
        for _ in 0..self.context.installation.concurrency {
            tokio::spawn(reconcile(Arc::clone(&self.context), Arc::clone(&self.queue)));
        }
    }

    async fn obey(&self) -> Result<()> {
        let mut lines = commands();
        while let Some(line) = lines.recv().await {
            match line.as_str() {
                "settle" => {}
                "resync" => self.waker.wake_all(),
                other => bail!("`{other}` is no command; use settle or resync"),
            }
            self.settle().await;
            say(&line, self);
        }
        Ok(())
    }

    async fn settle(&self) {
        let mut busy = Instant::now();
        while busy.elapsed() < SETTLED {
            sleep(Duration::from_millis(20)).await;
            if !self.queue.is_idle() {
                busy = Instant::now();
            }
        }
    }
}

/// Lines of standard input, until it ends.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (told, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let read = std::io::stdin().lines().map_while(Result::ok);
        // Nobody listens any more only at the end.
        let _ = read.map(|line| told.send(line)).take_while(Result::is_ok).count();
    });
    lines
}

async fn reconcile(context: Arc<Context>, queue: Arc<Queue>) {
    loop {
        let key = queue.next().await;
        let begun = Instant::now();
        let done = match &key {
            Key::App(id) => app::reconcile(&context, id, Timestamp::now()).await,
            Key::Namespace(name) => namespace::reconcile(&context, name, Timestamp::now()).await,
        };
        let (outcome, word) = match done {
            Ok(next) => (Outcome::Done(next), "ok"),
            Err(error) => {
                eprintln!("{key}: {:#}", anyhow::Error::from(error));
                (Outcome::Failed, "error")
            }
        };
        let metrics = &context.metrics;
        metrics.reconciles.with_label_values(&[key.kind(), word]).inc();
        metrics.reconcile_seconds.with_label_values(&[key.kind()]).observe(begun.elapsed().as_secs_f64());
        queue.done(key, outcome);
    }
}

/// One line for whoever started us.
fn say(word: &str, operator: &Operator) {
    let metrics = &operator.context.metrics;
    let count = |kind: &str, word: &str| metrics.reconciles.with_label_values(&[kind, word]).get();
    let seconds = |kind: &str| metrics.reconcile_seconds.with_label_values(&[kind]).get_sample_sum();
    let of = |kind: &str| -> Value {
        json!({"ok": count(kind, "ok"), "error": count(kind, "error"), "seconds": seconds(kind)})
    };
    println!("{}", json!({"said": word, "app": of("app"), "namespace": of("namespace")}));
}

fn random(bytes: &mut [u8]) {
    rand::rng().fill_bytes(bytes);
}
