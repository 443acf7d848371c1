//! Stories of one App, told by the writes it costs and the messages a person sees. Kubernetes and the back ends are in
//! memory; time is an argument.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails them")]

mod crash;
mod deletion;
mod fixture;
mod keys;
mod rollback;
mod rollout;
mod stories;
