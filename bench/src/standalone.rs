//! Starts the release binary without ClickHouse, again and again, and prints how long it takes until it accepts events
//! and how much memory it holds when idle. Figures are printed, never asserted: machines differ.

use std::time::Duration;

use anyhow::Result;

use crate::dataplane::{DataPlane, binary};

/// Starts counted, after one that is not.
const RUNS: usize = 10;
/// How long a process rests before its memory is read.
const REST: Duration = Duration::from_secs(3);
const MANIFEST: &str = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: idle}\nspec: {}\n";
/// Goals of the first release, printed beside the figures.
const START_GOAL_MS: f64 = 300.0;
const MEMORY_GOAL_MIB: f64 = 64.0;

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    let mut starts = Vec::new();
    let mut memory = Vec::new();
    for run in 0..=RUNS {
        let folder = tempfile::tempdir()?;
        // Nothing answers there: ClickHouse is away for the whole run.
        let away = ["--clickhouse-url", "http://127.0.0.1:9"];
        let started = DataPlane::start(folder.path(), MANIFEST, &away)?;
        if run > 0 {
            starts.push(started.took.as_secs_f64() * 1000.0);
        }
        if run == RUNS {
            std::thread::sleep(REST);
            memory.push(started.resident_mib()?);
        }
    }
    println!("standalone without ClickHouse, {RUNS} starts of {}", binary()?.display());
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
