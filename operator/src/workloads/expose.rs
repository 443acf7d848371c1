//! Ways in from outside to the roles that have a public port, where the installation names hosts for them.

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
    IngressSpec, IngressTLS, ServiceBackendPort,
};
use millrace_crds::resolved::Role;
use serde_json::json;

use super::{Intended, Part, from_json, intended, pod};
use crate::installation::{HttpRouteSettings, IngressSettings};
use crate::kind::Kind;

pub(super) fn ways_in(part: &Part<'_>) -> Vec<Intended> {
    let expose = &part.plane.installation.expose;
    let ingress = expose.ingress.as_ref().and_then(|settings| ingress(part, settings));
    let route = expose.http_route.as_ref().and_then(|settings| http_route(part, settings));
    ingress.into_iter().chain(route).collect()
}

/// The host of a role, with what stands for names filled in; a worker has none.
fn host(part: &Part<'_>, ingest: &str, gateway: &str) -> Option<String> {
    let host = match part.role {
        Role::Ingest => ingest,
        Role::Gateway => gateway,
        Role::Worker => return None,
    };
    Some(host.replace("{namespace}", part.plane.namespace).replace("{dataPlane}", part.plane.name))
}

fn ingress(part: &Part<'_>, settings: &IngressSettings) -> Option<Intended> {
    let host = host(part, &settings.ingest_host, &settings.gateway_host)?;
    let port = ServiceBackendPort { name: Some(pod::PUBLIC.to_owned()), number: None };
    let service = IngressServiceBackend { name: part.name(), port: Some(port) };
    let path = HTTPIngressPath {
        path: Some("/".to_owned()),
        path_type: "Prefix".to_owned(),
        backend: IngressBackend { service: Some(service), resource: None },
    };
    let tls = settings.tls_secret_name.clone();
    let tls =
        tls.map(|secret| vec![IngressTLS { hosts: Some(vec![host.clone()]), secret_name: Some(secret) }]);
    let http = HTTPIngressRuleValue { paths: vec![path] };
    let spec = IngressSpec {
        ingress_class_name: settings.class_name.clone(),
        rules: Some(vec![IngressRule { host: Some(host), http: Some(http) }]),
        tls,
        default_backend: None,
    };
    let mut metadata = part.metadata();
    metadata.annotations = Some(settings.annotations.clone()).filter(|annotations| !annotations.is_empty());
    Some(intended(Kind::Ingress, &Ingress { metadata, spec: Some(spec), status: None }))
}

fn http_route(part: &Part<'_>, settings: &HttpRouteSettings) -> Option<Intended> {
    let host = host(part, &settings.ingest_host, &settings.gateway_host)?;
    let resource = Kind::HttpRoute.resource();
    Some(from_json(
        Kind::HttpRoute,
        json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": part.metadata(),
            "spec": {
                "parentRefs": [{
                    "group": "gateway.networking.k8s.io",
                    "kind": "Gateway",
                    "namespace": settings.gateway_namespace,
                    "name": settings.gateway_name,
                }],
                "hostnames": [host],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "backendRefs": [{
                        "group": "",
                        "kind": "Service",
                        "name": part.name(),
                        "port": part.public_port(),
                        "weight": 1,
                    }],
                }],
            },
        }),
    ))
}
