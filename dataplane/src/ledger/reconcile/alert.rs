//! A difference that changed, or a surge of dead letters, in; its record of the topic `alerts` and its line in the log out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use millrace_crds::names::AppId;
use serde::{Deserialize, Serialize};

use super::super::balance::Place;
use super::super::book::start_of;
use super::super::sum::Sum;
use super::super::surge::Surge;
use super::super::watch::Change;
use crate::log::{NewRecord, TopicInfo, TopicPartition};
use crate::record::{RECORD_VERSION, partition_of};

/// Value of a record in `alerts`; its key is the App's id. A worker that dies after it told and before it kept its
/// position lets the next one tell again, with the same `kind`, `app` and `minute`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Alert {
    /// [`RECORD_VERSION`].
    pub v: u8,
    /// `<namespace>/<name>`.
    pub app: String,
    /// First moment of the minute.
    pub minute: Timestamp,
    /// For people.
    pub text: String,
    /// When it was found, UTC epoch milliseconds.
    pub found_at: i64,
    /// What happened.
    #[serde(flatten)]
    pub news: News,
}

/// What an alert tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum News {
    /// An equation of the ledger does not hold, or holds again.
    Ledger {
        /// Name of the equation.
        equation: String,
        /// The ingest instance, where the equation is one of an instance.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        instance: String,
        /// Events missing on the equation's later side; below zero, events too many there; 0 where other events stand
        /// there, or, with `resolved`, where it holds again.
        missing: i64,
        /// Wrapping sum of their hashes.
        hashes: u64,
        /// Whether the equation holds after all.
        resolved: bool,
    },
    /// Many events of a minute were set aside, and hardly any in the minutes before.
    DeadLetters {
        /// How many.
        set_aside: i64,
        /// Of how many records of raw.
        raw: i64,
        /// How many by reason.
        reasons: BTreeMap<String, i64>,
    },
}

impl Alert {
    /// Of a difference.
    pub(super) fn of_change(app: &AppId, change: &Change, now_ms: i64) -> Self {
        let Change { place, recorded: _, missing } = change;
        let news = News::Ledger {
            equation: place.equation.as_str().to_owned(),
            instance: place.instance.clone(),
            missing: missing.count,
            hashes: missing.hashes,
            resolved: missing.is_zero(),
        };
        Self::new(app, place.minute, text(place, *missing), news, now_ms)
    }

    /// Of a surge.
    pub(super) fn of_surge(app: &AppId, surge: &Surge, now_ms: i64) -> Self {
        let Surge { minute, set_aside, raw, reasons } = surge.clone();
        let why = reasons.iter().map(|(reason, count)| format!("{count} for `{reason}`"));
        let why = why.collect::<Vec<_>>().join(", ");
        let text = format!("{}: {set_aside} of {raw} events were set aside: {why}", start_of(minute));
        Self::new(app, minute, text, News::DeadLetters { set_aside, raw, reasons }, now_ms)
    }

    fn new(app: &AppId, minute: i64, text: String, news: News, now_ms: i64) -> Self {
        Self {
            v: RECORD_VERSION,
            app: app.to_string(),
            minute: start_of(minute),
            text,
            found_at: now_ms,
            news,
        }
    }

    /// As a record of the topic.
    pub(super) fn record(&self, alerts: &TopicInfo) -> NewRecord {
        let key = Bytes::from(self.app.clone());
        let partition = partition_of(&key, alerts.partitions);
        let to = TopicPartition { topic: Arc::clone(&alerts.name), partition };
        let value = serde_json::to_vec(self).expect("an alert has text keys and no failing serializer");
        NewRecord { to, key, value: value.into() }
    }

    /// Says it in the log.
    pub(super) fn tell(&self) {
        let Self { app, text, .. } = self;
        match &self.news {
            News::Ledger { resolved: true, equation, instance, .. } => {
                tracing::info!(app, equation, instance, "the ledger is balanced again: {text}");
            }
            News::Ledger { missing, equation, instance, .. } => tracing::error!(
                app,
                equation,
                instance,
                missing,
                "the ledger does not balance: {text}; `millrace-dataplane audit` tells which events"
            ),
            News::DeadLetters { set_aside, raw, .. } => tracing::warn!(
                app,
                set_aside,
                raw,
                "a surge of dead letters: {text}; `millrace-dataplane dead-letters list` shows them"
            ),
        }
    }
}

/// One sentence about a difference.
pub(super) fn text(place: &Place, missing: Sum) -> String {
    let (minute, equation) = (start_of(place.minute), place.equation.text());
    match missing {
        Sum::ZERO => format!("{minute}: {equation} holds again"),
        Sum { count: 0, .. } => format!("{minute}: {equation} counts as many, but not the same events"),
        Sum { count: 1.., .. } => format!("{minute}: {equation} lacks {} on its right side", missing.count),
        Sum { .. } => format!("{minute}: {equation} has {} too many on its right side", -missing.count),
    }
}
