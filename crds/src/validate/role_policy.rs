//! What is wrong with the spec of a RolePolicy, beyond its schema, as far as it can be judged alone.

use super::integration::check_selection;
use crate::problem::{Path, Report, nearest};
use crate::role_policy::{
    BindingSpec, ISSUER_LOCAL, ROLE_ADMIN, ROLES_BUILT_IN, RolePolicySpec, SubjectSpec,
};

/// Fields of an event that can be masked, beside everything below `event_data`.
const MASKABLE: [&str; 11] = [
    "user_id",
    "anonymous_id",
    "device_id",
    "session_id",
    "platform",
    "app_version",
    "ip",
    "user_agent",
    "attribution",
    "event_data",
    "consent",
];

pub(super) fn check(spec: &RolePolicySpec, report: &mut Report) {
    let root = Path::root("spec");
    check_selection(spec.apps.as_ref(), &root.field("apps"), report);
    check_issuers(spec, &root.field("issuers"), report);
    for (index, role) in spec.roles.iter().enumerate() {
        if ROLES_BUILT_IN.contains(&role.name.as_str()) {
            let message = format!("`{}` is built in and cannot be redefined", role.name);
            report.add(&root.field("roles").index(index).field("name"), message, "choose another name");
        }
    }
    for (index, binding) in spec.bindings.iter().enumerate() {
        check_binding(binding, spec, &root.field("bindings").index(index), report);
    }
    for (index, field) in spec.masked_fields.iter().enumerate() {
        let first = field.split('.').next().unwrap_or_default();
        if !MASKABLE.contains(&first) {
            let fix = nearest(first, MASKABLE)
                .map_or("begin with `event_data.`".to_owned(), |meant| format!("did you mean `{meant}`?"));
            let at = root.field("maskedFields").index(index);
            report.add(&at, format!("`{first}` is not a field of an event"), fix);
        }
    }
}

fn check_issuers(spec: &RolePolicySpec, path: &Path, report: &mut Report) {
    for (index, issuer) in spec.issuers.iter().enumerate() {
        let at = path.index(index);
        if issuer.name == ISSUER_LOCAL {
            let message = "`local` stands for Millrace's own accounts";
            report.add(&at.field("name"), message, "choose another name");
        }
        if issuer.audiences.is_empty() && issuer.authorized_parties.is_empty() {
            let message = "has neither `audiences` nor `authorizedParties`: a token made for another service would pass";
            report.add(&at, message, "give one of them");
        }
    }
}

fn check_binding(binding: &BindingSpec, spec: &RolePolicySpec, path: &Path, report: &mut Report) {
    for (index, subject) in binding.subjects.iter().enumerate() {
        check_subject(subject, &path.field("subjects").index(index), report);
    }
    if binding.role == ROLE_ADMIN {
        if binding.apps.is_some() {
            let message = "role `admin` covers every App of the namespace";
            report.add(
                &path.field("apps"),
                message,
                "remove `apps`, or bind a role with `admin:*` of its own",
            );
        }
        if spec.apps.is_some() {
            let message = "role `admin` covers every App of the namespace, this policy does not";
            let fix = "bind it in a RolePolicy without `apps`, or bind a role with `admin:*` of its own";
            report.add(&path.field("role"), message, fix);
        }
    }
    let named = spec.apps.as_ref().and_then(|apps| apps.names.as_ref());
    if let (Some(apps), Some(named)) = (&binding.apps, named) {
        for (index, app) in apps.iter().enumerate().filter(|(_, app)| !named.contains(app)) {
            let message = format!("this policy is not about App `{app}`");
            report.add(
                &path.field("apps").index(index),
                message,
                "add it to `spec.apps.names`, or remove it",
            );
        }
    }
}

fn check_subject(subject: &SubjectSpec, path: &Path, report: &mut Report) {
    let ways = [subject.subject.is_some(), subject.email.is_some(), subject.claim.is_some()];
    if ways.iter().filter(|given| **given).count() != 1 {
        let message = "must have exactly one of `subject`, `email` and `claim`";
        report.add(path, message, "list several subjects if any of them should match");
    }
    if subject.claim.is_some() != subject.value.is_some() {
        report.add(path, "has only one of `claim` and `value`", "give both");
    }
    if subject.issuer == ISSUER_LOCAL && subject.claim.is_some() {
        let message = "`local` accounts have no claims";
        report.add(&path.field("claim"), message, "use `email` or `subject`");
    }
    if let Some(email) = &subject.email {
        let parts: Vec<&str> = email.split('@').collect();
        let plausible = parts.len() == 2 && parts.iter().all(|part| !part.is_empty());
        if !plausible || email.chars().any(char::is_whitespace) {
            let message = format!("`{email}` is not an e-mail address");
            report.add(&path.field("email"), message, "write `name@host`");
        }
    }
}
