//! Starts the release binary without ClickHouse, again and again, and prints how long it takes until it accepts events
//! and how much memory it holds when idle. Figures are printed, never asserted: machines differ.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millrace_dataplane::standalone::announce::Endpoints;

/// Starts counted, after one that is not.
const RUNS: usize = 10;
/// How long a process rests before its memory is read.
const REST: Duration = Duration::from_secs(3);
/// Longest wait for a start.
const START_MAX: Duration = Duration::from_secs(30);
/// Goals of the first release, printed beside the figures.
const START_GOAL_MS: f64 = 300.0;
const MEMORY_GOAL_MIB: f64 = 64.0;

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    let binary = binary()?;
    let mut starts = Vec::new();
    let mut memory = Vec::new();
    for run in 0..=RUNS {
        let folder = tempfile::tempdir()?;
        let (start, resident) = measure(&binary, folder.path(), run == RUNS)?;
        if run > 0 {
            starts.push(start.as_secs_f64() * 1000.0);
        }
        memory.extend(resident);
    }
    println!("standalone without ClickHouse, {RUNS} starts of {}", binary.display());
    println!("{:<28}{:>9}{:>9}{:>9}{:>9}", "", "min", "median", "max", "goal");
    print_row("exec to accepting, ms", &mut starts, START_GOAL_MS);
    print_row("resident when idle, MiB", &mut memory, MEMORY_GOAL_MIB);
    Ok(())
}

fn print_row(name: &str, figures: &mut [f64], goal: f64) {
    figures.sort_by(f64::total_cmp);
    let (Some(min), Some(max)) = (figures.first(), figures.last()) else { return };
    let median = figures[figures.len() / 2];
    println!("{name:<28}{min:>9.1}{median:>9.1}{max:>9.1}{:>9}", format!("< {goal}"));
}

/// One start; the resident memory too where asked for.
fn measure(binary: &Path, folder: &Path, with_memory: bool) -> Result<(Duration, Option<f64>)> {
    let manifest = folder.join("app.yaml");
    std::fs::write(
        &manifest,
        "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: idle}\nspec: {}\n",
    )?;
    let data = folder.join("data");
    let started = Instant::now();
    let child = Command::new(binary)
        .arg("standalone")
        .arg(&manifest)
        .arg("--data-dir")
        .arg(&data)
        // Nothing answers there: ClickHouse is away for the whole run.
        .args(["--clickhouse-url", "http://127.0.0.1:9"])
        .args([
            "--ingest-listen",
            "127.0.0.1:0",
            "--gateway-listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start the data plane")?;
    let mut running = Running(child);
    let took = wait_until_accepting(&mut running, &data.join("endpoints.json"), started)?;
    if !with_memory {
        return Ok((took, None));
    }
    std::thread::sleep(REST);
    Ok((took, Some(resident_mib(running.0.id())?)))
}

/// A process that ends with the measurement.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn wait_until_accepting(
    running: &mut Running,
    endpoints: &Path,
    started: Instant,
) -> Result<Duration> {
    while started.elapsed() < START_MAX {
        if let Some(status) = running.0.try_wait()? {
            bail!("the data plane ended with {status}");
        }
        if let Ok(endpoints) = Endpoints::read(endpoints)
            && healthy(endpoints.ingest.trim_start_matches("http://"))
        {
            return Ok(started.elapsed());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    bail!("the data plane did not start within {} s", START_MAX.as_secs())
}

fn healthy(address: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

fn resident_mib(id: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// The data plane, built beside this program with the same profile.
pub(crate) fn binary() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("millrace-dataplane");
    ensure!(path.exists(), "`{}` is missing; `make bench` builds it", path.display());
    Ok(path)
}
