//! Metrics of the operator, declared once. Labels never carry object names: their number has no bound.

use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::kind::Kind;

/// Bounds of the time of a reconcile in seconds: from a look at the stores to a back end that does not answer.
const RECONCILE_SECONDS: [f64; 9] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0, 120.0];

/// All of them.
pub struct Metrics {
    /// What `/metrics` gathers.
    pub registry: Registry,
    /// Reconciles by what was reconciled (`app`, `namespace`) and how it ended (`ok`, `error`, `given_up`).
    pub reconciles: IntCounterVec,
    /// Their time.
    pub reconcile_seconds: HistogramVec,
    /// Plans carried out, by whether anything was written (`changed`, `unchanged`).
    pub plans: IntCounterVec,
    /// Writes to the API server, by kind and verb; Leases and Events apart.
    pub writes: IntCounterVec,
    /// Failed calls of the API server, by verb and class (`conflict`, `refused`, `unreachable`, `unreadable`).
    pub cluster_errors: IntCounterVec,
    /// Steps on back ends, by how they ended.
    pub backend_steps: IntCounterVec,
    /// Keys that are due and wait for a free place.
    pub queue_depth: IntGauge,
    /// How long the oldest of them waits.
    pub queue_oldest_seconds: Gauge,
    /// Reconciles tried again after an error.
    pub queue_retries: IntCounter,
    /// 1 while this replica holds the Lease.
    pub leader: IntGauge,
    /// Watches begun anew after a failure, by kind.
    pub watch_restarts: IntCounterVec,
    /// 1 while a definition that the operator needs is missing.
    pub crds_missing: IntGauge,
    /// Objects kept in the stores, by kind.
    pub stored_objects: IntGaugeVec,
}

impl Metrics {
    /// Registers all metrics.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        Ok(Self {
            reconciles: counters(r, "reconciles", "Reconciles by kind and outcome.", &["kind", "outcome"])?,
            reconcile_seconds: histogram(r)?,
            plans: counters(r, "plans", "Plans carried out, by whether they wrote anything.", &["outcome"])?,
            writes: counters(r, "writes", "Writes to the API server.", &["kind", "verb"])?,
            cluster_errors: counters(
                r,
                "cluster_errors",
                "Failed calls of the API server.",
                &["verb", "class"],
            )?,
            backend_steps: counters(r, "backend_steps", "Steps on back ends.", &["outcome"])?,
            queue_depth: gauge(r, "queue_depth", "Keys that are due and wait.")?,
            queue_oldest_seconds: queue_oldest(r)?,
            queue_retries: retries(r)?,
            leader: gauge(r, "leader", "1 while this replica holds the Lease.")?,
            watch_restarts: counters(r, "watch_restarts", "Watches begun anew after a failure.", &["kind"])?,
            crds_missing: gauge(r, "crds_missing", "1 while a definition is missing.")?,
            stored_objects: gauges(r, "stored_objects", "Objects kept in the stores.", &["kind"])?,
            registry,
        })
    }

    /// Counts a write to the API server.
    pub fn wrote(&self, kind: Kind, verb: &str) {
        self.writes.with_label_values(&[kind.as_str(), verb]).inc();
    }
}

fn name(name: &str) -> String {
    format!("millrace_operator_{name}")
}

fn counters(
    registry: &Registry,
    metric: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name(&format!("{metric}_total")), help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn gauge(registry: &Registry, metric: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name(metric), help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn gauges(
    registry: &Registry,
    metric: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let gauges = IntGaugeVec::new(Opts::new(name(metric), help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn histogram(registry: &Registry) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name("reconcile_duration_seconds"), "Time of a reconcile.")
        .buckets(RECONCILE_SECONDS.to_vec());
    let histogram = HistogramVec::new(options, &["kind"])?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

fn queue_oldest(registry: &Registry) -> Result<Gauge, prometheus::Error> {
    let gauge = Gauge::new(name("queue_oldest_seconds"), "How long the oldest key that is due waits.")?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn retries(registry: &Registry) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name("queue_retries_total"), "Reconciles tried again after an error.")?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}
