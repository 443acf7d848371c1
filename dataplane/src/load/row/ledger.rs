//! A record of the ledger in, a row of `ledger` out.

use super::{minute, moment};
use crate::load::cells::Cells;
use crate::record::LedgerRecord;

/// In the order of the columns of `schema::LEDGER`; the position comes behind it.
pub(super) fn encode(record: &LedgerRecord, out: &mut impl Cells) {
    minute(record.minute, out);
    out.text(&record.instance);
    out.text(record.kind.as_str());
    out.text(&record.reason);
    out.i64(record.count);
    out.u64(record.sum);
    moment(record.recorded_at, out);
}
