//! The operator: custom resources in, cluster objects out. gather → validate → plan → apply → status.
//!
//! [`installation`] is what is set; [`kind`], [`cluster`] and [`backends`] say what is read and written, [`plan`] what is
//! to be done and [`apply`] does it.

pub mod accounts;
pub mod app;
pub mod apply;
pub mod backends;
pub mod cluster;
pub mod context;
pub mod diff_text;
mod fields;
pub mod generate;
pub mod health;
pub mod installation;
pub mod kind;
pub mod leader;
pub mod metrics;
pub mod namespace;
pub mod plan;
pub mod plan_command;
pub mod poller;
pub mod queue;
pub mod reports;
pub mod rollback;
pub mod run;
pub mod settings;
pub mod watch;
pub mod work;
pub mod workloads;

pub use millrace_telemetry as telemetry;
