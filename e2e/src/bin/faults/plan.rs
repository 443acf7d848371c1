//! A seed in, everything that happens in its run out. Pure: the same seed gives the same run.

use std::time::Duration;

use clap::ValueEnum;
use millrace_dataplane::failpoint::{Defect, Point};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::proxy::Fault;

/// Seeds after which the kinds of runs come again: two failpoints, then a trouble or a defect.
const CYCLE: u64 = 3;
/// Every so many cycles the last run of a cycle has a defect, so that the short form in `make test` has all of them, and
/// all failpoints.
const DEFECT_EVERY: u64 = 3;

/// How long brokers are away at least, beyond the time their restart takes.
const AWAY: Duration = Duration::from_millis(500);
/// One outage of so many lasts for minutes.
const LONG_OUTAGE_ONE_OF: u32 = 8;
/// How far a clock is set from the true time, at most. For the ledger's fast minutes it is 25 of them; each has to be over
/// by every clock before a run can end.
const JUMP_MS_MAX: i64 = 5_000;

/// Seeds that failed once, and why: all brokers killed and revived, after which a client of librdkafka went on without the
/// leader it had heard of; a client that sent a lost event again, so that the loss to be caught was none.
pub(crate) const FAILED_ONCE: [(u64, Stage); 3] =
    [(233, Stage::Roles), (242, Stage::Roles), (1262, Stage::Embedded)];

/// Which processes take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// `standalone` on its embedded log.
    Embedded,
    /// `ingest` and two `worker`s on three Kafka brokers.
    Roles,
}

/// A process of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Takes events; on the embedded stage the one process there is.
    Ingest,
    /// The first worker; likewise.
    Worker,
}

/// What happens to the world at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// SIGKILL; the process comes back at once.
    Kill(Target),
    /// SIGSTOP for so long, past the session time-out or not.
    Stop(Target, Duration),
    /// A second worker comes and goes so often.
    Rebalance(u32),
    /// One broker is killed and comes back.
    Broker(u32),
    /// All brokers are killed and come back after so long.
    Brokers(Duration),
    /// Every partition, those of groups and transactions among them, may get another leader; no broker ends.
    Leaders(u64),
    /// The engine is killed and comes back.
    Engine,
    /// The engine stands still for so long.
    SlowEngine(Duration),
    /// These inserts go wrong.
    Inserts(Vec<Fault>),
    /// Another configuration comes into force.
    Reload,
    /// fsync below the data directory is late by so much.
    SlowFsync(Duration),
    /// fsync below the data directory of what takes events fails, with all brokers away where there are some; then the
    /// process is killed, as who runs it would do.
    FailingFsync,
    /// The disk below a data directory takes nothing for a while. What takes events has all brokers away meanwhile, where
    /// there are some; the embedded log is then killed, as who runs it would do.
    FullDisk(Target),
    /// The wall clock of a process is set to another time, milliseconds from the true one, so often.
    Clock(Target, Vec<i64>),
}

/// How many clients send what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Clients at a time.
    pub(crate) senders: u64,
    /// Requests of each.
    pub(crate) requests: u64,
    /// Events of a request.
    pub(crate) batch: usize,
    /// Percent of requests sent once more after all others, in another order.
    pub(crate) again_percent: u32,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) stage: Stage,
    pub(crate) load: Load,
    /// Failpoints of the first, second … life of a process.
    pub(crate) lives: Option<(Target, Vec<String>)>,
    /// What happens once so many requests were answered.
    pub(crate) troubles: Vec<(u64, Trouble)>,
    pub(crate) defect: Option<Defect>,
    /// How long a process that a failpoint stopped stands still.
    pub(crate) pause: Duration,
}

/// The run of a seed, on the stage asked for where the fault exists there.
pub(crate) fn plan(seed: u64, stage: Option<Stage>) -> Plan {
    let mut random = SmallRng::seed_from_u64(seed);
    let load = Load {
        senders: random.random_range(1..=4),
        requests: random.random_range(4..=25),
        batch: random.random_range(1..=40),
        again_percent: random.random_range(0..=40),
    };
    let any = if random.random() { Stage::Embedded } else { Stage::Roles };
    let mut plan = Plan {
        seed,
        stage: stage.unwrap_or(any),
        load,
        lives: None,
        troubles: Vec::new(),
        defect: None,
        pause: Duration::from_millis(random.random_range(100..5_000)),
    };
    let (cycle, place) = (seed / CYCLE, seed % CYCLE);
    match place {
        0 | 1 => at_point(&mut plan, cycle * 2 + place, &mut random),
        _ if cycle.is_multiple_of(DEFECT_EVERY) => with_defect(&mut plan, cycle / DEFECT_EVERY),
        _ => in_trouble(&mut plan, &mut random),
    }
    plan
}

/// Every point in turn, so that as many runs as there are points reach all of them; each time around with another
/// action.
fn at_point(plan: &mut Plan, turn: u64, random: &mut SmallRng) {
    let points = Point::value_variants();
    let count = points.len() as u64;
    let point = points[(turn % count) as usize];
    let (stage, target) = home(point);
    plan.stage = stage.unwrap_or(plan.stage);
    let delay = format!("delay({})", random.random_range(1..800));
    let action = ["abort", "abort", "error", "pause", &delay][(turn / count % 5) as usize];
    // The first visits come in every run; later ones only where there is load enough.
    let visit: u32 = if turn / count == 0 { 1 } else { random.random_range(1..=3) };
    let name = point.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let own = format!("{name}={action}@{visit}");
    // A block is only found where one was left.
    let left = ["load-intended=abort", "load-inserted=abort"][random.random_range(0..2)];
    let lives = match point {
        Point::LoadFound | Point::LoadRepeated | Point::LoadFinished => {
            vec![left.to_owned(), format!("{name}={action}")]
        }
        _ => vec![own],
    };
    plan.lives = Some((target, lives));
    if matches!(point, Point::EmbeddedPlanned | Point::EmbeddedSynced) && action == "error" {
        // It takes nothing more until somebody starts it again.
        plan.troubles.push((0, Trouble::Kill(target)));
    }
    if is_of_the_spill(point) {
        plan.troubles.push((0, Trouble::Brokers(AWAY)));
    }
}

/// Whether a point is only reached while the brokers are away.
fn is_of_the_spill(point: Point) -> bool {
    matches!(point, Point::SpillGrouped | Point::SpillSynced | Point::SpillReplayed | Point::SpillRemoved)
}

/// Where a point is: on which stage, if not on both, and in which process.
fn home(point: Point) -> (Option<Stage>, Target) {
    match point {
        Point::EmbeddedPlanned | Point::EmbeddedSynced => (Some(Stage::Embedded), Target::Ingest),
        Point::SpillGrouped | Point::SpillSynced | Point::SpillReplayed | Point::SpillRemoved => {
            (Some(Stage::Roles), Target::Ingest)
        }
        Point::TransactionBegun
        | Point::TransactionRecords
        | Point::TransactionPositions
        | Point::TransactionCommitted => (Some(Stage::Roles), Target::Worker),
        Point::IngestAdmitted | Point::IngestAppended => (None, Target::Ingest),
        Point::ProcessAssigned
        | Point::ProcessRestored
        | Point::ProcessDecided
        | Point::ProcessCommitted
        | Point::ProcessApplied
        | Point::LoadAssigned
        | Point::LoadCut
        | Point::LoadIntended
        | Point::LoadInserted
        | Point::LoadCommitted
        | Point::LoadFound
        | Point::LoadRepeated
        | Point::LoadFinished => (None, Target::Worker),
    }
}

fn in_trouble(plan: &mut Plan, random: &mut SmallRng) {
    let requests = plan.load.senders * plan.load.requests;
    for _ in 0..random.random_range(1..=2) {
        let moment = random.random_range(0..requests);
        plan.troubles.push((moment, trouble(plan.stage, random)));
    }
    plan.troubles.sort_by_key(|(moment, _)| *moment);
}

fn trouble(stage: Stage, random: &mut SmallRng) -> Trouble {
    let target = if random.random() { Target::Ingest } else { Target::Worker };
    let while_ms = |random: &mut SmallRng, max| Duration::from_millis(random.random_range(50..max));
    let everywhere = 8;
    let own = match stage {
        Stage::Embedded => 2,
        Stage::Roles => 5,
    };
    match (random.random_range(0..everywhere + own), stage) {
        (0, _) => Trouble::Kill(target),
        (1, _) => Trouble::Stop(target, while_ms(random, 6_000)),
        (2, _) => Trouble::Engine,
        (3, _) => Trouble::SlowEngine(while_ms(random, 3_000)),
        (4, _) => Trouble::Inserts((0..random.random_range(1..=5)).map(|_| insert_fault(random)).collect()),
        (5, _) => Trouble::Reload,
        (6, _) => Trouble::FullDisk(target),
        (7, _) => {
            let jumps = 0..random.random_range(1..=4);
            Trouble::Clock(target, jumps.map(|_| random.random_range(-JUMP_MS_MAX..JUMP_MS_MAX)).collect())
        }
        (8, Stage::Embedded) => Trouble::SlowFsync(while_ms(random, 1_000)),
        (_, Stage::Embedded) => Trouble::FailingFsync,
        (8, Stage::Roles) => Trouble::Rebalance(random.random_range(1..=3)),
        (9, Stage::Roles) => Trouble::Broker(random.random_range(1..=3)),
        (10, Stage::Roles) => Trouble::FailingFsync,
        (11, Stage::Roles) => Trouble::Leaders(random.random()),
        (_, Stage::Roles) => Trouble::Brokers(outage(random)),
    }
}

/// Mostly short; now and then minutes, longer than any time-out of a client.
fn outage(random: &mut SmallRng) -> Duration {
    match random.random_range(0..LONG_OUTAGE_ONE_OF) {
        0 => Duration::from_secs(random.random_range(60..180)),
        _ => AWAY,
    }
}

fn insert_fault(random: &mut SmallRng) -> Fault {
    [Fault::LoseAnswer, Fault::CutBody, Fault::FailAnswer, Fault::Refuse][random.random_range(0..4)]
}

fn with_defect(plan: &mut Plan, turn: u64) {
    let defects = Defect::value_variants();
    let defect = defects[(turn % defects.len() as u64) as usize];
    plan.defect = Some(defect);
    match defect {
        // It shows only where something comes again.
        Defect::ProcessForgetsSeen => plan.load.again_percent = 100,
        // A client that sends the same once more makes the loss good.
        Defect::IngestLosesEvent => plan.load.again_percent = 0,
        Defect::ProcessLosesRecord | Defect::LoadLosesRow | Defect::LoadDoublesBlock => {}
    }
}

impl Trouble {
    /// Whether it comes by what stands before the disk and the clock of a process.
    pub(crate) fn is_steered(&self) -> bool {
        matches!(self, Self::SlowFsync(_) | Self::FailingFsync | Self::FullDisk(_) | Self::Clock(..))
    }
}

impl Plan {
    /// The text of the setting that gives the process its defect.
    pub(crate) fn defect_setting(&self) -> String {
        let Some(defect) = self.defect else { return String::new() };
        let name = defect.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        if defect == Defect::ProcessForgetsSeen { format!("{name}@1+") } else { name }
    }

    /// Which process has it.
    pub(crate) fn defect_target(&self) -> Option<Target> {
        self.defect.map(|defect| match defect {
            Defect::IngestLosesEvent => Target::Ingest,
            Defect::ProcessLosesRecord
            | Defect::ProcessForgetsSeen
            | Defect::LoadLosesRow
            | Defect::LoadDoublesBlock => Target::Worker,
        })
    }
}
