//! Carries out on ClickHouse what `millrace-crds` planned. Thin: observes, asks for the plan, runs the statements.

pub mod clickhouse;
