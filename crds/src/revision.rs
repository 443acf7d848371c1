//! The Revision: an immutable compiled configuration. Written by the operator, run and acknowledged by pods;
//! people read it, and hold it back, but do not write it.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::app::Rollout;
use crate::config::Format;
use crate::pattern;

/// Longest configuration in bytes: etcd takes objects of 1.5 MiB, and the string is escaped on the way.
pub const CONFIG_BYTES_MAX: usize = 1_000_000;
/// While this annotation stands on an App (for `access`: on the Revision), nothing newer is published.
pub const HOLD_ANNOTATION: &str = "millrace.dev/hold-revision";

/// A compiled configuration. Never changes once written; a change is a new Revision.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "Revision",
    plural = "revisions",
    namespaced,
    derive = "PartialEq",
    shortname = "mrrev",
    category = "millrace",
    doc = "An immutable compiled configuration, named <scope>-<sequence>; the scope is an App, or access for all \
           RolePolicies of the namespace. Written by the operator; pods run it and acknowledge it.",
    printcolumn(
        name = "Sequence",
        type_ = "integer",
        json_path = ".spec.sequence",
        description = "Its place in the order of its scope."
    ),
    printcolumn(
        name = "Format",
        type_ = "string",
        json_path = ".spec.format",
        description = "Version of the compiled schema."
    ),
    printcolumn(
        name = "Percent",
        type_ = "integer",
        json_path = ".spec.rollout.percent",
        description = "Share of pods that take it."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was written."
    )
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a Revision never changes; write a new one"))]
#[serde(rename_all = "camelCase")]
pub struct RevisionSpec {
    /// Its place in the order of its scope, from 1. Pods run the highest that includes and suits them.
    #[schemars(range(min = 1))]
    pub sequence: i64,
    /// Version of the schema of `config`. A pod that does not know it keeps what it runs.
    pub format: Format,
    /// Which share of the pods takes it.
    #[serde(default)]
    pub rollout: Rollout,
    /// SHA-256 of the ClickHouse schema its rows need; absent for `access`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = pattern::SHA256))]
    pub schema_hash: Option<String>,
    /// The configuration as canonical JSON, as text: its SHA-256 is over exactly these bytes.
    #[schemars(length(min = 2, max = 1_000_000))]
    pub config: String,
}
