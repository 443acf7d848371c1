//! Tests of the real binary with the real engine: started as a process, killed, starved of fsync, reconfigured.
//! They need `cargo build` of the data plane and the engine library first; `scripts/test all` does both.

#![expect(clippy::print_stdout, reason = "seeds and counts are shown when a test fails")]

mod bad_states;
mod fsync;
mod harness;
mod kill;
mod ledger;
mod privacy;
mod reload;
mod rollups;
