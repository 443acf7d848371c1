//! A whole data plane as a process: started with one App on ports that are free, ended with the measurement.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use millrace_dataplane::standalone::announce::Endpoints;

/// Longest wait for a start.
const START_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether it has started: how coarse the time of a start is.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// The running process.
pub(crate) struct DataPlane {
    running: Running,
    /// Where it listens.
    pub(crate) endpoints: Endpoints,
    /// From its start until it accepted events.
    pub(crate) took: Duration,
}

impl DataPlane {
    /// Starts `standalone` on a manifest, with its data below the folder, and waits until it accepts events.
    pub(crate) fn start(folder: &Path, manifest: &str, arguments: &[&str]) -> Result<Self> {
        let file = folder.join("app.yaml");
        std::fs::write(&file, manifest)?;
        let data = folder.join("data");
        let listeners = ["--ingest-listen", "--gateway-listen", "--admin-listen"];
        let started = Instant::now();
        let child = Command::new(binary()?)
            .arg("standalone")
            .arg(&file)
            .arg("--data-dir")
            .arg(&data)
            .args(listeners.into_iter().flat_map(|listener| [listener, "127.0.0.1:0"]))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the data plane")?;
        let mut running = Running(child);
        let endpoints = accepting(&mut running, &data.join("endpoints.json"), started)?;
        Ok(Self { running, endpoints, took: started.elapsed() })
    }

    /// What it holds in memory.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

/// Killed when dropped, also when it did not start.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where it listens, once it accepts events.
fn accepting(running: &mut Running, announced: &Path, started: Instant) -> Result<Endpoints> {
    while started.elapsed() < START_MAX {
        if let Some(status) = running.0.try_wait()? {
            bail!("the data plane ended with {status}");
        }
        if let Ok(endpoints) = Endpoints::read(announced)
            && is_healthy(endpoints.ingest.trim_start_matches("http://"))
        {
            return Ok(endpoints);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    bail!("the data plane did not start within {} s", START_MAX.as_secs())
}

fn is_healthy(address: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// The program, built beside this one with the same profile.
pub(crate) fn binary() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("millrace-dataplane");
    ensure!(path.exists(), "`{}` is missing; `make bench` builds it", path.display());
    Ok(path)
}
