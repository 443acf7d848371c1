//! The operator's own machinery in a process of its own, with back ends and pods' answers that are faked: leads, watches,
//! reconciles. One word a line in on standard input (`settle`, `resync`), one JSON document a line out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use millrace_operator::cluster::Cluster;
use millrace_operator::cluster::live::{self, Live};
use millrace_operator::context::{self, Context};
use millrace_operator::leader::{self, LiveLeases};
use millrace_operator::metrics::Metrics;
use millrace_operator::queue::Queue;
use millrace_operator::watch::Waker;
use millrace_operator::work::{Work, work_while_leading};
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
    let context = Arc::new(Context {
        random,
        metrics,
        operator_namespace: NAMESPACE.to_owned(),
        ..context::for_tests(Arc::clone(&cluster), Arc::new(Both::default()))
    });
    let watches = live.watch(&context.installation).await;
    watches.wait_for_sync().await;
    let operator =
        Operator { context: Arc::clone(&context), queue: Arc::clone(&queue), waker: Arc::clone(&waker) };
    say("standing by", &operator);
    let (leading, is_leading) = watch::channel(false);
    let (_context, context) = watch::channel(context);
    let work = Work { queue, waker, context, pods: Arc::new(Obedient { cluster }) };
    let leases = LiveLeases::new(client, NAMESPACE);
    let stop = CancellationToken::new();
    let mut told = is_leading.clone();
    let commands = async {
        told.wait_for(|leads| *leads).await?;
        say("leading", &operator);
        operator.obey().await
    };
    tokio::select! {
        () = leader::lead(&leases, identity, &leading, stop.clone()) => bail!("nobody leads any more"),
        () = work_while_leading(&work, is_leading, &stop) => bail!("nobody works any more"),
        done = commands => done,
    }
}

impl Operator {
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
