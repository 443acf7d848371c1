//! The command line: what is measured, and how large. The only reader of the environment.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Prints figures of Millrace.
#[derive(Debug, Parser)]
#[command(name = "millrace-bench", version, max_term_width = 100)]
pub(crate) struct Settings {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Time to start and memory when idle of the standalone data plane
    Standalone,
    /// Memory of ingest while Kafka is away and its queue is full; starts a real broker, which needs Java
    ///
    /// The exit code is 1 when it takes more than a quarter above the configured queue.
    IngestMemory(IngestMemory),
    /// Ingest as a process of its own, asked and ended through its standard input
    #[command(hide = true)]
    IngestProcess(IngestProcess),
    /// Freshness at half load, cost of the loader and size of its inserts, with the real engine
    Load(Load),
    /// Time, writes and memory of the operator with many Apps; needs a fresh API server without controllers
    ///
    /// Run it as `make bench` does: `e2e/cluster/on-api-server millrace-bench operator`.
    Operator(Operator),
    /// The operator as a process of its own, told what to do through its standard input
    #[command(hide = true)]
    OperatorProcess {
        /// Its name in the Lease.
        #[arg(long)]
        identity: String,
    },
}

/// What is filled with what.
#[derive(Clone, Debug, Args)]
pub(crate) struct IngestMemory {
    /// Queues to fill, in MiB
    #[arg(long, value_delimiter = ',', default_values_t = [32, 128])]
    pub(crate) queue_mib: Vec<usize>,
    /// Sizes of the events, in bytes
    #[arg(long, value_delimiter = ',', default_values_t = [300, 4096])]
    pub(crate) event_bytes: Vec<usize>,
    /// Seconds for which a full queue is pressed on
    #[arg(long, default_value_t = 25)]
    pub(crate) seconds: u64,
}

/// One ingest.
#[derive(Clone, Debug, Args)]
pub(crate) struct IngestProcess {
    /// Bootstrap list of Kafka.
    #[arg(long)]
    pub(crate) brokers: String,
    /// Most bytes that wait for it.
    #[arg(long)]
    pub(crate) queue_bytes_max: usize,
}

/// How much is loaded.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    /// Events to find the highest rate with
    #[arg(long, default_value_t = 100_000)]
    pub(crate) events: u64,
    /// Seconds at half of that rate
    #[arg(long, default_value_t = 30)]
    pub(crate) seconds: u32,
    /// Events to measure the loader's own cost with
    #[arg(long, default_value_t = 200_000)]
    pub(crate) client_events: u64,
}

/// How large.
#[derive(Clone, Debug, Args)]
pub(crate) struct Operator {
    /// Apps to create
    #[arg(long, default_value_t = 1000)]
    pub(crate) apps: usize,
    /// Namespaces they are spread over
    #[arg(long, default_value_t = 5)]
    pub(crate) namespaces: usize,
    /// Resyncs of everything: six are what an idle hour has
    #[arg(long, default_value_t = 6)]
    pub(crate) resyncs: usize,
    /// Run two operators, and kill the one that works when half of the Apps were created
    #[arg(long)]
    pub(crate) hand_over: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// The API server's audit log, where writes and reads are counted
    #[arg(long, env = "CLUSTER_AUDIT_LOG")]
    pub(crate) audit_log: PathBuf,
    /// Folder for what the operators log; a temporary one when absent
    #[arg(long)]
    pub(crate) logs: Option<PathBuf>,
}

/// How figures are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table for people
    Text,
    /// One JSON document
    Json,
}
