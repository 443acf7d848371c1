//! The command line. The only place that knows how the operator is called.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;

/// Name of the program.
pub const NAME: &str = "millrace-operator";

/// The Kubernetes operator of Millrace.
///
/// `run` is what a Deployment in the cluster runs; the chart sets it up. To run resources without a cluster, use
/// `millrace-dataplane standalone DIR`.
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100)]
pub struct Settings {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the operator can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the CustomResourceDefinitions as YAML, ready for `kubectl apply -f -`
    Crds {
        /// Write one file per definition into this directory instead, and print their paths
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Rewrite the generated files of the repository (CRDs, golden configurations) and print their paths
    Generate {
        /// Root of the repository
        #[arg(long, default_value = ".")]
        root: PathBuf,
    },
    /// Watch a cluster and bring its Apps to what they say
    Run(Box<Run>),
    /// Go back to an older Revision of an App, or of the access rules, and stay there until `--resume`
    Rollback(crate::rollback::RollbackArgs),
    /// Show what files, or the operator itself, would change, without changing it; exit code 0 nothing, 2 something, 1 refused
    Plan(Box<crate::plan_command::PlanArgs>),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// How the operator runs. The way to the API server is the pod's ServiceAccount, or what `KUBECONFIG` says.
#[derive(Debug, Args)]
pub struct Run {
    /// File with the settings of the installation
    #[arg(long, value_name = "FILE")]
    pub settings: PathBuf,
    /// Folder with the accounts on back ends: `kafka/{operator,ingest,worker}`, `clickhouse/{operator,worker,gateway}`,
    /// each with files `username` and `password`
    #[arg(long, value_name = "DIR")]
    pub credentials: PathBuf,
    /// The operator's own namespace, where its Lease is
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Name of this process among its replicas
    #[arg(long, env = "POD_NAME", default_value = NAME)]
    pub identity: String,
    /// Whether only the holder of a Lease works; `false` only where there is one replica
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    pub leader_elect: bool,
    /// Where metrics and probes are answered
    #[arg(long, default_value = "0.0.0.0:9090")]
    pub listen: SocketAddr,
    /// What is logged: `info`, `info,millrace_operator=debug`, …
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
}
