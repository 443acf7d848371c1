//! A Revision as stored in, what it offers out: its place in its scope, and a configuration or the words in which it is
//! refused. Reads field by field, so that one Revision that is not understood says nothing about the others. Pure.

use std::sync::Arc;

use kube::api::DynamicObject;
use millrace_crds::compile::hash;
use millrace_crds::config::{AccessConfig, AppConfig, Format};
use millrace_crds::labels;
use serde::Deserialize;
use serde_json::Value;

/// Newest format this release reads.
pub const FORMAT_MAX: Format = Format::V1;

/// Whose Revisions a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its data plane.
    pub data_plane: String,
}

/// One Revision.
#[derive(Debug)]
pub struct Offer {
    /// Name of the object.
    pub name: String,
    /// What it configures: an App's name, or `access`.
    pub scope: String,
    /// Its place in the order of its scope.
    pub sequence: i64,
    /// Share of the pods that take it.
    pub percent: u8,
    /// SHA-256 of its configuration.
    pub hash: String,
    /// What it holds, or why it cannot be used.
    pub body: Result<Body, OfferError>,
}

/// What a Revision holds.
#[derive(Debug)]
pub enum Body {
    /// An App.
    App(Box<AppConfig>),
    /// The access rules of the namespace.
    Access(Arc<AccessConfig>),
}

/// The parts of a Revision that are looked at before its format is known.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    sequence: i64,
    format: Value,
    #[serde(default)]
    rollout: millrace_crds::app::Rollout,
    schema_hash: Option<String>,
    config: String,
}

/// What a Revision offers to processes of this place; `None` when it is not for them.
pub fn read(object: &DynamicObject, place: &Place) -> Result<Option<Offer>, NoPlace> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let label = |key: &str| object.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let Some(scope) = label(labels::SCOPE) else { return Ok(None) };
    let is_ours = label(labels::DATA_PLANE).is_some_and(|data_plane| *data_plane == place.data_plane);
    if scope != labels::SCOPE_ACCESS && !is_ours {
        return Ok(None);
    }
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    let spec: Spec = serde_json::from_value(spec).map_err(|source| NoPlace { name: name.clone(), source })?;
    Ok(Some(Offer {
        body: body(&name, scope, &spec, place),
        scope: scope.clone(),
        sequence: spec.sequence,
        percent: spec.rollout.percent,
        hash: hash(&spec.config),
        name,
    }))
}

fn body(name: &str, scope: &str, spec: &Spec, place: &Place) -> Result<Body, OfferError> {
    let expected = labels::revision(scope, spec.sequence);
    if name != expected {
        return Err(OfferError::Name { expected });
    }
    if Format::deserialize(&spec.format).is_err() {
        return Err(OfferError::Format { found: spec.format.to_string() });
    }
    let parse = |source| OfferError::Parse { source };
    if scope == labels::SCOPE_ACCESS {
        let access: AccessConfig = serde_json::from_str(&spec.config).map_err(parse)?;
        if access.namespace != place.namespace {
            return Err(OfferError::Foreign { whose: access.namespace });
        }
        return Ok(Body::Access(Arc::new(access)));
    }
    let app: AppConfig = serde_json::from_str(&spec.config).map_err(parse)?;
    if app.app.namespace() != place.namespace || app.app.name() != scope {
        return Err(OfferError::Foreign { whose: app.app.to_string() });
    }
    if spec.schema_hash.as_ref().is_some_and(|hash| *hash != app.storage.schema_hash) {
        return Err(OfferError::SchemaHash);
    }
    Ok(Body::App(Box::new(app)))
}

/// A Revision that does not even say where it belongs. It is passed over.
#[derive(Debug, thiserror::Error)]
#[error("Revision `{name}` has no readable place in its scope; it was not written by an operator")]
pub struct NoPlace {
    /// Name of the object.
    name: String,
    /// Why.
    source: serde_json::Error,
}

/// Why a Revision cannot be used, in the words that `/state` tells.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// Rollouts count pods by the name.
    #[error("its name should be `{expected}`")]
    Name {
        /// What it should be.
        expected: String,
    },
    /// Written for a newer release.
    #[error("its format `{found}` is not known to this release; upgrade the data plane")]
    Format {
        /// What it says.
        found: String,
    },
    /// Not what the format says.
    #[error("its configuration cannot be read")]
    Parse {
        /// Why.
        source: serde_json::Error,
    },
    /// A configuration of somebody else.
    #[error("its configuration is that of `{whose}`")]
    Foreign {
        /// Whose.
        whose: String,
    },
    /// Rows would not fit the tables that were made for it.
    #[error("its `schemaHash` is not that of its configuration")]
    SchemaHash,
}
