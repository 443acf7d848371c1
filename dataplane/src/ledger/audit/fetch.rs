//! Reads what an audit compares: records of `events-raw` from the log, rows from ClickHouse.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::explain::{Copy, Elsewhere, InRaw, Stored};
use super::{AuditError, Sources};
use crate::ledger::balance::Minute;
use crate::ledger::book::start_of;
use crate::ledger::passed::Ends;
use crate::ledger::sum::Sum;
use crate::log::{LogRecord, ReadLimits, TopicPartition};
use crate::process::decide;
use crate::query::ledger::{self as query, Span};
use crate::query::{Param, Row};
use crate::record::event_hash;
use crate::store::{QueryLimits, Question};

/// Most records of raw that one audit holds: about 100 bytes each.
const RECORDS_MAX: usize = 1_000_000;
/// Records read at once.
const PAGE: ReadLimits = ReadLimits { records_max: 2_000, bytes_max: 4 << 20, wait_max: Duration::ZERO };
/// How much earlier than it was accepted a record may bear its time in the log, by clocks that differ.
const EARLIER_MAX_MS: i64 = 5 * 60_000;
/// How much later: the longest append, a spill, clocks that differ.
const LATER_MAX_MS: i64 = 60 * 60_000;
/// Ids in one statement.
const IDS_MAX: usize = 500;

const SQL_STORED: &str = "\
SELECT event_id, toInt64(intDiv(toUnixTimestamp(toDateTime(min(received_at), 'UTC')), 60)) AS at, count() AS rows \
FROM {database:Identifier}.events \
WHERE received_at >= {from:DateTime('UTC')} AND received_at < {to:DateTime('UTC')} GROUP BY event_id";

const SQL_STORED_ELSEWHERE: &str = "\
SELECT DISTINCT event_id FROM {database:Identifier}.events WHERE event_id IN {ids:Array(UUID)}";

const SQL_SET_ASIDE: &str = "\
SELECT assumeNotNull(event_id) AS event_id FROM {database:Identifier}.dead_letters \
WHERE event_id IN {ids:Array(UUID)} GROUP BY event_id \
HAVING countIf(entry = 'dead_letter') > countIf(entry = 'replayed')";

#[derive(Deserialize)]
struct Id {
    event_id: Uuid,
}

impl Sources<'_> {
    /// Records of raw that were accepted in the span, up to where it ended.
    pub(super) async fn raw(&self, ends: &Ends, span: Span) -> Result<InRaw, AuditError> {
        let mut found = InRaw { is_whole: true, ..InRaw::default() };
        let (from_ms, to_ms) = (start_of(span.from).as_millisecond(), start_of(span.to).as_millisecond());
        let mut records = 0;
        for (of, end) in ends {
            let low = self.log.watermarks(of).await.map_err(failed)?.low;
            let mut next = self.first_since(of, (low, *end), from_ms - EARLIER_MAX_MS).await?;
            // Something before it is gone, and may have been of the span.
            found.is_whole &= low == 0 || next > low;
            while next < *end {
                let page = self.log.read(of, next, PAGE).await.map_err(failed)?;
                let Some(last) = page.last() else { break };
                next = last.offset + 1;
                let is_behind = last.appended_at > to_ms + LATER_MAX_MS;
                for record in page.iter().filter(|record| record.offset < *end) {
                    records += usize::from(note(&mut found, of.partition, record, span));
                }
                if records > RECORDS_MAX {
                    return Err(AuditError::TooMany { records_max: RECORDS_MAX });
                }
                if is_behind {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The first offset of `(low, end)` whose record was appended then or later.
    async fn first_since(
        &self,
        of: &TopicPartition,
        (low, end): (u64, u64),
        since_ms: i64,
    ) -> Result<u64, AuditError> {
        let (mut low, mut high) = (low, end);
        while low < high {
            let middle = low + (high - low) / 2;
            let record =
                self.log.read(of, middle, ReadLimits::PEEK).await.map_err(failed)?.into_iter().next();
            match record.filter(|record| record.offset < end) {
                Some(record) if record.appended_at < since_ms => low = record.offset + 1,
                Some(_) | None => high = middle,
            }
        }
        Ok(low)
    }

    /// What the ledger and the table say.
    pub(super) async fn minutes(&self, span: Span) -> Result<BTreeMap<i64, Minute>, AuditError> {
        let shape = |source| AuditError::Shape { source };
        let counted: Vec<Row> = self.rows(query::SQL_COUNTED, &self.params(span.params())).await?;
        let mut minutes = query::counted(counted).map_err(shape)?;
        let stored: Vec<Row> = self.rows(query::SQL_STORED, &self.params(span.params())).await?;
        query::stored(stored, &mut minutes).map_err(shape)?;
        Ok(minutes)
    }

    /// Rows of the span, by event.
    pub(super) async fn stored(&self, span: Span) -> Result<Stored, AuditError> {
        #[derive(Deserialize)]
        struct Columns {
            event_id: Uuid,
            at: i64,
            rows: u64,
        }
        let rows: Vec<Columns> = self.rows(SQL_STORED, &self.params(span.params())).await?;
        Ok(rows.into_iter().map(|row| (row.event_id, (row.at, row.rows))).collect())
    }

    /// Where events are that have no row in the span.
    pub(super) async fn elsewhere(&self, event_ids: &[Uuid]) -> Result<HashMap<Uuid, Elsewhere>, AuditError> {
        let mut found: HashMap<Uuid, Elsewhere> = HashMap::new();
        for some in event_ids.chunks(IDS_MAX) {
            let quoted: Vec<String> = some.iter().map(|event_id| format!("'{event_id}'")).collect();
            let mut params = self.params([]);
            params.push(("ids", format!("[{}]", quoted.join(","))));
            for Id { event_id } in self.rows(SQL_STORED_ELSEWHERE, &params).await? {
                found.entry(event_id).or_default().stored = true;
            }
            for Id { event_id } in self.rows(SQL_SET_ASIDE, &params).await? {
                found.entry(event_id).or_default().set_aside = true;
            }
        }
        Ok(found)
    }

    fn params<const N: usize>(&self, params: [(&'static str, Param); N]) -> Vec<(&'static str, String)> {
        query::on_database(&self.app.config.storage.database, params)
    }

    async fn rows<T: serde::de::DeserializeOwned>(
        &self,
        sql: &str,
        params: &[(&str, String)],
    ) -> Result<Vec<T>, AuditError> {
        let limits = QueryLimits {
            result_rows_max: RECORDS_MAX as u64,
            result_bytes_max: 256 << 20,
            ..QueryLimits::default()
        };
        let read = self.store.rows(Question { sql, params }, limits).await;
        read.map_err(|source| AuditError::Store { source })
    }
}

/// Takes a record in, if it was accepted in the span and is no replay.
fn note(found: &mut InRaw, partition: u32, record: &LogRecord, span: Span) -> bool {
    let (origin, event_id, hash) = match decide::open(&record.value) {
        Ok(raw) => (raw.origin, Some(raw.event.event_id), event_hash(&raw.event.event_id)),
        Err(_) => {
            let accepted = decide::accepted(record);
            (accepted.origin, None, accepted.hash)
        }
    };
    let is_meant = origin.replay == 0 && (span.from..span.to).contains(&origin.minute);
    match event_id.filter(|_| is_meant) {
        Some(event_id) => {
            let copy = Copy { minute: origin.minute, partition, offset: record.offset };
            found.events.entry(event_id).or_default().push(copy);
        }
        None if is_meant => *found.nameless.entry(origin.minute).or_default() += Sum::one(hash),
        None => {}
    }
    is_meant
}

fn failed(source: crate::log::LogError) -> AuditError {
    AuditError::Log { source }
}
