//! Arguments in, an exit code out. Everything else is in the library.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use millrace_operator::settings::{Command, NAME, Settings};
use millrace_operator::{generate, rollback};

fn main() -> ExitCode {
    match run(Settings::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough, as with `| head`.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let mut out = Vec::new();
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
        Command::Rollback(args) => rollback::run(&args, &mut out)?,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Settings::command(), NAME, &mut out);
        }
    }
    Ok(io::stdout().lock().write_all(&out)?)
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
