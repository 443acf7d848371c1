//! A difference that changed in; its row of the ledger, its alert, its line in the log, its metrics out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use millrace_crds::names::AppId;
use millrace_crds::state::LedgerState;
use serde::{Deserialize, Serialize};

use super::super::balance::{Equation, Place};
use super::super::book::start_of;
use super::super::keeper::new_record;
use super::super::sum::Sum;
use super::super::watch::Change;
use crate::log::{NewRecord, TopicInfo, TopicPartition};
use crate::metrics::Metrics;
use crate::record::{LedgerKind, LedgerRecord, RECORD_VERSION, partition_of};

/// Value of a record in `alerts` that tells of the ledger; its key is the App's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LedgerAlert {
    /// [`RECORD_VERSION`].
    pub v: u8,
    /// Always `ledger`: other kinds of alert have others.
    pub kind: String,
    /// `<namespace>/<name>`.
    pub app: String,
    /// First moment of the minute.
    pub minute: Timestamp,
    /// Name of the equation.
    pub equation: String,
    /// The ingest instance, where the equation is one of an instance.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Events missing on the equation's later side; below zero, events too many there; 0 where other events stand
    /// there, or, with `resolved`, where it holds again.
    pub missing: i64,
    /// Wrapping sum of their hashes.
    pub hashes: u64,
    /// Whether the equation holds after all.
    pub resolved: bool,
    /// For people.
    pub text: String,
    /// When it was found, UTC epoch milliseconds.
    pub found_at: i64,
}

/// What is written of a change, in one transaction. The row carries what changed, so that rows add up to what is true.
pub(super) fn records(
    app: &AppId,
    change: &Change,
    ledger: &TopicInfo,
    alerts: &TopicInfo,
    now_ms: i64,
) -> [NewRecord; 2] {
    let Change { place, recorded, missing } = change;
    let delta = *missing - *recorded;
    let row = LedgerRecord {
        v: RECORD_VERSION,
        minute: place.minute,
        instance: place.instance.clone(),
        kind: LedgerKind::Breached,
        reason: place.equation.as_str().to_owned(),
        count: delta.count,
        sum: delta.hashes,
        recorded_at: now_ms,
    };
    let alert = LedgerAlert {
        v: RECORD_VERSION,
        kind: "ledger".to_owned(),
        app: app.to_string(),
        minute: start_of(place.minute),
        equation: place.equation.as_str().to_owned(),
        instance: place.instance.clone(),
        missing: missing.count,
        hashes: missing.hashes,
        resolved: missing.is_zero(),
        text: text(place, *missing),
        found_at: now_ms,
    };
    let key = Bytes::from(app.to_string());
    let to =
        TopicPartition { topic: Arc::clone(&alerts.name), partition: partition_of(&key, alerts.partitions) };
    let value = serde_json::to_vec(&alert).expect("an alert has text keys and no failing serializer");
    [new_record(&row, &ledger.name, ledger.partitions), NewRecord { to, key, value: value.into() }]
}

/// One sentence.
fn text(place: &Place, missing: Sum) -> String {
    let (minute, equation) = (start_of(place.minute), place.equation.text());
    match missing {
        Sum::ZERO => format!("{minute}: {equation} holds again"),
        Sum { count: 0, .. } => format!("{minute}: {equation} counts as many, but not the same events"),
        Sum { count: 1.., .. } => format!("{minute}: {equation} lacks {} on its right side", missing.count),
        Sum { .. } => format!("{minute}: {equation} has {} too many on its right side", -missing.count),
    }
}

/// Says it in the log.
pub(super) fn tell(app: &AppId, change: &Change) {
    let Change { place, missing, .. } = change;
    let (instance, equation) = (&place.instance, place.equation.as_str());
    let text = text(place, *missing);
    if missing.is_zero() {
        tracing::info!(%app, equation, instance, "the ledger is balanced again: {text}");
    } else {
        tracing::error!(
            %app, equation, instance, missing = missing.count,
            "the ledger does not balance: {text}; `millrace-dataplane audit` tells which events"
        );
    }
}

/// Sets the metrics of an App; `None` where this process does not compare it.
pub(super) fn show(metrics: &Metrics, app: &AppId, recorded: Option<&BTreeMap<Place, Sum>>, since: i64) {
    let app = app.to_string();
    for equation in Equation::ALL {
        let labels = [app.as_str(), equation.as_str()];
        let Some(recorded) = recorded else {
            // Fails only when it was never set.
            let _ = metrics.ledger_breaches.remove_label_values(&labels);
            continue;
        };
        let shown = recorded.keys().filter(|place| place.equation == equation && place.minute >= since);
        let count = i64::try_from(shown.count()).unwrap_or(i64::MAX);
        metrics.ledger_breaches.with_label_values(&labels).set(count);
    }
    match recorded {
        Some(_) => {
            let now = Timestamp::now().as_second();
            metrics.ledger_checked_seconds.with_label_values(&[&app]).set(now);
        }
        // Fails only when it was never set.
        None => drop(metrics.ledger_checked_seconds.remove_label_values(&[&app])),
    }
}

/// Sets how many minutes are not compared to the end; `None` where this process knows of none.
pub(super) fn show_open(metrics: &Metrics, app: &AppId, minutes: Option<usize>) {
    let app = app.to_string();
    match minutes {
        Some(minutes) => {
            let minutes = i64::try_from(minutes).unwrap_or(i64::MAX);
            metrics.ledger_open_minutes.with_label_values(&[&app]).set(minutes);
        }
        // Fails only when it was never set.
        None => drop(metrics.ledger_open_minutes.remove_label_values(&[&app])),
    }
}

/// What `/state` tells.
pub(super) fn state(recorded: &BTreeMap<Place, Sum>, since: i64) -> LedgerState {
    let mut shown = recorded.iter().filter(|(place, _)| place.minute >= since);
    let breaches = u64::try_from(shown.clone().count()).unwrap_or(u64::MAX);
    let message = shown.next_back().map(|(place, missing)| text(place, *missing)).unwrap_or_default();
    LedgerState { breaches, message }
}
