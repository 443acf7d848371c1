//! A record of the ledger in, a row of `ledger` out.

use super::{minute, moment};
use crate::load::rowbinary::RowBinary;
use crate::record::LedgerRecord;

/// In the order of [`encode`], the position behind it.
pub(super) const COLUMNS: [&str; 10] = [
    "minute",
    "instance",
    "kind",
    "reason",
    "count",
    "sum",
    "recorded_at",
    "log_epoch",
    "log_partition",
    "log_offset",
];

pub(super) fn encode(record: &LedgerRecord, out: &mut RowBinary) {
    minute(record.minute, out);
    out.text(&record.instance);
    out.text(record.kind.as_str());
    out.text(&record.reason);
    out.i64(record.count);
    out.u64(record.sum);
    moment(record.recorded_at, out);
}
