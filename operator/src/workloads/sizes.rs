//! What the App and the installation say about pods in, how many and how large they are out. Pure. The App's word goes
//! before the installation's, that before the defaults below; amounts leave in the form the API server stores.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use millrace_crds::app::{
    Autoscaling, DataplaneSpec, GatewaySpec, IngestWorkload, Resources, Spill, WorkerSpec,
};
use millrace_crds::quantity::ByteSize;
use millrace_crds::resolved::Role;

use crate::installation::{Sizes, WorkerVolume};

/// Pods of a role where nobody says how many: one may be away without harm.
const REPLICAS: u32 = 2;

/// Pods of one role.
#[derive(Clone, Debug, PartialEq)]
pub struct Size {
    /// How many.
    pub count: Count,
    /// What each asks for and may use.
    pub resources: ResourceRequirements,
    /// The volume of each; with one they are a StatefulSet.
    pub volume: Option<Volume>,
}

impl Size {
    /// How many pods with a volume are wanted; 0 where they are no set.
    pub fn with_volume(&self) -> u32 {
        match (self.count, &self.volume) {
            (Count::Fixed(count), Some(_)) => count,
            (Count::Fixed(_), None) | (Count::ByLoad { .. }, _) => 0,
        }
    }
}

/// How many pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Fixed(u32),
    /// By load.
    ByLoad {
        /// Between these.
        bounds: Autoscaling,
        /// What we say until somebody else does; then the number is theirs, and never written by us again.
        until_then: Option<u32>,
    },
}

impl Count {
    /// The same for a workload that is there with so many pods: they stay until somebody else counts them. Letting the
    /// number go before that would make it one.
    pub fn beside(self, pods: Option<u32>, counted_by: CountedBy) -> Self {
        match (self, counted_by) {
            (Self::ByLoad { bounds, .. }, CountedBy::Others) => Self::ByLoad { bounds, until_then: None },
            (Self::ByLoad { bounds, until_then }, CountedBy::Us) => {
                Self::ByLoad { bounds, until_then: pods.or(until_then) }
            }
            (fixed @ Self::Fixed(_), _) => fixed,
        }
    }
}

/// Who wrote the number of pods of a workload last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedBy {
    /// We did, or nobody.
    Us,
    /// An autoscaler, or a person.
    Others,
}

/// A volume of each pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Its size, as the API server writes it.
    pub size: Quantity,
    /// Its storage class; the cluster's default when absent.
    pub class: Option<String>,
}

/// One level of what is said about a role.
#[derive(Clone, Debug, Default)]
struct Said {
    replicas: Option<u32>,
    autoscaling: Option<Autoscaling>,
    resources: Option<Resources>,
    spill: Option<Spill>,
}

/// The pods of one role: of a shared data plane without an App, of a Dedicated one with what its App says.
pub fn size(role: Role, installation: &Sizes, app: Option<&DataplaneSpec>) -> Size {
    let below =
        said(role, Some(&installation.ingest), Some(&installation.worker), Some(&installation.gateway));
    let above = app.map_or_else(Said::default, |app| {
        said(role, app.ingest.as_ref(), app.worker.as_ref(), app.gateway.as_ref())
    });
    let spill = match above.autoscaling {
        // A pod with a spill may only go when it is empty, so pods by load have none.
        Some(_) => above.spill,
        None => above.spill.or(below.spill),
    };
    let (replicas, autoscaling) = if above.replicas.is_some() || above.autoscaling.is_some() {
        (above.replicas, above.autoscaling)
    } else {
        (below.replicas, below.autoscaling)
    };
    let count = match autoscaling.filter(|_| spill.is_none()) {
        Some(bounds) => Count::ByLoad { bounds, until_then: Some(bounds.min_replicas) },
        None => Count::Fixed(replicas.unwrap_or(REPLICAS)),
    };
    let levels = [above.resources, below.resources].into_iter().flatten().collect::<Vec<_>>();
    let volume = match role {
        Role::Worker => Some(worker_volume(&installation.worker_volume)),
        Role::Ingest => {
            spill.map(|spill| Volume { size: bytes(spill.size), class: spill.storage_class_name })
        }
        Role::Gateway => None,
    };
    Size { count, resources: resources(role, &levels), volume }
}

fn said(
    role: Role,
    ingest: Option<&IngestWorkload>,
    worker: Option<&WorkerSpec>,
    gateway: Option<&GatewaySpec>,
) -> Said {
    let said = match role {
        Role::Ingest => ingest.cloned().map(|spec| Said {
            replicas: spec.replicas,
            autoscaling: spec.autoscaling,
            resources: spec.resources,
            spill: spec.spill,
        }),
        Role::Worker => worker.cloned().map(|spec| Said {
            replicas: spec.replicas,
            resources: spec.resources,
            ..Said::default()
        }),
        Role::Gateway => gateway.cloned().map(|spec| Said {
            replicas: spec.replicas,
            autoscaling: spec.autoscaling,
            resources: spec.resources,
            spill: None,
        }),
    };
    said.unwrap_or_default()
}

/// Request and limit of one resource come from the same level: mixed ones could contradict each other.
fn resources(role: Role, levels: &[Resources]) -> ResourceRequirements {
    let of = |amounts: &Option<millrace_crds::app::ResourceAmounts>, name: &str| {
        let amounts = amounts.as_ref()?;
        match name {
            "cpu" => amounts.cpu.as_deref().map(cpu),
            _ => amounts.memory.map(bytes),
        }
    };
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    for (name, default) in defaults(role) {
        let pairs = levels.iter().map(|level| (of(&level.requests, name), of(&level.limits, name)));
        let (request, limit) = pairs.into_iter().find(|(r, l)| r.is_some() || l.is_some()).unwrap_or(default);
        requests.extend(request.map(|amount| (name.to_owned(), amount)));
        limits.extend(limit.map(|amount| (name.to_owned(), amount)));
    }
    let some = |amounts: BTreeMap<_, _>| (!amounts.is_empty()).then_some(amounts);
    ResourceRequirements { requests: some(requests), limits: some(limits), claims: None }
}

type Pair = (Option<Quantity>, Option<Quantity>);

/// Processor time has no limit: throttling would turn a burst into latency. Memory has one, because what leaks must end
/// before its node does. Ingest and gateway hold requests in flight; a worker holds batches and the dedupe index.
fn defaults(role: Role) -> [(&'static str, Pair); 2] {
    let (time, asked, most) = match role {
        Role::Ingest => ("250m", "256Mi", "512Mi"),
        Role::Worker => ("250m", "512Mi", "1Gi"),
        Role::Gateway => ("100m", "128Mi", "512Mi"),
    };
    let amount = |text: &str| Some(Quantity(text.to_owned()));
    [("cpu", (amount(time), None)), ("memory", (amount(asked), amount(most)))]
}

fn worker_volume(volume: &WorkerVolume) -> Volume {
    let size = volume.size.parse().map_or_else(|_| Quantity(volume.size.clone()), bytes);
    Volume { size, class: volume.storage_class_name.clone() }
}

/// Processor time as the API server writes it: whole units where it can be (`1000m` is `1`, thousands are `k`), else
/// thousandths (`1.5` is `1500m`). What is no amount stays as it is, for the API server to refuse in its own words.
fn cpu(text: &str) -> Quantity {
    let thousandths = match text.strip_suffix('m') {
        Some(digits) => digits.parse::<u64>().ok(),
        None => {
            let (whole, part) = text.split_once('.').unwrap_or((text, ""));
            format!("{whole}{part:0<3}").parse::<u64>().ok().filter(|_| part.len() <= 3)
        }
    };
    Quantity(match thousandths {
        Some(0) => "0".to_owned(),
        Some(n) if n % 1_000_000 == 0 => format!("{}k", n / 1_000_000),
        Some(n) if n % 1_000 == 0 => (n / 1_000).to_string(),
        Some(n) => format!("{n}m"),
        None => text.to_owned(),
    })
}

/// A size as the API server writes it: the largest unit that leaves a whole number (`1024Mi` is `1Gi`).
fn bytes(size: ByteSize) -> Quantity {
    let (mut count, mut unit) = (size.as_bytes(), 0);
    while count % 1024 == 0 && unit < UNITS.len() - 1 && count > 0 {
        count /= 1024;
        unit += 1;
    }
    Quantity(format!("{count}{}", UNITS[unit]))
}

const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sizes(value: Value) -> Sizes {
        serde_json::from_value(value).unwrap()
    }

    fn of_app(value: Value) -> DataplaneSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn amounts_are_written_as_the_api_server_stores_them() {
        for (said, stored) in [
            ("1000m", "1"),
            ("1", "1"),
            ("0.5", "500m"),
            ("1.25", "1250m"),
            ("2.500", "2500m"),
            ("2000", "2k"),
            ("1500", "1500"),
            ("250m", "250m"),
            ("0", "0"),
        ] {
            assert_eq!(cpu(said).0, stored, "{said}");
        }
        for (said, stored) in
            [("1024Mi", "1Gi"), ("1536Mi", "1536Mi"), ("10Gi", "10Gi"), ("1Ki", "1Ki"), ("1048576Ti", "1Ei")]
        {
            assert_eq!(bytes(said.parse().unwrap()).0, stored, "{said}");
        }
    }

    #[test]
    fn the_app_goes_before_the_installation_and_that_before_the_default() {
        let installation = sizes(json!({"ingest": {"replicas": 5}, "gateway": {"replicas": 4}}));
        let app = of_app(json!({"placement": "Dedicated", "gateway": {"replicas": 7}}));
        let count = |role, app| size(role, &installation, app).count;
        assert_eq!(count(Role::Ingest, None), Count::Fixed(5));
        assert_eq!(count(Role::Worker, None), Count::Fixed(2));
        assert_eq!(count(Role::Gateway, None), Count::Fixed(4));
        assert_eq!(count(Role::Gateway, Some(&app)), Count::Fixed(7));
        assert_eq!(count(Role::Ingest, Some(&app)), Count::Fixed(5));
    }

    #[test]
    fn request_and_limit_never_come_from_different_levels() {
        let installation = sizes(json!({"worker": {"resources": {"limits": {"memory": "2Gi"}}}}));
        let app = of_app(
            json!({"placement": "Dedicated", "worker": {"resources": {"requests": {"memory": "4096Mi"}}}}),
        );
        let resources = size(Role::Worker, &installation, Some(&app)).resources;
        assert_eq!(
            serde_json::to_value(resources).unwrap(),
            json!({"requests": {"cpu": "250m", "memory": "4Gi"}})
        );
        let resources = size(Role::Worker, &installation, None).resources;
        assert_eq!(
            serde_json::to_value(resources).unwrap(),
            json!({"requests": {"cpu": "250m"}, "limits": {"memory": "2Gi"}})
        );
    }

    #[test]
    fn pods_by_load_have_no_spill_and_pods_with_a_spill_are_not_by_load() {
        let by_load = json!({"minReplicas": 3, "maxReplicas": 9});
        let spill = json!({"size": "20Gi"});
        let installation = sizes(json!({"ingest": {"spill": spill}}));
        let app = of_app(json!({"placement": "Dedicated", "ingest": {"autoscaling": by_load}}));
        let app_wins = size(Role::Ingest, &installation, Some(&app));
        assert!(matches!(app_wins.count, Count::ByLoad { .. }) && app_wins.volume.is_none());
        let installation = sizes(json!({"ingest": {"autoscaling": by_load}}));
        let app = of_app(json!({"placement": "Dedicated", "ingest": {"spill": spill}}));
        let app_wins = size(Role::Ingest, &installation, Some(&app));
        assert_eq!(app_wins.count, Count::Fixed(2));
        assert_eq!(app_wins.volume.unwrap().size.0, "20Gi");
    }
}
