//! What every log promises, on a real broker; then what only Kafka has: brokers that die, members that share,
//! transactors that fence each other.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bench;
#[path = "../../../provision/tests/kafka/broker.rs"]
mod broker;
#[path = "../log/groups.rs"]
mod groups;
#[path = "../log/records.rs"]
mod records;
