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
/// How long brokers are away beyond the time their restart takes.
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
                let data = folder.join("data").display().to_string();
                let arguments = [
                    "--admin-listen",
                    ANY_PORT,
                    "--ingest-listen",
                    ingest.as_str(),
                    "--data-dir",
                    data.as_str(),
                ];
                role("ingest", Some(Target::Ingest), &arguments)
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
            Trouble::Brokers => {
                world.kafka()?.kill(None).await?;
                tokio::time::sleep(AWAY).await;
                world.kafka()?.revive().await?;
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
                self.steer("delay_ms", &time.as_millis().to_string())?;
                tokio::time::sleep(AWAY).await;
                std::fs::remove_file(self.folder.join("fsync/delay_ms"))?;
            }
            Trouble::FailingFsync => {
                let brokers = world.kafka().ok().filter(|_| self.plan.stage == Stage::Roles);
                if let Some(kafka) = brokers {
                    kafka.kill(None).await?;
                }
                self.steer("fail", "")?;
                tokio::time::sleep(if brokers.is_some() { UNTIL_SPILLED } else { AWAY }).await;
                self.first.signal(Signal::KILL);
                std::fs::remove_file(self.folder.join("fsync/fail"))?;
                if let Some(kafka) = brokers {
                    kafka.revive().await?;
                }
            }
        }
        Ok(())
    }

    fn steer(&self, file: &str, text: &str) -> Result<()> {
        std::fs::write(self.folder.join("fsync").join(file), text).context("steer fsync")
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
    let path = |name| folder.join(name).display().to_string();
    let mut arguments =
        vec!["standalone".to_owned(), path("manifests"), "--data-dir".to_owned(), path("data")];
    let listeners = [("ingest", ingest), ("gateway", ANY_PORT), ("admin", admin)];
    arguments.extend(listeners.iter().flat_map(|(name, at)| [format!("--{name}-listen"), (*at).to_owned()]));
    // All failpoints are in this one process.
    Part { name: "standalone", target: None, arguments }
}

fn role(name: &'static str, target: Option<Target>, more: &[&str]) -> Part {
    let command = name.split('-').next().unwrap_or(name);
    let fixed = [command, "--pod", name];
    let arguments = fixed.iter().chain(more).map(|argument| (*argument).to_owned()).collect();
    Part { name, target, arguments }
}

fn worker(folder: &Path, name: &'static str, target: Option<Target>, admin: &str) -> Part {
    let data = folder.join(name).display().to_string();
    role(name, target, &["--admin-listen", admin, "--data-dir", &data, "--kafka-session-seconds", SESSION_S])
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
    let control = folder.join("fsync");
    let is_steered = plan
        .troubles
        .iter()
        .any(|(_, trouble)| matches!(trouble, Trouble::SlowFsync(_) | Trouble::FailingFsync));
    if is_steered {
        std::fs::create_dir_all(&control)?;
        std::fs::write(control.join("prefix"), folder.join("data").display().to_string())?;
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
