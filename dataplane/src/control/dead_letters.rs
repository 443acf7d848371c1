//! Dead letters for people: a call in, a page, one letter or a replay out. Works on the log alone.
//!
//! A replay appends the record to `events-raw` again, marked `replay + 1`, and a mark under the same key to
//! `dead-letters`, in one transaction: either both are there or none. What has a mark is skipped, so a replay can
//! be repeated after any failure; the mark also outlives the dedupe window, behind which a second copy of the
//! event would be stored a second time.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use millrace_crds::names::{AppId, NAMESPACE_DEFAULT, TopicKind};
use tokio::sync::Mutex;

use super::protocol::{
    Cursor, DeadLetterPage, FailedReplay, LIST_LIMIT_MAX, LetterId, LetterSummary, ListDeadLetters, Refusal,
    RefusalCode, ReplayDeadLetters, ReplayReport, ShowDeadLetter, ShownDeadLetter, Which,
};
use super::replays::Replays;
use super::rollups::Rebuilds;
use crate::config::{App, Current};
use crate::log::{
    GroupHandle, Log, LogError, LogRecord, NewRecord, ReadLimits, TopicInfo, TopicPartition, Transaction,
};
use crate::member::Member;
use crate::process;
use crate::record::{DeadLetter, DeadLetterEntry, DeadLetterReason, RawRecord};
use crate::store::ClickHouse;

mod replay;

/// Most records looked through in one call; the caller goes on from the cursor.
const SCAN_RECORDS_MAX: usize = 5_000;
/// Most dead letters put back by one transaction.
const REPLAY_RECORDS_MAX: usize = 500;
/// Records read at once while looking through.
const PAGE: ReadLimits = ReadLimits { records_max: 500, bytes_max: 4 << 20, wait_max: Duration::ZERO };

/// What the running process lends to the control socket.
pub struct ControlState {
    pub(super) config: Current,
    pub(super) log: Arc<dyn Log>,
    /// For audits.
    pub(super) store: ClickHouse,
    /// What the reloader is to do, and how far it is.
    pub(super) rebuilds: Arc<Rebuilds>,
    /// By App; the lock also keeps two replays from doing the same.
    replays: Mutex<BTreeMap<AppId, Replays>>,
}

/// A dead letter with its place.
struct Letter {
    id: LetterId,
    key: bytes::Bytes,
    letter: DeadLetter,
    /// Its raw record, where that can be read.
    record: Option<RawRecord>,
}

impl Letter {
    /// `None` for a replay mark, and for what no build of ours wrote.
    fn parse(partition: u32, record: LogRecord) -> Option<Self> {
        let DeadLetterEntry::DeadLetter(letter) = DeadLetterEntry::parse(&record.value).ok()? else {
            return None;
        };
        let raw = match (&letter.record, letter.reason) {
            (None, _) | (_, DeadLetterReason::UnreadableRecord) => None,
            (Some(json), _) => serde_json::from_str(json.get()).ok(),
        };
        let id = LetterId { partition, offset: record.offset };
        Some(Self { id, key: record.key, letter: *letter, record: raw })
    }

    /// How often its event had been replayed when it became this letter.
    fn replay(&self) -> u32 {
        self.record.as_ref().map_or(0, |record| record.origin.replay)
    }

    fn summary(self, replayed: bool) -> LetterSummary {
        LetterSummary {
            id: self.id,
            replay: self.replay(),
            replayed,
            dead_lettered_at: self.letter.dead_lettered_at,
            reason: self.letter.reason,
            detail: self.letter.detail,
            event_id: self.record.as_ref().map(|record| record.event.event_id),
            event_type: self.record.map(|record| record.event.event_type),
        }
    }
}

/// What one call works on.
struct Scope {
    app: Arc<App>,
    topic: TopicInfo,
}

impl ControlState {
    /// Over the configuration in force, the process's log and its ClickHouse.
    pub fn new(config: Current, log: Arc<dyn Log>, store: ClickHouse, rebuilds: Arc<Rebuilds>) -> Self {
        Self { config, log, store, rebuilds, replays: Mutex::default() }
    }

    /// Some dead letters, oldest first within each partition.
    pub async fn list(&self, call: ListDeadLetters) -> Result<DeadLetterPage, Refusal> {
        let limit = call.limit.clamp(1, LIST_LIMIT_MAX) as usize;
        let scope = self.scope(&call.app).await?;
        let mut all = self.replays.lock().await;
        let replays = all.entry(scope.app.config.app.clone()).or_default();
        replays.refresh(self.log.as_ref(), &scope.topic).await.map_err(log_failed)?;
        let wanted = |letter: &Letter| {
            call.reason.is_none_or(|reason| reason == letter.letter.reason)
                && call.since.is_none_or(|since| since <= letter.letter.dead_lettered_at)
        };
        let (letters, next) = self.scan(&scope.topic, call.cursor, limit, wanted).await?;
        let summaries = letters.into_iter().map(|letter| {
            let replayed = replays.is_replayed(&letter.key, letter.replay());
            letter.summary(replayed)
        });
        Ok(DeadLetterPage { letters: summaries.collect(), next })
    }

    /// One dead letter in full.
    pub async fn show(&self, call: ShowDeadLetter) -> Result<ShownDeadLetter, Refusal> {
        let scope = self.scope(&call.app).await?;
        let Some(letter) = self.letter(&scope.topic, call.id).await? else {
            let message = format!("no dead letter `{}`; it may have passed its retention", call.id);
            return Err(Refusal { code: RefusalCode::NotFound, message });
        };
        let mut all = self.replays.lock().await;
        let replays = all.entry(scope.app.config.app.clone()).or_default();
        replays.refresh(self.log.as_ref(), &scope.topic).await.map_err(log_failed)?;
        let replayed = replays.is_replayed(&letter.key, letter.replay());
        Ok(ShownDeadLetter { id: letter.id, replayed, letter: letter.letter })
    }

    /// One step of a replay.
    pub async fn replay(&self, call: ReplayDeadLetters) -> Result<ReplayReport, Refusal> {
        let scope = self.scope(&call.app).await?;
        let mut report = ReplayReport::default();
        let letters = match call.which {
            Which::Ids(ids) => self.letters(&scope.topic, ids, &mut report).await?,
            Which::Reason(reason) => {
                let wanted = |letter: &Letter| letter.letter.reason == reason;
                let found = self.scan(&scope.topic, call.cursor, REPLAY_RECORDS_MAX, wanted).await?;
                report.next = found.1;
                found.0
            }
            Which::All => {
                let found = self.scan(&scope.topic, call.cursor, REPLAY_RECORDS_MAX, |_| true).await?;
                report.next = found.1;
                found.0
            }
        };
        let mut all = self.replays.lock().await;
        let replays = all.entry(scope.app.config.app.clone()).or_default();
        replays.refresh(self.log.as_ref(), &scope.topic).await.map_err(log_failed)?;
        let plan = replay::plan(letters, replays, &mut report);
        if !call.dry_run {
            self.carry_out(&scope, plan, replays, &mut report).await?;
        }
        Ok(report)
    }

    /// The App that is meant: by name alone where that is enough.
    async fn scope(&self, name: &str) -> Result<Scope, Refusal> {
        let app = find_app(&self.config, name)?;
        let topic = topic(&app, TopicKind::DeadLetters)?;
        let topic = self.log.topic(topic).await.map_err(log_failed)?;
        Ok(Scope { app, topic })
    }

    /// Walks on from a cursor until enough is found, enough was looked through, or the end.
    async fn scan(
        &self,
        topic: &TopicInfo,
        cursor: Option<Cursor>,
        limit: usize,
        wanted: impl Fn(&Letter) -> bool,
    ) -> Result<(Vec<Letter>, Option<Cursor>), Refusal> {
        let mut cursor = match cursor {
            Some(cursor) => cursor,
            None => self.beginning(topic).await?,
        };
        let mut found = Vec::new();
        let mut looked_through = 0;
        while let Some(until) = cursor.until.get(cursor.at.partition as usize).copied() {
            if found.len() >= limit || looked_through >= SCAN_RECORDS_MAX {
                return Ok((found, Some(cursor)));
            }
            let of = TopicPartition { topic: Arc::clone(&topic.name), partition: cursor.at.partition };
            let page = if cursor.at.offset < until {
                self.log.read(&of, cursor.at.offset, PAGE).await.map_err(log_failed)?
            } else {
                Vec::new()
            };
            // An empty page below the end: nothing there but markers of transactions.
            let mut is_at_end = page.is_empty();
            looked_through += page.len();
            for record in page {
                if record.offset >= until {
                    is_at_end = true;
                }
                if is_at_end || found.len() >= limit {
                    break;
                }
                cursor.at.offset = record.offset + 1;
                found.extend(Letter::parse(of.partition, record).filter(&wanted));
            }
            if is_at_end {
                cursor.at = LetterId { partition: cursor.at.partition + 1, offset: 0 };
            }
        }
        Ok((found, None))
    }

    async fn beginning(&self, topic: &TopicInfo) -> Result<Cursor, Refusal> {
        let mut until = Vec::new();
        for partition in 0..topic.partitions {
            let of = TopicPartition { topic: Arc::clone(&topic.name), partition };
            until.push(self.log.watermarks(&of).await.map_err(log_failed)?.high);
        }
        Ok(Cursor { at: LetterId { partition: 0, offset: 0 }, until })
    }

    /// The letters with these ids, each once; what is not there is reported as failed.
    async fn letters(
        &self,
        topic: &TopicInfo,
        ids: Vec<LetterId>,
        report: &mut ReplayReport,
    ) -> Result<Vec<Letter>, Refusal> {
        if ids.len() > REPLAY_RECORDS_MAX {
            let message = format!("at most {REPLAY_RECORDS_MAX} ids in one call");
            return Err(Refusal { code: RefusalCode::InvalidRequest, message });
        }
        let mut known = HashSet::new();
        let mut letters = Vec::new();
        for id in ids.into_iter().filter(|id| known.insert(*id)) {
            match self.letter(topic, id).await? {
                Some(letter) => letters.push(letter),
                None => replay::fail(report, id, "no such dead letter; it may have passed its retention"),
            }
        }
        Ok(letters)
    }

    async fn letter(&self, topic: &TopicInfo, id: LetterId) -> Result<Option<Letter>, Refusal> {
        if id.partition >= topic.partitions {
            return Ok(None);
        }
        let of = TopicPartition { topic: Arc::clone(&topic.name), partition: id.partition };
        let record = self.record(&of, id.offset).await?;
        Ok(record.and_then(|record| Letter::parse(id.partition, record)))
    }

    /// The record at exactly this offset.
    async fn record(&self, of: &TopicPartition, offset: u64) -> Result<Option<LogRecord>, Refusal> {
        let records = self.log.read(of, offset, ReadLimits::PEEK).await.map_err(log_failed)?;
        Ok(records.into_iter().find(|record| record.offset == offset))
    }

    /// Appends what was planned, all at once; where the log finds a record too large, one by one.
    async fn carry_out(
        &self,
        scope: &Scope,
        plan: Vec<Letter>,
        replays: &mut Replays,
        report: &mut ReplayReport,
    ) -> Result<(), Refusal> {
        let raw = self.log.topic(topic(&scope.app, TopicKind::EventsRaw)?).await.map_err(log_failed)?;
        let now_ms = Timestamp::now().as_millisecond();
        let mut puts = Vec::new();
        for letter in plan {
            let original = match replay::carries_its_record(&letter) {
                true => None,
                false => self.original(&raw, &letter).await?,
            };
            match replay::put_back(&letter, original, &raw, &scope.topic, now_ms) {
                Some(put) => puts.push(put),
                None => {
                    replay::fail(
                        report,
                        letter.id,
                        "its record was too large to be kept and has left events-raw",
                    );
                    report.counts.replayed -= 1;
                }
            }
        }
        match self.commit(&scope.app.config.app, &puts).await {
            Ok(()) => {}
            Err(LogError::TooLarge { .. }) => return self.one_by_one(scope, puts, replays, report).await,
            Err(error) => return Err(log_failed(error)),
        }
        for put in &puts {
            replays.note(&put.mark.key, put.replay);
        }
        Ok(())
    }

    async fn one_by_one(
        &self,
        scope: &Scope,
        puts: Vec<replay::Put>,
        replays: &mut Replays,
        report: &mut ReplayReport,
    ) -> Result<(), Refusal> {
        for put in puts {
            match self.commit(&scope.app.config.app, std::slice::from_ref(&put)).await {
                Ok(()) => replays.note(&put.mark.key, put.replay),
                Err(error @ LogError::TooLarge { .. }) => {
                    replay::fail(report, put.id, &error.to_string());
                    report.counts.replayed -= 1;
                }
                Err(error) => return Err(log_failed(error)),
            }
        }
        Ok(())
    }

    /// The raw record of a letter that does not carry it.
    async fn original(&self, raw: &TopicInfo, letter: &Letter) -> Result<Option<LogRecord>, Refusal> {
        let DeadLetter { raw_partition: partition, raw_offset, .. } = letter.letter;
        self.record(&TopicPartition { topic: Arc::clone(&raw.name), partition }, raw_offset).await
    }

    async fn commit(&self, app: &AppId, puts: &[replay::Put]) -> Result<(), LogError> {
        let records: Vec<NewRecord> =
            puts.iter().flat_map(|put| [put.record.clone(), put.mark.clone()]).collect();
        if records.is_empty() {
            return Ok(());
        }
        let member = Member::only();
        let group = member.group(app, process::STAGE);
        let mut transactor = self.log.transactor(&format!("{group}.replay")).await?;
        let group = GroupHandle { name: group.into(), inner: None };
        transactor.commit(Transaction { records, positions: Vec::new(), group }).await
    }
}

/// `name`, `namespace.name` or `namespace/name`.
pub(super) fn find_app(config: &Current, name: &str) -> Result<Arc<App>, Refusal> {
    let config = config.load();
    let is_meant = |id: &AppId| match name.split_once(['/', '.']) {
        Some((namespace, name)) => id.namespace() == namespace && id.name() == name,
        None => id.name() == name,
    };
    let found: Vec<&Arc<App>> =
        config.apps().iter().filter(|(id, _)| is_meant(id)).map(|(_, app)| app).collect();
    let in_default = found.iter().find(|app| app.config.app.namespace() == NAMESPACE_DEFAULT);
    match (found.as_slice(), in_default) {
        ([app], _) | (_, Some(app)) => Ok(Arc::clone(app)),
        ([], None) => {
            let served: Vec<String> = config.apps().keys().map(ToString::to_string).collect();
            let message = format!("no App `{name}` here; this process serves: {}", served.join(", "));
            Err(Refusal { code: RefusalCode::UnknownApp, message })
        }
        (_, None) => {
            let message = format!("several Apps are named `{name}`; write `<namespace>.{name}`");
            Err(Refusal { code: RefusalCode::UnknownApp, message })
        }
    }
}

fn topic(app: &App, kind: TopicKind) -> Result<&str, Refusal> {
    let found = app.config.topics.iter().find(|topic| topic.kind == kind).map(|topic| topic.name.as_str());
    found.ok_or_else(|| {
        let message = format!("App `{}` has no topic `{kind}` in its configuration", app.config.app);
        Refusal { code: RefusalCode::Failed, message }
    })
}

/// The whole chain: who may use the socket operates the process.
fn log_failed(error: LogError) -> Refusal {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    if error.is_retryable() {
        message.push_str("; repeat the command, what was done is skipped");
    }
    Refusal { code: RefusalCode::Failed, message }
}
