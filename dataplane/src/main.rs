//! Arguments in, one command run, exit code out. Everything else is in the library.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks on its standard streams"
)]

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use jiff::Timestamp;
use millrace_dataplane::cluster::{self, Cluster};
use millrace_dataplane::settings::{Cli, Command, LogFormat, data_dir_default};
use millrace_dataplane::tasks::stop_on_signal;
use millrace_dataplane::{check, control, demo, engine, gateway, generate, memory, standalone, telemetry};

fn main() -> ExitCode {
    memory::give_back_what_is_large();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let format = match cli.log_format {
        Some(LogFormat::Json) => telemetry::Format::Json,
        Some(LogFormat::Text) => telemetry::Format::Text,
        None if std::io::stderr().is_terminal() => telemetry::Format::Text,
        None => telemetry::Format::Json,
    };
    // The demo speaks for itself on a terminal; its log would tear the progress bars.
    let quiet = matches!(cli.command, Command::Demo(_) | Command::Generate(_)) && cli.log == "info";
    telemetry::init(format, if quiet { "warn" } else { &cli.log })?;
    #[cfg(feature = "failpoints")]
    millrace_dataplane::failpoint::install(cli.faults);
    // One TLS provider for every client of the process.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok()
        .context("a TLS provider is installed already")?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(command(cli.command))
}

async fn command(command: Command) -> Result<ExitCode> {
    match command {
        Command::Standalone(args) => standalone::run(args.resolve()?, stop_on_signal()?).await?,
        Command::Ingest(args) => cluster_role(args.settings()).await?,
        Command::Worker(args) => cluster_role(args.settings()).await?,
        Command::Gateway(args) => cluster_role(args.settings()).await?,
        Command::Check(args) => return Ok(exit(check::run(&args)?)),
        Command::Demo(args) => return Ok(exit(demo::run(*args, stop_on_signal()?).await?)),
        Command::Generate(args) => {
            let output = args.output;
            let summary = generate::run(args.settings(Timestamp::now())).await?;
            println!("{}", output.render(&summary));
            return Ok(exit(summary.verdict().is_ok()));
        }
        Command::DeadLetters { command } => {
            control::command::run_command(command, &data_dir_default()?, &mut std::io::stdout()).await?;
        }
        Command::Rollups { command } => {
            let (out, progress) = (&mut std::io::stdout(), &mut std::io::stderr());
            control::rollups_command::run_command(command, &data_dir_default()?, out, progress).await?;
        }
        Command::Audit(args) => {
            let verdict =
                control::audit_command::run(args, &data_dir_default()?, &mut std::io::stdout()).await?;
            return Ok(ExitCode::from(verdict.exit_code()));
        }
        Command::Engine(args) => engine::run((*args).into(), stop_on_signal()?).await?,
        Command::Openapi => {
            println!(
                "{}",
                String::from_utf8_lossy(&gateway::openapi::to_bytes(&gateway::openapi::document()))
            );
        }
        Command::AccessTable => print!("{}", gateway::route::access_table()),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "millrace-dataplane", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs as one role of a cluster, which is the one of `KUBECONFIG` or of the pod.
async fn cluster_role(settings: Cluster) -> Result<()> {
    let stop = stop_on_signal()?;
    let bound = cluster::bind(settings)?;
    let kube = kube::Config::infer()
        .await
        .context("cannot find the API server; run in a pod with a service account, or set KUBECONFIG")?;
    Ok(bound.run(kube, stop).await?)
}

fn exit(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
