//! The ledger: what every stage counted of every minute in, whether each accepted event was stored, recognised as a
//! copy or set aside out. Counts come with a wrapping sum of event hashes, so that one event lost and another stored
//! twice do not look like none.
//!
//! [`book`] counts at ingest and [`keeper`] writes that down; [`tally`] counts in process; [`balance`] compares what was
//! counted of a minute, [`watch`] says which differences outlived the lag, [`surge`] where many events were set aside,
//! [`reconcile`] does all three in a worker and records what it finds, [`standing`] is what others are told of it.
//! [`audit`] recounts from the stores.

pub mod audit;
pub mod balance;
pub mod book;
pub mod keeper;
mod passed;
pub mod reconcile;
pub mod standing;
pub mod sum;
pub mod surge;
pub mod tally;
pub mod watch;
