//! All RolePolicies of a namespace, compiled to who may do what on which Apps. Selectors and wildcards end here.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{AccessConfig, Binding, Format, Issuer, Matches, Permission, Subject};
use crate::names::AppId;
use crate::problem::Problem;
use crate::role_policy::{
    BindingSpec, ClaimsSpec, IssuerSpec, ROLE_ADMIN, ROLE_READONLY, ROLE_USER, RolePolicySpec, SubjectSpec,
};
use crate::selection;
use crate::validate::{self, Apps};

/// What the access rules of a namespace are compiled from.
#[derive(Clone, Copy, Debug)]
pub struct AccessInput<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// Its Apps with their labels; those of other namespaces are passed over.
    pub apps: &'a [(AppId, BTreeMap<String, String>)],
    /// Its RolePolicies, by name.
    pub policies: &'a [(&'a str, &'a RolePolicySpec)],
}

/// Compiles the access rules of a namespace, or says everything that is wrong. An App that a policy names but that
/// does not exist grants nothing and is no error here: deleting an App must not freeze everybody's access.
pub fn compile_access(input: &AccessInput<'_>) -> Result<AccessConfig, Vec<Problem>> {
    let AccessInput { namespace, policies, .. } = *input;
    let mut problems: Vec<Problem> =
        policies.iter().flat_map(|(name, spec)| validate::role_policy_spec(namespace, name, spec)).collect();
    problems.extend(validate::namespace_access(namespace, policies, Apps::NotJudged));
    if !problems.is_empty() {
        problems.sort();
        return Err(problems);
    }
    let mut config = AccessConfig {
        format: Format::V1,
        namespace: namespace.to_owned(),
        issuers: BTreeMap::new(),
        roles: built_in_roles(),
        bindings: Vec::new(),
        masked_fields: BTreeMap::new(),
        rate_limits: BTreeMap::new(),
    };
    for (_, policy) in policies {
        add_policy(policy, input, &mut config);
    }
    config.bindings.sort();
    config.bindings.dedup();
    Ok(config)
}

/// Roles that exist in every namespace.
fn built_in_roles() -> BTreeMap<String, BTreeSet<Permission>> {
    let user = [Permission::DashboardRead, Permission::AnalyticsRead, Permission::AppsRead];
    BTreeMap::from([
        (ROLE_ADMIN.to_owned(), expanded(&[Permission::Admin])),
        (ROLE_USER.to_owned(), expanded(&user)),
        (ROLE_READONLY.to_owned(), expanded(&[Permission::DashboardRead])),
    ])
}

/// `admin:*` stands for every permission, itself included.
fn expanded(permissions: &[Permission]) -> BTreeSet<Permission> {
    if permissions.contains(&Permission::Admin) {
        Permission::ALL.into_iter().collect()
    } else {
        permissions.iter().copied().collect()
    }
}

fn add_policy(policy: &RolePolicySpec, input: &AccessInput<'_>, config: &mut AccessConfig) {
    for issuer in &policy.issuers {
        config.issuers.insert(issuer.name.clone(), compile_issuer(issuer));
    }
    for role in &policy.roles {
        config.roles.insert(role.name.clone(), expanded(&role.permissions));
    }
    let here = || input.apps.iter().filter(|(id, _)| id.namespace() == input.namespace);
    let selected: BTreeSet<&AppId> = here()
        .filter(|(id, labels)| selection::includes(policy.apps.as_ref(), id.name(), labels))
        .map(|(id, _)| id)
        .collect();
    for binding in &policy.bindings {
        let apps = if binding.role == ROLE_ADMIN {
            here().map(|(id, _)| id.clone()).collect()
        } else {
            bound_apps(binding, &selected)
        };
        let subjects = binding.subjects.iter().filter_map(compile_subject).collect();
        config.bindings.push(Binding { role: binding.role.clone(), subjects, apps });
    }
    if !policy.masked_fields.is_empty() {
        for id in selected {
            config.masked_fields.entry(id.clone()).or_default().extend(policy.masked_fields.iter().cloned());
        }
    }
    for limit in &policy.rate_limits {
        let least = config.rate_limits.entry(limit.role.clone()).or_insert(limit.requests_per_minute);
        *least = (*least).min(limit.requests_per_minute);
    }
}

fn bound_apps(binding: &BindingSpec, selected: &BTreeSet<&AppId>) -> BTreeSet<AppId> {
    let is_bound = |id: &AppId| binding.apps.as_ref().is_none_or(|apps| apps.iter().any(|a| a == id.name()));
    selected.iter().filter(|id| is_bound(id)).map(|id| (*id).clone()).collect()
}

/// `None` for a subject without exactly one way to match, which `validate` reports.
fn compile_subject(spec: &SubjectSpec) -> Option<Subject> {
    let matches = match (&spec.subject, &spec.email, &spec.claim, &spec.value) {
        (Some(subject), None, None, None) => Matches::Subject(subject.clone()),
        (None, Some(email), None, None) => Matches::Email(email.to_lowercase()),
        (None, None, Some(claim), Some(value)) => {
            Matches::Claim { claim: claim.clone(), value: value.clone() }
        }
        _ => return None,
    };
    Some(Subject { issuer: spec.issuer.clone(), matches })
}

fn compile_issuer(spec: &IssuerSpec) -> Issuer {
    let ClaimsSpec { roles, groups, email } = &spec.claims;
    let claims = [("roles", roles), ("groups", groups), ("email", email)];
    let claims = claims.into_iter().filter_map(|(purpose, claim)| Some((purpose.to_owned(), claim.clone()?)));
    Issuer {
        issuer: spec.issuer.clone(),
        jwks_uri: spec.jwks_uri.clone(),
        audiences: spec.audiences.iter().cloned().collect(),
        authorized_parties: spec.authorized_parties.iter().cloned().collect(),
        algorithms: spec.algorithms.iter().map(|algorithm| algorithm.name().to_owned()).collect(),
        claims: claims.collect(),
    }
}
