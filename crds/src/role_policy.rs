//! The RolePolicy: who may do what with which Apps. Issuers, roles and bindings of all policies of a namespace
//! are compiled together.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::Rollout;
use crate::config::Permission;
use crate::pattern;
use crate::selection::AppSelection;

/// Millrace's own accounts, as an issuer.
pub const ISSUER_LOCAL: &str = "local";
/// Role with every permission on every App of the namespace.
pub const ROLE_ADMIN: &str = "admin";
/// Role that sees the Apps it is bound to.
pub const ROLE_USER: &str = "user";
/// Role that sees dashboards of the Apps it is bound to.
pub const ROLE_READONLY: &str = "readonly";
/// Roles that exist everywhere and cannot be redefined.
pub const ROLES_BUILT_IN: [&str; 3] = [ROLE_ADMIN, ROLE_USER, ROLE_READONLY];

/// Who may do what with which Apps of the namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "RolePolicy",
    plural = "rolepolicies",
    namespaced,
    status = "RolePolicyStatus",
    derive = "PartialEq",
    shortname = "mrpol",
    category = "millrace",
    doc = "Who may do what with which Apps of the namespace: issuers, roles, bindings and masked fields.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether it is in force."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is or is not."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created."
    ),
    validation = Rule::new(
        "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]+(-[a-z0-9]+)*$')"
    )
    .message("a RolePolicy's name is a DNS label without `--`")
)]
#[serde(rename_all = "camelCase")]
pub struct RolePolicySpec {
    /// Apps of this namespace that its bindings and masked fields are about; absent means all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apps: Option<AppSelection>,
    /// Token issuers that are trusted, beside `local`, Millrace's own accounts. Known to every policy of the
    /// namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub issuers: Vec<IssuerSpec>,
    /// Roles, beside the built-in `admin`, `user` and `readonly`. Known to every policy of the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".to_owned()]),
        validation = Rule::new("self.all(role, !(role.name in ['admin', 'user', 'readonly']))")
            .message("`admin`, `user` and `readonly` are built in and cannot be redefined; choose another name")
    )]
    pub roles: Vec<RoleSpec>,
    /// Who has which role on which Apps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub bindings: Vec<BindingSpec>,
    /// Fields hidden from everyone without `admin:*`, such as `event_data.email`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(max = 256), regex(pattern = pattern::EVENT_PATH)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub masked_fields: Vec<String>,
    /// Most API requests by role; a role without an entry has no limit of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["role".to_owned()]))]
    pub rate_limits: Vec<RequestLimitSpec>,
    /// How a change of this policy reaches the pods.
    #[serde(default)]
    pub rollout: Rollout,
}

/// A token issuer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.name != 'local'")
        .message("`local` stands for Millrace's own accounts; choose another name").field_path(".name"),
    validation = Rule::new(
        "(has(self.audiences) && self.audiences.size() > 0) || \
         (has(self.authorizedParties) && self.authorizedParties.size() > 0)"
    )
    .message("give `audiences` or `authorizedParties`: else a token made for another service would pass")
)]
#[serde(rename_all = "camelCase")]
pub struct IssuerSpec {
    /// Name that bindings use. A DNS label other than `local`.
    #[schemars(length(min = 1, max = 63), regex(pattern = pattern::LABEL))]
    pub name: String,
    /// Exact value of the `iss` claim.
    #[schemars(length(min = 1, max = 1_024), regex(pattern = pattern::HTTPS_URL))]
    pub issuer: String,
    /// Where the issuer's keys are; absent means that they are discovered below `issuer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_024), regex(pattern = pattern::HTTPS_URL))]
    pub jwks_uri: Option<String>,
    /// Accepted values of the `aud` claim; any of them will do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub audiences: Vec<String>,
    /// Accepted values of the `azp` claim, for issuers that set no audience.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub authorized_parties: Vec<String>,
    /// Accepted signature algorithms. Symmetric ones and `none` are not on offer: the issuer keeps its key.
    #[serde(default = "algorithms")]
    #[schemars(length(min = 1, max = 10))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub algorithms: Vec<Algorithm>,
    /// Claims that hold roles, groups and the e-mail address.
    #[serde(default)]
    pub claims: ClaimsSpec,
}

fn algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]
}

/// A signature algorithm with a public key, by its JOSE name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    RS256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    RS384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    RS512,
    /// RSA PSS with SHA-256.
    PS256,
    /// RSA PSS with SHA-384.
    PS384,
    /// RSA PSS with SHA-512.
    PS512,
    /// ECDSA on P-256.
    ES256,
    /// ECDSA on P-384.
    ES384,
    /// ECDSA on P-521.
    ES512,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    /// Its JOSE name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// Claims by purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimsSpec {
    /// Claim with role names. They grant nothing by themselves: a binding must name them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = pattern::CLAIM))]
    pub roles: Option<String>,
    /// Claim with group names, for bindings.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = pattern::CLAIM))]
    pub groups: Option<String>,
    /// Claim with the e-mail address, if it is not `email`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = pattern::CLAIM))]
    pub email: Option<String>,
}

/// A role and what it allows.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSpec {
    /// Its name: a DNS label, none of the built-in ones.
    #[schemars(length(min = 1, max = 63), regex(pattern = pattern::LABEL))]
    pub name: String,
    /// What it allows on the Apps it is bound to. `admin:*` stands for everything.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub permissions: Vec<Permission>,
}

/// One role for some subjects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BindingSpec {
    /// Role of this namespace, built in or defined by any of its policies.
    #[schemars(length(min = 1, max = 63), regex(pattern = pattern::LABEL))]
    pub role: String,
    /// Who has it. Any of them matches.
    #[schemars(length(min = 1, max = 64))]
    pub subjects: Vec<SubjectSpec>,
    /// Apps on which they have it, among those this policy is about; absent means all of these. The role `admin`
    /// takes none: it covers every App of the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 40), regex(pattern = pattern::LABEL)))]
    pub apps: Option<Vec<String>>,
}

/// Who is meant: exactly one of `subject`, `email`, and `claim` with `value`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new(
        "(has(self.subject) ? 1 : 0) + (has(self.email) ? 1 : 0) + (has(self.claim) ? 1 : 0) == 1"
    )
    .message("give exactly one of `subject`, `email` and `claim`"),
    validation = Rule::new("has(self.claim) == has(self.value)")
        .message("`claim` and `value` go together")
)]
pub struct SubjectSpec {
    /// Who vouches for them: an issuer's name, or `local`.
    #[schemars(length(min = 1, max = 63), regex(pattern = pattern::LABEL))]
    pub issuer: String,
    /// Exact value of the `sub` claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub subject: Option<String>,
    /// A verified e-mail address; upper and lower case are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 254))]
    pub email: Option<String>,
    /// A claim that must equal or contain `value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = pattern::CLAIM))]
    pub claim: Option<String>,
    /// What `claim` must equal or contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub value: Option<String>,
}

/// Most API requests of a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestLimitSpec {
    /// The role.
    #[schemars(length(min = 1, max = 63), regex(pattern = pattern::LABEL))]
    pub role: String,
    /// Most requests per minute and account.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: u32,
}

/// What Millrace reports about a RolePolicy.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolePolicyStatus {
    /// Generation of the RolePolicy that this status speaks of; -1 until the operator has seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// State by aspect; Accepted makes Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}
