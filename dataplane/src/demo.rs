//! `demo`: resources in, a verdict out. Starts standalone in this process, sends sample events over HTTP like any
//! client, waits until every accepted one can be queried, and puts what the API says beside what was sent.

#![expect(clippy::print_stdout, reason = "the result of a command goes to standard output")]

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::generate::{self, Progress, Summary};
use crate::secret::Secret;
use crate::settings::{DemoArgs, LogCompression, SettingsError, Standalone};
use crate::standalone::data_dir::{DataDir, DataDirError};
use crate::standalone::{self, StandaloneError};

mod compare;

use compare::{Comparison, Stored};

/// Longest wait for accepted events to become queryable; the first start of the engine is the largest part of it.
const QUERYABLE_MAX: Duration = Duration::from_secs(180);
/// File that tells a demo's folder from any other.
const MARKER: &str = "millrace-demo";
/// Pause between two questions while waiting.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Runs the demo; `true` when everything agrees. Without `--once` it then serves until `stop` is cancelled.
pub async fn run(args: DemoArgs, stop: CancellationToken) -> Result<bool, DemoError> {
    let folder = Folder::prepare(args.data_dir.clone())?;
    let settings = Standalone {
        dir: args.dir.display().to_string(),
        data_dir: folder.path.clone(),
        listen: args.listen.clone(),
        clickhouse: args.clickhouse.clone().resolve().map_err(|source| DemoError::Settings { source })?,
        log_compression: LogCompression::default(),
    };
    let running =
        standalone::start(settings).await.map_err(|source| DemoError::Start { source: Box::new(source) })?;
    running.greet();
    let verdict = tokio::select! {
        verdict = compare(&args, &running) => verdict,
        () = stop.cancelled() => Ok(false),
    };
    if verdict.is_ok() && !args.once && !stop.is_cancelled() {
        println!("\nserving until Ctrl-C");
        stop.cancelled().await;
    }
    running.stop().await;
    folder.remove();
    verdict
}

/// Sends, waits, asks and prints.
async fn compare(args: &DemoArgs, running: &standalone::Running) -> Result<bool, DemoError> {
    let endpoints = &running.endpoints;
    let summary = generate::run(generate::Settings {
        url: endpoints.ingest.clone(),
        key: Secret::new(args.key.clone()),
        rate: None,
        count: args.count,
        seed: args.seed,
        now: Timestamp::now(),
        progress: Progress::Bar,
    })
    .await
    .map_err(|source| DemoError::Generate { source: Box::new(source) })?;
    let api = Api {
        client: reqwest::Client::builder()
            .timeout(ANSWER_MAX)
            .build()
            .map_err(|source| DemoError::Ask { url: endpoints.gateway.clone(), source })?,
        url: stats_url(&endpoints.gateway, &args.app, &summary),
        token: running.admin_token.clone(),
    };
    let stored = api.wait_for(summary.distinct_accepted).await?;
    let comparison = Comparison::new(&summary, &stored);
    println!("{}", comparison.table());
    println!(
        "ask yourself:\n  curl -H \"Authorization: Bearer $(cat {})\" \\\n    \"{}\"",
        running.data_dir().join("admin-token").display(),
        api.url
    );
    println!(
        "  curl {} -d 'SELECT event_type, count() FROM millrace_default__{}.events GROUP BY ALL ORDER BY 2 DESC'\n",
        endpoints.clickhouse, args.app
    );
    println!("{}", comparison.verdict());
    Ok(comparison.agrees())
}

/// The question about everything that was sent.
fn stats_url(gateway: &str, app: &str, summary: &Summary) -> String {
    let window = summary.window.map(|window| format!("&from={}&to={}", window.from, window.to));
    format!("{gateway}/api/dashboard/stats?app={app}{}", window.unwrap_or_default())
}

/// The API, asked as the bootstrap admin.
struct Api {
    client: reqwest::Client,
    url: String,
    token: Secret<String>,
}

impl Api {
    /// Asks until as many events are stored as were accepted, or too long has passed.
    async fn wait_for(&self, accepted: u64) -> Result<Stored, DemoError> {
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}").expect("a constant template");
        let bar = ProgressBar::new(accepted).with_style(style).with_message("queryable");
        let deadline = Instant::now() + QUERYABLE_MAX;
        loop {
            let answer = self.ask().await;
            if let Ok(stored) = &answer {
                bar.set_position(stored.total_events.min(accepted));
            }
            match answer {
                Ok(stored) if stored.total_events >= accepted || Instant::now() >= deadline => {
                    bar.finish_and_clear();
                    return Ok(stored);
                }
                // An answer that cannot be read will not become readable.
                Err(error) if error.is_unreadable() || Instant::now() >= deadline => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    async fn ask(&self) -> Result<Stored, DemoError> {
        let failed = |source| DemoError::Ask { url: self.url.clone(), source };
        let request = self.client.get(&self.url).bearer_auth(self.token.expose());
        let answer = request.send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
        answer.json().await.map_err(failed)
    }
}

/// The demo's data directory.
struct Folder {
    path: PathBuf,
    /// Whether it was made for this run and goes with it.
    temporary: bool,
}

impl Folder {
    /// Empties the folder named, or makes a temporary one that nobody else can have made.
    fn prepare(named: Option<PathBuf>) -> Result<Self, DemoError> {
        let temporary = named.is_none();
        let path = named.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("millrace-demo-{:016x}", rand::random::<u64>()))
        });
        let failed = |source| DemoError::Folder { path: path.clone(), source };
        if !temporary && path.exists() && !is_empty(&path) {
            // Only what a demo made may be emptied, and only when no process uses it.
            if !path.join(MARKER).exists() {
                return Err(DemoError::NotADemo { path });
            }
            let unused = DataDir::open(&path).map_err(|source| DemoError::InUse { source })?;
            std::fs::remove_dir_all(&path).map_err(failed)?;
            drop(unused);
        }
        if temporary || !path.exists() {
            std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        }
        std::fs::write(path.join(MARKER), "").map_err(failed)?;
        Ok(Self { path, temporary })
    }

    fn remove(self) {
        if self.temporary {
            // What cannot be removed from a temporary folder is removed by the system.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The options cannot be used.
    #[error("the options cannot be used")]
    Settings {
        /// Why.
        source: SettingsError,
    },
    /// Standalone did not start.
    #[error("standalone did not start")]
    Start {
        /// Why.
        source: Box<StandaloneError>,
    },
    /// The events were not sent.
    #[error("the sample events were not sent")]
    Generate {
        /// Why.
        source: Box<generate::GenerateError>,
    },
    /// The API did not answer.
    #[error("no answer from `{url}`")]
    Ask {
        /// The question.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The folder holds something else.
    #[error("`{}` holds something else than a demo's data; name an empty folder", path.display())]
    NotADemo {
        /// Which.
        path: PathBuf,
    },
    /// A process uses the folder.
    #[error("the demo's folder cannot be emptied")]
    InUse {
        /// Who.
        source: DataDirError,
    },
    /// The folder cannot be made or emptied.
    #[error("cannot prepare `{}`", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl DemoError {
    fn is_unreadable(&self) -> bool {
        matches!(self, Self::Ask { source, .. } if source.is_decode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_empties_what_is_not_a_demos() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        drop(DataDir::open(&data).unwrap());
        std::fs::write(data.join("endpoints.json"), "{}").unwrap();
        assert!(matches!(Folder::prepare(Some(data.clone())), Err(DemoError::NotADemo { .. })));
        assert!(data.join("endpoints.json").exists());
    }

    #[test]
    fn empties_its_own_only_when_nobody_uses_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo");
        Folder::prepare(Some(path.clone())).unwrap();
        let used = DataDir::open(&path).unwrap();
        assert!(matches!(Folder::prepare(Some(path.clone())), Err(DemoError::InUse { .. })));
        drop(used);
        std::fs::write(path.join("old"), "").unwrap();
        Folder::prepare(Some(path.clone())).unwrap();
        assert!(!path.join("old").exists());
    }
}
