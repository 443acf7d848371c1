//! Options of `ingest`, `worker` and `gateway`: what the operator writes into a pod's environment in, the settings of a
//! role out. The names of the variables are those of `millrace_crds::pod`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use millrace_crds::resolved::Credentials;
use millrace_crds::{names, pod};
use millrace_provision::kafka::RECORD_BYTES_MAX;

use super::kafka::{KafkaArgs, KafkaCredentials};
use crate::cluster::keep::OpenLog;
use crate::cluster::offer::Place;
use crate::cluster::secrets::secret;
use crate::cluster::{Cluster, Duty, Times};
use crate::log::kafka::{KafkaLog, Options};
use crate::log::{Log, LogError, spill};

/// Longest wait for Kafka before events are spilled: a broker that is replaced comes back within it, and clients wait longer.
const SPILL_AFTER: Duration = Duration::from_secs(3);

/// Smallest queue in front of Kafka: two of the largest records fit.
const QUEUE_BYTES_MIN: u64 = 2 * RECORD_BYTES_MAX as u64;

/// Who a process is in its cluster.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Place in the cluster")]
pub struct PlaceArgs {
    /// Namespace whose Apps are served.
    #[arg(long, env = pod::ENV_NAMESPACE, value_name = "NAME")]
    pub namespace: String,
    /// Name of this pod, different from that of every other.
    #[arg(long, env = pod::ENV_POD, value_name = "NAME")]
    pub pod: String,
    /// Data plane served: `shared`, or the name of an App that has its own.
    #[arg(long, env = pod::ENV_DATA_PLANE, value_name = "NAME", default_value = millrace_crds::labels::SHARED)]
    pub data_plane: String,
    /// Name of the Secret with keys and credentials of this role.
    #[arg(long, env = pod::ENV_RESOLVED_SECRET, value_name = "NAME")]
    pub resolved_secret: String,
    /// First part of the names of topics and groups.
    #[arg(long, env = pod::ENV_PREFIX, value_name = "NAME", default_value = names::PREFIX_DEFAULT)]
    pub prefix: String,
    /// Metrics, probes and state.
    #[arg(long, env = "MILLRACE_ADMIN_LISTEN", value_name = "ADDRESS", default_value_t = everywhere(pod::PORT_ADMIN))]
    pub admin_listen: SocketAddr,
}

/// Options of `ingest`.
#[derive(Clone, Debug, Args)]
pub struct IngestArgs {
    /// Who it is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Where events go.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Most bytes of records that wait for Kafka; beyond it events are spilled, or clients told to come back. The process
    /// takes up to a quarter more for them, beside what it needs when idle.
    #[arg(long, env = "MILLRACE_KAFKA_QUEUE_BYTES_MAX", value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(QUEUE_BYTES_MIN..))]
    pub kafka_queue_bytes_max: u64,
    /// Events come in here.
    #[arg(long, env = "MILLRACE_INGEST_LISTEN", value_name = "ADDRESS", default_value_t = everywhere(pod::PORT_INGEST))]
    pub ingest_listen: SocketAddr,
    /// Folder of its own in which events are kept while Kafka is away. Without one, clients are told to come back.
    #[arg(long, env = pod::ENV_DATA_DIR, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Most bytes kept there; by default four fifths of the file system.
    #[arg(long, env = "MILLRACE_SPILL_BYTES_MAX", value_name = "BYTES", requires = "data_dir")]
    pub spill_bytes_max: Option<u64>,
}

/// Options of `worker`.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// Who it is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Where events come from.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// HTTP address of ClickHouse.
    #[arg(long, env = pod::ENV_CLICKHOUSE_URL, value_name = "URL")]
    pub clickhouse_url: String,
    /// Folder of the dedupe store. It may be lost: it is restored from the log.
    #[arg(long, env = pod::ENV_DATA_DIR, value_name = "DIR", default_value = pod::DATA_DIR)]
    pub data_dir: PathBuf,
    /// Seconds after which the group gives the partitions of a silent worker to others.
    #[arg(long, env = "MILLRACE_KAFKA_SESSION_SECONDS", value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=1800))]
    pub kafka_session_seconds: u64,
}

/// Options of `gateway`.
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// Who it is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The API answers here.
    #[arg(long, env = "MILLRACE_GATEWAY_LISTEN", value_name = "ADDRESS", default_value_t = everywhere(pod::PORT_GATEWAY))]
    pub gateway_listen: SocketAddr,
    /// HTTP address of ClickHouse.
    #[arg(long, env = pod::ENV_CLICKHOUSE_URL, value_name = "URL")]
    pub clickhouse_url: String,
}

/// A port on every address of the pod.
fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}

impl PlaceArgs {
    fn cluster(self, duty: Duty) -> Cluster {
        Cluster {
            place: Place { namespace: self.namespace, data_plane: self.data_plane },
            pod: self.pod,
            resolved_secret: self.resolved_secret,
            prefix: self.prefix,
            admin_listen: self.admin_listen,
            duty,
            times: Times::default(),
        }
    }
}

impl IngestArgs {
    /// The settings.
    pub fn settings(self) -> Cluster {
        let Self { place, kafka, kafka_queue_bytes_max, ingest_listen, data_dir, spill_bytes_max } = self;
        let queue_bytes_max = usize::try_from(kafka_queue_bytes_max).unwrap_or(usize::MAX);
        let log = open_log(kafka, place.pod.clone(), Options { queue_bytes_max, ..Options::default() });
        let options = spill::Options {
            bytes_max: spill_bytes_max,
            direct_max: SPILL_AFTER,
            record_bytes_max: RECORD_BYTES_MAX,
        };
        let spill = data_dir.map(|folder| (folder.join("spill"), options));
        place.cluster(Duty::Ingest { listen: ingest_listen, log, spill })
    }
}

impl WorkerArgs {
    /// The settings.
    pub fn settings(self) -> Cluster {
        let Self { place, kafka, clickhouse_url, data_dir, kafka_session_seconds } = self;
        let session_max = Duration::from_secs(kafka_session_seconds);
        let options = Options { session_max, ..Options::default() };
        let log = open_log(kafka, place.pod.clone(), options);
        place.cluster(Duty::Worker { log, clickhouse_url, data_dir })
    }
}

impl GatewayArgs {
    /// The settings.
    pub fn settings(self) -> Cluster {
        let Self { place, gateway_listen, clickhouse_url } = self;
        place.cluster(Duty::Gateway { listen: gateway_listen, clickhouse_url })
    }
}

/// What makes the log's clients from whatever credentials there are.
fn open_log(kafka: KafkaArgs, pod: String, options: Options) -> OpenLog {
    Arc::new(move |credentials, metrics| {
        let settings = kafka.settings(credentials.map(as_kafka_takes_them), &pod).map_err(|source| {
            LogError::Open { path: kafka.kafka_brokers.clone(), source: Box::new(source) }
        })?;
        Ok(KafkaLog::open(&settings, options.clone(), Arc::clone(metrics))? as Arc<dyn Log>)
    })
}

fn as_kafka_takes_them(account: &Credentials) -> KafkaCredentials {
    KafkaCredentials { username: account.username.clone(), password: secret(&account.password) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;
    use millrace_crds::resolved::Role;

    use super::*;
    use crate::settings::Cli;

    const PLACE: [&str; 5] =
        [pod::ENV_NAMESPACE, pod::ENV_POD, pod::ENV_DATA_PLANE, pod::ENV_RESOLVED_SECRET, pod::ENV_PREFIX];
    const KAFKA: [&str; 4] =
        [pod::ENV_KAFKA_BROKERS, pod::ENV_KAFKA_TLS, pod::ENV_KAFKA_CA_FILE, pod::ENV_KAFKA_SASL_MECHANISM];

    /// What the operator may set for a role.
    fn told_by_the_operator(role: Role) -> BTreeSet<&'static str> {
        let back: &[&str] = match role {
            Role::Ingest => &[pod::ENV_DATA_DIR],
            Role::Worker => &[pod::ENV_CLICKHOUSE_URL, pod::ENV_DATA_DIR],
            Role::Gateway => &[pod::ENV_CLICKHOUSE_URL],
        };
        let log: &[&str] = if role == Role::Gateway { &[] } else { &KAFKA };
        PLACE.iter().chain(back).chain(log).copied().collect()
    }

    #[test]
    fn the_command_line_reads_every_variable_that_the_operator_sets() {
        let cli = Cli::command();
        for role in Role::ALL {
            let command = cli.find_subcommand(role.as_str()).unwrap();
            let read: BTreeSet<&str> =
                command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
            for variable in told_by_the_operator(role) {
                assert!(read.contains(variable), "`{role}` does not read `{variable}`: {read:?}");
            }
        }
    }

    #[test]
    fn the_ports_are_those_of_the_pod() {
        let cli = Cli::command();
        for (role, option, port) in [
            (Role::Ingest, "ingest_listen", pod::PORT_INGEST),
            (Role::Gateway, "gateway_listen", pod::PORT_GATEWAY),
            (Role::Worker, "admin_listen", pod::PORT_ADMIN),
        ] {
            let command = cli.find_subcommand(role.as_str()).unwrap();
            let option = command.get_arguments().find(|arg| arg.get_id() == option).unwrap();
            assert_eq!(option.get_default_values(), [format!("0.0.0.0:{port}").as_str()]);
        }
    }
}
