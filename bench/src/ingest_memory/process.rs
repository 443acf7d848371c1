//! Ingest as it runs in a pod, from the listener to the brokers, with one App that is compiled here instead of watched.
//! `queue` on standard input is answered with the bytes that wait for Kafka; it ends with standard input.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use arc_swap::ArcSwap;
use millrace_crds::compile::{AppInput, Installation, WRITE_KEY_DEFAULT, compile_app};
use millrace_crds::config::AppConfig;
use millrace_crds::names::AppId;
use millrace_crds::topics;
use millrace_dataplane::config::{Config, PrivacyKeys, key_digest};
use millrace_dataplane::freshness::Freshness;
use millrace_dataplane::ingest;
use millrace_dataplane::log::kafka::{KafkaLog, Options};
use millrace_dataplane::memory;
use millrace_dataplane::metrics::Metrics;
use millrace_dataplane::secret::Secret;
use millrace_provision::kafka::{Admin, Replication, Settings};
use tokio_util::sync::CancellationToken;

use crate::settings::IngestProcess;

/// The App's write key.
pub(super) const KEY: &str = "mrw_bench";
const PEPPER: &[u8] = b"pepper";

/// Runs until standard input ends.
pub(crate) fn run(settings: &IngestProcess) -> Result<()> {
    memory::give_back_what_is_large();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
        .init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(settings))
}

async fn serve(settings: &IngestProcess) -> Result<()> {
    let app = app()?;
    let brokers = Settings::plain(&settings.brokers);
    let changes = topics::diff(&[], &app.topics).map_err(|refused| anyhow!("{refused:?}"))?;
    let copies = Replication { factor: 1, min_in_sync: 1 };
    Admin::connect(&brokers).await?.carry_out(&changes, copies).await?;
    let metrics = Arc::new(Metrics::new()?);
    let options = Options { queue_bytes_max: settings.queue_bytes_max, ..Options::default() };
    let log = KafkaLog::open(&brokers, options, Arc::clone(&metrics))?;
    let keys = PrivacyKeys { epoch: 1, hash: Secret::new([1; 32]), encrypt: Secret::new([2; 64]) };
    let config = Config::build(vec![(app, keys)], Vec::new(), Secret::new(PEPPER.to_vec()))?;
    let listener = ingest::bind(([127, 0, 0, 1], 0).into())?;
    println!("{}", listener.local_addr()?);
    let ingest = Arc::new(ingest::Ingest {
        config: Arc::new(ArcSwap::from_pointee(config)),
        freshness: Freshness::always(),
        log,
        metrics: Arc::clone(&metrics),
        instance: "bench".to_owned(),
        leaving: CancellationToken::new(),
    });
    let stop = CancellationToken::new();
    let answering = tokio::task::spawn_blocking({
        let stop = stop.clone();
        move || {
            for _question in std::io::stdin().lines() {
                println!("{}", metrics.log_queue_bytes.get());
            }
            stop.cancel();
        }
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ingest::serve(listener, ingest, cores, stop).await?;
    answering.await.context("answer questions")
}

/// An App as it is by default, its key apart.
fn app() -> Result<AppConfig> {
    let digest = hex::encode(key_digest(PEPPER, KEY.as_bytes()));
    let input = AppInput {
        id: &AppId::new("default", "bench").map_err(|wrong| anyhow!("{wrong:?}"))?,
        spec: &serde_json::from_str("{}")?,
        integrations: &[],
        key_digests: &BTreeMap::from([(WRITE_KEY_DEFAULT.to_owned(), digest)]),
        installation: &Installation::cluster(),
    };
    compile_app(&input).map_err(|problems| anyhow!("{problems:?}"))
}
