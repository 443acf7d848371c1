//! Command line and environment in, settings out. The only place that reads the environment: through clap, so that
//! `--help` names every variable.

pub mod cluster;
pub mod kafka;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::log::embedded::Compression;
use crate::secret::Secret;
use crate::{control, engine, generate};

/// Millrace data plane: events in over HTTP, rows in ClickHouse, answers from an API.
#[derive(Debug, Parser)]
#[command(name = "millrace-dataplane", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log lines for machines (json) or for people (text); by default text on a terminal.
    #[arg(long, global = true, value_enum, env = "MILLRACE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Which log lines: a level, or `target=level` separated by commas.
    #[arg(long, global = true, env = "MILLRACE_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Where this process is to fail.
    #[cfg(feature = "failpoints")]
    #[command(flatten)]
    pub faults: crate::failpoint::Args,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a terminal.
    Text,
}

/// Form of a command's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process: ingest, worker, gateway, with ClickHouse as a child process.
    Standalone(Box<StandaloneArgs>),
    /// Take events in a cluster.
    Ingest(Box<cluster::IngestArgs>),
    /// Process and load events in a cluster.
    Worker(Box<cluster::WorkerArgs>),
    /// Answer questions in a cluster.
    Gateway(Box<cluster::GatewayArgs>),
    /// Validate resources without running anything; exit code 1 with every problem.
    Check(CheckArgs),
    /// Run standalone, send sample events, and compare what was sent with what is stored.
    Demo(Box<DemoArgs>),
    /// Send realistic sample events to an ingest endpoint.
    Generate(Box<generate::Args>),
    /// Look at events that could not be processed, and process them again.
    DeadLetters {
        /// What to do with them.
        #[command(subcommand)]
        command: control::command::DeadLettersCommand,
    },
    /// Make the rollups anew from the stored events.
    Rollups {
        /// What to do.
        #[command(subcommand)]
        command: control::rollups_command::RollupsCommand,
    },
    /// Recount what became of the events of a time; exit code 0 when all is where it should be, 2 when not.
    Audit(control::audit_command::Args),
    /// Run the ClickHouse engine behind its HTTP interface.
    Engine(Box<engine::Args>),
    /// Print the API's OpenAPI document.
    Openapi,
    /// Print which permission each route of the API needs.
    AccessTable,
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Options of `standalone`.
#[derive(Debug, Args)]
pub struct StandaloneArgs {
    /// Folder (or file) with the resources; every `.yaml` and `.yml` below it is read. `-` is standard input.
    pub dir: String,
    /// Where data and keys are kept; by default `millrace` in the user's data directory.
    #[arg(long, env = "MILLRACE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Addresses to listen on.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// The ClickHouse to use.
    #[command(flatten)]
    pub clickhouse: ClickHouseArgs,
    /// How records lie on disk; `none` is for looking at the bytes.
    #[arg(long, env = "MILLRACE_LOG_COMPRESSION", value_enum, default_value_t, hide = true)]
    pub log_compression: LogCompression,
}

/// How records of the embedded log lie on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogCompression {
    /// Compressed by LZ4.
    #[default]
    Lz4,
    /// As they are.
    None,
}

impl From<LogCompression> for Compression {
    fn from(choice: LogCompression) -> Self {
        match choice {
            LogCompression::Lz4 => Self::Lz4,
            LogCompression::None => Self::Off,
        }
    }
}

/// Addresses to listen on. Port 0 takes a free one; `endpoints.json` in the data directory says which.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Listeners")]
pub struct ListenArgs {
    /// Events come in here.
    #[arg(long, env = "MILLRACE_INGEST_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub ingest_listen: SocketAddr,
    /// The API answers here.
    #[arg(long, env = "MILLRACE_GATEWAY_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    pub gateway_listen: SocketAddr,
    /// Metrics, probes and state.
    #[arg(long, env = "MILLRACE_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub admin_listen: SocketAddr,
    /// The ClickHouse HTTP interface of the engine child.
    #[arg(long, env = "MILLRACE_ENGINE_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8123")]
    pub engine_listen: SocketAddr,
}

/// The ClickHouse to use: by default the engine as a child process.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "ClickHouse")]
pub struct ClickHouseArgs {
    /// HTTP address of a ClickHouse server to use in place of the engine child.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_URL", value_name = "URL")]
    pub clickhouse_url: Option<String>,
    /// User on that server.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_USER", value_name = "NAME", requires = "clickhouse_url")]
    pub clickhouse_user: Option<String>,
    /// File with that user's password.
    #[arg(long, env = "MILLRACE_CLICKHOUSE_PASSWORD_FILE", value_name = "FILE", requires = "clickhouse_url")]
    pub clickhouse_password_file: Option<PathBuf>,
    /// The engine library; by default it is looked for in the cache and beside this program.
    #[arg(long, env = "MILLRACE_ENGINE_LIBRARY", value_name = "FILE", conflicts_with = "clickhouse_url")]
    pub engine_library: Option<PathBuf>,
    /// Folder that `make engine` keeps the library in.
    #[arg(long, env = "MILLRACE_CACHE", value_name = "DIR", hide = true)]
    pub cache: Option<PathBuf>,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Folder (or file) with the resources; `-` is standard input.
    pub dir: String,
    /// Form of the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Folder with the resources.
    pub dir: PathBuf,
    /// App that takes the sample events, by name or `<namespace>.<name>`.
    #[arg(long, default_value = "shop")]
    pub app: String,
    /// Write key for the sample events; by default the demo key of the shop example.
    #[arg(
        long,
        env = "MILLRACE_DEMO_KEY",
        default_value = "mrw_demo_server_key_not_for_production",
        hide_env_values = true
    )]
    pub key: String,
    /// Events to send.
    #[arg(long, default_value_t = 5_000)]
    pub count: u64,
    /// Seed of the sample events.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Stop after the comparison; the exit code is the verdict.
    #[arg(long)]
    pub once: bool,
    /// Folder for the demo's data; it is emptied first. By default a new temporary one.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Addresses to listen on.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// The ClickHouse to use.
    #[command(flatten)]
    pub clickhouse: ClickHouseArgs,
}

/// `standalone` with everything resolved.
#[derive(Debug)]
pub struct Standalone {
    /// Folder, file or `-`.
    pub dir: String,
    /// Where data and keys are kept.
    pub data_dir: PathBuf,
    /// Addresses to listen on.
    pub listen: ListenArgs,
    /// Which ClickHouse.
    pub clickhouse: ClickHouse,
    /// How records lie on disk.
    pub log_compression: LogCompression,
}

/// Which ClickHouse is used.
#[derive(Debug)]
pub enum ClickHouse {
    /// The engine as a supervised child.
    Child {
        /// Its library, where it is not in the usual places.
        library: Option<PathBuf>,
        /// Cache to look in, where it is not the user's.
        cache: Option<PathBuf>,
    },
    /// A server somewhere else.
    Server {
        /// Its HTTP address.
        url: String,
        /// User; the server's default user when absent.
        user: Option<String>,
        /// Password.
        password: Option<Secret<String>>,
    },
}

impl StandaloneArgs {
    /// Fills in the default data directory and reads the password file.
    pub fn resolve(self) -> Result<Standalone, SettingsError> {
        let data_dir = match self.data_dir {
            Some(dir) => dir,
            None => data_dir_default()?,
        };
        Ok(Standalone {
            dir: self.dir,
            data_dir,
            listen: self.listen,
            clickhouse: self.clickhouse.resolve()?,
            log_compression: self.log_compression,
        })
    }
}

impl ClickHouseArgs {
    /// Reads the password file.
    pub fn resolve(self) -> Result<ClickHouse, SettingsError> {
        let Some(url) = self.clickhouse_url else {
            return Ok(ClickHouse::Child { library: self.engine_library, cache: self.cache });
        };
        let password = match self.clickhouse_password_file {
            Some(path) => {
                let text = std::fs::read_to_string(&path)
                    .map_err(|source| SettingsError::PasswordFile { path, source })?;
                Some(Secret::new(text.trim_end_matches('\n').to_owned()))
            }
            None => None,
        };
        Ok(ClickHouse::Server { url, user: self.clickhouse_user, password })
    }
}

/// `millrace` in the user's data directory.
pub fn data_dir_default() -> Result<PathBuf, SettingsError> {
    let dirs = directories::BaseDirs::new().ok_or(SettingsError::NoDataDir)?;
    Ok(dirs.data_dir().join("millrace"))
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is no home directory.
    #[error("there is no home directory to keep data in; name one with --data-dir")]
    NoDataDir,
    /// The password file cannot be read.
    #[error("cannot read the password file `{}`", path.display())]
    PasswordFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
