//! How the operator tells a data-plane process what to be: arguments, environment and ports. The operator writes them, the
//! data plane's command line reads them; a test holds both to this list.

/// Events come in here.
pub const PORT_INGEST: u16 = 8080;
/// The API answers here.
pub const PORT_GATEWAY: u16 = 8081;
/// Metrics, probes and state.
pub const PORT_ADMIN: u16 = 9090;

/// Namespace served; from the pod's own metadata.
pub const ENV_NAMESPACE: &str = "MILLRACE_NAMESPACE";
/// Name of the pod; from its own metadata.
pub const ENV_POD: &str = "MILLRACE_POD";
/// Data plane served: `shared` or an App's name.
pub const ENV_DATA_PLANE: &str = "MILLRACE_DATA_PLANE";
/// Name of the Secret with [`crate::resolved::Resolved`].
pub const ENV_RESOLVED_SECRET: &str = "MILLRACE_RESOLVED_SECRET";
/// First part of topic, group and database names.
pub const ENV_PREFIX: &str = "MILLRACE_PREFIX";
/// Kafka bootstrap list: `host:port`, with commas.
pub const ENV_KAFKA_BROKERS: &str = "MILLRACE_KAFKA_BROKERS";
/// `true` for TLS to Kafka.
pub const ENV_KAFKA_TLS: &str = "MILLRACE_KAFKA_TLS";
/// File with the certificate authority of Kafka; the system's when absent.
pub const ENV_KAFKA_CA_FILE: &str = "MILLRACE_KAFKA_CA_FILE";
/// SASL mechanism: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`; none when absent.
pub const ENV_KAFKA_SASL_MECHANISM: &str = "MILLRACE_KAFKA_SASL_MECHANISM";
/// URL of ClickHouse's HTTP interface. Worker and gateway.
pub const ENV_CLICKHOUSE_URL: &str = "MILLRACE_CLICKHOUSE_URL";
/// Folder for what may be lost at a price: the dedupe store of a worker.
pub const ENV_DATA_DIR: &str = "MILLRACE_DATA_DIR";

/// Where [`ENV_DATA_DIR`] is mounted.
pub const DATA_DIR: &str = "/var/lib/millrace";
/// Longest time a pod may take to end, in seconds: the drain of ingest and the last batch of a worker.
pub const TERMINATION_GRACE_S: i64 = 45;
/// How long a pod that was told to stop goes on taking connections, in seconds: it outlives the removal of its address
/// from every node's tables, so that none is refused. The process does this itself; there is no shell in the image.
pub const LINGER_S: u64 = 8;
