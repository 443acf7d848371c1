//! Resources in, every problem out, each with its field and a fix. Pure.
//! What the CRDs say (schema and CEL) is checked here too, so that files without an API server get the same verdict;
//! beyond that, what only code can say: origins, bounds of durations, types over all events, names across resources.

mod access;
mod app;
mod integration;
mod origin;
mod role_policy;
mod secret;
mod set;

pub use access::{Apps, namespace_access};
pub use secret::{Purpose, SecretUse};
pub use set::set;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use crate::app::{App, AppSpec};
use crate::crd::Kind;
use crate::integration::{Integration, IntegrationSpec};
use crate::names::{self, AppId, NAMESPACE_DEFAULT};
use crate::problem::{ObjectRef, Path, Problem, Report};
use crate::quantity::Duration;
use crate::role_policy::{RolePolicy, RolePolicySpec};
use crate::structure;

/// Every problem of one App, as far as it can be judged alone.
pub fn app(app: &App) -> Vec<Problem> {
    let object = object_ref(Kind::App, &app.metadata);
    let mut report = Report::new(object.clone());
    check_app_name(&object, &mut report);
    app_problems(&app.spec, report)
}

/// Every problem of one App's `spec`.
pub fn app_spec(id: &AppId, spec: &AppSpec) -> Vec<Problem> {
    app_problems(spec, Report::new(ObjectRef::new(Kind::App.as_str(), id.namespace(), id.name())))
}

/// Every problem of one Integration, as far as it can be judged alone.
pub fn integration(integration: &Integration) -> Vec<Problem> {
    let object = object_ref(Kind::Integration, &integration.metadata);
    let mut report = Report::new(object.clone());
    check_label_name(&object, &mut report);
    integration_problems(&integration.spec, report)
}

/// Every problem of one Integration's `spec`.
pub fn integration_spec(namespace: &str, name: &str, spec: &IntegrationSpec) -> Vec<Problem> {
    integration_problems(spec, Report::new(ObjectRef::new(Kind::Integration.as_str(), namespace, name)))
}

/// Every problem of one RolePolicy, as far as it can be judged alone.
pub fn role_policy(policy: &RolePolicy) -> Vec<Problem> {
    let object = object_ref(Kind::RolePolicy, &policy.metadata);
    let mut report = Report::new(object.clone());
    check_label_name(&object, &mut report);
    role_policy_problems(&policy.spec, report)
}

/// Every problem of one RolePolicy's `spec`.
pub fn role_policy_spec(namespace: &str, name: &str, spec: &RolePolicySpec) -> Vec<Problem> {
    role_policy_problems(spec, Report::new(ObjectRef::new(Kind::RolePolicy.as_str(), namespace, name)))
}

/// How messages name a resource; one without a namespace is in `default`, as with `kubectl`.
pub fn object_ref(kind: Kind, metadata: &ObjectMeta) -> ObjectRef {
    ObjectRef::new(kind.as_str(), namespace_of(metadata), metadata.name.as_deref().unwrap_or_default())
}

/// The namespace a resource is in.
pub fn namespace_of(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or(NAMESPACE_DEFAULT)
}

fn app_problems(spec: &AppSpec, mut report: Report) -> Vec<Problem> {
    check_structure(Kind::App, spec, &mut report);
    app::check(spec, &mut report);
    report.into_problems()
}

fn integration_problems(spec: &IntegrationSpec, mut report: Report) -> Vec<Problem> {
    check_structure(Kind::Integration, spec, &mut report);
    integration::check(spec, &mut report);
    report.into_problems()
}

fn role_policy_problems(spec: &RolePolicySpec, mut report: Report) -> Vec<Problem> {
    check_structure(Kind::RolePolicy, spec, &mut report);
    role_policy::check(spec, &mut report);
    report.into_problems()
}

/// What the API server would refuse by schema: bounds, patterns, lists with something twice.
fn check_structure(kind: Kind, spec: &impl Serialize, report: &mut Report) {
    let document = serde_json::to_value(spec).expect("a spec of texts, numbers and lists is valid JSON");
    for fault in structure::faults(&kind.schema()["properties"]["spec"], &document, &Path::root("spec")) {
        report.add(&fault.path, fault.message, fault.fix);
    }
}

fn check_app_name(object: &ObjectRef, report: &mut Report) {
    check_namespace(object, report);
    // The namespace has its own line above; here only the name is judged.
    if let Err(error) = AppId::new(NAMESPACE_DEFAULT, &object.name) {
        report.add(&Path::root("metadata").field("name"), error.to_string(), "rename the App");
    }
}

fn check_label_name(object: &ObjectRef, report: &mut Report) {
    check_namespace(object, report);
    if let Err(error) = names::check_label("name", &object.name, names::NAMESPACE_CHARS_MAX) {
        report.add(&Path::root("metadata").field("name"), error.to_string(), "rename it");
    }
}

fn check_namespace(object: &ObjectRef, report: &mut Report) {
    if let Err(error) = names::check_label("namespace", &object.namespace, names::NAMESPACE_CHARS_MAX) {
        let fix = "use another namespace: `--` separates names in databases";
        report.add(&Path::root("metadata").field("namespace"), error.to_string(), fix);
    }
}

/// A duration within bounds that the schema cannot express.
fn check_duration(value: Duration, least: Duration, most: Duration, path: &Path, report: &mut Report) {
    if value.as_ms() < least.as_ms() || value.as_ms() > most.as_ms() {
        report.add(path, format!("`{value}` is not between {least} and {most}"), "choose a value between");
    }
}

#[cfg(test)]
mod tests;
