//! The vocabulary of Millrace: custom resources in, problems or a compiled configuration out.
//! Pure: no client, runtime, clock, random source or network below this crate.
//!
//! Read in this order: [`names`]; the resources [`app`], [`integration`], [`role_policy`], [`revision`];
//! [`manifest`] reads them from text, [`structure`] and [`validate`] judge them, [`compile`] makes a [`config`];
//! then what is desired outside: [`topics`] and [`schema`].

#[expect(unreachable_pub, reason = "KubeSchema copies each struct into a function, `pub` included")]
pub mod app;
pub mod compile;
pub mod conditions;
pub mod config;
pub mod crd;
pub mod generated;
#[expect(unreachable_pub, reason = "KubeSchema copies each struct into a function, `pub` included")]
pub mod integration;
pub mod labels;
pub mod manifest;
pub mod names;
pub mod pattern;
pub mod pod;
pub mod problem;
pub mod quantity;
pub mod resolved;
#[expect(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema copies each struct into a function, `pub` included; printer columns repeat their type"
)]
pub mod revision;
#[expect(unreachable_pub, reason = "KubeSchema copies each struct into a function, `pub` included")]
pub mod role_policy;
pub mod schema;
#[expect(unreachable_pub, reason = "KubeSchema copies each struct into a function, `pub` included")]
pub mod selection;
pub mod state;
pub mod structure;
pub mod topics;
pub mod validate;
