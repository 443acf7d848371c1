//! Topics on Kafka: names in, what is there out; changes in, topics that have them out. Decides nothing itself.
//! Safe to repeat: what exists already is left as it is. Topics are made here and nowhere else: no client of
//! Millrace lets a broker make one by itself.

mod admin;
mod error;
mod native;
mod owners;
mod renewed;
mod settings;

pub use admin::{Admin, ObservedTopic, RECORD_BYTES_MAX, Replication};
pub use error::{KafkaError, is_refusal, is_unreachable, is_unsupported};
pub use native::{Cluster, Described, GroupPosition};
pub use owners::Owners;
pub use renewed::Renewed;
pub use settings::{Ca, Mechanism, Password, Sasl, Settings, SettingsError};
