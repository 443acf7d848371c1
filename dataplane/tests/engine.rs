//! The contract of ClickHouse's HTTP interface as we use it. Runs against our own engine, started as a child in a
//! temporary folder, or against a real server when `MILLRACE_TEST_CLICKHOUSE_URL` names one. Every test has a
//! database of its own. The engine library must be there: `scripts/engine-library.sh`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

#[path = "engine/client.rs"]
mod client;
#[path = "engine/dedup.rs"]
mod dedup;
#[path = "engine/errors.rs"]
mod errors;
#[path = "engine/inserts.rs"]
mod inserts;
#[path = "engine/isolation.rs"]
mod isolation;
#[path = "engine/process.rs"]
mod process;
#[path = "engine/queries.rs"]
mod queries;
#[path = "engine/support.rs"]
mod support;
#[path = "engine/users.rs"]
mod users;
