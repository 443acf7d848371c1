//! `check`: resources in, every problem out. Runs nothing and keeps nothing.

#![expect(clippy::print_stdout, reason = "the result of a command goes to standard output")]

use serde_json::json;

use crate::settings::{CheckArgs, Output};
use crate::standalone::build::{self, BuildError};
use crate::standalone::keys::KeyRing;
use crate::standalone::sources::{Origin, SourceError};

/// Checks a folder; `false` when it has problems.
pub fn run(args: &CheckArgs) -> Result<bool, CheckError> {
    let sources = Origin::parse(&args.dir).read().map_err(|source| CheckError::Sources { source })?;
    let (apps, notes, problems) = match build::build(&sources, &mut KeyRing::in_memory()) {
        Ok(built) => (built.apps, built.notes, Vec::new()),
        Err(BuildError::Problems { problems }) => (Vec::new(), Vec::new(), problems),
        Err(source) => return Err(CheckError::Build { source }),
    };
    let ids: Vec<_> = apps.iter().map(|app| app.app.to_string()).collect();
    match args.output {
        Output::Json => {
            let problems: Vec<_> = problems.iter().map(build::refused_problem).collect();
            println!(
                "{}",
                json!({"valid": problems.is_empty(), "apps": ids, "problems": problems, "notes": notes})
            );
        }
        Output::Text => {
            for problem in &problems {
                println!("{problem}");
            }
            for note in &notes {
                println!("note: {note}");
            }
            if problems.is_empty() {
                println!("{} file(s), {} App(s), no problem: {}", sources.len(), ids.len(), ids.join(", "));
            } else {
                println!("{} problem(s)", problems.len());
            }
        }
    }
    Ok(problems.is_empty())
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The files cannot be read.
    #[error("the resources cannot be read")]
    Sources {
        /// Why.
        source: SourceError,
    },
    /// They cannot be built for another reason than a problem in them.
    #[error("the resources cannot be checked")]
    Build {
        /// Why.
        source: BuildError,
    },
}
