//! Answers in, figures out: what was sent, what became of it, and what a correct server must now report.
//! Figures count distinct accepted events only, so they can be compared with what a query says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::send::{Answer, Outcome};
use super::traffic::{Batch, Fact, Meaning, Planned, decimal};

/// Differences that are spelled out; more are only counted.
const DIFFERENCES_MAX: usize = 5;
const HOUR_MS: i64 = 60 * 60 * 1000;

/// What was sent and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The seed it came from.
    pub seed: u64,
    /// Events sent and answered, retries of a request not counted again.
    pub sent: u64,
    /// Of these, events that a correct server accepts, duplicates included.
    pub meant_valid: u64,
    /// Of these, events that a correct server refuses.
    pub meant_invalid: u64,
    /// Events sent a second time on purpose.
    pub duplicates_sent: u64,
    /// Events the server accepted, duplicates included.
    pub accepted: u64,
    /// Events the server accepted, each once.
    pub distinct_accepted: u64,
    /// Events the server refused, by its code.
    pub refused_by_code: BTreeMap<String, u64>,
    /// Revenue of the distinct accepted events by currency, as decimal text.
    pub revenue: BTreeMap<String, String>,
    /// People behind the distinct accepted events.
    pub active_users: u64,
    /// Purchases among the distinct accepted events.
    pub conversions: u64,
    /// People behind these purchases.
    pub converting_users: u64,
    /// When the distinct accepted events happened; none where there are none.
    pub window: Option<Window>,
    /// How long it took.
    pub seconds: f64,
    /// Events meant to be valid that were refused.
    pub wrongly_refused: u64,
    /// Events meant to be invalid that were accepted.
    pub wrongly_accepted: u64,
    /// The first of these, in words.
    pub differences: Vec<String>,
    /// Why sending ended early, if it did.
    pub stopped: Option<String>,
    /// Ids the server acknowledged. Not printed: they may be many.
    #[serde(skip)]
    pub acknowledged_ids: BTreeSet<Uuid>,
}

/// A span of time that holds every distinct accepted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The earliest event.
    pub first: Timestamp,
    /// The latest event.
    pub last: Timestamp,
    /// Whole hour at or before the earliest.
    pub from: Timestamp,
    /// Whole hour after the latest; itself not included.
    pub to: Timestamp,
}

/// Why a run is not a success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Verdict {
    /// Sending ended early.
    #[error("sending stopped early: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// The server and we do not agree on what is valid.
    #[error(
        "{wrongly_refused} valid events were refused, {wrongly_accepted} invalid ones accepted: {differences}"
    )]
    Disagreement {
        /// Events meant to be valid that were refused.
        wrongly_refused: u64,
        /// Events meant to be invalid that were accepted.
        wrongly_accepted: u64,
        /// The first of these.
        differences: String,
    },
    /// The run shows nothing.
    #[error("no event was accepted")]
    NothingAccepted,
}

impl Summary {
    /// Whether everything meant to be valid was accepted and everything else refused.
    pub fn verdict(&self) -> Result<(), Verdict> {
        if let Some(reason) = &self.stopped {
            return Err(Verdict::Stopped { reason: reason.clone() });
        }
        if self.wrongly_refused + self.wrongly_accepted > 0 {
            return Err(Verdict::Disagreement {
                wrongly_refused: self.wrongly_refused,
                wrongly_accepted: self.wrongly_accepted,
                differences: self.differences.join("; "),
            });
        }
        if self.accepted == 0 { Err(Verdict::NothingAccepted) } else { Ok(()) }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duplicates = self.duplicates_sent;
        writeln!(f, "sent               {} in {:.1} s", self.sent, self.seconds)?;
        writeln!(f, "  meant valid      {} ({duplicates} of them sent a second time)", self.meant_valid)?;
        writeln!(f, "  meant invalid    {}", self.meant_invalid)?;
        writeln!(f, "accepted           {} ({} distinct)", self.accepted, self.distinct_accepted)?;
        writeln!(f, "refused            {}", self.refused_by_code.values().sum::<u64>())?;
        for (code, count) in &self.refused_by_code {
            writeln!(f, "  {code:<30} {count}")?;
        }
        for (currency, amount) in &self.revenue {
            writeln!(f, "revenue            {amount} {currency}")?;
        }
        writeln!(f, "active users       {}", self.active_users)?;
        writeln!(f, "conversions        {} by {} users", self.conversions, self.converting_users)?;
        if let Some(Window { first, last, .. }) = self.window {
            writeln!(f, "events from        {first} to {last}")?;
        }
        match self.verdict() {
            Ok(()) => write!(f, "verdict            as meant"),
            Err(verdict) => write!(f, "verdict            {verdict}"),
        }
    }
}

/// Counts while answers come in.
#[derive(Default)]
pub(super) struct Tally {
    sent: u64,
    meant_invalid: u64,
    duplicates_sent: u64,
    accepted: u64,
    refused_by_code: BTreeMap<String, u64>,
    wrongly_refused: u64,
    wrongly_accepted: u64,
    differences: Vec<String>,
    stopped: Option<String>,
    acknowledged_ids: BTreeSet<Uuid>,
    revenue_cents: BTreeMap<&'static str, u64>,
    active: BTreeSet<u64>,
    conversions: u64,
    converting: BTreeSet<u64>,
    times: Option<(i64, i64)>,
}

impl Tally {
    pub(super) fn add(&mut self, batch: &Batch, outcome: Outcome) {
        match outcome {
            Outcome::Stop { reason } => self.stopped = Some(reason),
            Outcome::Answered(answers) => {
                for (planned, answer) in batch.events.iter().zip(answers) {
                    self.add_event(planned, answer);
                }
            }
        }
    }

    fn add_event(&mut self, planned: &Planned, answer: Answer) {
        self.sent += 1;
        let fact = match &planned.meaning {
            Meaning::Valid(fact) => Ok(fact),
            Meaning::Duplicate(fact) => {
                self.duplicates_sent += 1;
                Ok(fact)
            }
            Meaning::Invalid(mistake) => {
                self.meant_invalid += 1;
                Err(mistake)
            }
        };
        match (fact, answer) {
            (Ok(fact), Answer::Accepted(id)) => {
                self.accepted += 1;
                if self.acknowledged_ids.insert(id) {
                    self.count(fact);
                }
            }
            (Ok(_), Answer::Refused { code, message }) => {
                self.wrongly_refused += 1;
                self.note(format!("a valid event was refused as {code}: {message}"));
                *self.refused_by_code.entry(code).or_default() += 1;
            }
            (Err(_), Answer::Refused { code, .. }) => *self.refused_by_code.entry(code).or_default() += 1,
            (Err(mistake), Answer::Accepted(id)) => {
                self.accepted += 1;
                self.wrongly_accepted += 1;
                self.acknowledged_ids.insert(id);
                self.note(format!("an event with {mistake} was accepted"));
            }
        }
    }

    fn count(&mut self, fact: &Fact) {
        self.active.insert(fact.visitor);
        if let Some((currency, cents)) = fact.revenue {
            self.conversions += 1;
            self.converting.insert(fact.visitor);
            *self.revenue_cents.entry(currency).or_default() += cents;
        }
        let (first, last) = self.times.unwrap_or((fact.timestamp, fact.timestamp));
        self.times = Some((first.min(fact.timestamp), last.max(fact.timestamp)));
    }

    fn note(&mut self, difference: String) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference);
        }
    }

    pub(super) fn finish(self, seed: u64, took: Duration) -> Summary {
        let revenue = self.revenue_cents.iter();
        Summary {
            seed,
            sent: self.sent,
            meant_valid: self.sent - self.meant_invalid,
            meant_invalid: self.meant_invalid,
            duplicates_sent: self.duplicates_sent,
            accepted: self.accepted,
            distinct_accepted: self.acknowledged_ids.len() as u64,
            refused_by_code: self.refused_by_code,
            revenue: revenue.map(|(currency, cents)| ((*currency).to_owned(), decimal(*cents))).collect(),
            active_users: self.active.len() as u64,
            conversions: self.conversions,
            converting_users: self.converting.len() as u64,
            window: self.times.and_then(|(first, last)| Window::around(first, last)),
            seconds: took.as_secs_f64(),
            wrongly_refused: self.wrongly_refused,
            wrongly_accepted: self.wrongly_accepted,
            differences: self.differences,
            stopped: self.stopped,
            acknowledged_ids: self.acknowledged_ids,
        }
    }
}

impl Window {
    /// The window of events between two moments in epoch milliseconds, both included.
    fn around(first: i64, last: i64) -> Option<Self> {
        let at = |milliseconds| Timestamp::from_millisecond(milliseconds).ok();
        Some(Self {
            first: at(first)?,
            last: at(last)?,
            from: at(first - first.rem_euclid(HOUR_MS))?,
            to: at(last - last.rem_euclid(HOUR_MS) + HOUR_MS)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::invalid::Mistake;
    use super::*;

    fn planned(meaning: Meaning) -> Planned {
        Planned { json: String::new(), meaning }
    }

    #[test]
    fn figures_count_each_accepted_event_once_whichever_copy_came_first() {
        let hour = 1_767_319_200_000;
        let bought = |visitor, cents| Fact { visitor, timestamp: hour + 5, revenue: Some(("EUR", cents)) };
        let looked = Fact { visitor: 1, timestamp: hour - 1, revenue: None };
        let events = vec![
            planned(Meaning::Duplicate(bought(1, 1_995))),
            planned(Meaning::Valid(bought(1, 1_995))),
            planned(Meaning::Valid(bought(2, 10))),
            planned(Meaning::Valid(looked)),
            planned(Meaning::Invalid(Mistake::CutOff)),
        ];
        let accepted = |id| Answer::Accepted(Uuid::from_u128(id));
        let refused = Answer::Refused { code: "not_json".to_owned(), message: String::new() };
        let mut tally = Tally::default();
        let batch = Batch { user_agent: "", events };
        tally.add(
            &batch,
            Outcome::Answered(vec![accepted(1), accepted(1), accepted(2), accepted(3), refused]),
        );
        let summary = tally.finish(9, Duration::from_secs(2));
        assert_eq!(summary.verdict(), Ok(()));
        assert_eq!((summary.sent, summary.meant_valid, summary.meant_invalid), (5, 4, 1));
        assert_eq!((summary.accepted, summary.distinct_accepted, summary.duplicates_sent), (4, 3, 1));
        assert_eq!((summary.active_users, summary.conversions, summary.converting_users), (2, 2, 2));
        assert_eq!(summary.revenue, BTreeMap::from([("EUR".to_owned(), "20.05".to_owned())]));
        assert_eq!(summary.refused_by_code, BTreeMap::from([("not_json".to_owned(), 1)]));
        let Window { first, last, from, to } = summary.window.unwrap();
        let at = [first, last, from, to].map(|moment| moment.as_millisecond() - hour);
        assert_eq!(at, [-1, 5, -HOUR_MS, HOUR_MS]);
    }

    #[test]
    fn a_run_without_anything_accepted_is_no_success() {
        let summary = Tally::default().finish(1, Duration::ZERO);
        assert_eq!(summary.verdict(), Err(Verdict::NothingAccepted));
        assert_eq!(summary.window, None);
        assert!(summary.to_string().contains("no event was accepted"));
    }
}
