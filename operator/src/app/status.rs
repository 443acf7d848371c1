//! What was found about each aspect in, the App's status out: conditions that say why and what to do, and Events for
//! those that turned. Pure, then at most one write.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use millrace_crds::app::{AppStatus, Endpoints, RevisionStatus};
use millrace_crds::conditions::{
    self, ACCEPTED, COUNTED, DATAPLANE_READY, DURABLE, Finding, LEDGER_BALANCED, READY, RECONCILING,
    SCHEMA_READY, STALLED, Status, TOPICS_READY, VOLUMES_READY, reason,
};
use millrace_crds::labels;
use millrace_crds::names::AppId;
use millrace_crds::pod::{PORT_GATEWAY, PORT_INGEST};
use millrace_crds::resolved::Role;

use super::gather::Gathered;
use crate::backends::{BackendError, Durability};
use crate::cluster::{ClusterError, ObjectKey, Severity, Told};
use crate::context::Context;
use crate::installation::Installation;
use crate::kind::Kind;

/// Longest message of a condition: two definitions side by side fit, and etcd is spared.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// Longest note of an Event, as the API server takes it.
const NOTE_BYTES_MAX: usize = 1_000;
/// Copies of each partition, and copies that must have a record, from which acknowledged events outlive a broker.
const COPIES_MIN: (u32, u32) = (3, 2);
/// The conditions that the operator writes; those of others are left to them.
const OURS: [&str; 10] = [
    ACCEPTED,
    DATAPLANE_READY,
    DURABLE,
    LEDGER_BALANCED,
    READY,
    RECONCILING,
    SCHEMA_READY,
    STALLED,
    TOPICS_READY,
    VOLUMES_READY,
];

/// What was found about one aspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether it holds.
    pub(crate) status: Status,
    /// One of `millrace_crds::conditions::reason`.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

impl Verdict {
    /// A verdict; the message is cut at the limit.
    pub(crate) fn new(status: Status, reason: &'static str, message: &str) -> Self {
        Self { status, reason, message: cut(message, MESSAGE_BYTES_MAX) }
    }

    /// It holds.
    pub(crate) fn ok(message: &str) -> Self {
        Self::new(Status::True, reason::OK, message)
    }

    /// Whether waiting alone will not change it.
    fn needs_a_person(&self) -> bool {
        [
            reason::INVALID,
            reason::SECRET_UNUSABLE,
            reason::INCOMPATIBLE,
            reason::OWNED_BY_ANOTHER,
            reason::REFUSED,
            reason::REVISION_REFUSED,
        ]
        .contains(&self.reason)
    }
}

/// Everything that was found. What nothing has judged keeps the condition it had.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// The App itself.
    pub(crate) accepted: Option<Verdict>,
    /// Its topics.
    pub(crate) topics: Option<Verdict>,
    /// Its tables.
    pub(crate) tables: Option<Verdict>,
    /// Its pods.
    pub(crate) dataplane: Option<Verdict>,
    /// Copies of what is acknowledged.
    pub(crate) durable: Option<Verdict>,
    /// Volumes of its data plane.
    pub(crate) volumes: Option<Verdict>,
    /// Whether what was accepted and what is stored agree, where a pod says so.
    pub(crate) ledger: Option<Verdict>,
    /// The Revision that pods should run.
    pub(crate) revision: Option<RevisionStatus>,
    /// Where the App is reached.
    pub(crate) endpoints: Option<Endpoints>,
    /// In place of what the counted conditions say together.
    pub(crate) overall: Option<Verdict>,
}

/// The whole status.
pub(crate) fn status(
    stored: &AppStatus,
    generation: Option<i64>,
    findings: Findings,
    now: Timestamp,
) -> AppStatus {
    let mut conditions = ours(&stored.conditions);
    let set = |conditions: &mut Vec<Condition>, kind: &str, verdict: &Verdict| {
        let Verdict { status, reason, message } = verdict;
        let finding = Finding { kind, status: *status, reason, message, observed_generation: generation };
        conditions::set(conditions, &finding, now);
    };
    for (kind, verdict) in [
        (ACCEPTED, &findings.accepted),
        (TOPICS_READY, &findings.topics),
        (SCHEMA_READY, &findings.tables),
        (DATAPLANE_READY, &findings.dataplane),
        (DURABLE, &findings.durable),
        (VOLUMES_READY, &findings.volumes),
        (LEDGER_BALANCED, &findings.ledger),
    ] {
        if let Some(verdict) = verdict {
            set(&mut conditions, kind, verdict);
        }
    }
    let overall = findings.overall.clone().unwrap_or_else(|| together(&findings, &conditions));
    set(&mut conditions, READY, &overall);
    // Both mean something abnormal, and are there only while they are true.
    conditions.retain(|known| known.type_ != RECONCILING && known.type_ != STALLED);
    if overall.status != Status::True {
        let kind = if overall.needs_a_person() { STALLED } else { RECONCILING };
        let mut since = ours(&stored.conditions);
        since.retain(|known| known.type_ == kind);
        conditions.extend(since);
        set(&mut conditions, kind, &Verdict { status: Status::True, ..overall });
    }
    AppStatus {
        observed_generation: generation,
        conditions,
        revision: findings.revision,
        endpoints: findings.endpoints,
    }
}

/// Sorted by type, because the API server keeps the order in which they came.
fn ours(conditions: &[Condition]) -> Vec<Condition> {
    let ours = conditions.iter().filter(|known| OURS.contains(&known.type_.as_str()));
    let mut ours: Vec<Condition> = ours.cloned().collect();
    ours.sort_by(|a, b| a.type_.cmp(&b.type_));
    ours
}

/// Ready when all that is counted is true; otherwise in the words of the first that is not.
fn together(findings: &Findings, conditions: &[Condition]) -> Verdict {
    let found = |kind: &str| match kind {
        ACCEPTED => findings.accepted.clone(),
        TOPICS_READY => findings.topics.clone(),
        SCHEMA_READY => findings.tables.clone(),
        _ => findings.dataplane.clone(),
    };
    for kind in COUNTED {
        let stored = conditions.iter().find(|known| known.type_ == kind);
        if stored.is_some_and(|known| known.status == Status::True.as_str()) {
            continue;
        }
        let message = |words: &str| format!("{kind}: {words}");
        return match found(kind) {
            Some(verdict) => Verdict::new(Status::False, verdict.reason, &message(&verdict.message)),
            None => {
                let words = stored.map_or("not judged yet", |known| known.message.as_str());
                Verdict::new(Status::False, reason::PROGRESSING, &message(words))
            }
        };
    }
    Verdict::ok("events flow by the current configuration")
}

/// Writes the status if it is another than the stored one, and tells of conditions that turned.
pub(crate) async fn write(
    context: &Context,
    gathered: &Gathered,
    status: &AppStatus,
) -> Result<(), ClusterError> {
    let stored = AppStatus { conditions: ours(&gathered.status.conditions), ..gathered.status.clone() };
    if stored == *status {
        return Ok(());
    }
    let key = ObjectKey::new(Kind::App, gathered.id.namespace(), gathered.id.name());
    let value = serde_json::to_value(status).expect("a status is texts, numbers and times");
    context.cluster.set_status(&key, &value).await?;
    for event in turned(&stored.conditions, &status.conditions) {
        context.cluster.tell(&gathered.object, event).await;
    }
    Ok(())
}

/// Events for conditions whose status or reason is another than before. What merely takes its course is no event, and
/// what [`READY`] repeats from another condition neither.
fn turned(before: &[Condition], after: &[Condition]) -> Vec<Told> {
    let mut told = Vec::new();
    for condition in after.iter().filter(|c| c.type_ != RECONCILING && c.type_ != STALLED) {
        let known = before.iter().find(|known| known.type_ == condition.type_);
        if known.is_some_and(|known| (&known.status, &known.reason) == (&condition.status, &condition.reason))
        {
            continue;
        }
        let holds = condition.status == Status::True.as_str();
        let is_news = match condition.type_.as_str() {
            READY => holds,
            _ if holds => known.is_some_and(|known| known.reason != reason::PROGRESSING),
            _ => condition.reason != reason::PROGRESSING,
        };
        if is_news {
            told.push(Told {
                severity: if holds { Severity::Normal } else { Severity::Warning },
                reason: reason_of(condition),
                action: "Reconcile",
                note: cut(&format!("{}: {}", condition.type_, condition.message), NOTE_BYTES_MAX),
            });
        }
    }
    told
}

/// The reason as one of our constants; for what holds, the condition's type says more than `Ok`.
fn reason_of(condition: &Condition) -> &'static str {
    let known = [
        reason::INVALID,
        reason::SECRET_UNUSABLE,
        reason::HELD,
        reason::PAUSED,
        reason::INCOMPATIBLE,
        reason::OWNED_BY_ANOTHER,
        reason::UNREACHABLE,
        reason::REFUSED,
        reason::REVISION_REFUSED,
        reason::PODS_NOT_READY,
        reason::TOO_FEW_REPLICAS,
        reason::RESIZE_NEEDED,
        reason::UNBALANCED,
    ];
    let types = OURS.into_iter().find(|kind| *kind == condition.type_).unwrap_or(READY);
    known.into_iter().find(|reason| *reason == condition.reason).unwrap_or(types)
}

/// Whether acknowledged events outlive the loss of a broker.
pub(crate) fn durable(found: &Result<Durability, BackendError>) -> Verdict {
    match found {
        Ok(Durability { replication, in_sync_min })
            if (*replication < COPIES_MIN.0) || (*in_sync_min < COPIES_MIN.1) =>
        {
            let message = format!(
                "each partition has {replication} copies, of which {in_sync_min} must have an event before it is \
                 acknowledged; {} and {} are needed to outlive the loss of a broker: run more brokers, or raise \
                 `kafka.replication` and `kafka.minInSyncReplicas` of the installation",
                COPIES_MIN.0, COPIES_MIN.1
            );
            Verdict::new(Status::False, reason::TOO_FEW_REPLICAS, &message)
        }
        Ok(Durability { replication, in_sync_min }) => Verdict::ok(&format!(
            "each partition has {replication} copies, and {in_sync_min} have an event before it is acknowledged"
        )),
        Err(error) => Verdict::new(Status::Unknown, error.reason, &error.message),
    }
}

/// Where an App is reached: from outside where the installation exposes its data planes, else inside the cluster.
pub(crate) fn endpoints(id: &AppId, data_plane: &str, installation: &Installation) -> Endpoints {
    let expose = &installation.expose;
    let outside = expose.ingress.as_ref().map(|i| (&i.ingest_host, &i.gateway_host));
    let outside = outside.or(expose.http_route.as_ref().map(|r| (&r.ingest_host, &r.gateway_host)));
    let filled = |host: &String| {
        let host = host.replace("{namespace}", id.namespace()).replace("{dataPlane}", data_plane);
        format!("https://{host}")
    };
    let inside = |role, port| {
        let service = labels::role_object(data_plane, role);
        format!("http://{service}.{}.svc:{port}", id.namespace())
    };
    Endpoints {
        ingest: Some(outside.map_or_else(|| inside(Role::Ingest, PORT_INGEST), |(ingest, _)| filled(ingest))),
        gateway: Some(
            outside.map_or_else(|| inside(Role::Gateway, PORT_GATEWAY), |(_, gateway)| filled(gateway)),
        ),
    }
}

fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max - "…".len());
    format!("{}…", &text[..end])
}
