//! Visits of points in, what the settings say happens at them out. The one place with a global: a point is a line in
//! the middle of a protocol, and handing it a registry through every type would change what is under test.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::{Signal, getpid, kill_process};

use super::clock::Clock;
use super::plan::{Action, Defects, Points};
use super::{Defect, Point};
use crate::log::LogError;

/// What happens at which point; for tests.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Faults (this build only)")]
pub struct Args {
    /// `POINT=abort|error|delay(MS)|pause[@N[+]]`, separated by `;`: at the N-th visit, with `+` at all later ones too.
    #[arg(long, global = true, env = "MILLRACE_FAILPOINTS", value_name = "POINTS", default_value = "")]
    failpoints: Points,
    /// `DEFECT[@N[+]]`, separated by `;`.
    #[arg(long, global = true, env = "MILLRACE_DEFECTS", value_name = "DEFECTS", default_value = "")]
    defects: Defects,
    /// `ORIGIN_MSxRATE[+AHEAD_MS]`: the clock by which ingest and the ledger tell minutes.
    #[arg(long, global = true, env = "MILLRACE_CLOCK", value_name = "CLOCK", default_value = "0x1")]
    clock: Clock,
    /// Gets a line for every point and defect that took effect, before it does.
    #[arg(long, global = true, env = "MILLRACE_FAILPOINTS_LOG", value_name = "FILE")]
    failpoints_log: Option<PathBuf>,
}

struct Registry {
    args: Args,
    points: BTreeMap<Point, AtomicU64>,
    defects: BTreeMap<Defect, AtomicU64>,
}

static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Takes effect for the rest of the process; only the first call does.
pub fn install(args: Args) {
    let points = args.failpoints.0.keys().map(|point| (*point, AtomicU64::new(0))).collect();
    let defects = args.defects.0.keys().map(|defect| (*defect, AtomicU64::new(0))).collect();
    REGISTRY.get_or_init(|| Registry { args, points, defects });
}

pub(super) async fn reach(point: Point) -> Result<(), LogError> {
    match action(point) {
        Some(Action::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            Ok(())
        }
        Some(action) => act(point, action),
        None => Ok(()),
    }
}

pub(super) fn reach_blocking(point: Point) -> Result<(), LogError> {
    match action(point) {
        Some(action) => act(point, action),
        None => Ok(()),
    }
}

pub(super) fn has(defect: Defect) -> bool {
    let Some(registry) = REGISTRY.get() else { return false };
    let Some((visits, seen)) = registry.args.defects.0.get(&defect).zip(registry.defects.get(&defect)) else {
        return false;
    };
    let has = visits.include(seen.fetch_add(1, Ordering::Relaxed) + 1);
    if has {
        registry.note(&name(&defect));
    }
    has
}

pub(super) fn clock() -> Clock {
    REGISTRY.get().map(|registry| registry.args.clock).unwrap_or_default()
}

fn action(point: Point) -> Option<Action> {
    let registry = REGISTRY.get()?;
    let (action, visits) = registry.args.failpoints.0.get(&point)?;
    let visit = registry.points.get(&point)?.fetch_add(1, Ordering::Relaxed) + 1;
    visits.include(visit).then(|| {
        registry.note(&name(&point));
        *action
    })
}

fn act(point: Point, action: Action) -> Result<(), LogError> {
    match action {
        Action::Abort => {
            signal(Signal::KILL);
            // The signal is on its way; nothing may happen any more.
            loop {
                std::thread::park();
            }
        }
        Action::Pause => signal(Signal::STOP),
        Action::Delay(delay) => std::thread::sleep(delay),
        Action::Error => return Err(refused(point)),
    }
    Ok(())
}

fn refused(point: Point) -> LogError {
    let source = std::io::Error::other(format!("failpoint `{}`", name(&point)));
    LogError::Unavailable { step: "go on", source: std::sync::Arc::new(source) }
}

fn signal(signal: Signal) {
    if let Err(error) = kill_process(getpid(), signal) {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a failpoint cannot signal its own process"
        );
    }
    // A stop takes effect on all threads a moment after the call.
    std::thread::sleep(Duration::from_millis(1));
}

fn name(of: &impl ValueEnum) -> String {
    of.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl Registry {
    fn note(&self, name: &str) {
        let Some(path) = &self.args.failpoints_log else { return };
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()));
        if let Err(error) = written {
            tracing::error!(error = &error as &dyn std::error::Error, "a failpoint cannot be noted");
        }
    }
}
