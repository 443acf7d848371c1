//! A broker and an ingest as processes: started, asked, and ended with the measurement.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// One real broker, on a port that is free.
pub(super) struct Broker {
    pub(super) address: String,
    folder: tempfile::TempDir,
}

impl Broker {
    pub(super) fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let output = Command::new(script()).arg("start").arg(folder.path()).arg("0").output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { address: String::from_utf8(output.stdout)?.trim().to_owned(), folder })
    }

    pub(super) fn kill(&self) -> Result<()> {
        let output = Command::new(script()).arg("kill").arg(self.folder.path()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("a broker is left behind: {error:#}");
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/cluster/kafka")
}

/// Ingest.
pub(super) struct Ingest {
    pub(super) address: String,
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Memory of a process.
pub(super) struct Memory {
    pub(super) resident_mib: f64,
    pub(super) peak_mib: f64,
}

impl Ingest {
    pub(super) fn start(brokers: &str, queue_bytes_max: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["ingest-process", "--brokers", brokers])
            .args(["--queue-bytes-max", &queue_bytes_max.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start ingest")?;
        let asks = child.stdin.take().context("its standard input")?;
        let answers = BufReader::new(child.stdout.take().context("its standard output")?);
        let mut ingest = Self { address: String::new(), child, asks, answers };
        ingest.address = ingest.line()?;
        Ok(ingest)
    }

    /// What waits for Kafka, by its own count.
    pub(super) fn queue_bytes(&mut self) -> Result<u64> {
        writeln!(self.asks, "queue")?;
        Ok(self.line()?.parse()?)
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let mib = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
            Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
        };
        Ok(Memory { resident_mib: mib("VmRSS:")?, peak_mib: mib("VmHWM:")? })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "ingest ended");
        Ok(line.trim().to_owned())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
