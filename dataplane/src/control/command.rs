//! `millrace-dataplane dead-letters`: arguments in, a table or JSON out. Asks the running process and holds no
//! state of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::protocol::{
    LIST_LIMIT_MAX, LetterId, LetterSummary, ListDeadLetters, ReplayDeadLetters, ReplayReport,
    ShowDeadLetter, ShownDeadLetter, Which,
};
use super::{Client, ClientError, SOCKET_NAME};
use crate::record::DeadLetterReason;

/// Ids of one request, well below its limit in bytes.
const IDS_PER_CALL: usize = 500;

/// What can be done with dead letters.
#[derive(Debug, clap::Subcommand)]
pub enum DeadLettersCommand {
    /// List events that could not be processed, oldest first
    List {
        #[command(flatten)]
        target: Target,
        /// Only those with this reason
        #[arg(long, value_parser = parse_reason)]
        reason: Option<DeadLetterReason>,
        /// Only those since a moment (2026-01-31T12:00:00Z) or for the last while (2h, 3d)
        #[arg(long)]
        since: Option<Since>,
        /// Most lines
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show one in full: the reason, and the event as it was accepted
    Show {
        #[command(flatten)]
        target: Target,
        /// As `list` shows it, like 0:17
        id: LetterId,
    },
    /// Process events again, after their App was corrected; those replayed before are skipped
    #[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "reason", "all"]))]
    Replay {
        #[command(flatten)]
        target: Target,
        /// These, as `list` shows them
        ids: Vec<LetterId>,
        /// All with this reason
        #[arg(long, value_parser = parse_reason)]
        reason: Option<DeadLetterReason>,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Only count what would be replayed
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which App, where, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The App: its name, or <namespace>.<name> where several share it
    #[arg(long)]
    pub app: String,
    /// Data directory of the running process
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table.
    Text,
    /// One JSON document.
    Json,
}

/// A moment in the past, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// That moment.
    At(Timestamp),
    /// That long ago.
    Ago(SignedDuration),
}

impl FromStr for Since {
    type Err = SinceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        // Days are no fixed time to jiff; here they are 24 hours.
        let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok());
        let ago = match days {
            Some(days) => days.checked_mul(24).and_then(SignedDuration::try_from_hours),
            None => text.parse().ok(),
        };
        ago.filter(|ago| !ago.is_negative())
            .map(Self::Ago)
            .ok_or_else(|| SinceError { text: text.to_owned() })
    }
}

impl Since {
    /// UTC epoch milliseconds; a moment before time begins is the beginning.
    pub(super) fn epoch_ms(self, now: Timestamp) -> i64 {
        match self {
            Self::At(at) => at.as_millisecond(),
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN).as_millisecond(),
        }
    }
}

/// Not a moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is neither a moment like 2026-01-31T12:00:00Z nor a duration like 90m, 2h or 3d")]
pub struct SinceError {
    text: String,
}

fn parse_reason(text: &str) -> Result<DeadLetterReason, String> {
    let known = DeadLetterReason::ALL;
    known.into_iter().find(|reason| reason.as_str() == text).ok_or_else(|| {
        let names = known.map(DeadLetterReason::as_str).join(", ");
        format!("not a reason; one of {names}")
    })
}

/// Runs a command against the process whose data directory is given, or is `default_data_dir`.
pub async fn run_command(
    command: DeadLettersCommand,
    default_data_dir: &Path,
    out: &mut (dyn Write + Send),
) -> Result<(), CommandError> {
    match command {
        DeadLettersCommand::List { target, reason, since, limit } => {
            let mut client = target.connect(default_data_dir).await?;
            let since = since.map(|since| since.epoch_ms(Timestamp::now()));
            let call = ListDeadLetters { app: target.app, reason, since, limit: 0, cursor: None };
            let letters = list(&mut client, call, limit).await?;
            print(out, target.output, &letters, |out| write_table(out, &letters))
        }
        DeadLettersCommand::Show { target, id } => {
            let mut client = target.connect(default_data_dir).await?;
            let shown = client.show(ShowDeadLetter { app: target.app, id }).await?;
            print(out, target.output, &shown, |out| write_letter(out, &shown))
        }
        DeadLettersCommand::Replay { target, ids, reason, all: _, dry_run } => {
            let mut client = target.connect(default_data_dir).await?;
            let report = match (reason, ids.is_empty()) {
                (Some(reason), _) => {
                    replay(&mut client, target.app, vec![Which::Reason(reason)], dry_run).await?
                }
                (None, true) => replay(&mut client, target.app, vec![Which::All], dry_run).await?,
                (None, false) => {
                    let calls = ids.chunks(IDS_PER_CALL).map(|ids| Which::Ids(ids.to_vec())).collect();
                    replay(&mut client, target.app, calls, dry_run).await?
                }
            };
            print(out, target.output, &report, |out| write_report(out, &report, dry_run))?;
            match report.counts.failed {
                0 => Ok(()),
                failed => Err(CommandError::Incomplete { failed }),
            }
        }
    }
}

impl Target {
    pub(super) async fn connect(&self, default_data_dir: &Path) -> Result<Client, ClientError> {
        let data_dir = self.data_dir.as_deref().unwrap_or(default_data_dir);
        Client::connect(&data_dir.join(SOCKET_NAME)).await
    }
}

/// Pages until there is enough.
async fn list(
    client: &mut Client,
    mut call: ListDeadLetters,
    limit: usize,
) -> Result<Vec<LetterSummary>, ClientError> {
    let mut letters = Vec::new();
    while letters.len() < limit {
        call.limit = u32::try_from(limit - letters.len()).unwrap_or(u32::MAX).min(LIST_LIMIT_MAX);
        let page = client.list(call.clone()).await?;
        letters.extend(page.letters);
        match page.next {
            Some(next) => call.cursor = Some(next),
            None => break,
        }
    }
    Ok(letters)
}

/// Makes the calls one after the other, each to its end, and adds up what they did.
async fn replay(
    client: &mut Client,
    app: String,
    calls: Vec<Which>,
    dry_run: bool,
) -> Result<ReplayReport, ClientError> {
    let mut total = ReplayReport::default();
    for which in calls {
        let mut call = ReplayDeadLetters { app: app.clone(), which, dry_run, cursor: None };
        loop {
            let report = client.replay(call.clone()).await?;
            total.counts.replayed += report.counts.replayed;
            total.counts.already_replayed += report.counts.already_replayed;
            total.counts.failed += report.counts.failed;
            total.failed.extend(report.failed);
            match report.next {
                Some(next) => call.cursor = Some(next),
                None => break,
            }
        }
    }
    Ok(total)
}

pub(super) fn print(
    out: &mut (dyn Write + Send),
    output: Output,
    value: &impl Serialize,
    text: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<()>,
) -> Result<(), CommandError> {
    let written = match output {
        Output::Text => text(out),
        Output::Json => serde_json::to_writer_pretty(&mut *out, value)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(out)),
    };
    written.map_err(|source| CommandError::Write { source })
}

fn write_table(out: &mut (dyn Write + Send), letters: &[LetterSummary]) -> std::io::Result<()> {
    if letters.is_empty() {
        return writeln!(out, "No dead letters.");
    }
    let header = ["ID", "WHEN", "REASON", "EVENT TYPE", "REPLAYED", "DETAIL"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(letters.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn row(letter: &LetterSummary) -> [String; 6] {
    [
        letter.id.to_string(),
        moment(letter.dead_lettered_at),
        letter.reason.as_str().to_owned(),
        printable(letter.event_type.as_deref().unwrap_or("-")),
        if letter.replayed { "yes" } else { "no" }.to_owned(),
        printable(&letter.detail),
    ]
}

fn write_letter(out: &mut (dyn Write + Send), shown: &ShownDeadLetter) -> std::io::Result<()> {
    let letter = &shown.letter;
    writeln!(out, "id        {}", shown.id)?;
    writeln!(out, "when      {}", moment(letter.dead_lettered_at))?;
    writeln!(out, "reason    {}", letter.reason.as_str())?;
    writeln!(out, "detail    {}", printable(&letter.detail))?;
    writeln!(out, "replayed  {}", if shown.replayed { "yes" } else { "no" })?;
    writeln!(out, "raw       {}:{}", letter.raw_partition, letter.raw_offset)?;
    match (&letter.record, &letter.bytes) {
        (Some(record), _) => writeln!(out, "record\n{}", printable(&indented(record.get()))),
        (None, Some(bytes)) => writeln!(out, "bytes (base64)\n{bytes}"),
        (None, None) => writeln!(out, "record    too large to be kept; read it at its raw position"),
    }
}

fn write_report(out: &mut (dyn Write + Send), report: &ReplayReport, dry_run: bool) -> std::io::Result<()> {
    let verb = if dry_run { "would be replayed" } else { "replayed" };
    let counts = report.counts;
    let (replayed, skipped, failed) = (counts.replayed, counts.already_replayed, counts.failed);
    writeln!(out, "{replayed} {verb}, {skipped} replayed before, {failed} failed")?;
    for failed in &report.failed {
        writeln!(out, "{}: {}", failed.id, printable(&failed.why))?;
    }
    Ok(())
}

fn moment(epoch_ms: i64) -> String {
    Timestamp::from_millisecond(epoch_ms).map_or_else(|_| epoch_ms.to_string(), |at| at.to_string())
}

/// Over lines, as people read it; as it is where it is no JSON after all.
fn indented(json: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(json);
    value.and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_else(|_| json.to_owned())
}

/// Clients choose event types; a terminal must not obey them.
fn printable(text: &str) -> String {
    let escape =
        |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The process did not answer as hoped.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Some of what was asked for could not be done; the output says what.
    #[error("{failed} of the dead letters could not be replayed")]
    Incomplete {
        /// How many.
        failed: u64,
    },
    /// Rollups cannot be made anew as things are.
    #[error("the rollups were not made anew: {why}")]
    NotRebuilt {
        /// Why.
        why: String,
    },
    /// The output could not be written.
    #[error("cannot write the output")]
    Write {
        /// Why.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(subcommand)]
        command: DeadLettersCommand,
    }

    fn parse(line: &str) -> Result<DeadLettersCommand, clap::Error> {
        <Cli as clap::Parser>::try_parse_from(std::iter::once("x").chain(line.split_whitespace()))
            .map(|cli| cli.command)
    }

    #[test]
    fn a_replay_needs_exactly_one_choice() {
        for line in
            ["replay --app shop 0:1 1:2", "replay --app shop --all", "replay --app shop --reason expired"]
        {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in [
            "replay --app shop",
            "replay --app shop --all 0:1",
            "replay --app shop --all --reason expired",
            "replay --app shop --reason tired",
            "replay --app shop 17",
            "replay 0:1",
            "list",
            "list --app shop --since yesterday",
            "list --app shop --since -2h",
            "show --app shop",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn since_is_a_moment_or_a_while_ago() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (text, expected) in [
            ("1970-01-02T00:00:00Z", 86_400_000),
            ("90m", 994_600_000),
            ("2h", 992_800_000),
            ("3d", 740_800_000),
        ] {
            assert_eq!(text.parse::<Since>().unwrap().epoch_ms(now), expected, "{text}");
        }
    }

    #[test]
    fn a_table_does_not_pass_on_terminal_commands() {
        let letter = LetterSummary {
            id: LetterId { partition: 0, offset: 7 },
            dead_lettered_at: 0,
            reason: DeadLetterReason::UndeclaredEvent,
            detail: "d".to_owned(),
            event_id: None,
            event_type: Some("a\u{1b}[2Jb".to_owned()),
            replay: 0,
            replayed: false,
        };
        let mut out = Vec::new();
        write_table(&mut out, &[letter]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(r"a\u{1b}[2Jb"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
