//! A difference that changed in; its row of the ledger, its metrics, its line at `/state` out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use millrace_crds::names::AppId;
use millrace_crds::state::LedgerState;

use super::super::balance::{Equation, Place};
use super::super::keeper::new_record;
use super::super::sum::Sum;
use super::super::watch::Change;
use super::alert;
use crate::log::{NewRecord, TopicInfo};
use crate::metrics::Metrics;
use crate::record::{LedgerKind, LedgerRecord, RECORD_VERSION};

/// The row of a change. It carries what changed, so that rows add up to what is true.
pub(super) fn row(change: &Change, ledger: &TopicInfo, now_ms: i64) -> NewRecord {
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
    new_record(&row, &ledger.name, ledger.partitions)
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
    let message = shown.next_back().map(|(place, missing)| alert::text(place, *missing)).unwrap_or_default();
    LedgerState { breaches, message }
}
