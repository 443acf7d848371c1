//! Kubernetes during one reconcile: a Secret is read from the API server once, however often the round looks at it (to
//! plan, and again to compare before the write). What the round writes is what it sees from then on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use kube::core::DynamicObject;
use serde_json::Value;

use super::{Cluster, ClusterError, ObjectKey, Told};
use crate::kind::Kind;

/// One reconcile's view.
pub struct Round {
    inner: Arc<dyn Cluster>,
    /// Secrets seen in this round; `None` for one that was not there.
    secrets: Mutex<HashMap<ObjectKey, Option<Arc<DynamicObject>>>>,
}

impl Round {
    /// Begins a round.
    pub fn new(inner: Arc<dyn Cluster>) -> Self {
        Self { inner, secrets: Mutex::default() }
    }

    fn secrets(&self) -> MutexGuard<'_, HashMap<ObjectKey, Option<Arc<DynamicObject>>>> {
        self.secrets.lock().expect("no holder of this lock panics")
    }
}

#[async_trait]
impl Cluster for Round {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Arc<DynamicObject>>, ClusterError> {
        if key.kind != Kind::Secret {
            return self.inner.get(key).await;
        }
        let seen = self.secrets().get(key).cloned();
        if let Some(seen) = seen {
            return Ok(seen);
        }
        let found = self.inner.get(key).await?;
        self.secrets().insert(key.clone(), found.clone());
        Ok(found)
    }

    async fn secret_version(&self, key: &ObjectKey) -> Result<Option<String>, ClusterError> {
        self.inner.secret_version(key).await
    }

    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<&str, &str>,
    ) -> Result<Vec<Arc<DynamicObject>>, ClusterError> {
        self.inner.list(kind, namespace, labels).await
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        intent: &DynamicObject,
    ) -> Result<Arc<DynamicObject>, ClusterError> {
        // Also when the answer is lost: then nobody knows what is there.
        self.secrets().remove(key);
        let answer = self.inner.apply(key, intent).await?;
        if key.kind == Kind::Secret {
            self.secrets().insert(key.clone(), Some(Arc::clone(&answer)));
        }
        Ok(answer)
    }

    async fn delete(&self, key: &ObjectKey, uid: &str) -> Result<(), ClusterError> {
        self.secrets().remove(key);
        self.inner.delete(key, uid).await
    }

    async fn set_status(&self, key: &ObjectKey, status: &Value) -> Result<(), ClusterError> {
        self.inner.set_status(key, status).await
    }

    async fn set_finalizers(
        &self,
        object: &DynamicObject,
        key: &ObjectKey,
        finalizers: Vec<String>,
    ) -> Result<(), ClusterError> {
        self.inner.set_finalizers(object, key, finalizers).await
    }

    async fn tell(&self, about: &DynamicObject, event: Told) {
        self.inner.tell(about, event).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::memory::Memory;

    fn secret(value: &str) -> DynamicObject {
        let object = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "keys", "namespace": "team"}, "data": {"key": value},
        });
        serde_json::from_value(object).unwrap()
    }

    async fn value(cluster: &dyn Cluster) -> Option<String> {
        let key = ObjectKey::new(Kind::Secret, "team", "keys");
        let found = cluster.get(&key).await.unwrap()?;
        found.data["data"]["key"].as_str().map(ToOwned::to_owned)
    }

    #[tokio::test]
    async fn a_round_reads_a_secret_once_and_sees_its_own_writes_and_the_next_round_reads_again() {
        let key = ObjectKey::new(Kind::Secret, "team", "keys");
        let memory: Arc<dyn Cluster> = Arc::new(Memory::new());
        let round = Round::new(Arc::clone(&memory));
        assert_eq!(value(&round).await, None);
        memory.apply(&key, &secret("MQ==")).await.unwrap();
        assert_eq!(value(&round).await, None, "read once");
        round.apply(&key, &secret("Mg==")).await.unwrap();
        assert_eq!(value(&round).await.as_deref(), Some("Mg=="));
        memory.apply(&key, &secret("Mw==")).await.unwrap();
        assert_eq!(value(&Round::new(memory)).await.as_deref(), Some("Mw=="));
    }
}
