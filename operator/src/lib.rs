//! The operator: custom resources in, cluster objects out. Today it prints and generates what is installed; the
//! reconciles are not in it yet.

pub mod generate;
pub mod settings;
