//! Arguments in, figures out. Times are printed, never asserted: machines differ. What is the same everywhere is held: a
//! counter of the operator, a bound of ingest's memory or a ratio of the load that misses its goal makes the exit code 1.

#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]
#![expect(clippy::cast_precision_loss, reason = "counters far below 2^53")]

mod dataplane;
mod ingest_memory;
mod load;
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
        Command::IngestMemory(settings) => ingest_memory::run(&settings),
        Command::IngestProcess(settings) => {
            ingest_memory::process::run(&settings).map(|()| ExitCode::SUCCESS)
        }
        Command::Load(settings) => load::run(&settings),
        Command::Operator(settings) => operator::run(&settings),
        Command::OperatorProcess { identity } => {
            operator::process::run(&identity).map(|()| ExitCode::SUCCESS)
        }
    }
}
