//! `millrace-dataplane audit`: arguments in, a recount as text or JSON and a verdict out. Asks the running process.

use std::io::Write;
use std::path::Path;

use jiff::Timestamp;

use super::command::{CommandError, Since, Target, print};
use super::protocol::{Audit, AuditReport};
use crate::ledger::audit::MINUTES_MAX;
use crate::ledger::book::minute_of;

/// Milliseconds of a minute.
const MINUTE_MS: i64 = 60_000;

/// What to recount.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// From when: a moment (2026-01-31T12:00:00Z) or a while ago (2h, 3d)
    #[arg(long)]
    from: Since,
    /// Until when, likewise; by default without the minute that runs now
    #[arg(long)]
    to: Option<Since>,
}

/// What a recount came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is where it should be.
    Balanced,
    /// Something is not.
    Differs,
}

impl Verdict {
    /// For the shell.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Balanced => 0,
            Self::Differs => 2,
        }
    }

    fn of(report: &AuditReport) -> Self {
        let is_whole = report.differences.is_empty() && report.events_total == 0;
        if is_whole { Self::Balanced } else { Self::Differs }
    }
}

/// Recounts, in as many calls as it takes.
pub async fn run(
    args: Args,
    default_data_dir: &Path,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, CommandError> {
    let Args { target, from, to } = args;
    let now = Timestamp::now();
    let from = from.epoch_ms(now).div_euclid(MINUTE_MS);
    // A minute that is meant in part is recounted whole.
    let to = to.map_or(minute_of(now), |to| (to.epoch_ms(now) + MINUTE_MS - 1).div_euclid(MINUTE_MS));
    let mut client = target.connect(default_data_dir).await?;
    let mut total = AuditReport { raw_recounted: true, ..AuditReport::default() };
    let mut at = from;
    while at < to {
        let until = to.min(at + MINUTES_MAX);
        add(&mut total, client.audit(Audit { app: target.app.clone(), from: at, to: until }).await?);
        at = until;
    }
    print(out, target.output, &total, |out| write_report(out, &total))?;
    Ok(Verdict::of(&total))
}

fn add(total: &mut AuditReport, part: AuditReport) {
    total.minutes += part.minutes;
    total.acknowledged += part.acknowledged;
    total.stored += part.stored;
    total.unclosed += part.unclosed;
    total.unverified += part.unverified;
    total.raw_recounted &= part.raw_recounted;
    total.differences.extend(part.differences);
    total.events.extend(part.events);
    total.events_total += part.events_total;
}

fn write_report(out: &mut (dyn Write + Send), report: &AuditReport) -> std::io::Result<()> {
    let AuditReport { minutes, acknowledged, stored, .. } = report;
    writeln!(out, "{minutes} minutes, {acknowledged} events acknowledged, {stored} rows stored")?;
    for (count, words) in [
        (report.unclosed, "minutes were not closed by their ingest: checked from raw on only"),
        (report.unverified, "minutes have more events of unknown outcome than can be checked"),
    ] {
        if count > 0 {
            writeln!(out, "{count} {words}")?;
        }
    }
    if !report.raw_recounted {
        writeln!(
            out,
            "events-raw no longer holds all of it: raw was not recounted, and losses are not named"
        )?;
    }
    for difference in &report.differences {
        let instance = match difference.instance.as_str() {
            "" => String::new(),
            instance => format!(" ({instance})"),
        };
        let (minute, equation, missing) = (difference.minute, &difference.equation, difference.missing);
        writeln!(
            out,
            "{minute}  {equation}{instance}: {missing} missing (hashes {:016x})",
            difference.hashes
        )?;
    }
    for event in &report.events {
        let place = event.raw.map_or_else(String::new, |raw| format!(" at {raw} of events-raw"));
        writeln!(out, "{}  {}{place}: {}", event.minute, event.event_id, event.detail)?;
    }
    let unnamed = report.events_total.saturating_sub(report.events.len() as u64);
    if unnamed > 0 {
        writeln!(out, "and {unnamed} more events")?;
    }
    match Verdict::of(report) {
        Verdict::Balanced => writeln!(out, "balanced"),
        Verdict::Differs => writeln!(out, "differs"),
    }
}
