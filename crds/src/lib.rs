//! The vocabulary of Millrace: custom resources in, problems or a compiled configuration out.
//! Pure: no client, runtime, clock, random source or network below this crate.
//!
//! Read in this order: [`names`], the resources, [`validate`], [`compile`], then what is desired outside:
//! [`topics`] and [`schema`].

pub mod app;
pub mod compile;
pub mod conditions;
pub mod config;
pub mod integration;
pub mod manifest;
pub mod names;
pub mod problem;
pub mod quantity;
pub mod revision;
pub mod role_policy;
pub mod schema;
pub mod topics;
pub mod validate;
