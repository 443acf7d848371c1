//! The compiled configuration: what a `Revision` carries and what a data plane runs.
//! Written by `compile`, read by the data plane. Everything is explicit here: defaults were filled at compile.
//! Unknown fields are refused, so that a pod never half-understands a newer format.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::{AppId, TopicKind};

/// Version of the compiled schema. A reader refuses what it does not know and keeps the last good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The first format.
    V1,
}

impl Format {
    /// The newest that this release knows.
    pub const NEWEST: Self = Self::V1;

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
        }
    }
}

/// One App, compiled: the bytes of an App's Revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppConfig {
    /// Version of this schema.
    pub format: Format,
    /// Whose configuration this is.
    pub app: AppId,
    /// What is accepted over HTTP, from whom and how much.
    pub ingest: Ingest,
    /// What the events mean.
    pub events: Events,
    /// What happens to personal data before anything is written.
    pub privacy: Privacy,
    /// Where rows go and how long they stay.
    pub storage: Storage,
    /// The log topics, internal ones included, in the order of [`TopicKind::ALL`].
    pub topics: Vec<Topic>,
    /// Connections to outside services, by name.
    pub integrations: BTreeMap<String, Integration>,
}

/// Limits and keys of the ingest endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ingest {
    /// Wire formats accepted.
    pub dialects: BTreeSet<Dialect>,
    /// Keys, by name. Digests only: a configuration never holds a key.
    pub write_keys: BTreeMap<String, WriteKey>,
    /// Events per second and burst; absent means unlimited.
    pub rate_limit: Option<RateLimit>,
    /// Largest request body in bytes, before and after decompression.
    pub max_body_bytes: u64,
    /// Largest single event in bytes, as sent.
    pub max_event_bytes: u64,
    /// Most events in one request.
    pub max_batch_events: u32,
    /// Whether senders may pass the end user's `ip` and `user_agent`.
    pub trust_forwarded_client: bool,
}

/// One write key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WriteKey {
    /// Lower-case hex of HMAC-SHA256 over the key's bytes under the namespace's pepper. 64 characters.
    pub digest: String,
    /// Origins a browser may send from; empty means any origin.
    pub allowed_origins: BTreeSet<String>,
    /// The wire format this key speaks where a path is shared.
    pub dialect: Option<Dialect>,
}

/// A client wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// `POST /v1/events`.
    Native,
}

/// Token bucket, per App and process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Sustained events per second.
    pub events_per_second: u32,
    /// Events that may come at once.
    pub burst: u32,
}

/// What the events mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Events {
    /// What happens to an event type that is not declared.
    pub on_undeclared: OnUndeclared,
    /// Declared event types and their properties, by name. A property name has one type over all events.
    pub declared: BTreeMap<String, DeclaredEvent>,
    /// Where revenue is found.
    pub revenue: Option<Revenue>,
    /// Event types that count as a conversion.
    pub conversions: BTreeSet<String>,
    /// How far back a duplicate is recognised, between raw log-append times, in milliseconds.
    pub dedupe_window_ms: u64,
}

/// What happens to an event type that is not declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnUndeclared {
    /// Stored like any other.
    #[default]
    Keep,
    /// Goes to the dead letters with reason `undeclared_event`.
    DeadLetter,
}

/// A declared event type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeclaredEvent {
    /// Properties of `event_data`, by name.
    pub properties: BTreeMap<String, Property>,
}

/// A declared property: a column `p_<name>` of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Property {
    /// The column's type.
    #[serde(rename = "type")]
    pub kind: PropertyType,
    /// Whether an event without it goes to the dead letters.
    pub required: bool,
}

/// Type of a declared property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum PropertyType {
    /// Text.
    String,
    /// Signed 64-bit integer.
    Integer,
    /// 64-bit float.
    Float,
    /// Exact decimal, 38 digits with 9 after the point. Accepts a JSON number or its text.
    Decimal,
    /// True or false.
    Boolean,
    /// A moment with milliseconds: RFC 3339 text or epoch milliseconds.
    Timestamp,
}

/// Where revenue is found in `event_data`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Revenue {
    /// Property with the amount, a number or its text.
    pub property: String,
    /// Property with the ISO 4217 code; absent or missing on the event means an empty currency.
    pub currency_property: Option<String>,
}

/// Treatment of personal data, before any write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Privacy {
    /// `user_id` and `anonymous_id`.
    pub user_ids: UserIds,
    /// `device_id`.
    pub device_ids: DeviceIds,
    /// The client's address.
    pub ip: Ip,
    /// Rules on fields of `event_data`.
    pub fields: Vec<FieldRule>,
    /// Consent categories an event must carry.
    pub required_consent: BTreeSet<String>,
}

/// Treatment of `user_id` and `anonymous_id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UserIds {
    /// Keyed hash.
    #[default]
    Hash,
    /// As sent.
    Keep,
}

/// Treatment of `device_id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeviceIds {
    /// Deterministic encryption: groups, and can be opened by who holds the key.
    #[default]
    Encrypt,
    /// Keyed hash.
    Hash,
    /// As sent.
    Keep,
}

/// Treatment of the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ip {
    /// IPv4 to /24, IPv6 to /48.
    #[default]
    Truncate,
    /// Not kept.
    Drop,
    /// As seen.
    Keep,
}

/// Treatment of one field of `event_data`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FieldRule {
    /// Keys below `event_data`, outermost first; never empty. Arrays are passed through to their elements.
    pub path: Vec<String>,
    /// What is done with the value found there.
    pub action: FieldAction,
}

/// What is done with a personal field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FieldAction {
    /// Keyed hash of the value.
    Hash,
    /// An address to its network; any other text to its first character.
    Truncate,
    /// Deterministic encryption of the value.
    Encrypt,
    /// The key is removed.
    Drop,
}

/// Where rows go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// ClickHouse database of the App.
    pub database: String,
    /// Age at which events are removed, in seconds.
    pub retention_seconds: u64,
    /// Hash of the desired schema; what loaders write into their intents.
    pub schema_hash: String,
}

/// One log topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topic {
    /// What it holds.
    pub kind: TopicKind,
    /// Its full name.
    pub name: String,
    /// Number of partitions, at least 1.
    pub partitions: u32,
    /// Age at which records may be removed, in milliseconds.
    pub retention_ms: u64,
    /// Size per partition at which the oldest records may be removed; absent means no limit by size.
    pub retention_bytes: Option<u64>,
}

/// One Integration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Integration {
    /// Event types it takes; empty means all.
    pub events: BTreeSet<String>,
    /// The outside service.
    pub service: Service,
    /// How often a failed delivery is tried again.
    pub retry: Retry,
}

/// The outside service of an Integration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Service {
    /// An HTTP endpoint that takes signed JSON.
    Webhook(Webhook),
}

/// A webhook, outbound, signed as Standard Webhooks v1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    /// Where to send, https.
    pub url: String,
    /// Extra headers, none of them secret.
    pub headers: BTreeMap<String, String>,
    /// Secret with the signing key: `<secret name>/<key>`; resolved by who holds the Secret.
    pub signing_secret: String,
    /// Body template; absent means the event as JSON.
    pub template: Option<String>,
    /// Longest wait for an answer, in milliseconds.
    pub timeout_ms: u64,
}

/// Retry of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Most attempts, the first included.
    pub attempts_max: u32,
    /// Age at which a delivery is given up, in milliseconds.
    pub expire_after_ms: u64,
}

/// All RolePolicies of a namespace, compiled: the bytes of the Revision `access-<sequence>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessConfig {
    /// Version of this schema.
    pub format: Format,
    /// The namespace it speaks for.
    pub namespace: String,
    /// Token issuers, by name; `local` is implied.
    pub issuers: BTreeMap<String, Issuer>,
    /// Roles and their permissions, the built-in ones included. `admin:*` is expanded.
    pub roles: BTreeMap<String, BTreeSet<Permission>>,
    /// Who has which role on which Apps, sorted.
    pub bindings: Vec<Binding>,
    /// Fields hidden from everyone without `admin`, per App: paths below the event, sorted.
    pub masked_fields: BTreeMap<AppId, BTreeSet<String>>,
    /// Most API requests per minute and account, by role; a role without an entry has no limit of its own.
    pub rate_limits: BTreeMap<String, u32>,
}

/// A token issuer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    /// Exact value of `iss`.
    pub issuer: String,
    /// Where its keys are; absent means discovery.
    pub jwks_uri: Option<String>,
    /// Accepted `aud` values.
    pub audiences: BTreeSet<String>,
    /// Accepted `azp` values.
    pub authorized_parties: BTreeSet<String>,
    /// Accepted signature algorithms.
    pub algorithms: BTreeSet<String>,
    /// Claims that hold roles, groups and e-mail.
    pub claims: BTreeMap<String, String>,
}

/// One role given to some subjects on some Apps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Binding {
    /// A key of [`AccessConfig::roles`].
    pub role: String,
    /// Who. Any of them matches.
    pub subjects: BTreeSet<Subject>,
    /// On which Apps. Resolved: selectors and "all" are expanded to the Apps that exist.
    pub apps: BTreeSet<AppId>,
}

/// Who is meant by a binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subject {
    /// Name of the issuer; `local` for Millrace's own accounts.
    pub issuer: String,
    /// How the subject is recognised among the issuer's.
    pub matches: Matches,
}

/// How a subject is recognised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Matches {
    /// The `sub` claim.
    Subject(String),
    /// A verified e-mail address, lower-case.
    Email(String),
    /// A claim that equals or contains a value.
    Claim {
        /// The claim's name.
        claim: String,
        /// The value looked for.
        value: String,
    },
}

/// Everything a role may allow. There are no wildcards at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Permission {
    /// Dashboards and their figures.
    #[serde(rename = "dashboard:read")]
    DashboardRead,
    /// Analytics questions.
    #[serde(rename = "analytics:read")]
    AnalyticsRead,
    /// Saved views.
    #[serde(rename = "analytics:write")]
    AnalyticsWrite,
    /// Apps and their state.
    #[serde(rename = "apps:read")]
    AppsRead,
    /// Changes of Apps.
    #[serde(rename = "apps:write")]
    AppsWrite,
    /// Accounts.
    #[serde(rename = "users:read")]
    UsersRead,
    /// Changes of accounts.
    #[serde(rename = "users:write")]
    UsersWrite,
    /// The audit log.
    #[serde(rename = "audit:read")]
    AuditRead,
    /// Integrations and their deliveries.
    #[serde(rename = "integrations:read")]
    IntegrationsRead,
    /// Changes of Integrations.
    #[serde(rename = "integrations:write")]
    IntegrationsWrite,
    /// The debug console.
    #[serde(rename = "debug:read")]
    DebugRead,
    /// Actions in the debug console.
    #[serde(rename = "debug:write")]
    DebugWrite,
    /// Erasure of a person's events.
    #[serde(rename = "privacy:erase")]
    PrivacyErase,
    /// Everything, and `/api/admin`.
    #[serde(rename = "admin:*")]
    Admin,
}

impl Dialect {
    /// Every wire format this release knows.
    pub const ALL: [Self; 1] = [Self::Native];
}

impl Permission {
    /// Every permission, in the order of the design.
    pub const ALL: [Self; 14] = [
        Self::DashboardRead,
        Self::AnalyticsRead,
        Self::AnalyticsWrite,
        Self::AppsRead,
        Self::AppsWrite,
        Self::UsersRead,
        Self::UsersWrite,
        Self::AuditRead,
        Self::IntegrationsRead,
        Self::IntegrationsWrite,
        Self::DebugRead,
        Self::DebugWrite,
        Self::PrivacyErase,
        Self::Admin,
    ];
}
