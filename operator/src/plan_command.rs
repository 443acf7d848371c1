//! `millrace-operator plan`: files and a cluster in, what would happen out. Runs the operator's own reconciles on a cluster
//! and back ends that are read through and never written.

pub mod files;
pub mod live;
pub mod report;
pub mod settle;
pub mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use millrace_crds::problem::Problem;

use crate::accounts::FileError;
use crate::apply::Settled;
use crate::backends::record::Recording;
use crate::backends::{Backends, Durability};
use crate::cluster::overlay::Overlay;
use crate::cluster::{Cluster, ClusterError};
use crate::context::{Accounts, Context};
use crate::installation::Installation;
use crate::kind::Kind;
use crate::metrics::Metrics;
use crate::reports::Reports;
use files::{Files, FilesError};
use report::{Report, Verdict};
use settle::{SettleError, Simulation};
use text::Paint;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A file, a folder of `*.yaml`, or `-`; may be repeated. Without it: what the operator would mend now
    #[arg(short, long = "filename", value_name = "FILE|DIR")]
    pub files: Vec<PathBuf>,
    /// What deleting the resources of the files would do, in place of applying them
    #[arg(long, requires = "files")]
    pub delete: bool,
    /// Namespace of what names none; without files: the one to look at, in place of all
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// The operator's settings file
    #[arg(long, default_value = "/etc/millrace/settings.yaml")]
    pub settings: PathBuf,
    /// Folder with the operator's accounts on the back ends
    #[arg(long, default_value = "/etc/millrace/credentials")]
    pub credentials: PathBuf,
    /// The operator's own namespace
    #[arg(long, env = "POD_NAMESPACE", default_value = "millrace-system")]
    pub operator_namespace: String,
    /// Any value: no colours
    #[arg(long = "no-color", env = "NO_COLOR", hide = true, num_args = 0..=1, default_missing_value = "1")]
    pub no_color: Option<String>,
}

/// How a plan is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people.
    Text,
    /// One JSON object.
    Json,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Files could not be read.
    #[error("cannot read the resources")]
    Files {
        /// Why.
        #[from]
        source: FilesError,
    },
    /// The cluster could not be read.
    #[error("cannot read the cluster")]
    Cluster {
        /// Why.
        #[from]
        source: ClusterError,
    },
    /// Settings or accounts could not be read.
    #[error("cannot read the installation; `--settings` and `--credentials` name what the operator is given")]
    Installation {
        /// Why.
        #[from]
        source: FileError,
    },
    /// There is no way to the API server.
    #[error("cannot reach a cluster; set `KUBECONFIG`")]
    Connect {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The cluster has no id.
    #[error("namespace `kube-system` is not there; set `clusterId`")]
    ClusterId,
    /// A metric is declared twice.
    #[error("cannot register metrics")]
    Metrics {
        /// Why.
        source: prometheus::Error,
    },
    /// The reconciles did not come to an end.
    #[error("cannot tell what would happen")]
    Settle {
        /// Why.
        #[from]
        source: SettleError,
    },
}

/// A plan, or what stands against making one.
#[derive(Debug)]
pub enum Planned {
    /// The files are wrong; nobody was asked anything.
    Problems(Vec<Problem>),
    /// What would happen.
    Report(Box<Report>),
}

/// The world as it is, which is only read.
pub struct World {
    /// Kubernetes.
    pub cluster: Arc<dyn Cluster>,
    /// Kafka and ClickHouse.
    pub backends: Arc<dyn Backends>,
    /// Settings.
    pub installation: Arc<Installation>,
    /// The accounts that each role gets.
    pub accounts: Arc<Accounts>,
    /// Id of this cluster in claims.
    pub cluster_id: String,
    /// The operator's own namespace.
    pub operator_namespace: String,
    /// What pods say of themselves; empty where they cannot be asked.
    pub reports: Arc<Reports>,
    /// Fills with random bytes.
    pub random: fn(&mut [u8]),
    /// Counted beside the operator's own, and thrown away.
    pub metrics: Arc<Metrics>,
}

/// What is asked for.
pub enum Wanted<'a> {
    /// What applying these files would do.
    Files(&'a Files),
    /// What deleting the resources of these files would do.
    Deletion(&'a Files),
    /// What the operator would mend, in one namespace or in all it serves.
    Drift(Option<&'a str>),
}

/// Finds out what would happen. Writes nothing.
pub async fn plan(
    world: &World,
    wanted: &Wanted<'_>,
    progress: &(dyn Fn(&str) + Sync),
    now: Timestamp,
) -> Result<Planned, PlanError> {
    if let Wanted::Files(files) = wanted {
        let problems = files.problems();
        if !problems.is_empty() {
            return Ok(Planned::Problems(problems));
        }
    }
    let cluster = Arc::new(Overlay::new(Arc::clone(&world.cluster), now));
    let kafka = &world.installation.kafka;
    let durability = Durability { replication: kafka.replication, in_sync_min: kafka.min_in_sync_replicas };
    let backends = Arc::new(Recording::new(Arc::clone(&world.backends), durability));
    let mut report = Report::default();
    let of_files = match wanted {
        Wanted::Files(files) => {
            let (keys, problems) = files.lay(&cluster).await?;
            if !problems.is_empty() {
                return Ok(Planned::Problems(problems));
            }
            report.notes = files.notes();
            Some(keys)
        }
        Wanted::Deletion(files) => {
            report.notes = files.notes();
            let (keys, missing) = files.remove(&cluster).await?;
            report.notes.extend(missing.iter().map(|key| format!("{key} is not there")));
            Some(keys)
        }
        Wanted::Drift(_) => None,
    };
    let namespaces = match (wanted, &of_files) {
        (Wanted::Drift(namespace), _) => namespaces(world, *namespace).await?,
        (_, keys) => keys.iter().flatten().map(|key| key.namespace.clone()).collect(),
    };
    let context = world.simulated(&cluster, &backends);
    let simulation = Simulation { context: &context, cluster: &cluster, backends: &backends, progress };
    settle::settle(&simulation, &namespaces, now).await?;
    report.add_objects(&*world.cluster, &cluster.changes()).await?;
    report.add_backends(backends.steps());
    for namespace in &namespaces {
        report.add_conditions(&*world.cluster, &*cluster, namespace, of_files.as_ref()).await?;
    }
    Ok(Planned::Report(Box::new(report)))
}

impl World {
    fn simulated(&self, cluster: &Arc<Overlay>, backends: &Arc<Recording>) -> Context {
        Context {
            cluster: Arc::clone(cluster) as Arc<dyn Cluster>,
            backends: Arc::clone(backends) as Arc<dyn Backends>,
            reports: Arc::clone(&self.reports),
            installation: Arc::clone(&self.installation),
            accounts: Arc::clone(&self.accounts),
            cluster_id: self.cluster_id.clone(),
            operator_namespace: self.operator_namespace.clone(),
            random: self.random,
            metrics: Arc::clone(&self.metrics),
            settled: Arc::new(Settled::default()),
        }
    }
}

/// The namespaces that the operator looks after.
async fn namespaces(world: &World, only: Option<&str>) -> Result<BTreeSet<String>, ClusterError> {
    if let Some(only) = only {
        return Ok(BTreeSet::from([only.to_owned()]));
    }
    if !world.installation.namespaces.is_empty() {
        return Ok(world.installation.namespaces.iter().cloned().collect());
    }
    let mut found = BTreeSet::new();
    for kind in [Kind::App, Kind::Integration, Kind::RolePolicy] {
        let objects = world.cluster.list(kind, None, &BTreeMap::new()).await?;
        found.extend(objects.iter().filter_map(|object| object.metadata.namespace.clone()));
    }
    Ok(found)
}

impl Planned {
    /// How it ends.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Problems(_) => Verdict::Refused,
            Self::Report(report) => report.verdict(),
        }
    }

    /// What is printed for these arguments on a terminal, or elsewhere.
    pub fn print_for(&self, args: &PlanArgs, is_terminal: bool) -> String {
        let is_plain = args.no_color.as_ref().is_some_and(|value| !value.is_empty());
        let paint = if is_terminal && !is_plain { Paint::Colours } else { Paint::Plain };
        self.printed(args.output, paint)
    }

    /// What is printed.
    pub fn printed(&self, output: Output, paint: Paint) -> String {
        match (self, output) {
            (Self::Problems(problems), Output::Text) => text::of_problems(problems),
            (Self::Report(report), Output::Text) => text::of_report(report, paint),
            (Self::Problems(problems), Output::Json) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                pretty(&serde_json::json!({"problems": problems}))
            }
            (Self::Report(report), Output::Json) => pretty(report),
        }
    }
}

fn pretty(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("texts, numbers and lists always serialize");
    text + "\n"
}

impl Verdict {
    /// 0 no change, 1 something cannot be done, 2 changes.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Unchanged => 0,
            Self::Refused => 1,
            Self::Changes => 2,
        }
    }
}
