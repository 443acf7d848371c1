//! The Apps of the shared data plane in, the one object that is owned by all of them out: everything else that they share
//! is owned by it alone. So an App that comes or goes costs one write, and the garbage collector still takes everything
//! with the last of them. Pure.
//!
//! A ServiceAccount, because it is a kind that the operator has to write anyway (a ConfigMap would need the right to read
//! everybody's), and one of its own, because people replace the accounts of pods: no pod runs as this one and no Role
//! names it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::DynamicObject;
use millrace_crds::labels;

use super::{Intended, intended, labels_of};
use crate::cluster::ObjectKey;
use crate::kind::Kind;

/// Where `kubectl describe` and dashboards show what an object is for.
const DESCRIPTION: &str = "kubernetes.io/description";

/// Where the anchor of a namespace is.
pub fn key(namespace: &str) -> ObjectKey {
    ObjectKey::new(Kind::ServiceAccount, namespace, labels::SHARED_ANCHOR)
}

/// The anchor, owned by these Apps.
pub fn anchor(namespace: &str, apps: Vec<OwnerReference>) -> Intended {
    let description = "Owns everything that the Apps of this namespace share, and goes with the last of them. Deleting it \
                       deletes the shared data plane, which is then made anew.";
    let metadata = ObjectMeta {
        name: Some(labels::SHARED_ANCHOR.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels_of(labels::SHARED, None)),
        annotations: Some(BTreeMap::from([(DESCRIPTION.to_owned(), description.to_owned())])),
        owner_references: Some(apps).filter(|apps| !apps.is_empty()),
        ..ObjectMeta::default()
    };
    let account = ServiceAccount {
        metadata,
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    intended(Kind::ServiceAccount, &account)
}

/// What names the anchor as an owner; `None` while it is not there, or no longer.
pub fn owner(anchor: &DynamicObject) -> Option<OwnerReference> {
    if anchor.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let resource = Kind::ServiceAccount.resource();
    Some(OwnerReference {
        api_version: resource.api_version,
        kind: resource.kind,
        name: labels::SHARED_ANCHOR.to_owned(),
        uid: anchor.metadata.uid.clone()?,
        controller: None,
        block_owner_deletion: None,
    })
}
