//! An operator in a process of its own, so that its memory is its own: started, asked, measured, killed.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Longest wait for an answer: a resync of everything on a slow machine.
const ANSWER_MAX: Duration = Duration::from_secs(600);

/// A running operator; dropping it ends it.
pub(crate) struct Started {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    name: String,
}

/// Memory of a process.
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident_mib: f64,
    /// Resident at most, ever.
    pub(crate) peak_mib: f64,
}

impl Started {
    /// Starts one that logs into this folder.
    pub(crate) fn new(name: &str, logs: &Path) -> Result<Self> {
        let log = File::create(logs.join(format!("operator-{name}.log")))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["operator-process", "--identity", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start an operator")?;
        let commands = child.stdin.take().context("its standard input")?;
        let answers = BufReader::new(child.stdout.take().context("its standard output")?).lines();
        Ok(Self { child, commands, answers, name: name.to_owned() })
    }

    /// Waits until it says this.
    pub(crate) async fn wait_for(&mut self, word: &str) -> Result<Value> {
        let waited = timeout(ANSWER_MAX, async {
            loop {
                let line = self.answers.next_line().await?;
                let line = line.with_context(|| format!("the {} operator ended; see its log", self.name))?;
                let said: Value = serde_json::from_str(&line)?;
                if said["said"] == word {
                    return Ok(said);
                }
            }
        });
        waited.await.with_context(|| format!("the {} operator never said `{word}`", self.name))?
    }

    /// Tells it to do something and waits until it is done.
    pub(crate) async fn ask(&mut self, command: &str) -> Result<Value> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        self.wait_for(command).await
    }

    /// Ends it without a warning.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.start_kill().context("kill an operator")
    }

    /// Its memory, as the kernel counts it.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let id = self.child.id().context("the operator ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let mib = |field: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kib = line.with_context(|| format!("no {field}"))?.trim().trim_end_matches(" kB");
            Ok(kib.parse::<f64>()? / 1024.0)
        };
        let memory = Memory { resident_mib: mib("VmRSS:")?, peak_mib: mib("VmHWM:")? };
        ensure!(memory.resident_mib > 0.0, "the operator ended");
        Ok(memory)
    }
}
