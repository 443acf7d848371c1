//! Who the pods of a role are in the cluster, and what they may read there: the Revisions of their namespace and the one
//! Secret made for them.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use millrace_crds::labels;

use super::{Intended, Part, intended};
use crate::kind::Kind;

/// The token is mounted by the pod that needs it and by no other that names this account.
pub(super) fn service_account(part: &Part<'_>) -> Intended {
    let account = ServiceAccount {
        metadata: part.metadata(),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    intended(Kind::ServiceAccount, &account)
}

/// The verbs are those of [`Kind::granted_to_pods`]: what the operator grants it has to hold.
pub(super) fn role(part: &Part<'_>) -> Intended {
    let verbs = |kind: Kind| kind.granted_to_pods().iter().map(|verb| verb.as_str().to_owned()).collect();
    let revisions = PolicyRule {
        api_groups: Some(vec!["millrace.dev".to_owned()]),
        resources: Some(vec!["revisions".to_owned()]),
        verbs: verbs(Kind::Revision),
        ..PolicyRule::default()
    };
    let secret = PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["secrets".to_owned()]),
        resource_names: Some(vec![labels::resolved_secret(part.plane.name, part.role)]),
        verbs: verbs(Kind::Secret),
        ..PolicyRule::default()
    };
    intended(Kind::Role, &Role { metadata: part.metadata(), rules: Some(vec![revisions, secret]) })
}

pub(super) fn role_binding(part: &Part<'_>) -> Intended {
    let account = Subject {
        kind: "ServiceAccount".to_owned(),
        name: part.name(),
        namespace: Some(part.plane.namespace.to_owned()),
        api_group: None,
    };
    let role_ref = RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: "Role".to_owned(),
        name: part.name(),
    };
    let binding = RoleBinding { metadata: part.metadata(), role_ref, subjects: Some(vec![account]) };
    intended(Kind::RoleBinding, &binding)
}
