//! The namespace reconcile on Kubernetes in memory: what comes into being, what goes, what stays, and what people read.

#![expect(clippy::unwrap_used, reason = "a fixture that does not hold should end the test")]

mod access;
mod crash;
mod keys;
mod reported;
mod shared;
mod world;
