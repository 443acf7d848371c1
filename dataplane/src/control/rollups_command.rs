//! `millrace-dataplane rollups`: arguments in, progress on standard error and a report out. Asks the running process.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::command::{CommandError, Target, print};
use super::protocol::{RebuildReport, RebuildRollups, RebuildStage};

/// How often the process is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// What can be done with rollups.
#[derive(Debug, clap::Subcommand)]
pub enum RollupsCommand {
    /// Count `dashboard_stats` and `user_retention` anew from the stored events
    ///
    /// Mends what `millrace_load_findings_total` tells, and rollups that somebody changed by hand. Events are accepted
    /// meanwhile and wait in the log: they are stored when it is over. Readers see the old figures until then. What is
    /// broken off is taken up again by the process itself, also after it was started again.
    ///
    /// On Kubernetes the operator does the same: after `ALTER TABLE <database>.events ADD CONSTRAINT millrace_paused
    /// CHECK 0` it makes the rollups anew and takes the constraint away.
    Rebuild {
        #[command(flatten)]
        target: Target,
    },
}

/// Begins, and waits until it is over.
pub async fn run_command(
    command: RollupsCommand,
    default_data_dir: &Path,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn Write + Send),
) -> Result<(), CommandError> {
    let RollupsCommand::Rebuild { target } = command;
    let mut client = target.connect(default_data_dir).await?;
    let mut call = RebuildRollups { app: target.app.clone(), begin: true };
    let mut shown = RebuildReport::default();
    loop {
        let report = client.rebuild_rollups(call.clone()).await?;
        call.begin = false;
        if report != shown {
            write_progress(progress, &report).map_err(|source| CommandError::Write { source })?;
        }
        match report.stage {
            RebuildStage::Running => {}
            RebuildStage::Done => {
                return print(out, target.output, &report, |out| {
                    writeln!(out, "The rollups of `{}` are what a count of its events says.", target.app)
                });
            }
            RebuildStage::Failed => return Err(CommandError::NotRebuilt { why: report.trouble }),
            // The process was started again: whether it had begun is not known.
            RebuildStage::Idle => call.begin = true,
        }
        shown = report;
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn write_progress(progress: &mut (dyn Write + Send), report: &RebuildReport) -> std::io::Result<()> {
    let RebuildReport { stage, done, of, object, trouble } = report;
    match (stage, trouble.as_str()) {
        (RebuildStage::Running, "") if *of > 0 => writeln!(progress, "{done} of {of}: {object}"),
        (RebuildStage::Running, trouble) if !trouble.is_empty() => {
            writeln!(progress, "{trouble}; it is tried again")
        }
        // Told always: a small App may be done before it is asked for the first time.
        (RebuildStage::Done, _) => writeln!(progress, "{done} of {of}"),
        (RebuildStage::Idle | RebuildStage::Running | RebuildStage::Failed, _) => Ok(()),
    }
}
