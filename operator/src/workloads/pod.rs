//! The pod of a role: one container, told by arguments and environment what to be. It changes, and its pods are replaced,
//! only with image, environment, resources or this code; Apps, Revisions and Secrets reach a running pod.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, LocalObjectReference,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile,
    SecurityContext, TopologySpreadConstraint, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use millrace_crds::resolved::Role;
use millrace_crds::{labels, pod};

use super::{Part, labels_of};

/// The user of the image: nobody that a node knows.
const UID: i64 = 65_532;
/// Name of the volume, its claim template and its mount.
pub(super) const VOLUME: &str = "data";
/// Name of the admin port in Services and probes.
pub(super) const ADMIN: &str = "admin";
/// Name of the port that is open to others.
pub(super) const PUBLIC: &str = "http";

/// What every pod of a role is made from.
///
/// There is no `preStop`: the process itself goes on accepting for [`pod::LINGER_S`] after it was told to stop, which
/// outlives the removal of its address everywhere. The kubelet's `sleep` would do the same only from Kubernetes 1.34, and
/// would hide from the process that it is ending.
pub(super) fn template(part: &Part<'_>) -> PodTemplateSpec {
    let image = &part.plane.installation.image;
    let pull = image.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
    let spec = PodSpec {
        service_account_name: Some(part.name()),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        security_context: Some(pod_security(part)),
        containers: vec![container(part)],
        image_pull_secrets: Some(pull).filter(|pull: &Vec<_>| !pull.is_empty()),
        termination_grace_period_seconds: Some(pod::TERMINATION_GRACE_S),
        topology_spread_constraints: Some(vec![spread(part)]),
        ..PodSpec::default()
    };
    let metadata =
        ObjectMeta { labels: Some(labels_of(part.plane.name, Some(part.role))), ..ObjectMeta::default() };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec) }
}

fn pod_security(part: &Part<'_>) -> PodSecurityContext {
    let has_volume = part.size().volume.is_some();
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(UID),
        run_as_group: Some(UID),
        fs_group: has_volume.then_some(UID),
        // Without this the kubelet walks through the whole store at every start.
        fs_group_change_policy: has_volume.then(|| "OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn container(part: &Part<'_>) -> Container {
    let image = &part.plane.installation.image;
    let mount = VolumeMount {
        name: VOLUME.to_owned(),
        mount_path: pod::DATA_DIR.to_owned(),
        ..VolumeMount::default()
    };
    Container {
        name: part.role.as_str().to_owned(),
        image: Some(image.reference.clone()),
        image_pull_policy: Some(image.pull_policy.clone()),
        args: Some(vec![part.role.as_str().to_owned()]),
        env: Some(environment(part)),
        ports: Some(ports(part)),
        resources: Some(part.size().resources.clone()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        // A start is slow when a back end is away, and no restart mends that: so it waits for `alive`, not for `ready`.
        startup_probe: Some(probe("/livez", 2, 60)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        liveness_probe: Some(probe("/livez", 10, 6)),
        volume_mounts: part.size().volume.is_some().then(|| vec![mount]),
        ..Container::default()
    }
}

fn ports(part: &Part<'_>) -> Vec<ContainerPort> {
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        // Written because entries are told apart by it when they are applied.
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let public = part.public_port().map(|number| port(PUBLIC, number));
    public.into_iter().chain([port(ADMIN, pod::PORT_ADMIN)]).collect()
}

fn probe(path: &str, period_s: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(ADMIN.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_s),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn environment(part: &Part<'_>) -> Vec<EnvVar> {
    let plane = part.plane;
    let secret = labels::resolved_secret(plane.name, part.role);
    let mut environment = vec![
        of_pod(pod::ENV_NAMESPACE, "metadata.namespace"),
        of_pod(pod::ENV_POD, "metadata.name"),
        value(pod::ENV_DATA_PLANE, plane.name),
        value(pod::ENV_RESOLVED_SECRET, &secret),
        value(pod::ENV_PREFIX, &plane.installation.prefix),
    ];
    let (needs_kafka, needs_clickhouse) = needs(part.role);
    if needs_kafka {
        let tls = if plane.backends.kafka_tls { "true" } else { "false" };
        environment.push(value(pod::ENV_KAFKA_BROKERS, &plane.backends.kafka));
        environment.push(value(pod::ENV_KAFKA_TLS, tls));
        let mechanism = plane.backends.kafka_mechanism.as_deref();
        environment.extend(mechanism.map(|mechanism| value(pod::ENV_KAFKA_SASL_MECHANISM, mechanism)));
    }
    if needs_clickhouse {
        environment.push(value(pod::ENV_CLICKHOUSE_URL, &plane.backends.clickhouse));
    }
    if part.size().volume.is_some() {
        environment.push(value(pod::ENV_DATA_DIR, pod::DATA_DIR));
    }
    environment
}

/// Whether a role talks to Kafka, and whether to ClickHouse.
pub(crate) fn needs(role: Role) -> (bool, bool) {
    match role {
        Role::Ingest => (true, false),
        Role::Worker => (true, true),
        Role::Gateway => (false, true),
    }
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn of_pod(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { field_path: path.to_owned(), api_version: Some("v1".to_owned()) };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

/// Over nodes, as far as there are any: a cluster of one node runs all of them.
fn spread(part: &Part<'_>) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(part.selector()),
        ..TopologySpreadConstraint::default()
    }
}
