//! The command line. The only place that knows how the operator is called.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

/// Name of the program.
pub const NAME: &str = "millrace-operator";

/// The Kubernetes operator of Millrace.
///
/// Today it prints the CustomResourceDefinitions and writes generated files; it does not watch a cluster yet. To run
/// resources without a cluster, use `millrace-dataplane standalone DIR`.
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
    /// Go back to an older Revision of an App, or of the access rules, and stay there until `--resume`
    Rollback(crate::rollback::RollbackArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}
