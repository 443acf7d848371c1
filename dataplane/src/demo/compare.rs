//! What was sent and what the API says in, a table and a verdict out. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Deserialize;

use crate::generate::Summary;

/// The answer of `/api/dashboard/stats`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Stored {
    pub(super) total_events: u64,
    active_users: u64,
    revenue: Vec<Amount>,
    conversions: u64,
}

/// Revenue in one currency.
#[derive(Clone, Debug, Deserialize)]
struct Amount {
    currency: String,
    amount: String,
}

/// Figures side by side.
pub(super) struct Comparison {
    rows: Vec<Row>,
    /// Distinct events meant to be valid.
    meant_valid: u64,
    accepted: u64,
    stored: u64,
    /// What went wrong while sending, if anything.
    refused: Option<String>,
    notes: Vec<(&'static str, u64)>,
}

struct Row {
    name: String,
    sent: String,
    stored: String,
}

impl Row {
    fn new(name: impl Into<String>, sent: impl ToString, stored: impl ToString) -> Self {
        Self { name: name.into(), sent: sent.to_string(), stored: stored.to_string() }
    }

    fn equal(&self) -> bool {
        self.sent == self.stored
    }
}

impl Comparison {
    pub(super) fn new(summary: &Summary, stored: &Stored) -> Self {
        let mut rows = vec![
            Row::new("events", summary.distinct_accepted, stored.total_events),
            Row::new("active users", summary.active_users, stored.active_users),
            Row::new("conversions", summary.conversions, stored.conversions),
        ];
        let revenue: BTreeMap<_, _> =
            stored.revenue.iter().map(|paid| (&paid.currency, paid.amount.as_str())).collect();
        let currencies: BTreeSet<_> = summary.revenue.keys().chain(revenue.keys().copied()).collect();
        for currency in currencies {
            let sent = summary.revenue.get(currency).map_or("0", String::as_str);
            let stored = revenue.get(currency).copied().unwrap_or("0");
            rows.push(Row::new(format!("revenue {currency}"), plain(sent), plain(stored)));
        }
        Self {
            rows,
            meant_valid: summary.meant_valid.saturating_sub(summary.duplicates_sent),
            accepted: summary.distinct_accepted,
            stored: stored.total_events,
            refused: summary.verdict().err().map(|problem| problem.to_string()),
            notes: vec![
                ("duplicates sent and not counted", summary.duplicates_sent),
                ("invalid on purpose and refused", summary.meant_invalid),
            ],
        }
    }

    /// Whether every event meant to be valid was accepted, at least one was sent, and all figures are equal.
    pub(super) fn agrees(&self) -> bool {
        self.meant_valid > 0
            && self.refused.is_none()
            && self.meant_valid == self.accepted
            && self.rows.iter().all(Row::equal)
    }

    /// The figures for people.
    pub(super) fn table(&self) -> String {
        let mut text = format!("\n{:<24}{:>14}{:>14}\n", "", "sent", "API");
        for row in &self.rows {
            let equal = if row.equal() { "equal" } else { "DIFFERENT" };
            let _ = writeln!(text, "{:<24}{:>14}{:>14}   {equal}", row.name, row.sent, row.stored);
        }
        for (note, count) in &self.notes {
            let _ = writeln!(text, "{count} {note}");
        }
        if let Some(refused) = &self.refused {
            let _ = writeln!(text, "{refused}");
        }
        text
    }

    /// The last line.
    pub(super) fn verdict(&self) -> String {
        let verdict = if self.agrees() { "agree" } else { "DISAGREE" };
        format!("sent {} accepted {} stored {} {verdict}", self.meant_valid, self.accepted, self.stored)
    }
}

/// A decimal without zeros at the end of its fraction, so that `5`, `5.0` and `5.000000000` are one.
fn plain(decimal: &str) -> &str {
    if decimal.contains('.') { decimal.trim_end_matches('0').trim_end_matches('.') } else { decimal }
}
