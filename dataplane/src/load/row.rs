//! A record and its position in, one row of its table out. Pure and total: the same record under the same columns is
//! the same bytes, and no record makes a row that ClickHouse refuses.

mod dead_letter;
mod event;
mod ledger;

use millrace_crds::config::{AppConfig, Events};
use millrace_crds::schema::{self, Column};

use super::cells::Cells;
use super::target::{Record, Target};

pub use dead_letter::DeadLetterRow;

/// First moment a `DateTime64(3)` column holds: 1900-01-01.
const MOMENT_MIN: i64 = -2_208_988_800_000;
/// Last moment a `DateTime64(3)` column holds: the end of 2299.
const MOMENT_MAX: i64 = 10_413_791_999_999;

/// Encodes rows of one target, for the columns one configuration declares.
pub struct Encoder {
    app: String,
    events: event::Columns,
    columns: Vec<Column>,
}

/// Where a record stands in its topic.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// Epoch.
    pub epoch: u32,
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
}

impl Encoder {
    /// For an App as configured now.
    pub fn new(target: Target, app: &AppConfig) -> Self {
        Self::of(target, app.app.to_string(), &app.events)
    }

    fn of(target: Target, app: String, events: &Events) -> Self {
        let tables = schema::desired("", events, 0).tables.into_iter();
        let columns =
            tables.filter(|table| table.name == target.table()).flat_map(|table| table.columns).collect();
        Self { app, events: event::Columns::new(events), columns }
    }

    /// The columns of the table, in the order of the encoded values.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Appends one row.
    pub fn encode(&self, record: &Record, position: Position, out: &mut impl Cells) {
        match record {
            Record::Event(record) => self.events.encode(&self.app, record, position, out),
            Record::DeadLetter(row) => {
                row.encode(&self.app, out);
                position.encode(out);
            }
            Record::Ledger(record) => {
                ledger::encode(record, out);
                position.encode(out);
            }
        }
    }
}

impl Position {
    fn encode(self, out: &mut impl Cells) {
        out.u32(self.epoch);
        out.u32(self.partition);
        out.u64(self.offset);
    }
}

/// A time as a `DateTime64(3)` holds it: clamped, so that none is taken for another one that ClickHouse makes of it.
pub(super) fn stored_moment(milliseconds: i64) -> i64 {
    milliseconds.clamp(MOMENT_MIN, MOMENT_MAX)
}

fn moment(milliseconds: i64, out: &mut impl Cells) {
    out.i64(stored_moment(milliseconds));
}

/// A `DateTime` of minutes since the epoch, clamped likewise.
fn minute(minutes: i64, out: &mut impl Cells) {
    let seconds = minutes.saturating_mul(60).clamp(0, i64::from(u32::MAX));
    out.u32(u32::try_from(seconds).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests;
