//! What was counted of one minute in, which equation holds and which does not out. Pure; knows nothing of lag: what does
//! not hold now may hold once everything has arrived ([`super::watch`]).

use std::collections::BTreeMap;
use std::fmt;

use super::sum::Sum;
use crate::record::LedgerKind;

/// Most events of unknown outcome of one instance and minute for which it is tried out which of them are in raw: two
/// halves of 2^16 sums each. A wrong match has a chance of 2^-32.
const TRIED_MAX: usize = 32;

/// Minutes after which an instance that has not closed a minute is not going to: the longest append, the drain of an
/// ingest that stops, and clocks that differ.
const CLOSED_WITHIN: i64 = 5;

/// Whether an instance may still close a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It may.
    Awaited,
    /// One that did not by now is not going to.
    Over,
}

impl Closing {
    /// Of `minute`, seen at `now`, both in minutes since the epoch.
    pub fn of(minute: i64, now: i64) -> Self {
        if now - minute > CLOSED_WITHIN { Self::Over } else { Self::Awaited }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Equation {
    /// What ingest acknowledged, and those of unknown outcome that are there, is what stands in raw. Per instance.
    Accepted,
    /// Every record of raw was recognised as a copy, set aside, or processed.
    Processed,
    /// Everything processed is a row, or was erased.
    Stored,
    /// No event is in two rows. Told where as many rows are stored as were processed, so that only this can tell.
    Once,
}

impl Equation {
    /// Every equation, in the order events pass.
    pub const ALL: [Self; 4] = [Self::Accepted, Self::Processed, Self::Stored, Self::Once];

    /// The name used in records, metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Processed => "processed",
            Self::Stored => "stored",
            Self::Once => "once",
        }
    }

    /// The equation with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|equation| equation.as_str() == name)
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Accepted => "acknowledged + unknown found in raw = raw",
            Self::Processed => "raw = deduplicated + dead-lettered + expired + processed",
            Self::Stored => "processed = stored + erased",
            Self::Once => "events = rows",
        }
    }
}

impl fmt::Display for Equation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One equation of one minute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Minutes since the epoch.
    pub minute: i64,
    /// The ingest instance, for [`Equation::Accepted`]; else empty.
    pub instance: String,
    /// Which equation.
    pub equation: Equation,
}

/// A row of the ledger, its like added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The ingest instance.
    pub instance: String,
    /// What was counted.
    pub kind: LedgerKind,
    /// Reason, code, or the name of an equation; by the kind.
    pub reason: String,
    /// How much. Of a kind that is written one by one, several with the same hash.
    pub sum: Sum,
    /// The hash, where the kind is written one by one.
    pub hash: u64,
    /// Rows of the table that were added up.
    pub rows: u64,
}

/// How much of a minute is there. It grows with everything that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Rows of the ledger.
    counted: u64,
    /// Rows of the table of events.
    stored: i64,
}

/// One ingest instance in one minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// Answered as accepted.
    pub acknowledged: Sum,
    /// Hashes of events of unknown outcome.
    pub unknown: Vec<u64>,
    /// Whether there were more of them than are written down.
    pub unverified: bool,
    /// Whether the instance said that the minute is complete.
    pub closed: bool,
    /// Found in raw.
    pub raw: Sum,
}

/// What was counted of one minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// By ingest instance.
    pub instances: BTreeMap<String, Instance>,
    /// Recognised as copies.
    pub deduplicated: Sum,
    /// Set aside, by reason; those replayed are taken back.
    pub dead_lettered: BTreeMap<String, Sum>,
    /// Set aside for being older than the retention.
    pub expired: Sum,
    /// Passed on to be stored.
    pub processed: Sum,
    /// Erased on request.
    pub erased: Sum,
    /// Put back into raw from the dead letters.
    pub replayed: Sum,
    /// Rows of the table of events.
    pub stored: Sum,
    /// Rows whose event has an earlier row, as far back as it is looked.
    pub repeated: Sum,
    /// Refused at ingest, by code.
    pub refused: BTreeMap<String, i64>,
    /// Differences on record: what was found and told, less what was resolved since.
    pub breached: BTreeMap<(String, Equation), Sum>,
    /// Rows of the ledger that were added up.
    pub rows: u64,
}

/// What can be said of a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Every equation holds, and every instance closed the minute.
    Balanced,
    /// What can be checked holds, but more outcomes are unknown than can be checked.
    Unverified,
    /// What can be checked holds, from raw on; an instance never closed the minute.
    Unclosed,
    /// Not everything has arrived.
    Pending,
    /// A difference outlived the lag.
    Breached,
}

impl Verdict {
    /// The name used in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Unverified => "unverified",
            Self::Unclosed => "unclosed",
            Self::Pending => "pending",
            Self::Breached => "breached",
        }
    }
}

impl Minute {
    /// Takes a row in.
    pub fn add(&mut self, fact: Fact) {
        let Fact { instance, kind, reason, sum, hash, rows } = fact;
        self.rows += rows;
        match kind {
            LedgerKind::Acknowledged => self.of(instance).acknowledged += sum,
            LedgerKind::Unknown => {
                let times = usize::try_from(sum.count).unwrap_or(0);
                self.of(instance).unknown.extend(std::iter::repeat_n(hash, times));
            }
            LedgerKind::Unverified => self.of(instance).unverified = true,
            LedgerKind::Closed => self.of(instance).closed = true,
            LedgerKind::Raw => self.of(instance).raw += sum,
            LedgerKind::Deduplicated => self.deduplicated += sum,
            LedgerKind::DeadLettered => *self.dead_lettered.entry(reason).or_default() += sum,
            LedgerKind::Expired => self.expired += sum,
            LedgerKind::Processed => self.processed += sum,
            LedgerKind::Replayed => self.replayed += sum,
            LedgerKind::Refused => *self.refused.entry(reason).or_default() += sum.count,
            LedgerKind::Erased => self.erased += sum,
            LedgerKind::Breached => {
                // An equation that only a newer build knows is none of ours.
                if let Some(equation) = Equation::named(&reason) {
                    *self.breached.entry((instance, equation)).or_default() += sum;
                    self.breached.retain(|_, sum| !sum.is_zero());
                }
            }
        }
    }

    /// How much of it is there.
    pub fn extent(&self) -> Extent {
        Extent { counted: self.rows, stored: self.stored.count }
    }

    fn of(&mut self, instance: String) -> &mut Instance {
        self.instances.entry(instance).or_default()
    }

    /// Everything in raw, replays apart.
    pub fn raw(&self) -> Sum {
        self.instances.values().map(|instance| instance.raw).fold(Sum::ZERO, |all, one| all + one)
    }

    /// Everything set aside, the expired apart.
    pub fn dead_lettered(&self) -> Sum {
        self.dead_lettered.values().fold(Sum::ZERO, |all, one| all + *one)
    }

    /// Equations that do not hold, each with what is missing on its later side; below zero, what is too much there.
    pub fn differences(&self) -> BTreeMap<(String, Equation), Sum> {
        let accepted = self.instances.iter().filter_map(|(name, instance)| {
            let missing = instance.missing()?;
            Some(((name.clone(), Equation::Accepted), missing))
        });
        let decided = self.deduplicated + self.dead_lettered() + self.expired + self.processed;
        let unstored = self.processed - self.erased - self.stored;
        let later = [
            (Equation::Processed, self.raw() - decided),
            (Equation::Stored, unstored),
            (Equation::Once, if unstored.is_zero() { -self.repeated } else { Sum::ZERO }),
        ];
        let later = later.into_iter().map(|(equation, missing)| ((String::new(), equation), missing));
        accepted.chain(later).filter(|(_, missing)| !missing.is_zero()).collect()
    }

    /// What can be said of it, without knowing what is still on its way.
    pub fn verdict(&self, closing: Closing) -> Verdict {
        let is_closed = self.instances.values().all(|instance| instance.closed);
        if !self.breached.is_empty() {
            Verdict::Breached
        } else if !self.differences().is_empty() || !is_closed && closing == Closing::Awaited {
            Verdict::Pending
        } else if !is_closed {
            Verdict::Unclosed
        } else if self.instances.values().any(Instance::is_unverified) {
            Verdict::Unverified
        } else {
            Verdict::Balanced
        }
    }
}

/// Whether some of the events of unknown outcome are what stands in raw beside those acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Found,
    None,
    /// Too many to try.
    Untried,
}

impl Instance {
    /// What is missing in raw, where that can be told.
    fn missing(&self) -> Option<Sum> {
        let is_off = self.closed && !self.unverified && self.matched() == Match::None;
        is_off.then(|| self.acknowledged - self.raw)
    }

    fn is_unverified(&self) -> bool {
        self.unverified || self.matched() == Match::Untried
    }

    fn matched(&self) -> Match {
        let beside = self.raw - self.acknowledged;
        let Ok(count) = usize::try_from(beside.count) else { return Match::None };
        let holds = |holds| if holds { Match::Found } else { Match::None };
        if count == 0 {
            holds(beside.is_zero())
        } else if count > self.unknown.len() {
            Match::None
        } else if count == self.unknown.len() {
            holds(Sum::all(&self.unknown) == beside)
        } else if self.unknown.len() > TRIED_MAX {
            Match::Untried
        } else {
            holds(is_sum_of_some(&self.unknown, beside))
        }
    }
}

/// Whether some of the hashes make up the sum: every choice of one half is looked for in the other.
fn is_sum_of_some(hashes: &[u64], sum: Sum) -> bool {
    let (left, right) = hashes.split_at(hashes.len() / 2);
    let mut left = choices(left);
    left.sort_unstable_by_key(|choice| (choice.count, choice.hashes));
    choices(right).into_iter().any(|right| {
        let rest = sum - right;
        left.binary_search_by_key(&(rest.count, rest.hashes), |left| (left.count, left.hashes)).is_ok()
    })
}

/// The sum of every choice.
fn choices(hashes: &[u64]) -> Vec<Sum> {
    let mut sums = vec![Sum::ZERO];
    for hash in hashes {
        let with: Vec<Sum> = sums.iter().map(|sum| *sum + Sum::one(*hash)).collect();
        sums.extend(with);
    }
    sums
}

#[cfg(test)]
mod tests;
