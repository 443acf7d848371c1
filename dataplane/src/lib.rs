//! The data plane: events in, rows and deliveries out, answers to queries.
//!
//! Read in the order data flows: [`config`] (what is in force), [`ingest`] and [`admit`] (bytes to admitted
//! events), [`log`] (durable topics), [`process`] (dedupe, check, enrich), [`load`] (blocks into ClickHouse),
//! [`store`] and [`query`] (questions to ClickHouse), [`gateway`] (the API), [`standalone`] (all roles in one
//! process), [`engine`] (ClickHouse itself as a supervised child).

pub mod access;
pub mod admin;
pub mod admit;
pub mod check;
pub mod cluster;
pub mod config;
pub mod control;
pub mod demo;
pub mod engine;
pub mod failpoint;
pub mod freshness;
pub mod gateway;
pub mod generate;
pub mod ingest;
pub mod lag;
pub mod ledger;
pub mod listen;
pub mod load;
pub mod log;
pub mod member;
pub mod memory;
pub mod metrics;
pub mod process;
pub mod query;
pub mod record;
pub mod secret;
pub mod settings;
pub mod stages;
pub mod standalone;
pub mod store;
pub mod tasks;
pub mod telemetry;
