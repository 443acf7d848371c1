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

/// What a process takes.
pub(crate) struct Usage {
    /// Resident now.
    pub(crate) resident_mib: f64,
    /// Resident at most, ever.
    pub(crate) peak_mib: f64,
    /// Time on a processor so far.
    pub(crate) processor_s: f64,
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

    /// What it takes, as the kernel counts it.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let id = self.child.id().context("the operator ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let mib = |field: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kib = line.with_context(|| format!("no {field}"))?.trim().trim_end_matches(" kB");
            Ok(kib.parse::<f64>()? / 1024.0)
        };
        let usage = Usage {
            resident_mib: mib("VmRSS:")?,
            peak_mib: mib("VmHWM:")?,
            processor_s: processor_s(&std::fs::read_to_string(format!("/proc/{id}/stat"))?)
                .context("its time on a processor")?,
        };
        ensure!(usage.resident_mib > 0.0, "the operator ended");
        Ok(usage)
    }
}

/// Fields 14 and 15 of `/proc/ID/stat`, in ticks of which Linux shows a hundred a second. Field 2, the name, may have
/// spaces and ends with a bracket.
fn processor_s(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / 100.0)
}
