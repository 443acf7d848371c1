//! The books of all Apps of this ingest: complete minutes in, records of the topic `ledger` out.
//!
//! A minute is written in two appends: first what was counted, then that the instance has closed it. Both may be
//! repeated after an answer that was lost: records of one instance differ in `recorded_at`, so a reader can tell a
//! repetition from a second count. What a process could not write before it ended is never closed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use millrace_crds::names::{AppId, TopicKind};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::book::{Book, Page};
use super::sum::Sum;
use crate::config::App;
use crate::failpoint;
use crate::log::{Log, LogError, NewRecord, Repeated, TopicPartition};
use crate::record::{LedgerKind, LedgerRecord, Origin, RECORD_VERSION, event_hash, partition_of};
use crate::telemetry;

/// How often it is looked for minutes that are complete.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for one append; it is repeated at the next look.
const APPEND_MAX: Duration = Duration::from_secs(15);
/// Longest time to write what is left when ingest ends.
const END_MAX: Duration = Duration::from_secs(5);
/// Most minutes kept while the log is away: a day of seven Apps. Beyond it the oldest stay unclosed.
const WAITING_MAX: usize = 10_000;

/// The books of one ingest.
pub struct Books {
    instance: String,
    apps: Mutex<BTreeMap<AppId, Kept>>,
}

struct Kept {
    book: Arc<Book>,
    topic: Option<LedgerTopic>,
    /// Where its events go.
    raw: Option<Arc<str>>,
}

/// What of a raw record says whose minute it is of.
#[derive(Deserialize)]
struct Accepted {
    origin: Origin,
}

/// Where an App's minutes are written.
#[derive(Clone, Debug)]
struct LedgerTopic {
    name: Arc<str>,
    partitions: u32,
}

impl Books {
    /// Of the ingest with this name, which no other process life may have.
    pub fn new(instance: &str) -> Self {
        Self { instance: instance.to_owned(), apps: Mutex::default() }
    }

    /// The book of an App, as it is configured now. It outlives the App's configurations, and the App.
    pub fn of(&self, app: &App) -> Arc<Book> {
        let topic = app.config.topics.iter().find(|topic| topic.kind == TopicKind::Ledger);
        let topic =
            topic.map(|topic| LedgerTopic { name: topic.name.as_str().into(), partitions: topic.partitions });
        let raw = app.config.topics.iter().find(|topic| topic.kind == TopicKind::EventsRaw);
        let raw = raw.map(|topic| topic.name.as_str().into());
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Kept { book: Arc::default(), topic: None, raw: None };
        let kept = apps.entry(app.config.app.clone()).or_insert_with(new);
        (kept.topic, kept.raw) = (topic, raw);
        Arc::clone(&kept.book)
    }

    /// Takes in which records the log may have more often than it said. Those of an earlier life are of minutes that
    /// nobody closes.
    fn repeated(&self, Repeated { records, more }: &Repeated) {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            let kept = apps.values().find(|kept| kept.raw.as_ref() == Some(&record.to.topic));
            let accepted = serde_json::from_slice(&record.value).ok();
            let Some((kept, Accepted { origin })) = kept.zip(accepted) else { continue };
            if origin.instance == self.instance {
                let hash = Uuid::from_slice(&record.key).map_or(0, |id| event_hash(&id));
                kept.book.repeated(origin.minute, hash);
            }
        }
        if *more {
            apps.values().for_each(|kept| kept.book.any_repeated());
        }
    }

    fn pages(&self, told: impl Fn(&Book) -> Vec<(i64, Page)>) -> Vec<(LedgerTopic, i64, Page)> {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let of_app = |kept: &Kept| {
            let topic = kept.topic.clone();
            told(&kept.book)
                .into_iter()
                .filter_map(move |(minute, page)| Some((topic.clone()?, minute, page)))
        };
        apps.values().flat_map(of_app).collect::<Vec<_>>()
    }
}

/// Writes minutes down as they become complete.
pub struct Keeper {
    books: Arc<Books>,
    log: Arc<dyn Log>,
    waiting: VecDeque<Minute>,
    /// Time of the last record: every one gets its own.
    recorded_at: i64,
    is_failing: bool,
}

/// A minute on its way into the log.
struct Minute {
    facts: Vec<NewRecord>,
    closed: NewRecord,
}

impl Keeper {
    /// Nothing waits yet.
    pub fn new(books: Arc<Books>, log: Arc<dyn Log>) -> Self {
        Self { books, log, waiting: VecDeque::new(), recorded_at: 0, is_failing: false }
    }

    /// Until it is told to stop.
    pub async fn keep(&mut self, stop: CancellationToken) {
        let mut looks = tokio::time::interval(failpoint::pause(LOOK_EVERY));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            let now = failpoint::now();
            let taken = self.taken();
            let pages = self.books.pages(|book| book.complete(now, taken));
            self.take(pages, now);
            // Cut off by the stop, an append is repeated at the end.
            stop.run_until_cancelled(self.write()).await;
        }
    }

    /// Writes what is left, once no request will come any more.
    pub async fn end(&mut self) {
        let taken = self.taken();
        let pages = self.books.pages(|book| book.end(taken));
        self.take(pages, failpoint::now());
        let _ = tokio::time::timeout(END_MAX, self.write()).await;
        if !self.waiting.is_empty() {
            let minutes = self.waiting.len();
            tracing::warn!(minutes, "minutes of the ledger could not be written and stay unclosed");
        }
    }

    /// How far the log has come with what it takes later. In this order: what it has now, it was given before.
    fn taken(&self) -> u64 {
        let taken = self.log.later().taken;
        self.books.repeated(&self.log.repeated());
        taken
    }

    fn take(&mut self, pages: Vec<(LedgerTopic, i64, Page)>, now: Timestamp) {
        for (topic, minute, page) in pages {
            let minute = self.minute(&topic, minute, page, now);
            self.waiting.push_back(minute);
        }
        let over = self.waiting.len().saturating_sub(WAITING_MAX);
        if over > 0 {
            self.waiting.drain(..over);
            tracing::error!(
                minutes = over,
                "the log takes no ledger; its oldest minutes are given up, unclosed"
            );
        }
    }

    fn minute(&mut self, topic: &LedgerTopic, minute: i64, page: Page, now: Timestamp) -> Minute {
        let mut record = |kind, reason: &str, sum: Sum| {
            self.recorded_at = now.as_millisecond().max(self.recorded_at + 1);
            let record = LedgerRecord {
                v: RECORD_VERSION,
                minute,
                instance: self.books.instance.clone(),
                kind,
                reason: reason.to_owned(),
                count: sum.count,
                sum: sum.hashes,
                recorded_at: self.recorded_at,
            };
            new_record(&record, &topic.name, topic.partitions)
        };
        let mut facts = Vec::new();
        if !page.acknowledged.is_zero() {
            facts.push(record(LedgerKind::Acknowledged, "", page.acknowledged));
        }
        facts.extend(page.unknown.iter().map(|hash| record(LedgerKind::Unknown, "", Sum::one(*hash))));
        if page.unverified > 0 {
            facts.push(record(LedgerKind::Unverified, "", Sum { count: page.unverified, hashes: 0 }));
        }
        for (code, count) in page.refused {
            facts.push(record(LedgerKind::Refused, code, Sum { count, hashes: 0 }));
        }
        Minute { facts, closed: record(LedgerKind::Closed, "", Sum::ZERO) }
    }

    /// Everything that waits, oldest first, up to the first failure.
    async fn write(&mut self) {
        while let Some(minute) = self.waiting.front_mut() {
            match append(self.log.as_ref(), minute).await {
                Ok(()) => {
                    self.waiting.pop_front();
                    self.is_failing = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.is_failing, true) {
                        let error = telemetry::chain(&error);
                        tracing::warn!(error, "the ledger waits for the log");
                    }
                    return;
                }
            }
        }
    }
}

async fn append(log: &dyn Log, minute: &mut Minute) -> Result<(), LogError> {
    if !minute.facts.is_empty() {
        within(log.append(minute.facts.clone())).await?;
        minute.facts.clear();
    }
    within(log.append(vec![minute.closed.clone()])).await
}

async fn within(append: impl Future<Output = Result<Vec<u64>, LogError>>) -> Result<(), LogError> {
    match tokio::time::timeout(APPEND_MAX, append).await {
        Ok(appended) => appended.map(drop),
        Err(elapsed) => {
            Err(LogError::Unavailable { step: "append to the ledger", source: Arc::new(elapsed) })
        }
    }
}

/// A record for a topic of the ledger.
pub(super) fn new_record(record: &LedgerRecord, topic: &Arc<str>, partitions: u32) -> NewRecord {
    let key = record.key();
    let to = TopicPartition { topic: Arc::clone(topic), partition: partition_of(&key, partitions) };
    let value = serde_json::to_vec(record).expect("records have text keys and no failing serializer");
    NewRecord { to, key: Bytes::copy_from_slice(&key), value: value.into() }
}
