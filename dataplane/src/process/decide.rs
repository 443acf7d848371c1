//! One raw record in, exactly one outcome out: processed, duplicate or dead letter. Pure and total: any bytes
//! get an answer, nothing panics, nothing is dropped. The order of the checks is part of the contract: what was
//! already stored is a duplicate even if today's rules would refuse it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_crds::config::{AppConfig, DeclaredEvent, OnUndeclared};
use serde_json::value::RawValue;

use crate::log::LogRecord;
use crate::process::enrich;
use crate::process::property::{Misfit, Properties, parse_property};
use crate::process::seen::Position;
use crate::record::{
    DeadLetter, DeadLetterReason, Origin, ProcessedRecord, RECORD_VERSION, RawRecord, event_hash,
};

/// Milliseconds of a minute.
const MINUTE_MS: i64 = 60_000;

/// What becomes of one raw record.
#[derive(Debug)]
pub enum Outcome {
    /// It goes on, enriched.
    Processed {
        /// What is written to `events-processed`.
        record: Box<ProcessedRecord>,
        /// Names of optional properties whose value does not fit; they become NULL.
        misfits: Vec<String>,
    },
    /// Its event is already on its way.
    Duplicate {
        /// Where the first copy stood.
        of: Position,
    },
    /// It is set aside with the reason.
    DeadLetter(Box<DeadLetter>),
}

/// Why a record goes to the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For machines.
    pub reason: DeadLetterReason,
    /// For people; names no value.
    pub detail: String,
}

/// One raw record, where it stands, and what it is judged by.
pub struct Input<'a> {
    /// The App's configuration.
    pub app: &'a AppConfig,
    /// Partition of `events-raw`.
    pub partition: u32,
    /// The record as the log holds it.
    pub raw: &'a LogRecord,
    /// UTC epoch milliseconds.
    pub now_ms: i64,
}

/// Reads the bytes of a raw record; the event id in it is what dedupe asks for.
pub fn open(value: &[u8]) -> Result<RawRecord, Refusal> {
    let unreadable = |detail| Refusal { reason: DeadLetterReason::UnreadableRecord, detail };
    // The error's own text may quote values, so only its kind and place are kept.
    let record: RawRecord = serde_json::from_slice(value).map_err(|error| {
        let what = if error.is_data() { "JSON, but not a raw record" } else { "not JSON" };
        unreadable(format!("the bytes are {what}, at byte {}", error.column()))
    })?;
    if record.v != RECORD_VERSION {
        let detail = format!("version {} of the record; this build reads version {RECORD_VERSION}", record.v);
        return Err(unreadable(detail));
    }
    Ok(record)
}

/// Who accepted a record that cannot be read, and what the ledger counts it by.
pub struct Accepted {
    /// As the record says, else nobody, in the minute in which the log took it.
    pub origin: Origin,
    /// Of its event id, else of its bytes.
    pub hash: u64,
}

/// What can still be told of a record that [`open`] refuses: one of another version says who accepted it and its id.
pub fn accepted(raw: &LogRecord) -> Accepted {
    #[derive(serde::Deserialize)]
    struct Told {
        event: Identified,
        origin: Origin,
    }
    #[derive(serde::Deserialize)]
    struct Identified {
        event_id: uuid::Uuid,
    }
    match serde_json::from_slice::<Told>(&raw.value) {
        Ok(told) => Accepted { origin: told.origin, hash: event_hash(&told.event.event_id) },
        Err(_) => Accepted {
            origin: Origin {
                instance: String::new(),
                minute: raw.appended_at.div_euclid(MINUTE_MS),
                replay: 0,
            },
            hash: xxhash_rust::xxh3::xxh3_64(&raw.value),
        },
    }
}

/// Decides on a record. `opened` is what [`open`] said of its bytes, `first` where an earlier copy of its event
/// stood, if any.
pub fn decide(opened: Result<RawRecord, Refusal>, first: Option<Position>, input: &Input<'_>) -> Outcome {
    let checked = match (opened, first) {
        (Ok(_), Some(of)) => return Outcome::Duplicate { of },
        (Ok(record), None) => check(record, input),
        (Err(refusal), _) => Err(refusal),
    };
    match checked {
        Ok((record, misfits)) => Outcome::Processed { record: Box::new(record), misfits },
        Err(refusal) => Outcome::DeadLetter(Box::new(dead_letter(refusal, input))),
    }
}

/// The checks in their order, then the enrichment.
fn check(record: RawRecord, input: &Input<'_>) -> Result<(ProcessedRecord, Vec<String>), Refusal> {
    let RawRecord { v: _, event, origin, set_aside: _ } = record;
    check_age(event.timestamp, input)?;
    let properties = Properties::of(event.event_data.as_deref());
    let rules = &input.app.events;
    let mut misfits = match (rules.declared.get(&event.event_type), rules.on_undeclared) {
        (Some(declared), _) => check_properties(declared, &properties)?,
        (None, OnUndeclared::Keep) => Vec::new(),
        (None, OnUndeclared::DeadLetter) => return Err(undeclared(&event.event_type)),
    };
    let (derived, misfit) = enrich::derive(&event, rules, &properties, input.now_ms);
    if let (Some(_), Some(revenue)) = (misfit, &rules.revenue)
        && !misfits.contains(&revenue.property)
    {
        misfits.push(revenue.property.clone());
    }
    Ok((ProcessedRecord { v: RECORD_VERSION, event, origin, derived }, misfits))
}

/// Wraps a refused record: its JSON as it stood, or its bytes where it is no JSON.
pub fn dead_letter(refusal: Refusal, input: &Input<'_>) -> DeadLetter {
    let record = serde_json::from_slice::<Box<RawValue>>(&input.raw.value).ok();
    let bytes = record.is_none().then(|| STANDARD.encode(&input.raw.value));
    DeadLetter { record, bytes, ..dead_letter_without_body(refusal, input) }
}

/// The same for a record that is too large to be carried along: it can be read at its place in `events-raw` for
/// as long as that topic keeps it.
pub fn dead_letter_without_body(refusal: Refusal, input: &Input<'_>) -> DeadLetter {
    DeadLetter {
        v: RECORD_VERSION,
        reason: refusal.reason,
        detail: refusal.detail,
        dead_lettered_at: input.now_ms,
        raw_partition: input.partition,
        raw_offset: input.raw.offset,
        record: None,
        bytes: None,
    }
}

fn check_age(timestamp: i64, input: &Input<'_>) -> Result<(), Refusal> {
    let retention_seconds = input.app.storage.retention_seconds;
    let retention_ms = i64::try_from(retention_seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
    if timestamp >= input.now_ms.saturating_sub(retention_ms) {
        return Ok(());
    }
    let detail = format!("older than the retention of {retention_seconds} s; it would be removed at once");
    Err(Refusal { reason: DeadLetterReason::Expired, detail })
}

fn undeclared(event_type: &str) -> Refusal {
    let detail = format!(
        "event type `{event_type}` is not declared; add it to spec.events.declared or set onUndeclared: Keep"
    );
    Refusal { reason: DeadLetterReason::UndeclaredEvent, detail }
}

/// Required properties must be there and fit; the names of optional ones that do not fit are returned.
fn check_properties(declared: &DeclaredEvent, properties: &Properties<'_>) -> Result<Vec<String>, Refusal> {
    let mut misfits = Vec::new();
    for (name, property) in &declared.properties {
        let fits = match properties.get(name) {
            Some(value) => parse_property(property.kind, value).map(|_| ()),
            None if property.required => return Err(missing(name)),
            None => Ok(()),
        };
        match fits {
            Ok(()) => {}
            Err(misfit) if property.required => return Err(invalid(name, misfit)),
            Err(_) => misfits.push(name.clone()),
        }
    }
    Ok(misfits)
}

fn missing(name: &str) -> Refusal {
    let detail = format!("required property `{name}` is missing");
    Refusal { reason: DeadLetterReason::MissingProperty, detail }
}

fn invalid(name: &str, misfit: Misfit) -> Refusal {
    let detail = format!("required property `{name}`: {misfit}");
    Refusal { reason: DeadLetterReason::InvalidProperty, detail }
}
