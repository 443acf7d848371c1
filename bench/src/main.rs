//! Arguments in, figures out. Times and memory are printed, never asserted: machines differ. Counters of the operator are
//! the same everywhere: one that misses its goal makes the exit code 1.

#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]
#![expect(clippy::cast_precision_loss, reason = "counters far below 2^53")]

mod operator;
mod settings;
mod standalone;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use settings::{Command, Settings};

fn main() -> Result<ExitCode> {
    match Settings::parse().command {
        Command::Standalone => standalone::run().map(|()| ExitCode::SUCCESS),
        Command::Operator(settings) => operator::run(&settings),
        Command::OperatorProcess { identity } => {
            operator::process::run(&identity).map(|()| ExitCode::SUCCESS)
        }
    }
}
