//! What Helm renders of the chart (`scripts/charts-check` holds the files here against it) is what the operator reads and
//! what it needs: settings, credentials, rights.

#![expect(clippy::unwrap_used, reason = "a fixture that does not hold should end the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::rbac::v1::PolicyRule;
use millrace_operator::installation::Installation;
use millrace_operator::kind::{Kind, Verb};
use serde::de::DeserializeOwned;
use serde_json::Value;

const SETS: [&str; 3] = ["minimal", "full", "namespaced"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn documents(values: &str, template: &str) -> Vec<Value> {
    let path = root().join(format!("operator/tests/charts/{values}-{template}.yaml"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let parts = text.split("---\n").filter(|part| part.lines().any(|line| !line.starts_with('#')));
    parts.map(|part| serde_saphyr::from_str(part).unwrap()).collect()
}

fn document(values: &str, template: &str) -> Value {
    let mut all = documents(values, template);
    assert_eq!(all.len(), 1, "{values} {template}");
    all.remove(0)
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn installation(values: &str) -> Installation {
    let settings = document(values, "configmap");
    serde_saphyr::from_str(settings["data"]["settings.yaml"].as_str().unwrap()).unwrap()
}

#[test]
fn the_smallest_values_make_settings_with_every_default_of_the_operator() {
    let installation = installation("minimal");
    assert_eq!(installation.prefix, "millrace");
    assert_eq!(installation.kafka.brokers, "kafka:9092");
    assert_eq!(installation.kafka.sasl_mechanism, None);
    assert_eq!((installation.kafka.replication, installation.kafka.min_in_sync_replicas), (3, 2));
    assert_eq!(
        installation.image.reference,
        format!("millrace/millrace-dataplane:{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!((installation.namespaces.len(), &installation.cluster_id), (0, &None));
    assert_eq!(installation.dataplane.worker_volume.size, "10Gi");
    assert_eq!((installation.concurrency, installation.topics.raw_partitions), (8, None));
    assert!(installation.expose.ingress.is_none() && installation.expose.http_route.is_none());
    assert!(
        installation.postgres.is_none() && installation.redis.is_none() && installation.grafana.is_none()
    );
}

#[test]
fn every_value_reaches_the_settings() {
    let installation = installation("full");
    assert_eq!(installation.cluster_id.as_deref(), Some("blue"));
    assert_eq!(installation.kafka.sasl_mechanism.as_deref(), Some("SCRAM-SHA-512"));
    assert!(installation.kafka.tls);
    assert_eq!(installation.topics.raw_partitions, Some(24));
    assert_eq!(installation.dataplane.ingest.replicas, Some(3));
    assert!(installation.dataplane.ingest.spill.is_some());
    assert_eq!(installation.dataplane.gateway.autoscaling.unwrap().target_cpu_percent, 60);
    assert_eq!(installation.expose.ingress.unwrap().ingest_host, "events.{namespace}.example.com");
    assert_eq!(installation.expose.http_route.unwrap().gateway_namespace, "gateways");
    assert_eq!(installation.image.pull_secrets, ["pull"]);
    assert_eq!(installation.grafana.unwrap().url, "https://grafana.example");
    assert_eq!(installation.concurrency, 16);
}

#[test]
fn a_namespaced_installation_names_its_namespaces_and_its_cluster() {
    let installation = installation("namespaced");
    assert_eq!(installation.namespaces, ["team-a", "team-b"]);
    assert_eq!(installation.cluster_id.as_deref(), Some("blue"));
}

#[test]
fn credentials_lie_where_the_operator_looks_for_them() {
    let deployment = document("full", "deployment");
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let sources = volumes.iter().find(|volume| volume["name"] == "credentials").unwrap();
    let items = sources["projected"]["sources"].as_array().unwrap().iter();
    let items = items.flat_map(|source| source["secret"]["items"].as_array().unwrap());
    let paths: BTreeSet<&str> = items.map(|item| item["path"].as_str().unwrap()).collect();
    let accounts = [
        "kafka/operator",
        "kafka/ingest",
        "kafka/worker",
        "clickhouse/operator",
        "clickhouse/worker",
        "clickhouse/gateway",
        "postgres/gateway",
        "redis/gateway",
        "grafana/operator",
    ];
    let files =
        accounts.iter().flat_map(|account| ["username", "password"].map(|file| format!("{account}/{file}")));
    assert_eq!(paths, files.collect::<Vec<_>>().iter().map(String::as_str).collect());
}

#[test]
fn other_settings_make_other_pods() {
    let checksum = |&values: &&str| {
        let deployment = document(values, "deployment");
        deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let sums: BTreeSet<String> = SETS.iter().map(checksum).collect();
    assert_eq!(sums.len(), SETS.len());
}

#[test]
fn the_pod_meets_the_restricted_standard() {
    for values in SETS {
        let pod = document(values, "deployment")["spec"]["template"]["spec"].clone();
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{values}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{values}");
        assert_eq!(container["allowPrivilegeEscalation"], false, "{values}");
        assert_eq!(container["readOnlyRootFilesystem"], true, "{values}");
        assert_eq!(container["capabilities"]["drop"][0], "ALL", "{values}");
    }
}

/// (group, resource, verb)
type Right = (String, String, String);

fn rights(rules: &[PolicyRule]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    rights.insert((group.clone(), resource.clone(), verb.clone()));
                }
            }
        }
    }
    rights
}

/// What the operator does, by its own tables. Of some kinds it makes none, but removes those that it once made.
fn needed(unmade: &[Kind]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for kind in Kind::ALL {
        let resource = kind.resource();
        let makes = |verb: &&Verb| !unmade.contains(&kind) || ![Verb::Create, Verb::Patch].contains(verb);
        let verbs = kind.verbs().iter().chain(kind.granted_to_pods()).filter(makes);
        rights.extend(
            verbs.map(|verb| (resource.group.clone(), resource.plural.clone(), verb.as_str().to_owned())),
        );
        if kind.has_own_status() {
            let status = format!("{}/status", resource.plural);
            rights.insert((resource.group.clone(), status, Verb::Patch.as_str().to_owned()));
        }
    }
    // Events are no kind of the reconciles; they are only told.
    rights.insert(("events.k8s.io".to_owned(), "events".to_owned(), "create".to_owned()));
    rights
}

fn rules_of(values: &str) -> BTreeMap<String, Vec<PolicyRule>> {
    let documents = documents(values, "rbac");
    let roles = documents.iter().filter(|object| object.get("rules").is_some());
    let named = |object: &Value| {
        let [kind, namespace, name] =
            [&object["kind"], &object["metadata"]["namespace"], &object["metadata"]["name"]]
                .map(|field| field.as_str().unwrap_or_default());
        (format!("{kind} {namespace}/{name}"), read(&object["rules"]))
    };
    roles.map(named).collect()
}

#[test]
fn the_operator_is_granted_what_it_does_and_nothing_more() {
    let unexposed = [Kind::Ingress, Kind::HttpRoute];
    for (values, role, unmade) in [
        ("minimal", "ClusterRole /millrace-operator", &unexposed[..]),
        ("full", "ClusterRole /millrace-operator", &[]),
        ("namespaced", "Role team-a/mill", &unexposed),
        ("namespaced", "Role team-b/mill", &unexposed),
    ] {
        let rules = rules_of(values);
        assert_eq!(rights(&rules[role]), needed(unmade), "{values}: {role}");
    }
}

#[test]
fn rights_on_the_whole_cluster_come_only_where_the_whole_cluster_is_served() {
    let roles: Vec<String> = rules_of("namespaced").into_keys().collect();
    assert_eq!(roles, ["Role millrace-system/mill-leader", "Role team-a/mill", "Role team-b/mill"]);
}

#[test]
fn the_lease_is_the_only_right_in_its_own_namespace() {
    let rules = &rules_of("minimal")["Role millrace-system/millrace-operator-leader"];
    let lease = |verb: &str| ("coordination.k8s.io".to_owned(), "leases".to_owned(), verb.to_owned());
    assert_eq!(rights(rules), ["create", "get", "update"].map(lease).into());
    let names = rules.iter().find_map(|rule| rule.resource_names.clone());
    assert_eq!(names, Some(vec![millrace_operator::leader::LEASE.to_owned()]));
    let unnamed: Vec<_> = rules.iter().filter(|rule| rule.resource_names.is_none()).collect();
    assert!(unnamed.iter().all(|rule| rule.verbs == ["create"]), "{unnamed:?}");
}

#[test]
fn no_rule_has_a_wildcard_or_lets_the_operator_grant_what_it_does_not_hold() {
    for values in SETS {
        for (role, rules) in rules_of(values) {
            for (group, resource, verb) in rights(&rules) {
                assert!(
                    ![&group, &resource, &verb].into_iter().any(|word| word.contains('*')),
                    "{values}: {role}"
                );
                assert!(!["escalate", "bind", "impersonate"].contains(&verb.as_str()), "{values}: {role}");
            }
        }
    }
}

#[test]
fn charts_carry_the_version_of_the_program() {
    for chart in ["millrace", "millrace-crds"] {
        let text = fs::read_to_string(root().join(format!("charts/{chart}/Chart.yaml"))).unwrap();
        let chart: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    }
}
