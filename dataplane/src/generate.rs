//! A seed and an ingest URL in, realistic traffic sent and a summary of what was accepted out.
//! What is sent depends on the seed and the moment of the start alone; nothing here knows the server's state.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::secret::Secret;

mod invalid;
mod retry;
mod send;
mod summary;
mod traffic;
mod visitor;

pub use send::GenerateError;
pub use summary::{Summary, Verdict, Window};

/// Requests under way at once. Enough to keep the group commit of the log busy, few enough for any laptop.
const REQUESTS_IN_FLIGHT: usize = 16;

/// What to send, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// An ingest URL; without a path, `/v1/events` is meant.
    pub url: String,
    /// A write key.
    pub key: Secret<String>,
    /// Events per second; none sends as fast as answers come.
    pub rate: Option<u32>,
    /// Events to send, duplicates and invalid ones included.
    pub count: u64,
    /// Decides who visits, what they do and what is wrong.
    pub seed: u64,
    /// The latest moment an event may have happened at; usually the clock's reading.
    pub now: Timestamp,
    /// Whether progress is shown.
    pub progress: Progress,
}

/// Whether progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// On standard error, where that is a terminal.
    Bar,
    /// Nowhere.
    Hidden,
}

/// Sends realistic events to an ingest endpoint and reports what became of them.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Ingest URL; without a path, /v1/events is meant.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Write key of the App.
    #[arg(long, env = "MILLRACE_WRITE_KEY", hide_env_values = true, value_parser = secret)]
    pub key: Secret<String>,
    /// Events per second; without it, as fast as answers come.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Events to send, duplicates and invalid ones included.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// The same seed sends the same visits.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How the summary is printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How the summary is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Args {
    /// What to send, given the clock's reading.
    pub fn settings(self, now: Timestamp) -> Settings {
        let Self { url, key, rate, count, seed, output: _ } = self;
        Settings { url, key, rate, count, seed, now, progress: Progress::Bar }
    }
}

impl Output {
    /// The summary as it is printed.
    pub fn render(self, summary: &Summary) -> String {
        match self {
            Self::Text => summary.to_string(),
            Self::Json => serde_json::to_string(summary).expect("a summary has text keys only"),
        }
    }
}

/// Sends `count` events, as visits: one request is what one device did in one session.
///
/// Ends early when the server refuses the requests as such or cannot be reached after many attempts; the summary
/// says so. The caller turns [`Summary::verdict`] into an exit code.
pub async fn run(settings: Settings) -> Result<Summary, GenerateError> {
    let sender = send::Sender::new(&settings.url, settings.key)?;
    let bar = progress_bar(settings.progress, settings.count);
    let start = Instant::now();
    let mut due = Pace { start, rate: settings.rate, events: 0 };
    let batches = traffic::Traffic::new(settings.seed, settings.now, settings.count);
    let answers = futures::stream::iter(batches)
        .map(|batch| (due.next(batch.events.len()), batch))
        .then(|(due, batch)| async move {
            tokio::time::sleep_until(due).await;
            batch
        })
        .map(|batch| sender.send(batch))
        .buffer_unordered(REQUESTS_IN_FLIGHT);
    let mut answers = pin!(answers);
    let mut tally = summary::Tally::default();
    while let Some((batch, outcome)) = answers.next().await {
        let is_over = matches!(outcome, send::Outcome::Stop { .. });
        tally.add(&batch, outcome);
        bar.inc(batch.events.len() as u64);
        if is_over {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(tally.finish(settings.seed, start.elapsed()))
}

/// When each batch may leave.
struct Pace {
    start: Instant,
    rate: Option<u32>,
    events: u64,
}

impl Pace {
    /// The moment for the next batch: the events before it, at the rate.
    fn next(&mut self, events: usize) -> Instant {
        let before = self.events;
        self.events += events as u64;
        match self.rate {
            Some(rate) => self.start + Duration::from_secs_f64(before as f64 / f64::from(rate.max(1))),
            None => self.start,
        }
    }
}

fn progress_bar(progress: Progress, count: u64) -> ProgressBar {
    let target = match progress {
        Progress::Bar => ProgressDrawTarget::stderr(),
        Progress::Hidden => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template(
        "sending {bar:40} {human_pos}/{human_len} events, {per_sec}, {eta} left",
    );
    ProgressBar::with_draw_target(Some(count), target)
        .with_style(style.expect("the template is a constant that a test renders"))
}

fn secret(text: &str) -> Result<Secret<String>, std::convert::Infallible> {
    Ok(Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests;
