//! Carries out on ClickHouse and Kafka what `millrace-crds` planned. Thin: observes, asks for the plan, does it.

pub mod clickhouse;
pub mod kafka;
