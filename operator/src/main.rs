//! Arguments in, an exit code out. Everything else is in the library.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use millrace_operator::settings::{self, Command, NAME, Settings};
use millrace_operator::{accounts, backends, cluster, generate, plan_command, rollback, run, telemetry};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    match obey(Settings::parse().command) {
        Ok(code) => code,
        // The reader has seen enough, as with `| head`.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = Vec::new();
    let mut code = ExitCode::SUCCESS;
    match command {
        Command::Crds { dir: None } => out.write_all(generate::crds_as_stream().as_bytes())?,
        Command::Crds { dir: Some(dir) } => {
            for path in generate::write_crds(&dir)? {
                writeln!(out, "{}", path.display())?;
            }
        }
        Command::Generate { root } => {
            for path in generate::write_all(&root)? {
                writeln!(out, "{}", path.display())?;
            }
        }
        Command::Run(options) => start(&options)?,
        Command::Rollback(args) => rollback::run(&args, &mut out)?,
        Command::Plan(args) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let planned = runtime.block_on(plan_command::live::look(&args, |bytes| rand::fill(bytes)))?;
            out.write_all(planned.print_for(&args, io::stdout().is_terminal()).as_bytes())?;
            code = ExitCode::from(planned.verdict().exit_code());
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Settings::command(), NAME, &mut out);
        }
    }
    io::stdout().lock().write_all(&out)?;
    Ok(code)
}

fn start(options: &settings::Run) -> anyhow::Result<()> {
    telemetry::init(telemetry::Format::Json, &options.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run_operator(options))
}

async fn run_operator(options: &settings::Run) -> anyhow::Result<()> {
    // Fails only when a provider is there already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let installation = Arc::new(accounts::read_settings(&options.settings)?);
    let listener = TcpListener::bind(options.listen).await.with_context(|| {
        format!("cannot listen on `{}`; give another address to `--listen`", options.listen)
    })?;
    let stop = CancellationToken::new();
    tokio::spawn(cancel_on_signal(stop.clone()));
    let options = run::Options {
        installation,
        credentials: options.credentials.clone(),
        namespace: options.namespace.clone(),
        identity: options.identity.clone(),
        election: if options.leader_elect { run::Election::Lease } else { run::Election::Alone },
        client: cluster::live::connect().await?,
        make_backends: |installation, accounts| Arc::new(backends::live::Live::new(installation, accounts)),
        pods: Arc::new(backends::pods::HttpPods::new()?),
        random: |bytes| rand::fill(bytes),
    };
    Ok(run::run(options, listener, stop).await?)
}

async fn cancel_on_signal(stop: CancellationToken) {
    let mut term = signal(SignalKind::terminate()).expect("a process may listen for its signals");
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    stop.cancel();
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
