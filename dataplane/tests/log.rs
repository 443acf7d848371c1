//! What every log promises, tried on the embedded and the memory one alike (`tests/kafka` tries the same on Kafka);
//! then what only one of them has.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "log/bench.rs"]
mod bench;
#[path = "log/embedded.rs"]
mod embedded;
#[path = "log/groups.rs"]
mod groups;
#[path = "log/local.rs"]
mod local;
#[path = "log/memory.rs"]
mod memory;
#[path = "log/model.rs"]
mod model;
#[path = "log/records.rs"]
mod records;
