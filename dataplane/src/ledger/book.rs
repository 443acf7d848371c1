//! Requests of one App in, what ingest knows of each minute out: events acknowledged, of unknown outcome, refused.
//! A minute is complete once it is over and every append begun in it is decided; then nothing can be added to it any
//! more. No I/O and no clock: whoever calls brings the time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::sum::Sum;

/// Most events of unknown outcome that are written down one by one, per App and minute: beyond it the log was away for
/// long, each costs a row, and the minute is called unverified.
pub const UNKNOWN_MAX: usize = 1_000;

/// Seconds of a minute.
const MINUTE_SECONDS: i64 = 60;

/// What this ingest took in of one App.
#[derive(Debug, Default)]
pub struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    /// First minute that takes entries; those before it are over.
    first: i64,
    minutes: BTreeMap<i64, Page>,
}

/// One minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Requests that are not decided yet.
    underway: usize,
    /// Answered as accepted.
    pub acknowledged: Sum,
    /// Hashes of events that may or may not be in the log, up to [`UNKNOWN_MAX`].
    pub unknown: Vec<u64>,
    /// Such events beyond the bound.
    pub unverified: i64,
    /// Where in the log's order the newest event stands that it takes later.
    later: u64,
    /// Events refused, by code.
    pub refused: BTreeMap<&'static str, i64>,
}

impl Page {
    fn is_decided(&self, taken: u64) -> bool {
        self.underway == 0 && self.later <= taken
    }

    fn has_facts(&self) -> bool {
        !self.acknowledged.is_zero()
            || !self.unknown.is_empty()
            || self.unverified > 0
            || !self.refused.is_empty()
    }

    fn add_unknown(&mut self, hashes: &[u64]) {
        let fits = hashes.len().min(UNKNOWN_MAX - self.unknown.len());
        self.unknown.extend_from_slice(&hashes[..fits]);
        self.unverified += i64::try_from(hashes.len() - fits).unwrap_or(i64::MAX);
    }
}

impl Book {
    /// Begins a request. Its events belong to the minute of [`Entry::at`], which is `now` unless the clock went back
    /// behind a minute that is over.
    pub fn enter(self: &Arc<Self>, now: Timestamp) -> Entry {
        let mut pages = self.lock();
        let minute = minute_of(now).max(pages.first);
        let at = now.max(start_of(minute));
        pages.minutes.entry(minute).or_default().underway += 1;
        Entry { book: Arc::clone(self), minute, at, appending: Vec::new(), lost: Vec::new() }
    }

    /// Minutes that are complete at `now`, oldest first; each is told once, those of which nothing is to be said never.
    /// What the log takes later it has, as far as `taken`.
    pub fn complete(&self, now: Timestamp, taken: u64) -> Vec<(i64, Page)> {
        let mut pages = self.lock();
        pages.first = pages.first.max(minute_of(now));
        let first = pages.first;
        let is_complete = |minute: &i64, page: &mut Page| *minute < first && page.is_decided(taken);
        pages.minutes.extract_if(.., is_complete).filter(|(_, page)| page.has_facts()).collect()
    }

    /// Notes that an event may be in the log once more than it said, in the minute it was accepted in.
    pub fn repeated(&self, minute: i64, hash: u64) {
        self.lock().minutes.entry(minute).or_default().add_unknown(&[hash]);
    }

    /// Notes that this may be so of any event that the log takes later.
    pub fn any_repeated(&self) {
        self.lock().minutes.values_mut().filter(|page| page.later > 0).for_each(|page| page.unverified += 1);
    }

    /// Everything that is left, once no request is underway and none will come. What the log does not have by now stays
    /// untold, and so its minute unclosed: nobody would know when it does.
    pub fn end(&self, taken: u64) -> Vec<(i64, Page)> {
        let mut pages = self.lock();
        pages.first = pages.minutes.last_key_value().map_or(pages.first, |(minute, _)| minute + 1);
        let is_decided = |_: &i64, page: &mut Page| page.is_decided(taken);
        pages.minutes.extract_if(.., is_decided).filter(|(_, page)| page.has_facts()).collect()
    }

    /// A panic elsewhere leaves sums as they were: they change in one step each.
    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request underway. Dropped in the middle of an append, by a client that left or a process that ends, its events
/// are of unknown outcome.
#[derive(Debug)]
pub struct Entry {
    book: Arc<Book>,
    minute: i64,
    at: Timestamp,
    appending: Vec<u64>,
    lost: Vec<u64>,
}

impl Entry {
    /// When its events were received.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// From here on the events with these hashes may be in the log.
    pub fn appending(&mut self, hashes: Vec<u64>) {
        self.appending = hashes;
    }

    /// They surely are not: the log took none of them.
    pub fn not_appended(&mut self) {
        self.appending.clear();
    }

    /// Nobody knows whether they are; others may be appended now.
    pub fn unknown(&mut self) {
        self.lost.append(&mut self.appending);
    }

    /// They are durable and come into the log later, before this place in its order.
    pub fn later(&self, end: u64) {
        let mut pages = self.book.lock();
        let page = pages.minutes.entry(self.minute).or_default();
        page.later = page.later.max(end);
    }

    /// Counts events that were refused.
    pub fn refused(&self, codes: impl Iterator<Item = &'static str>) {
        let mut codes = codes.peekable();
        if codes.peek().is_some() {
            let mut pages = self.book.lock();
            let refused = &mut pages.minutes.entry(self.minute).or_default().refused;
            codes.for_each(|code| *refused.entry(code).or_default() += 1);
        }
    }

    /// They surely are, and the client is told so of the events with these hashes.
    pub fn acknowledged(mut self, told: impl Iterator<Item = u64>) {
        self.appending.clear();
        let told = told.map(Sum::one).fold(Sum::ZERO, |all, one| all + one);
        self.book.lock().minutes.entry(self.minute).or_default().acknowledged += told;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.unknown();
        let mut pages = self.book.lock();
        let page = pages.minutes.entry(self.minute).or_default();
        page.underway = page.underway.saturating_sub(1);
        page.add_unknown(&self.lost);
    }
}

/// Minutes since the epoch.
pub fn minute_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(MINUTE_SECONDS)
}

/// The first moment of a minute.
pub fn start_of(minute: i64) -> Timestamp {
    Timestamp::from_second(minute.saturating_mul(MINUTE_SECONDS)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn begun(book: &Arc<Book>, second: i64, hashes: &[u64]) -> Entry {
        let mut entry = book.enter(at(second));
        entry.appending(hashes.to_vec());
        entry
    }

    #[test]
    fn a_minute_is_complete_when_it_is_over_and_its_appends_are_decided() {
        let book = Arc::new(Book::default());
        let (first, second) = (begun(&book, 61, &[5, 7]), begun(&book, 119, &[u64::MAX]));
        first.acknowledged([5, 7].into_iter());
        assert_eq!(book.complete(at(119), 0), []);
        assert_eq!(book.complete(at(120), 0), [], "one append is underway");
        second.acknowledged([u64::MAX].into_iter());
        let told = book.complete(at(120), 0);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].0, told[0].1.acknowledged), (1, Sum { count: 3, hashes: 11 }));
        assert_eq!(book.complete(at(500), 0), [], "told once");
    }

    #[test]
    fn what_was_cut_off_is_unknown_and_what_was_never_sent_is_nothing() {
        let book = Arc::new(Book::default());
        drop(begun(&book, 0, &[3]));
        let mut refused = begun(&book, 1, &[4]);
        refused.not_appended();
        drop(refused);
        let mut again = begun(&book, 2, &[8, 9]);
        again.unknown();
        again.appending(vec![9]);
        again.refused(["event_too_large"].into_iter());
        again.acknowledged([9].into_iter());
        drop(book.enter(at(3)));
        let (minute, page) = book.end(0).remove(0);
        assert_eq!((minute, page.unknown, page.acknowledged), (0, vec![3, 8, 9], Sum::one(9)));
        assert_eq!(page.refused, BTreeMap::from([("event_too_large", 1)]));
    }

    #[test]
    fn unknown_outcomes_are_bounded() {
        let book = Arc::new(Book::default());
        drop(begun(&book, 0, &vec![1; UNKNOWN_MAX - 1]));
        drop(begun(&book, 0, &[1, 2, 3]));
        let (_, page) = book.end(0).remove(0);
        assert_eq!((page.unknown.len(), page.unverified), (UNKNOWN_MAX, 2));
    }

    #[test]
    fn a_clock_that_goes_back_meets_no_minute_that_is_over() {
        let book = Arc::new(Book::default());
        assert_eq!(book.complete(at(600), 0), []);
        let entry = book.enter(at(540));
        assert_eq!(entry.at(), at(600));
        assert_eq!(book.enter(at(601)).at(), at(601));
        drop(entry);
        assert_eq!(book.complete(at(660), 0), [], "nothing is to be said of it");
    }

    #[test]
    fn a_minute_waits_for_what_the_log_takes_later() {
        let book = Arc::new(Book::default());
        let entry = begun(&book, 0, &[3, 4]);
        entry.later(7);
        entry.acknowledged([3, 4].into_iter());
        begun(&book, 61, &[5]).acknowledged([5].into_iter());
        let minutes = |told: Vec<(i64, Page)>| told.iter().map(|(minute, _)| *minute).collect::<Vec<_>>();
        assert_eq!(minutes(book.complete(at(120), 6)), [1], "what was not kept back is told");
        book.repeated(0, 4);
        assert_eq!(book.complete(at(600), 6), []);
        let told = book.complete(at(600), 7);
        assert_eq!((told[0].0, told[0].1.unknown.as_slice()), (0, [4].as_slice()));
    }

    #[test]
    fn what_is_kept_back_when_the_process_ends_is_never_closed() {
        let book = Arc::new(Book::default());
        let entry = begun(&book, 0, &[3]);
        entry.later(1);
        entry.acknowledged([3].into_iter());
        assert_eq!(book.end(0), []);
        book.any_repeated();
        assert_eq!(book.end(1)[0].1.unverified, 1);
    }
}
