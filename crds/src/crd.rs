//! The CustomResourceDefinitions as they are installed, and the schemas in them that `validate` walks.
//! What the derive cannot say is added here: the status that kstatus needs before the operator has spoken.

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::app::App;
use crate::integration::Integration;
use crate::revision::Revision;
use crate::role_policy::RolePolicy;

/// The API group of every resource of Millrace.
pub const GROUP: &str = "millrace.dev";
/// The version this crate speaks.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every resource of Millrace.
pub const API_VERSION: &str = "millrace.dev/v1alpha1";
/// Only Secrets with this label, set to `true`, may be named by a resource.
pub const SECRET_USE_LABEL: &str = "millrace.dev/app-use";
/// Largest CRD in bytes: client-side `kubectl apply` keeps it in an annotation of at most 262,144 bytes.
pub const CRD_BYTES_MAX: usize = 200_000;

/// Kinds that people write, with what a schema says about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// [`App`].
    App,
    /// [`Integration`].
    Integration,
    /// [`RolePolicy`].
    RolePolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::App, Self::Integration, Self::RolePolicy];

    /// As written in `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::App => "App",
            Self::Integration => "Integration",
            Self::RolePolicy => "RolePolicy",
        }
    }

    /// The structural schema of a whole object of this kind.
    pub fn schema(self) -> &'static Value {
        match self {
            Self::App => &SCHEMAS.app,
            Self::Integration => &SCHEMAS.integration,
            Self::RolePolicy => &SCHEMAS.role_policy,
        }
    }
}

/// Every CustomResourceDefinition, in the order in which a reader meets the kinds.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        finished(App::crd()),
        finished(Integration::crd()),
        finished(RolePolicy::crd()),
        finished(Revision::crd()),
    ]
}

/// The structural schema in a definition.
pub fn schema(definition: &CustomResourceDefinition) -> Value {
    let schema = definition.spec.versions[0].schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
    serde_json::to_value(schema).expect("a schema of maps with text keys is valid JSON")
}

/// Constant values that are costly to build: the only cache of this crate, and it cannot change.
static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas {
    app: whole(&finished(App::crd())),
    integration: whole(&finished(Integration::crd())),
    role_policy: whole(&finished(RolePolicy::crd())),
});

struct Schemas {
    app: Value,
    integration: Value,
    role_policy: Value,
}

/// A schema with `apiVersion`, `kind` and `metadata`, which the API server adds by itself.
fn whole(definition: &CustomResourceDefinition) -> Value {
    let mut schema = schema(definition);
    let properties = &mut schema["properties"];
    properties["apiVersion"] = json!({"type": "string"});
    properties["kind"] = json!({"type": "string"});
    properties["metadata"] = metadata();
    schema
}

fn metadata() -> Value {
    let generator =
        schemars::generate::SchemaSettings::openapi3().with(|s| s.inline_subschemas = true).into_generator();
    generator.into_root_schema_for::<ObjectMeta>().to_value()
}

fn finished(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let Some(schema) = version.schema.as_mut() else { continue };
        let mut value = serde_json::to_value(&*schema).expect("a schema is valid JSON");
        default_status(&mut value["openAPIV3Schema"]);
        tidy(&mut value);
        *schema = serde_json::from_value(value).expect("only known keywords were touched");
    }
    definition
}

/// Without any status, kstatus takes an object for finished; -1 says that nobody has looked yet.
fn default_status(schema: &mut Value) {
    if let Some(status) = schema.pointer_mut("/properties/status") {
        status["default"] = json!({"observedGeneration": -1});
    }
}

/// Takes out two keywords that the derive writes and the API server does better without. `nullable`: without it the
/// server drops a field that is null, as if it were absent, and CEL never meets a null. `format: uint32` and its
/// like are unknown to the server, which would warn at every apply; the bounds stay.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                map.remove("format");
            }
            if map.get("nullable").is_some_and(Value::is_boolean) {
                map.remove("nullable");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
