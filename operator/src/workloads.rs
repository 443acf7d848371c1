//! A data plane in, every object it consists of out, as full intents. Pure: one small function per kind of object.
//! Nothing here depends on which Apps a data plane serves, the owners of its [`anchor`] apart, so that Apps come and go
//! without a pod noticing. Must not read anything.

mod admission;
pub mod anchor;
mod expose;
pub mod golden;
mod identity;
mod pod;
mod service;
mod set;
pub mod sizes;
pub mod spills;
pub mod volumes;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::core::DynamicObject;
use millrace_crds::labels;
use millrace_crds::resolved::Role;
use serde::Serialize;
use serde_json::Value;

use crate::cluster::ObjectKey;
use crate::installation::Installation;
use crate::kind::Kind;
use sizes::{Count, Size};

/// Kinds of objects a data plane may consist of, the resolved Secrets apart; in the order in which they are removed:
/// identities last, so that after a crash half-way the rest is still found by its data plane's name.
pub const KINDS: [Kind; 11] = [
    Kind::HttpRoute,
    Kind::Ingress,
    Kind::HorizontalPodAutoscaler,
    Kind::Deployment,
    Kind::StatefulSet,
    Kind::Service,
    Kind::PodDisruptionBudget,
    Kind::NetworkPolicy,
    Kind::RoleBinding,
    Kind::Role,
    Kind::ServiceAccount,
];

/// One data plane and all that its objects are made of.
#[derive(Clone, Copy, Debug)]
pub struct DataPlane<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// `shared`, or the App's name.
    pub name: &'a str,
    /// What it goes with.
    pub owner: Option<&'a OwnerReference>,
    /// Its pods.
    pub sizes: &'a BTreeMap<Role, Size>,
    /// Where its back ends are.
    pub backends: &'a Addresses,
    /// Image, prefix, ways in.
    pub installation: &'a Installation,
    /// Namespace of the operator: from there alone the admin port is reached.
    pub operator_namespace: &'a str,
}

/// Where the back ends of a data plane are. No credentials: those are in the resolved Secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// `host:port`, with commas.
    pub kafka: String,
    /// Whether connections to Kafka are encrypted.
    pub kafka_tls: bool,
    /// How pods prove who they are to Kafka; not at all when absent.
    pub kafka_mechanism: Option<String>,
    /// URL of ClickHouse's HTTP interface.
    pub clickhouse: String,
}

/// An object as it should be, with all fields that are ours.
#[derive(Clone, Debug)]
pub struct Intended {
    /// Which object.
    pub key: ObjectKey,
    /// Its fields.
    pub object: DynamicObject,
}

/// The objects of a data plane, the resolved Secrets apart, in the order in which they are safe: what a pod needs and what
/// shields it before the pod.
pub fn objects(plane: &DataPlane<'_>) -> Vec<Intended> {
    let parts = || Role::ALL.into_iter().map(|role| Part { plane, role });
    let mut objects: Vec<Intended> = parts().flat_map(|part| part.around()).collect();
    objects.extend(parts().map(|part| part.workload()));
    objects.extend(parts().filter_map(|part| admission::autoscaler(&part)));
    objects.extend(parts().flat_map(|part| expose::ways_in(&part)));
    objects
}

/// Labels of the objects of a data plane: of one role, or of all.
pub fn labels_of(plane: &str, role: Option<Role>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned()),
        (labels::NAME.to_owned(), labels::PRODUCT.to_owned()),
        (labels::DATA_PLANE.to_owned(), plane.to_owned()),
    ]);
    labels.extend(role.map(|role| (labels::COMPONENT.to_owned(), role.as_str().to_owned())));
    labels
}

/// A typed object as an intent.
pub fn intended(kind: Kind, object: &impl Serialize) -> Intended {
    let value =
        serde_json::to_value(object).expect("types of Kubernetes have text keys and no failing field");
    from_json(kind, value)
}

/// An object of a kind that has no type here.
pub fn from_json(kind: Kind, object: Value) -> Intended {
    let object: DynamicObject = serde_json::from_value(object).expect("the metadata is written by us");
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let key = ObjectKey::new(kind, object.metadata.namespace.as_deref().unwrap_or_default(), name);
    Intended { key, object }
}

/// One role of one data plane.
#[derive(Clone, Copy)]
struct Part<'a> {
    plane: &'a DataPlane<'a>,
    role: Role,
}

impl Part<'_> {
    /// What must be there before the pods.
    fn around(&self) -> Vec<Intended> {
        let mut objects = vec![
            identity::service_account(self),
            identity::role(self),
            identity::role_binding(self),
            admission::network_policy(self),
        ];
        objects.extend(service::services(self));
        objects.push(admission::disruption_budget(self));
        objects
    }

    fn workload(&self) -> Intended {
        match &self.size().volume {
            Some(volume) => set::stateful_set(self, volume),
            None => set::deployment(self),
        }
    }

    fn name(&self) -> String {
        labels::role_object(self.plane.name, self.role)
    }

    fn metadata(&self) -> ObjectMeta {
        self.named(self.name())
    }

    fn named(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.plane.namespace.to_owned()),
            labels: Some(labels_of(self.plane.name, Some(self.role))),
            owner_references: self.plane.owner.map(|owner| vec![owner.clone()]),
            ..ObjectMeta::default()
        }
    }

    /// Which pods are meant. Never changes: a selector is fixed once its workload exists.
    fn selection(&self) -> BTreeMap<String, String> {
        let mut labels = labels_of(self.plane.name, Some(self.role));
        labels.remove(labels::MANAGED_BY);
        labels
    }

    fn selector(&self) -> LabelSelector {
        LabelSelector { match_labels: Some(self.selection()), match_expressions: None }
    }

    fn size(&self) -> &Size {
        self.plane.sizes.get(&self.role).expect("a data plane has a size for every role")
    }

    /// Number of pods, where it is ours to say.
    fn replicas(&self) -> Option<i32> {
        let count = match self.size().count {
            Count::Fixed(count) => Some(count),
            Count::ByLoad { until_then, .. } => until_then,
        };
        count.map(|count| i32::try_from(count).unwrap_or(i32::MAX))
    }

    /// The port that is open to others; a worker has none.
    fn public_port(&self) -> Option<u16> {
        match self.role {
            Role::Ingest => Some(millrace_crds::pod::PORT_INGEST),
            Role::Gateway => Some(millrace_crds::pod::PORT_GATEWAY),
            Role::Worker => None,
        }
    }
}
