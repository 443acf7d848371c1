//! How a role is reached: a Service with its public port, and a headless one that gives the pods of a StatefulSet their
//! names. The admin port is in neither: the operator asks pods by their addresses.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Intended, Part, intended, pod};
use crate::kind::Kind;

pub(super) fn services(part: &Part<'_>) -> Vec<Intended> {
    let public = part.public_port().map(|port| public(part, port));
    let headless = part.size().volume.is_some().then(|| headless(part));
    public.into_iter().chain(headless).collect()
}

/// Name of the headless Service of a role.
pub(super) fn headless_name(part: &Part<'_>) -> String {
    match part.public_port() {
        Some(_) => format!("{}-pods", part.name()),
        None => part.name(),
    }
}

fn public(part: &Part<'_>, port: u16) -> Intended {
    let port = ServicePort {
        name: Some(pod::PUBLIC.to_owned()),
        port: i32::from(port),
        // Written because entries are told apart by it when they are applied.
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(pod::PUBLIC.to_owned())),
        app_protocol: Some("http".to_owned()),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        type_: Some("ClusterIP".to_owned()),
        selector: Some(part.selection()),
        ports: Some(vec![port]),
        ..ServiceSpec::default()
    };
    let service = Service { metadata: part.metadata(), spec: Some(spec), ..Service::default() };
    intended(Kind::Service, &service)
}

fn headless(part: &Part<'_>) -> Intended {
    let spec = ServiceSpec {
        type_: Some("ClusterIP".to_owned()),
        cluster_ip: Some("None".to_owned()),
        selector: Some(part.selection()),
        // A pod that is not ready yet has its name all the same.
        publish_not_ready_addresses: Some(true),
        ..ServiceSpec::default()
    };
    let metadata = part.named(headless_name(part));
    let service = Service { metadata, spec: Some(spec), ..Service::default() };
    intended(Kind::Service, &service)
}
