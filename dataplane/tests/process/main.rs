//! Process and the control socket as a whole, over an in-memory log: nothing a client sends is lost or doubled.
#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

mod control;
mod decide;
mod dedupe;
mod fixture;
mod ledger;
mod memory_log;
mod worker;
