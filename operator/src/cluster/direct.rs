//! The API server read as it is at this moment, for one look: no watches, no stores. It cannot write: every write is refused
//! here, before it could leave the process.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use super::{Cluster, ClusterError, ObjectKey, Told};
use crate::kind::Kind;

/// Objects asked for at once: what the API server gives in one answer without strain.
const PAGE: u32 = 500;

/// A cluster that can only be read.
pub struct ReadOnly {
    client: Client,
}

impl ReadOnly {
    /// Reads with the rights of this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn api(&self, kind: Kind, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = kind.resource();
        match namespace.filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}

/// A kind that the cluster does not serve has no objects; a whole group that is not served is a 404 without a reason. Ways
/// in from outside may be none of our business: who writes RBAC by hand may grant no rights on them.
fn is_unserved(kind: Kind, error: &kube::Error) -> bool {
    let is_optional = matches!(kind, Kind::Ingress | Kind::HttpRoute);
    matches!(error, kube::Error::Api(status) if status.code == 404 || (is_optional && status.code == 403))
}

fn failed(verb: &'static str, key: ObjectKey) -> impl FnOnce(kube::Error) -> ClusterError {
    move |error| match error {
        kube::Error::Api(status) if !status.is_conflict() && status.code < 500 && status.code != 429 => {
            ClusterError::Refused { verb, key, message: status.message.clone() }
        }
        other => ClusterError::Unreachable { verb, key, source: other.into() },
    }
}

fn refused<T>(verb: &'static str, key: &ObjectKey) -> Result<T, ClusterError> {
    let message = "this process only reads".to_owned();
    Err(ClusterError::Refused { verb, key: key.clone(), message })
}

#[async_trait]
impl Cluster for ReadOnly {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Arc<DynamicObject>>, ClusterError> {
        let api = self.api(key.kind, Some(&key.namespace));
        let found = match api.get_opt(&key.name).await {
            Err(error) if is_unserved(key.kind, &error) => None,
            answer => answer.map_err(failed("get", key.clone()))?,
        };
        Ok(found.map(|object| Arc::new(named(key.kind, object))))
    }

    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<&str, &str>,
    ) -> Result<Vec<Arc<DynamicObject>>, ClusterError> {
        let place = || ObjectKey::new(kind, namespace.unwrap_or_default(), "");
        if kind == Kind::Secret {
            return refused("list", &place());
        }
        let api = self.api(kind, namespace);
        let selector: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut page = ListParams::default().labels(&selector.join(",")).limit(PAGE);
        let mut objects = Vec::new();
        loop {
            let list = match api.list(&page).await {
                Err(error) if is_unserved(kind, &error) => return Ok(Vec::new()),
                answer => answer.map_err(failed("list", place()))?,
            };
            let next = list.metadata.continue_.filter(|next| !next.is_empty());
            objects.extend(list.items.into_iter().map(|object| Arc::new(named(kind, object))));
            match next {
                Some(next) => page.continue_token = Some(next),
                None => break,
            }
        }
        objects.sort_by_key(|object| (object.namespace(), object.name_any()));
        Ok(objects)
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        _intent: &DynamicObject,
    ) -> Result<Arc<DynamicObject>, ClusterError> {
        refused("apply", key)
    }

    async fn delete(&self, key: &ObjectKey, _uid: &str) -> Result<(), ClusterError> {
        refused("delete", key)
    }

    async fn set_status(&self, key: &ObjectKey, _status: &Value) -> Result<(), ClusterError> {
        refused("set the status of", key)
    }

    async fn set_finalizers(
        &self,
        _object: &DynamicObject,
        key: &ObjectKey,
        _finalizers: Vec<String>,
    ) -> Result<(), ClusterError> {
        refused("set the finalizers of", key)
    }

    async fn tell(&self, _about: &DynamicObject, _event: Told) {}
}

/// Items of a list come without their kind.
fn named(kind: Kind, mut object: DynamicObject) -> DynamicObject {
    let resource = kind.resource();
    object.types = Some(kube::core::TypeMeta { api_version: resource.api_version, kind: resource.kind });
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_or_a_whole_group_that_is_not_served_has_no_objects() {
        let answer = |code, reason: &str| {
            let status = kube::core::Status::failure("404 page not found", reason).with_code(code);
            kube::Error::Api(Box::new(status))
        };
        for kind in [Kind::HttpRoute, Kind::Service] {
            assert!(is_unserved(kind, &answer(404, "")) && is_unserved(kind, &answer(404, "NotFound")));
            assert!(!is_unserved(kind, &answer(500, "InternalError")));
        }
        assert!(is_unserved(Kind::HttpRoute, &answer(403, "Forbidden")));
        assert!(
            !is_unserved(Kind::Service, &answer(403, "Forbidden")),
            "a missing right is told, never taken for nothing"
        );
    }
}
