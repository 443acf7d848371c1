//! Arguments in, an exit code out. Everything else is in the library.

use std::io::Write as _;

use clap::{CommandFactory as _, Parser as _};
use millrace_operator::settings::{Command, Settings};
use millrace_operator::{generate, settings};

fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let mut out = std::io::stdout().lock();
    match settings.command {
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
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Settings::command(), settings::NAME, &mut out);
        }
    }
    Ok(())
}
