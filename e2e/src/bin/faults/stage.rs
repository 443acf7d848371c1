//! The processes of one run: started as they are deployed, kept running, hit by its troubles, ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::process::Command;

use crate::configured::Configured;
use crate::ledger;
use crate::plan::{Plan, Stage, Target, Trouble};
use crate::proxy::Proxy;
use crate::role::Role;
use crate::world::{World, free_port, to_log};

/// Session time-out of the workers: short, so that a process can be stopped beyond it within a run of seconds.
const SESSION_S: &str = "2";
/// An address that nobody needs to know.
const ANY_PORT: &str = "127.0.0.1:0";
/// How long a second worker stays.
const GUEST_STAYS: Duration = Duration::from_millis(1_500);
/// Time in which ingest gives the brokers up and spills.
const UNTIL_SPILLED: Duration = Duration::from_secs(4);
/// How long a broker is away beyond the time its restart takes, and a disk or a clock is not what it should be.
const AWAY: Duration = Duration::from_millis(500);

/// The running processes.
pub(crate) struct Cast {
    pub(crate) plan: Plan,
    folder: PathBuf,
    world_programs: BTreeMap<&'static str, PathBuf>,
    environment: Vec<(String, String)>,
    configured: Configured,
    first: Role,
    worker: Option<Role>,
    /// Where events go in.
    pub(crate) ingest_url: String,
    /// Where the worker, or the one process there is, tells its metrics.
    pub(crate) admin_url: String,
    _proxy: Proxy,
}

/// How a process is called and what it gets on top of what all get.
#[derive(Clone)]
struct Part {
    name: &'static str,
    target: Option<Target>,
    data: PathBuf,
    arguments: Vec<String>,
}

impl Cast {
    /// Starts everything on an App that nobody had before.
    pub(crate) async fn start(world: &World, plan: &Plan, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let inserts = plan.troubles.iter().filter_map(|(_, trouble)| match trouble {
            Trouble::Inserts(faults) => Some(faults.clone()),
            _ => None,
        });
        let proxy = Proxy::start(world.engine_url(), inserts.flatten()).await;
        let configured = Configured::new(world, plan, folder).await?;
        let ingest = format!("127.0.0.1:{}", free_port()?);
        let admin = format!("127.0.0.1:{}", free_port()?);
        let programs = BTreeMap::from([
            ("dataplane", world.built("millrace-dataplane")),
            ("shim", world.built("libmillrace_fsync_shim.so")),
        ]);
        let clickhouse = ("MILLRACE_CLICKHOUSE_URL".to_owned(), proxy.url.clone());
        let mut environment = vec![clickhouse, ("MILLRACE_CLOCK".to_owned(), ledger::clock())];
        environment.extend(configured.environment());
        let first = match plan.stage {
            Stage::Embedded => standalone(folder, &ingest, &admin),
            Stage::Roles => {
                let listeners = ["--admin-listen", ANY_PORT, "--ingest-listen", ingest.as_str()];
                role(folder, "ingest", Some(Target::Ingest), &listeners)
            }
        };
        let cast = |first, worker| Self {
            plan: plan.clone(),
            folder: folder.to_owned(),
            world_programs: programs.clone(),
            environment: environment.clone(),
            configured,
            first,
            worker,
            ingest_url: format!("http://{ingest}"),
            admin_url: format!("http://{admin}"),
            _proxy: proxy,
        };
        let start = |part: Part| -> Result<Role> {
            let commands = commands(plan, folder, &programs, &environment, part)?;
            Ok(Role::start(commands, plan.pause))
        };
        let worker = match plan.stage {
            Stage::Embedded => None,
            Stage::Roles => Some(start(worker(folder, "worker-0", Some(Target::Worker), &admin))?),
        };
        Ok(cast(start(first)?, worker))
    }

    /// Lets a trouble happen, to its end.
    pub(crate) async fn suffer(&mut self, world: &World, trouble: &Trouble) -> Result<()> {
        match trouble {
            Trouble::Kill(target) => self.role(*target).signal(Signal::KILL),
            Trouble::Stop(target, time) => {
                self.role(*target).signal(Signal::STOP);
                tokio::time::sleep(*time).await;
                self.role(*target).signal(Signal::CONT);
            }
            Trouble::Rebalance(times) => {
                for _ in 0..*times {
                    let commands = commands(
                        &self.plan,
                        &self.folder,
                        &self.world_programs,
                        &self.environment,
                        worker(&self.folder, "worker-1", None, ANY_PORT),
                    )?;
                    let guest = Role::start(commands, self.plan.pause);
                    tokio::time::sleep(GUEST_STAYS).await;
                    guest.end().await?;
                }
            }
            Trouble::Broker(broker) => {
                world.kafka()?.kill(Some(*broker)).await?;
                tokio::time::sleep(AWAY).await;
                world.kafka()?.revive().await?;
            }
            Trouble::Brokers(away) => {
                world.kafka()?.kill(None).await?;
                tokio::time::sleep(*away).await;
                world.kafka()?.revive().await?;
            }
            Trouble::Leaders(seed) => {
                world.kafka()?.move_leaders(&self.configured.partitions(), *seed).await?;
            }
            Trouble::Engine => world.engine().signal(Signal::KILL),
            Trouble::SlowEngine(time) => {
                world.engine().signal(Signal::STOP);
                tokio::time::sleep(*time).await;
                world.engine().signal(Signal::CONT);
            }
            // They wait in the proxy from the start.
            Trouble::Inserts(_) => {}
            Trouble::Reload => self.configured.reload()?,
            Trouble::SlowFsync(time) => {
                self.steer(Target::Ingest, "delay_ms", &time.as_millis().to_string())?;
                tokio::time::sleep(AWAY).await;
                self.leave(Target::Ingest, "delay_ms")?;
            }
            Trouble::FailingFsync => self.fail(world, Target::Ingest, "fail").await?,
            Trouble::FullDisk(target) => self.fail(world, *target, "full").await?,
            Trouble::Clock(target, jumps) => {
                for ahead_ms in jumps {
                    self.steer(*target, "clock_ms", &ahead_ms.to_string())?;
                    tokio::time::sleep(AWAY).await;
                }
            }
        }
        Ok(())
    }

    /// Lets the disk of a process fail. What takes events needs it only while the brokers are away. A log that failed to
    /// write takes nothing more until its process starts again; a disk that was full is nothing a process has to die of
    /// where the log is elsewhere.
    async fn fail(&self, world: &World, target: Target, how: &str) -> Result<()> {
        let is_log = self.plan.stage == Stage::Embedded;
        let brokers = world.kafka().ok().filter(|_| !is_log && target == Target::Ingest);
        if let Some(kafka) = brokers {
            kafka.kill(None).await?;
        }
        self.steer(target, how, "")?;
        tokio::time::sleep(if brokers.is_some() { UNTIL_SPILLED } else { AWAY }).await;
        if is_log || how == "fail" {
            self.role(target).signal(Signal::KILL);
        }
        self.leave(target, how)?;
        if let Some(kafka) = brokers {
            kafka.revive().await?;
        }
        Ok(())
    }

    fn steer(&self, target: Target, file: &str, text: &str) -> Result<()> {
        std::fs::write(self.control(target).join(file), text).context("steer a process")
    }

    fn leave(&self, target: Target, file: &str) -> Result<()> {
        std::fs::remove_file(self.control(target).join(file)).context("steer a process no more")
    }

    fn control(&self, target: Target) -> PathBuf {
        let name = match (self.plan.stage, target) {
            (Stage::Embedded, _) => "standalone",
            (Stage::Roles, Target::Ingest) => "ingest",
            (Stage::Roles, Target::Worker) => "worker-0",
        };
        control(&self.folder, name)
    }

    fn role(&self, target: Target) -> &Role {
        match target {
            Target::Ingest => &self.first,
            Target::Worker => self.worker.as_ref().unwrap_or(&self.first),
        }
    }

    /// Ends every process, and takes away what the run left behind.
    pub(crate) async fn end(self) -> Result<()> {
        self.first.end().await?;
        if let Some(worker) = self.worker {
            worker.end().await?;
        }
        self.configured.end().await
    }
}

fn standalone(folder: &Path, ingest: &str, admin: &str) -> Part {
    let (manifests, data) = (folder.join("manifests"), folder.join("data"));
    let mut arguments =
        ["standalone", &text(&manifests), "--data-dir", &text(&data)].map(ToOwned::to_owned).to_vec();
    let listeners = [("ingest", ingest), ("gateway", ANY_PORT), ("admin", admin)];
    arguments.extend(listeners.iter().flat_map(|(name, at)| [format!("--{name}-listen"), (*at).to_owned()]));
    // All failpoints are in this one process.
    Part { name: "standalone", target: None, data, arguments }
}

fn role(folder: &Path, name: &'static str, target: Option<Target>, more: &[&str]) -> Part {
    let command = name.split('-').next().unwrap_or(name);
    let data = folder.join(name);
    let fixed = [command, "--pod", name, "--data-dir", &text(&data)].map(ToOwned::to_owned);
    let arguments = fixed.into_iter().chain(more.iter().map(|argument| (*argument).to_owned())).collect();
    Part { name, target, data, arguments }
}

fn worker(folder: &Path, name: &'static str, target: Option<Target>, admin: &str) -> Part {
    role(folder, name, target, &["--admin-listen", admin, "--kafka-session-seconds", SESSION_S])
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// From where the disk and the clock of a process are steered.
fn control(folder: &Path, name: &str) -> PathBuf {
    folder.join("control").join(name)
}

/// The command of each life of a process.
fn commands(
    plan: &Plan,
    folder: &Path,
    programs: &BTreeMap<&'static str, PathBuf>,
    environment: &[(String, String)],
    part: Part,
) -> Result<impl Fn(usize) -> Result<Command> + Send + 'static> {
    let is_guest = part.name == "worker-1";
    let meant = move |target: Target| !is_guest && part.target.is_none_or(|own| own == target);
    let lives = plan.lives.as_ref().filter(|(target, _)| meant(*target)).map(|(_, lives)| lives.clone());
    let defects = plan.defect_target().filter(|target| meant(*target)).map(|_| plan.defect_setting());
    let (program, shim) = (programs["dataplane"].clone(), programs["shim"].clone());
    let (folder, environment) = (folder.to_owned(), environment.to_vec());
    let control = control(&folder, part.name);
    let is_steered = plan.troubles.iter().any(|(_, trouble)| trouble.is_steered());
    if is_steered {
        std::fs::create_dir_all(&control)?;
        std::fs::write(control.join("prefix"), text(&part.data))?;
    }
    Ok(move |life: usize| {
        let mut command = Command::new(&program);
        command.args(&part.arguments).envs(environment.iter().map(|(name, value)| (name, value)));
        let points = lives.as_ref().and_then(|lives| lives.get(life));
        command.env("MILLRACE_FAILPOINTS", points.map_or("", String::as_str));
        command.env("MILLRACE_DEFECTS", defects.as_deref().unwrap_or_default());
        command.env("MILLRACE_FAILPOINTS_LOG", folder.join("failpoints"));
        if is_steered {
            command.env("LD_PRELOAD", &shim).env("MILLRACE_FSYNC_CONTROL", &control);
        }
        to_log(&mut command, &folder.join(format!("{}.log", part.name)))?;
        Ok(command)
    })
}
