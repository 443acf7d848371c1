//! The volume that a set was made with and the one that is wanted in, how they differ and what to do about it out. Pure.
//!
//! Kubernetes fixes the volumes of a set when it is made. The set keeps what it has, and people are told: a claim that
//! grows needs a StorageClass that allows it, and one that shrinks would lose what is in it.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::DynamicObject;

use super::pod::VOLUME;
use super::sizes::Volume;
use crate::fields::quantity;

/// A volume that is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It is to grow: a person can do it without losing anything.
    ToGrow {
        /// What to do.
        message: String,
    },
    /// It is to shrink, or to lie elsewhere: that is not done to a volume that holds something.
    Refused {
        /// Why, and what to do.
        message: String,
    },
}

/// The volume that a set was made with.
pub fn of_set(set: &DynamicObject) -> Option<Volume> {
    let claim = &set.data["spec"]["volumeClaimTemplates"][0]["spec"];
    Some(Volume {
        size: Quantity(claim["resources"]["requests"]["storage"].as_str()?.to_owned()),
        class: claim["storageClassName"].as_str().map(ToOwned::to_owned),
    })
}

/// How a set differs from what is wanted, if it does. A class that nobody asks for may be any.
pub fn mismatch(set: &DynamicObject, wanted: &Volume) -> Option<Mismatch> {
    let found = of_set(set)?;
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let (has, wants) = (&found.size.0, &wanted.size.0);
    let anew = format!("kubectl -n {namespace} delete statefulset {name} --cascade=orphan");
    if let Some(class) = wanted.class.as_ref().filter(|class| found.class.as_ref() != Some(class)) {
        let has = found.class.as_deref().unwrap_or("the cluster's default");
        let message = format!(
            "the volumes of StatefulSet `{name}` are of StorageClass `{has}` and cannot move to `{class}`; set the class \
             back to it, or, for pods that are new, make the set anew around those that run: `{anew}`"
        );
        return Some(Mismatch::Refused { message });
    }
    match quantity(has).zip(quantity(wants)) {
        Some((has, wants)) if has == wants => None,
        Some((large, small)) if large > small => Some(Mismatch::Refused {
            message: format!(
                "the volumes of StatefulSet `{name}` have {has} and never shrink, so that {wants} is not carried out; set \
                 the size back to {has} or more"
            ),
        }),
        _ => {
            let claim = format!("{VOLUME}-{name}-0");
            let patch = format!(r#"{{"spec":{{"resources":{{"requests":{{"storage":"{wants}"}}}}}}}}"#);
            Some(Mismatch::ToGrow {
                message: format!(
                    "the volumes of StatefulSet `{name}` have {has}, and {wants} is wanted; Kubernetes does not grow them \
                     by itself. Where their StorageClass allows expansion, grow the claim of every pod, as in \
                     `kubectl -n {namespace} patch pvc {claim} -p '{patch}'`, then let the operator make the set anew \
                     around its running pods: `{anew}`. Else set the size back to {has}"
                ),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(size: &str, class: Option<&str>) -> DynamicObject {
        let claim = json!({"storageClassName": class, "resources": {"requests": {"storage": size}}});
        let metadata = json!({"name": "mr-shared-worker", "namespace": "team"});
        let spec = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}]});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn wanted(size: &str, class: Option<&str>) -> Volume {
        Volume { size: Quantity(size.to_owned()), class: class.map(ToOwned::to_owned) }
    }

    #[test]
    fn the_same_amount_in_other_words_and_any_class_where_none_is_asked_for_are_as_wanted() {
        for (stored, class, wants, wants_class) in [
            ("10Gi", None, "10Gi", None),
            ("1Gi", None, "1024Mi", None),
            ("10Gi", Some("fast"), "10Gi", None),
            ("10Gi", Some("fast"), "10Gi", Some("fast")),
        ] {
            assert_eq!(mismatch(&set(stored, class), &wanted(wants, wants_class)), None);
        }
        let none: DynamicObject = serde_json::from_value(json!({"metadata": {}, "spec": {}})).unwrap();
        assert_eq!(mismatch(&none, &wanted("10Gi", None)), None, "a set without volumes");
    }

    #[test]
    fn growth_says_how_and_shrinking_or_moving_is_refused() {
        let Some(Mismatch::ToGrow { message }) = mismatch(&set("10Gi", None), &wanted("50Gi", None)) else {
            panic!("it is to grow");
        };
        for part in
            ["have 10Gi, and 50Gi is wanted", "-n team patch pvc data-mr-shared-worker-0", "--cascade=orphan"]
        {
            assert!(message.contains(part), "{message}");
        }
        let Some(Mismatch::Refused { message }) = mismatch(&set("10Gi", None), &wanted("9Gi", None)) else {
            panic!("it is refused");
        };
        assert!(message.contains("never shrink") && message.ends_with("back to 10Gi or more"), "{message}");
        let moved = mismatch(&set("10Gi", Some("slow")), &wanted("50Gi", Some("fast")));
        assert!(
            matches!(moved, Some(Mismatch::Refused { message }) if message.contains("`slow` and cannot move to `fast`"))
        );
    }
}
