//! What every log promises, on a real broker; then what only Kafka has: brokers that die, members that share,
//! transactors that fence each other.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bench;
#[path = "../../../provision/tests/kafka/broker.rs"]
mod broker;
mod broker_dies;
#[path = "../log/groups.rs"]
mod groups;
mod growth;
mod members;
mod process;
mod rebalances;
#[path = "../log/records.rs"]
mod records;
mod secured;
mod throughput;
mod transactions;
mod troubles;
