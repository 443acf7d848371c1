//! The operator's side of Kubernetes on a real API server (`KUBECONFIG`): what is applied stays applied, what is stored
//! is never older than what was written, and what the server refuses is said in its words.
//!
//! Run it as `e2e/cluster/run cargo test --profile ci -p millrace-operator --features services --test live`.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails there fails the test")]

mod live {
    mod crash;
    mod election;
    mod objects;
    mod store;
    pub(crate) mod world;
}
