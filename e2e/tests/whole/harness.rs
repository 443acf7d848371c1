//! A standalone process under test: started on free ports with its own folders, asked over HTTP, killed at will.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millrace_dataplane::standalone::announce::Endpoints;
use serde_json::{Value, json};

/// Longest wait for anything: far beyond what a slow machine needs, so that only a hang fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks while waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The write key of the App [`APP`].
pub(crate) const KEY: &str = "mrw_whole_test_key";

/// Resources with one App `default/shop` that takes [`KEY`]; `spec` is the body of its `spec`, as YAML flow or block.
pub(crate) fn resources(spec: &str) -> String {
    let spec = spec.lines().map(|line| format!("  {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: keys\n  labels: {{millrace.dev/app-use: \"true\"}}\n\
         stringData: {{key: {KEY}}}\n---\napiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {{name: shop}}\n\
         spec:\n  ingest: {{writeKeys: [{{name: test, secretRef: {{name: keys, key: key}}}}]}}\n{spec}"
    )
}

/// The folders and environment of a standalone process; it can be started again and again on them.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Bench {
    /// Fresh folders holding these resources.
    pub(crate) fn new(resources: &str) -> Result<Self> {
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let bench = Self { folder: tempfile::tempdir()?, environment: Vec::new() };
        std::fs::create_dir(bench.manifests())?;
        bench.write(resources)?;
        Ok(bench)
    }

    /// Adds a variable to the environment of processes started from now on.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Replaces the resources, as an editor does: a new file moved over the old one.
    pub(crate) fn write(&self, resources: &str) -> Result<()> {
        let unfinished = self.folder.path().join("unfinished");
        std::fs::write(&unfinished, resources)?;
        std::fs::rename(unfinished, self.manifests().join("shop.yaml"))?;
        Ok(())
    }

    /// The folder of resources.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Anything else a test keeps.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command line of a standalone process on these folders, on free ports.
    pub(crate) fn command(&self) -> Result<Command> {
        self.command_with("", "")
    }

    /// As [`Self::command`], with one listener at a given address.
    pub(crate) fn command_with(&self, option: &str, address: &str) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.arg("standalone").arg(self.manifests()).arg("--data-dir").arg(self.data());
        for listener in ["--ingest-listen", "--gateway-listen", "--admin-listen", "--engine-listen"] {
            command.args([listener, if listener == option { address } else { "127.0.0.1:0" }]);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Starts a process and waits until it accepts events.
    pub(crate) async fn start(&self) -> Result<Process> {
        let endpoints = self.data().join("endpoints.json");
        let _ = std::fs::remove_file(&endpoints);
        let log = std::fs::File::options().create(true).append(true).open(self.path("log"))?;
        let child = self
            .command()?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the data plane")?;
        let mut process = Process {
            child,
            endpoints: Endpoints {
                ingest: String::new(),
                gateway: String::new(),
                admin: String::new(),
                clickhouse: String::new(),
            },
            token: String::new(),
            http: reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?,
        };
        let deadline = Instant::now() + PATIENCE;
        while !endpoints.exists() {
            if let Some(status) = process.child.try_wait()? {
                bail!("the data plane ended with {status}:\n{}", self.log_tail());
            }
            ensure!(Instant::now() < deadline, "the data plane does not start:\n{}", self.log_tail());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        process.endpoints = Endpoints::read(&endpoints)?;
        process.token = std::fs::read_to_string(self.data().join("admin-token"))?.trim().to_owned();
        Ok(process)
    }

    /// The last lines a process wrote.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// A running standalone process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// Where it listens.
    pub(crate) endpoints: Endpoints,
    token: String,
    /// A client with a time limit.
    pub(crate) http: reqwest::Client,
}

impl Process {
    /// Sends a body to ingest with the test's key.
    pub(crate) async fn send(&self, body: &Value) -> reqwest::Result<reqwest::Response> {
        self.http
            .post(format!("{}/v1/events", self.endpoints.ingest))
            .bearer_auth(KEY)
            .json(body)
            .send()
            .await
    }

    /// Asks the API as the bootstrap admin.
    pub(crate) async fn api(&self, path: &str) -> Result<Value> {
        let answer = self
            .http
            .get(format!("{}{path}", self.endpoints.gateway))
            .bearer_auth(&self.token)
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Runs a statement on ClickHouse; the answer as text.
    pub(crate) async fn sql(&self, statement: &str) -> Result<String> {
        let answer = self.http.post(&self.endpoints.clickhouse).body(statement.to_owned()).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{status}: {text}");
        Ok(text.trim_end().to_owned())
    }

    /// The body of an admin path, whatever the status.
    pub(crate) async fn admin(&self, path: &str) -> Result<String> {
        Ok(self.http.get(format!("{}{path}", self.endpoints.admin)).send().await?.text().await?)
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Process id of the engine child, once it runs.
    pub(crate) fn engine_id(&self) -> Option<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.id());
        // Children are listed per thread; the supervisor may run on any.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).ok()?;
        let listed = tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
            .collect::<String>();
        let listed = if listed.is_empty() { std::fs::read_to_string(children).ok()? } else { listed };
        listed.split_whitespace().next()?.parse().ok()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for a proper end.
    pub(crate) async fn terminate(mut self) -> Result<ExitStatus> {
        let id =
            rustix::process::Pid::from_raw(i32::try_from(self.id())?).context("a process id is positive")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the data plane does not end on SIGTERM");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is fine; a test that failed half-way must not leave a process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until `look` has an answer.
pub(crate) async fn wait_for<T, F>(what: &str, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + PATIENCE;
    let mut last = String::from("not yet");
    while Instant::now() < deadline {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => last = format!("{error:#}"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    bail!("waited {} s for {what}; last: {last}", PATIENCE.as_secs())
}

/// One plain event with this id.
pub(crate) fn event(id: uuid::Uuid) -> Value {
    json!({"event_id": id, "event_type": "page_view", "user_id": format!("user-{}", id.as_u128() % 97), "event_data": {"path": "/"}})
}

/// The data plane's binary, built beside the tests.
pub(crate) fn binary() -> Result<PathBuf> {
    let path = built("millrace-dataplane")?;
    Ok(path)
}

/// A file that cargo built beside the tests.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let profile = tests.parent().and_then(Path::parent).context("tests lie in <profile>/deps")?;
    let path = profile.join(name);
    ensure!(path.exists(), "`{}` is missing; `scripts/test all` builds it", path.display());
    Ok(path)
}
