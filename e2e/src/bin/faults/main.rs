//! The fault suite: seeds in, one run of the real processes each, and a line that says what was lost, stored twice or
//! not noticed. Engine and brokers stay up between runs. `make faults RUNS=n` builds and starts it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

#[path = "../../../../dataplane/tests/cluster/api.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "shared with a test that needs more of it")]
mod api;
mod configured;
mod driver;
mod ledger;
mod plan;
#[path = "../../../../dataplane/tests/load/proxy.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "shared with a test that needs more of it")]
mod proxy;
mod role;
mod stage;
mod verify;
mod world;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use millrace_dataplane::failpoint::Point;
use millrace_dataplane::tasks::stop_on_signal;

use crate::driver::Driver;
use crate::ledger::Ledger;
use crate::plan::{FAILED_ONCE, Plan, Stage, plan};
use crate::stage::Cast;
use crate::verify::{Findings, Tables};
use crate::world::World;

/// Events at the end of a run: enough that, but once in 10⁹ runs, one goes each way from a partition of raw to one
/// of processed.
const CLOSING_EVENTS: usize = 128;

/// After how many runs a long one says how it stands where nobody sees a progress bar.
const TOLD_EVERY: u64 = 50;

/// Runs the real processes under seeded faults and compares what was acknowledged with what is stored.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Runs on this stage only, where the fault exists there.
    #[arg(long, value_enum)]
    stage: Option<Stage>,
    /// Runs the seeds that failed once instead, each on the stage on which it did.
    #[arg(long, conflicts_with_all = ["runs", "seed", "stage"])]
    failed_once: bool,
    /// Says what each seed does.
    #[arg(long)]
    verbose: bool,
}

impl Args {
    /// The seeds to run, and on which stage if not on their own.
    fn seeds(&self) -> Vec<(u64, Option<Stage>)> {
        if self.failed_once {
            return FAILED_ONCE.map(|(seed, stage)| (seed, Some(stage))).to_vec();
        }
        (self.seed..self.seed + self.runs).map(|seed| (seed, self.stage)).collect()
    }
}

/// What all runs came to.
#[derive(Default)]
struct Tally {
    runs: u64,
    events: u64,
    points: BTreeSet<String>,
    lost: u64,
    duplicated: u64,
    false_alarms: u64,
    injected: u64,
    uncaught: u64,
    failed: Vec<u64>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok()
        .context("a TLS provider is there already")?;
    let mut world = World::start().await?;
    let mut tally = Tally::default();
    let stop = stop_on_signal()?;
    let seeds = args.seeds();
    let bar = ProgressBar::new(seeds.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} seed {msg}")?);
    for (seed, stage) in seeds {
        bar.set_message(seed.to_string());
        let plan = plan(seed, stage);
        if args.verbose {
            bar.suspend(|| eprintln!("{plan:?}"));
        }
        let folder = world.folder().join(format!("run-{seed}"));
        let Some(ended) = stop.run_until_cancelled(run(&mut world, &plan, &folder)).await else { break };
        let is_good = tally.add(&plan, &folder, ended, &bar);
        if is_good {
            std::fs::remove_dir_all(&folder).context("remove the folder of a run")?;
        }
        bar.inc(1);
        let is_last = bar.length() == Some(tally.runs);
        if bar.is_hidden() && !is_last && tally.runs.is_multiple_of(TOLD_EVERY) {
            eprintln!("{}", tally.line());
        }
    }
    bar.finish_and_clear();
    world.end(!tally.failed.is_empty()).await?;
    println!("{}", tally.line());
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One run, from an App that is new to what its tables say in the end.
async fn run(world: &mut World, plan: &Plan, folder: &Path) -> Result<Findings> {
    if plan.stage == Stage::Roles {
        world.start_kafka().await?;
    }
    let database = configured::database(plan.seed);
    let tables = Tables::new(world.engine_url(), &database)?;
    let mut cast = Cast::start(world, plan, folder).await?;
    let driver = Driver::new(cast.ingest_url.clone(), configured::KEY)?;
    let ledger = Ledger::new(world.engine_url(), &database, &cast.admin_url)?;
    let outcome = play(world, &mut cast, &driver, &tables, &ledger).await;
    cast.end().await?;
    let findings = outcome?;
    tables.drop().await?;
    Ok(findings)
}

async fn play(
    world: &World,
    cast: &mut Cast,
    driver: &Arc<Driver>,
    tables: &Tables,
    ledger: &Ledger,
) -> Result<Findings> {
    let plan = cast.plan.clone();
    let sending = tokio::spawn(Arc::clone(driver).run(plan.seed, plan.load));
    for (moment, trouble) in &plan.troubles {
        while driver.answered() < *moment && !sending.is_finished() {
            tokio::time::sleep(role::LOOK).await;
        }
        cast.suffer(world, trouble).await.with_context(|| format!("{trouble:?}"))?;
    }
    sending.await??;
    let last = driver.close(plan.seed, CLOSING_EVENTS).await?;
    let stored = tables.until_stored(&last).await;
    let (acknowledged, sent) = driver.books(|books| (books.acknowledged.clone(), books.sent.clone()));
    let mut findings = tables.compare(&acknowledged, &sent, ledger).await?;
    if let Err(stuck) = stored {
        findings.wrong.push(format!("{stuck:#}"));
    }
    Ok(findings)
}

impl Tally {
    /// Counts a run in; whether it went as it should.
    fn add(&mut self, plan: &Plan, folder: &Path, ended: Result<Findings>, bar: &ProgressBar) -> bool {
        self.runs += 1;
        let fired = std::fs::read_to_string(folder.join("failpoints")).unwrap_or_default();
        let fired = fired.lines().map(ToOwned::to_owned).collect::<BTreeSet<_>>();
        let is_point = |name: &String| Point::from_str(name, false).is_ok();
        self.points.extend(fired.iter().filter(|name| is_point(name)).cloned());
        let has_defect = plan.defect.is_some() && fired.iter().any(|name| !is_point(name));
        let problem = match ended {
            Err(error) => Some(format!("{error:#}")),
            Ok(findings) => {
                self.events += findings.events;
                self.judge(findings, has_defect)
            }
        };
        let Some(problem) = problem else { return true };
        self.failed.push(plan.seed);
        bar.suspend(|| {
            eprintln!("seed {} failed: {problem}\n  {plan:?}\n  logs: {}", plan.seed, folder.display());
        });
        false
    }

    fn judge(&mut self, findings: Findings, has_defect: bool) -> Option<String> {
        if has_defect {
            self.injected += 1;
            let problem = match (findings.told.standing, findings.is_clean()) {
                (0, _) => "the ledger did not tell of a defect",
                (1.., true) => "a defect had no effect that the clients see",
                (1.., false) => return None,
            };
            self.uncaught += 1;
            return Some(problem.to_owned());
        }
        self.lost += findings.lost.len() as u64;
        self.duplicated += findings.duplicated;
        self.false_alarms += findings.told.alarms();
        let is_good = findings.is_clean() && findings.told.alarms() == 0 && findings.told.wrong.is_empty();
        (!is_good).then(|| {
            let Findings { lost, duplicated, told, wrong, .. } = findings;
            let example = lost.first().map(|id| format!(" (one is {id})")).unwrap_or_default();
            let (lost, alarms) = (lost.len(), told.alarms());
            let wrong = [wrong, told.wrong].concat().join("; ");
            format!("lost {lost}{example}, duplicated {duplicated}, alarms {alarms}; {wrong}")
        })
    }

    fn line(&self) -> String {
        let Self { runs, events, points, lost, duplicated, false_alarms, injected, uncaught, failed } = self;
        let failures = if failed.is_empty() { String::new() } else { format!("failed seeds {failed:?}\n") };
        format!(
            "{failures}runs {runs} events {events} failpoints {} of {} lost {lost} duplicated {duplicated} \
             false-alarms {false_alarms} injected {injected} uncaught {uncaught}",
            points.len(),
            Point::value_variants().len()
        )
    }
}
