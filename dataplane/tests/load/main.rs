//! Loading into the real engine: the schema, exactly-once under failures, what JSON becomes.
//! With `MILLRACE_TEST_CLICKHOUSE_URL` the same tests run against that server.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod engine;
mod exactly_once;
mod figures;
mod fixture;
mod format;
mod hardened;
mod json;
mod killed;
mod ledger;
mod log;
mod proxy;
mod rebuild;
mod schema;
mod targets;
