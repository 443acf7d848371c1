//! A standalone process with the real engine in, how fresh its table is at half of the highest rate out. One event in
//! twenty milliseconds is a probe: when it was acknowledged is written down, and the table is asked for it until it is there.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use millrace_dataplane::generate::{self, Progress, Summary};
use millrace_dataplane::secret::Secret;
use millrace_dataplane::standalone::announce::Endpoints;
use millrace_dataplane::store::{ClickHouse, Endpoint, QueryLimits, Question};
use serde::Deserialize;
use uuid::Uuid;

use crate::dataplane::DataPlane;
use crate::settings::Load;

const KEY: &str = "mrw_bench_write_key";
const MANIFEST: &str = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: keys\n  labels: {millrace.dev/app-use: \"true\"}\n\
    stringData: {key: mrw_bench_write_key}\n---\napiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: bench}\n\
    spec:\n  ingest: {writeKeys: [{name: bench, secretRef: {name: keys, key: key}}]}\n";
const PROBE: &str = "freshness_probe";
/// Between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at the table: how coarse the figures are.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Longest wait for what was sent.
const STORED_MAX: Duration = Duration::from_secs(300);

/// What was seen.
pub(super) struct Seen {
    pub(super) rate_max: f64,
    pub(super) rate_half: f64,
    /// Seconds from acknowledged to queryable.
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) rows_per_insert: f64,
    pub(super) inserts_per_second: f64,
}

/// Starts, measures, stops.
pub(super) fn measure(settings: &Load) -> Result<Seen> {
    let folder = tempfile::tempdir()?;
    let data_plane = DataPlane::start(folder.path(), MANIFEST, &["--engine-listen", "127.0.0.1:0"])?;
    let process = Process::new(data_plane.endpoints.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(process.measured(settings))
}

struct Process {
    endpoints: Endpoints,
    store: ClickHouse,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
}

#[derive(Deserialize)]
struct Id {
    event_id: Uuid,
}

impl Process {
    fn new(endpoints: Endpoints) -> Self {
        let endpoint =
            Endpoint { url: endpoints.clickhouse.clone(), user: "default".to_owned(), password: None };
        Self { endpoints, store: ClickHouse::new(endpoint) }
    }

    async fn measured(&self, settings: &Load) -> Result<Seen> {
        // What is done once, at the first events, is not measured.
        let warm = self.generate(None, settings.events / 10, 1).await?;
        self.until_stored(warm.distinct_accepted).await?;
        let before = Instant::now();
        let sent = self.generate(None, settings.events, 2).await?;
        let stored = warm.distinct_accepted + sent.distinct_accepted;
        self.until_stored(stored).await?;
        let rate_max = sent.distinct_accepted as f64 / before.elapsed().as_secs_f64();

        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some thousands, above zero"
        )]
        let rate = ((rate_max / 2.0) as u32).max(1);
        let count = u64::from(rate) * u64::from(settings.seconds);
        let (inserts, rows) = self.loaded()?;
        let begun = Instant::now();
        let (sent, probed) = tokio::join!(self.generate(Some(rate), count, 3), self.probe(settings.seconds));
        let took = begun.elapsed().as_secs_f64();
        let (inserts_now, rows_now) = self.loaded()?;
        let inserts = inserts_now - inserts;
        let mut freshness = probed?;
        freshness.sort_by(f64::total_cmp);
        let quantile = |part: usize| freshness.get(freshness.len() * part / 100).copied().context("no probe");
        Ok(Seen {
            rate_max,
            rate_half: sent?.accepted as f64 / took,
            p50: quantile(50)?,
            p95: quantile(95)?,
            rows_per_insert: (rows_now - rows) / inserts,
            inserts_per_second: inserts / took / self.partitions().await?,
        })
    }

    async fn generate(&self, rate: Option<u32>, count: u64, seed: u64) -> Result<Summary> {
        let settings = generate::Settings {
            url: self.endpoints.ingest.clone(),
            key: Secret::new(KEY.to_owned()),
            rate,
            count,
            seed,
            now: Timestamp::now(),
            progress: Progress::Hidden,
        };
        Ok(generate::run(settings).await?)
    }

    async fn until_stored(&self, count: u64) -> Result<()> {
        let since = Instant::now();
        while self.count("count()").await.unwrap_or(0) < count {
            ensure!(since.elapsed() < STORED_MAX, "not stored within {} s", STORED_MAX.as_secs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn partitions(&self) -> Result<f64> {
        Ok(self.count("uniqExact(log_partition)").await? as f64)
    }

    async fn count(&self, what: &str) -> Result<u64> {
        let sql = format!("SELECT {what} AS count FROM millrace_default__bench.events");
        let rows: Vec<Count> =
            self.store.rows(Question { sql: &sql, params: &[] }, QueryLimits::default()).await?;
        Ok(rows.first().context("one row")?.count)
    }

    /// Seconds that each probe took from acknowledged to queryable.
    async fn probe(&self, seconds: u32) -> Result<Vec<f64>> {
        let ingest = self.endpoints.ingest.trim_start_matches("http://").to_owned();
        let (acknowledged, mut probes) = tokio::sync::mpsc::unbounded_channel();
        let sending = tokio::task::spawn_blocking(move || send_probes(&ingest, seconds, &acknowledged));
        let sql = format!("SELECT event_id FROM millrace_default__bench.events WHERE event_type = '{PROBE}'");
        let mut waiting: BTreeMap<Uuid, Instant> = BTreeMap::new();
        let mut freshness = Vec::new();
        let since = Instant::now();
        loop {
            let is_sent = sending.is_finished();
            while let Ok((id, at)) = probes.try_recv() {
                waiting.insert(id, at);
            }
            if is_sent && waiting.is_empty() {
                break;
            }
            ensure!(since.elapsed() < STORED_MAX, "{} probes are not in the table", waiting.len());
            let there: Vec<Id> =
                self.store.rows(Question { sql: &sql, params: &[] }, QueryLimits::default()).await?;
            let seen = Instant::now();
            let found = there.iter().filter_map(|row| waiting.remove(&row.event_id));
            freshness.extend(found.map(|at| (seen - at).as_secs_f64()));
            tokio::time::sleep(LOOK_EVERY).await;
        }
        sending.await??;
        Ok(freshness)
    }

    /// Inserts into `events`, and rows in them, since the process started.
    fn loaded(&self) -> Result<(f64, f64)> {
        let admin = self.endpoints.admin.trim_start_matches("http://");
        let text = http(admin, "GET /metrics", "")?;
        let sum = |name: &str| -> f64 {
            let lines =
                text.lines().filter(|line| line.starts_with(name) && line.contains("table=\"events\""));
            let lines =
                lines.filter(|line| !line.contains("outcome=") || line.contains("outcome=\"inserted\""));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Ok((sum("millrace_load_inserts_total{"), sum("millrace_load_rows_total{")))
    }
}

fn send_probes(
    ingest: &str,
    seconds: u32,
    acknowledged: &tokio::sync::mpsc::UnboundedSender<(Uuid, Instant)>,
) -> Result<()> {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(u64::from(seconds)) {
        let next = Instant::now() + PROBE_EVERY;
        let id = Uuid::new_v4();
        let body = format!(r#"{{"event_id": "{id}", "event_type": "{PROBE}", "user_id": "probe"}}"#);
        http(ingest, "POST /v1/events", &body)?;
        // Nobody waits for it any more when the measurement failed.
        let _gone = acknowledged.send((id, Instant::now()));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn http(address: &str, request: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{request} was answered with {answer}");
    Ok(answer)
}
