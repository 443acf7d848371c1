//! Who owns a field of a stored object, by its `managedFields`. Pure. Those of a workload's replicas are all that is kept
//! of them in memory.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use kube::core::DynamicObject;
use serde_json::{Value, json};

/// Number of pods of a workload, as `managedFields` writes it.
const REPLICAS: &str = "/f:spec/f:replicas";

/// Whether anybody but `manager`'s server-side apply wrote the number of pods: an autoscaler, or a person.
pub(crate) fn others_count_pods(workload: &DynamicObject, manager: &str) -> bool {
    let is_ours = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply")
    };
    workload.metadata.managed_fields.iter().flatten().any(|entry| owns_replicas(entry) && !is_ours(entry))
}

/// Leaves of `managedFields` only who owns the number of pods.
pub(crate) fn keep_who_counts_pods(entries: Vec<ManagedFieldsEntry>) -> Option<Vec<ManagedFieldsEntry>> {
    let fields = || Some(FieldsV1(json!({"f:spec": {"f:replicas": {}}})));
    let owners = entries.into_iter().filter(owns_replicas);
    let owners: Vec<_> = owners.map(|entry| ManagedFieldsEntry { fields_v1: fields(), ..entry }).collect();
    (!owners.is_empty()).then_some(owners)
}

fn owns_replicas(entry: &ManagedFieldsEntry) -> bool {
    entry
        .fields_v1
        .as_ref()
        .and_then(|FieldsV1(fields)| fields.pointer(REPLICAS))
        .is_some_and(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    fn workload(entries: Vec<Value>) -> DynamicObject {
        let metadata = json!({"name": "a", "managedFields": entries});
        serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}))
            .unwrap()
    }

    #[test]
    fn another_owner_of_the_number_of_pods_is_found() {
        let replicas = || json!({"f:spec": {"f:replicas": {}, "f:template": {}}});
        let other = || json!({"f:spec": {"f:template": {}}, "f:status": {"f:replicas": {}}});
        for (entries, expected) in [
            (vec![], false),
            (vec![entry("us", "Apply", replicas())], false),
            (
                vec![entry("us", "Apply", replicas()), entry("kube-controller-manager", "Update", other())],
                false,
            ),
            (
                vec![entry("us", "Apply", other()), entry("kube-controller-manager", "Update", replicas())],
                true,
            ),
            (vec![entry("us", "Apply", replicas()), entry("kubectl", "Apply", replicas())], true),
            (vec![entry("us", "Update", replicas())], true),
        ] {
            let stored = workload(entries);
            assert_eq!(others_count_pods(&stored, "us"), expected, "{:?}", stored.metadata.managed_fields);
            let mut light = stored.clone();
            light.metadata.managed_fields = light.metadata.managed_fields.and_then(keep_who_counts_pods);
            assert_eq!(others_count_pods(&light, "us"), expected);
            let text = serde_json::to_string(&light).unwrap();
            assert!(!text.contains("template") && !text.contains("status"), "{text}");
        }
    }
}
