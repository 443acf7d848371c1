//! Every metric of the data plane, declared once. Call sites use the fields; names and units live here.

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Buckets for durations, in seconds: from a cached answer to a slow fsync or insert.
const DURATION_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Buckets for sizes, in bytes: from one small event to the largest body.
const SIZE_BYTES: &[f64] =
    &[256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// All metrics and the registry that prints them.
pub struct Metrics {
    /// What `/metrics` gathers.
    pub registry: Registry,
    /// Requests to ingest, by `status`.
    pub ingest_requests: IntCounterVec,
    /// Events at ingest, by `app` and `outcome` (`accepted` or the reason of refusal).
    pub ingest_events: IntCounterVec,
    /// Time from the first byte to the answer, by `status`.
    pub ingest_request_seconds: HistogramVec,
    /// Size of request bodies after decompression.
    pub ingest_body_bytes: HistogramVec,
    /// Bytes waiting for the log's group commit.
    pub log_queue_bytes: IntGauge,
    /// Time of one group commit, fsync included, by `outcome`.
    pub log_commit_seconds: HistogramVec,
    /// Records per group commit.
    pub log_commit_records: HistogramVec,
    /// Bytes the embedded log holds on disk.
    pub log_disk_bytes: IntGauge,
    /// Bytes that ingest keeps on its disk while the log is away.
    pub spill_bytes: IntGauge,
    /// Age of the oldest of them, in milliseconds.
    pub spill_oldest_milliseconds: IntGauge,
    /// Spilled files kept aside because something in them is damaged or refused by the log.
    pub spill_set_aside_files: IntGauge,
    /// Records through the spill, by `outcome` (`spilled`, `replayed`, `refused`).
    pub spill_records: IntCounterVec,
    /// Records that retention removed before a group had read them, by `group` and `topic`.
    pub log_unread_removed_records: IntCounterVec,
    /// How often a bad state of the log was met, by `state` and `subject` (topic, group or transactor).
    pub log_troubles: IntCounterVec,
    /// Events processed, by `app` and `outcome` (`processed`, `duplicate`, or the dead-letter reason).
    pub process_events: IntCounterVec,
    /// Declared properties whose value did not fit and became NULL, by `app` and `property`.
    pub process_misfits: IntCounterVec,
    /// Time of one process batch, by `app`.
    pub process_batch_seconds: HistogramVec,
    /// Records that a stage has not passed, by `app` and `stage`, whoever owns the partitions.
    pub stage_lag_records: IntGaugeVec,
    /// Age of the oldest record that a stage has not passed, in seconds, by `app` and `stage`.
    pub stage_lag_seconds: GaugeVec,
    /// Rows stored, by `app` and `table`.
    pub load_rows: IntCounterVec,
    /// Inserts, by `app`, `table` and `outcome` (`inserted`, `repeated`, or why one failed).
    pub load_inserts: IntCounterVec,
    /// Time of one insert, by `app` and `table`.
    pub load_insert_seconds: HistogramVec,
    /// Rows per insert, by `app` and `table`.
    pub load_block_rows: HistogramVec,
    /// Partitions stopped because a replay did not reproduce its intent, by `app` and `table`.
    pub load_stopped_partitions: IntGaugeVec,
    /// Repeated blocks that were not stored as they should be, by `app`, `table` and `finding` (`rows_missing`, repaired;
    /// `rows_twice`; `rollups_differ`).
    pub load_findings: IntCounterVec,
    /// Age of the oldest accepted record that is not stored, in seconds, by `app` and `table`.
    pub load_oldest_unloaded_seconds: GaugeVec,
    /// Equations of the ledger that did not hold once everything had arrived, in the last seven days, by `app` and
    /// `equation`.
    pub ledger_breaches: IntGaugeVec,
    /// Minutes of the ledger that were not compared to the end, by `app`.
    pub ledger_open_minutes: IntGaugeVec,
    /// Surges of dead letters that began, by `app`.
    pub dead_letter_surges: IntCounterVec,
    /// When the ledger was last compared, in seconds since the epoch, by `app`.
    pub ledger_checked_seconds: IntGaugeVec,
    /// Starts of the engine child, by `cause`.
    pub engine_starts: IntCounterVec,
    /// 1 while the engine answers.
    pub engine_up: IntGauge,
    /// Requests to the gateway, by `route` and `status`.
    pub gateway_requests: IntCounterVec,
    /// Time of a gateway request, by `route`.
    pub gateway_request_seconds: HistogramVec,
    /// Configurations applied or refused, by `outcome`.
    pub config_changes: IntCounterVec,
    /// Tokio tasks alive.
    pub tokio_tasks: IntGauge,
}

impl Metrics {
    /// Registers everything; an error means two metrics share a name, which is a bug.
    #[expect(clippy::too_many_lines, reason = "a table: one metric a line, wrapped by the formatter")]
    pub fn new() -> Result<Self, prometheus::Error> {
        let make = Maker { registry: Registry::new() };
        make.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self {
            ingest_requests: make.counters("ingest_requests_total", "Requests to ingest.", &["status"])?,
            ingest_events: make.counters("ingest_events_total", "Events at ingest.", &["app", "outcome"])?,
            ingest_request_seconds: make.durations(
                "ingest_request_duration_seconds",
                "Time from the first byte to the answer.",
                &["status"],
            )?,
            ingest_body_bytes: make.sizes(
                "ingest_body_size_bytes",
                "Request bodies after decompression.",
                &[],
            )?,
            log_queue_bytes: make.gauge("log_queue_bytes", "Bytes waiting for the log's group commit.")?,
            log_commit_seconds: make.durations(
                "log_commit_duration_seconds",
                "Group commits, fsync included.",
                &["outcome"],
            )?,
            log_commit_records: make.sizes("log_commit_records", "Records per group commit.", &[])?,
            log_disk_bytes: make.gauge("log_disk_bytes", "Bytes the embedded log holds on disk.")?,
            spill_bytes: make.gauge("spill_bytes", "Bytes kept on disk while the log is away.")?,
            spill_oldest_milliseconds: make
                .gauge("spill_oldest_milliseconds", "Age of the oldest spilled records.")?,
            spill_set_aside_files: make.gauge(
                "spill_set_aside_files",
                "Spilled files kept aside: damaged, or refused by the log.",
            )?,
            spill_records: make.counters(
                "spill_records_total",
                "Records through the spill.",
                &["outcome"],
            )?,
            log_unread_removed_records: make.counters(
                "log_unread_removed_records_total",
                "Records removed by retention before a group had read them.",
                &["group", "topic"],
            )?,
            log_troubles: make.counters(
                "log_troubles_total",
                "Bad states of the log that somebody has to mend.",
                &["state", "subject"],
            )?,
            process_events: make.counters(
                "process_events_total",
                "Events processed.",
                &["app", "outcome"],
            )?,
            process_misfits: make.counters(
                "process_misfits_total",
                "Declared properties that became NULL.",
                &["app", "property"],
            )?,
            process_batch_seconds: make.durations(
                "process_batch_duration_seconds",
                "Process batches.",
                &["app"],
            )?,
            stage_lag_records: make.gauges(
                "stage_lag_records",
                "Records that a stage has not passed, in all partitions, also those without an owner.",
                &["app", "stage"],
            )?,
            stage_lag_seconds: make.seconds(
                "stage_lag_seconds",
                "Age of the oldest record that a stage has not passed, since the log took it.",
                &["app", "stage"],
            )?,
            load_rows: make.counters("load_rows_total", "Rows stored.", &["app", "table"])?,
            load_inserts: make.counters("load_inserts_total", "Inserts.", &["app", "table", "outcome"])?,
            load_insert_seconds: make.durations(
                "load_insert_duration_seconds",
                "Inserts.",
                &["app", "table"],
            )?,
            load_block_rows: make.sizes("load_block_rows", "Rows per insert.", &["app", "table"])?,
            load_stopped_partitions: make.gauges(
                "load_stopped_partitions",
                "Partitions stopped by an intent that does not reproduce.",
                &["app", "table"],
            )?,
            load_findings: make.counters(
                "load_findings_total",
                "Repeated blocks that were not stored as they should be.",
                &["app", "table", "finding"],
            )?,
            load_oldest_unloaded_seconds: make.seconds(
                "load_oldest_unloaded_seconds",
                "Age of the oldest accepted record that is not stored.",
                &["app", "table"],
            )?,
            ledger_breaches: make.gauges(
                "ledger_breaches",
                "Equations of the ledger that did not hold once everything had arrived, in the last seven days.",
                &["app", "equation"],
            )?,
            ledger_open_minutes: make.gauges(
                "ledger_open_minutes",
                "Minutes of the ledger that were not compared to the end: they are not over, or something is on its way.",
                &["app"],
            )?,
            dead_letter_surges: make.counters(
                "dead_letter_surges_total",
                "Minutes in which a surge of dead letters began.",
                &["app"],
            )?,
            ledger_checked_seconds: make.gauges(
                "ledger_checked_timestamp_seconds",
                "When the ledger was last compared.",
                &["app"],
            )?,
            engine_starts: make.counters("engine_starts_total", "Starts of the engine child.", &["cause"])?,
            engine_up: make.gauge("engine_up", "1 while the engine answers.")?,
            gateway_requests: make.counters(
                "gateway_requests_total",
                "Requests to the gateway.",
                &["route", "status"],
            )?,
            gateway_request_seconds: make.durations(
                "gateway_request_duration_seconds",
                "Gateway requests.",
                &["route"],
            )?,
            config_changes: make.counters(
                "config_changes_total",
                "Configurations applied or refused.",
                &["outcome"],
            )?,
            tokio_tasks: make.gauge("tokio_tasks", "Tokio tasks alive.")?,
            registry: make.registry,
        })
    }
}

/// Makes and registers metrics under the common prefix.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        let metric = IntCounterVec::new(opts(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        let metric = IntGaugeVec::new(opts(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        let metric = GaugeVec::new(opts(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let metric = IntGauge::with_opts(opts(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn durations(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        self.histograms(name, help, labels, DURATION_SECONDS)
    }

    fn sizes(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        self.histograms(name, help, labels, SIZE_BYTES)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts { common_opts: opts(name, help), buckets: buckets.to_vec() };
        let metric = HistogramVec::new(opts, labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("millrace_{name}"), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_metrics_share_a_name() {
        Metrics::new().unwrap();
    }
}
