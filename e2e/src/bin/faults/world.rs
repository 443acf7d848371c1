//! What stays up between runs: the engine and the brokers, started at their first use; and the folders of runs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde_json::json;
use tokio::process::Command;

use crate::role::Role;

/// Longest wait for the engine's first answer.
const START_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How many brokers: enough that one may be away and every record still has two copies.
const BROKERS: u32 = 3;

/// What the brokers keep groups and transactions in; `e2e/cluster/kafka` gives each as many partitions.
const INTERNAL_TOPICS: [&str; 2] = ["__consumer_offsets", "__transaction_state"];
const INTERNAL_PARTITIONS: u32 = 4;

/// The environment of all runs.
pub(crate) struct World {
    folder: tempfile::TempDir,
    programs: PathBuf,
    engine: Role,
    engine_url: String,
    kafka: Option<Kafka>,
}

impl World {
    /// Starts the engine. Programs are looked for beside this one.
    pub(crate) async fn start() -> Result<Self> {
        let programs = std::env::current_exe()?.parent().context("this program lies in a folder")?.to_owned();
        let folder = tempfile::Builder::new().prefix("millrace-faults-").tempdir()?;
        let port = free_port()?;
        let (program, data) = (programs.join("millrace-dataplane"), folder.path().join("engine"));
        ensure!(program.exists(), "`{}` is missing; `make faults` builds it", program.display());
        let log = folder.path().join("engine.log");
        let command = move |_| {
            let mut command = Command::new(&program);
            command
                .arg("engine")
                .arg("--data-dir")
                .arg(&data)
                .args(["--listen", &format!("127.0.0.1:{port}")]);
            to_log(&mut command, &log)?;
            Ok(command)
        };
        // Woken by who stopped it, long before this.
        let engine = Role::start(command, Duration::from_secs(60));
        let world =
            Self { folder, programs, engine, engine_url: format!("http://127.0.0.1:{port}"), kafka: None };
        world.await_engine().await?;
        Ok(world)
    }

    async fn await_engine(&self) -> Result<()> {
        let http = reqwest::Client::new();
        let begun = Instant::now();
        while http.post(&self.engine_url).body("SELECT 1").send().await.is_err() {
            ensure!(
                begun.elapsed() < START_MAX,
                "the engine does not start; see its log in `{}`",
                self.folder().display()
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Where everything is kept.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A program or library built beside this one.
    pub(crate) fn built(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// ClickHouse's address.
    pub(crate) fn engine_url(&self) -> &str {
        &self.engine_url
    }

    /// The engine's process.
    pub(crate) fn engine(&self) -> &Role {
        &self.engine
    }

    /// Starts brokers where none run, or those of them that were killed.
    pub(crate) async fn start_kafka(&mut self) -> Result<()> {
        let kafka = Kafka { folder: self.folder().join("kafka"), bootstrap: String::new() };
        let bootstrap = kafka.command(&["start"], &["0", &BROKERS.to_string()]).await?;
        self.kafka = Some(Kafka { bootstrap, ..kafka });
        Ok(())
    }

    /// The brokers.
    pub(crate) fn kafka(&self) -> Result<&Kafka> {
        self.kafka.as_ref().context("the brokers were not started")
    }

    /// Keeps the folders for a look at them.
    pub(crate) async fn end(self, keep: bool) -> Result<()> {
        self.engine.end().await?;
        if let Some(kafka) = &self.kafka {
            kafka.kill(None).await?;
        }
        if keep {
            let folder = self.folder.keep();
            eprintln!("logs and data of the failed runs: {}", folder.display());
        }
        Ok(())
    }
}

/// Three brokers.
pub(crate) struct Kafka {
    folder: PathBuf,
    bootstrap: String,
}

impl Kafka {
    /// Where they are.
    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Kills one, or all.
    pub(crate) async fn kill(&self, broker: Option<u32>) -> Result<()> {
        let broker = broker.map(|broker| broker.to_string());
        self.command(&["kill"], &broker.iter().map(String::as_str).collect::<Vec<_>>()).await.map(drop)
    }

    /// Starts what was killed.
    pub(crate) async fn revive(&self) -> Result<()> {
        self.command(&["start"], &["0", &BROKERS.to_string()]).await.map(drop)
    }

    /// Puts another broker first in the list of many partitions, and makes it their leader. Those of groups and transactions
    /// are among them, so coordinators move too.
    pub(crate) async fn move_leaders(&self, topics: &[(String, u32)], seed: u64) -> Result<()> {
        let mut random = SmallRng::seed_from_u64(seed);
        let internal = INTERNAL_TOPICS.map(|topic| (topic.to_owned(), INTERNAL_PARTITIONS));
        let each =
            topics.iter().chain(&internal).flat_map(|(topic, count)| (0..*count).map(move |n| (topic, n)));
        let partitions = each.map(|(topic, partition)| {
            let mut replicas: Vec<u32> = (1..=BROKERS).collect();
            replicas.shuffle(&mut random);
            json!({"topic": topic, "partition": partition, "replicas": replicas})
        });
        let plan = json!({"version": 1, "partitions": partitions.collect::<Vec<_>>()});
        let file = self.folder.join("leaders.json");
        tokio::fs::write(&file, plan.to_string()).await?;
        self.command(&["move-leaders"], &[&file.display().to_string()]).await.map(drop)
    }

    async fn command(&self, verb: &[&str], rest: &[&str]) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/kafka");
        let output = Command::new(&script)
            .args(verb)
            .arg(&self.folder)
            .args(rest)
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("cannot run `{}`", script.display()))?;
        if !output.status.success() {
            bail!("`{} {verb:?}` failed: {}", script.display(), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Appends what a process says to a file.
pub(crate) fn to_log(command: &mut Command, path: &Path) -> Result<()> {
    let log = std::fs::File::options().create(true).append(true).open(path)?;
    command.stdout(log.try_clone()?).stderr(log);
    Ok(())
}
