//! Metrics of the operator, declared once. Labels never carry object names: their number has no bound.

use prometheus::Registry;

/// All of them.
pub struct Metrics {
    /// What `/metrics` gathers.
    pub registry: Registry,
}

impl Metrics {
    /// Registers all metrics.
    pub fn new() -> Result<Self, prometheus::Error> {
        Ok(Self { registry: Registry::new() })
    }
}
