//! Stored objects in, what this reconcile wants of them out; and the intents of the objects it writes. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::core::DynamicObject;
use millrace_crds::labels;
use millrace_crds::manifest::SecretValue;
use millrace_crds::names::AppId;
use millrace_crds::revision::RevisionSpec;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::gather::Published;
use super::place::Place;
use crate::cluster::ObjectKey;
use crate::kind::Kind;
use crate::plan::Step;

/// Short ways to what is often asked of an object.
pub(crate) trait Meta {
    /// Its name, or nothing.
    fn name_text(&self) -> &str;
    /// One of its labels.
    fn label(&self, key: &str) -> Option<&str>;
    /// One of its annotations.
    fn annotation(&self, key: &str) -> Option<&str>;
    /// Whether its deletion was asked for.
    fn is_deleting(&self) -> bool;
    /// Its UID, or nothing.
    fn uid_text(&self) -> &str;
}

impl Meta for DynamicObject {
    fn name_text(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn uid_text(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
}

/// The typed object, or the words of why not.
pub(crate) fn parse<T: DeserializeOwned>(object: &Arc<DynamicObject>) -> Result<T, String> {
    let mut value = json!({ "metadata": &object.metadata, "spec": object.data.get("spec") });
    if let Some(types) = &object.types {
        value["apiVersion"] = types.api_version.clone().into();
        value["kind"] = types.kind.clone().into();
    }
    // Without the status: what stands there is ours and must not keep anybody from being understood.
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// Values of a Secret; one that is no base64 is left out, as the API server lets none in.
pub(crate) fn secret_data(object: &DynamicObject) -> BTreeMap<String, SecretValue> {
    let data = object.data["data"].as_object().into_iter().flatten();
    let value = |(key, value): (&String, &Value)| {
        let bytes = STANDARD.decode(value.as_str()?).ok()?;
        Some((key.clone(), SecretValue::new(bytes)))
    };
    data.filter_map(value).collect()
}

/// A step that applies an object.
pub(crate) fn apply(kind: Kind, object: Value) -> Step {
    let resource = kind.resource();
    let mut object = object;
    object["apiVersion"] = resource.api_version.into();
    object["kind"] = resource.kind.into();
    let intent: DynamicObject =
        serde_json::from_value(object).expect("intents have metadata with texts, and anything beside it");
    let namespace = intent.metadata.namespace.as_deref().unwrap_or_default();
    let key = ObjectKey::new(kind, namespace, intent.name_text());
    Step::Apply { key, intent: Box::new(intent) }
}

/// The App's own Secret. It has no owner reference: its keys belong to the data.
pub(crate) fn own_secret(
    app: &AppId,
    data: &BTreeMap<String, SecretValue>,
    annotations: &BTreeMap<String, String>,
) -> Step {
    let data: BTreeMap<&str, String> =
        data.iter().map(|(key, value)| (key.as_str(), STANDARD.encode(value.expose()))).collect();
    let mut metadata = json!({
        "name": labels::app_secret(app),
        "namespace": app.namespace(),
        "labels": {
            labels::MANAGED_BY: labels::MANAGER,
            labels::NAME: labels::PRODUCT,
            labels::SCOPE: app.name(),
        },
    });
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    apply(Kind::Secret, json!({ "metadata": metadata, "type": "Opaque", "data": data }))
}

/// Whose a Revision is and who runs it.
#[derive(Clone, Copy)]
pub(crate) struct RevisionHome<'a> {
    /// The App.
    pub(crate) app: &'a AppId,
    /// UID of the App.
    pub(crate) uid: &'a str,
    /// Who runs it.
    pub(crate) place: &'a Place,
}

impl RevisionHome<'_> {
    /// A new Revision.
    pub(crate) fn publish(self, spec: &RevisionSpec) -> Step {
        let spec = serde_json::to_value(spec).expect("a Revision is texts and numbers");
        self.step(&labels::revision(self.app.name(), spec["sequence"].as_i64().unwrap_or_default()), spec)
    }

    /// One that is there: as it is, where it belongs now.
    pub(crate) fn keep(self, revision: &Published) -> Step {
        self.step(revision.name(), revision.object.data["spec"].clone())
    }

    fn step(self, name: &str, spec: Value) -> Step {
        let owner = Kind::App.resource();
        let mut metadata = json!({
            "name": name,
            "namespace": self.app.namespace(),
            "labels": {
                labels::MANAGED_BY: labels::MANAGER,
                labels::NAME: labels::PRODUCT,
                labels::SCOPE: self.app.name(),
            },
            "ownerReferences": [{
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "name": self.app.name(),
                "uid": self.uid,
                "controller": true,
            }],
        });
        match self.place {
            Place::At(data_plane) => metadata["labels"][labels::DATA_PLANE] = data_plane.as_str().into(),
            Place::Leaving { from, since } => {
                metadata["annotations"] = json!({
                    labels::MOVING_FROM_ANNOTATION: from, labels::MOVING_SINCE_ANNOTATION: since.to_string(),
                });
            }
        }
        apply(Kind::Revision, json!({ "metadata": metadata, "spec": spec }))
    }
}

/// A step that deletes a Revision.
pub(crate) fn delete_revision(app: &AppId, revision: &Published) -> Step {
    let key = ObjectKey::new(Kind::Revision, app.namespace(), revision.name());
    Step::Delete { key, uid: revision.object.uid_text().to_owned() }
}
