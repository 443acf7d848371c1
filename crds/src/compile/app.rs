//! One App with its Integrations and the digests of its keys, compiled.

use std::collections::{BTreeMap, BTreeSet};

use super::Installation;
use crate::app::{AppSpec, EventsSpec, IngestSpec, PrivacySpec};
use crate::config::{
    AppConfig, DeclaredEvent, Dialect, Events, FieldRule, Format, Ingest, Integration, Privacy, Property,
    RateLimit, Retry, Revenue, Service, Storage, Topic, Webhook, WriteKey,
};
use crate::crd::Kind;
use crate::integration::IntegrationSpec;
use crate::names::{AppId, TopicKind};
use crate::problem::{ObjectRef, Path, Problem, Report};
use crate::{schema, topics, validate};

/// Name of the key that the caller generates for an App without `writeKeys`.
pub const WRITE_KEY_DEFAULT: &str = "default";
/// Name of the generated key before the last rotation, while it still opens the App.
pub const WRITE_KEY_DEFAULT_PREVIOUS: &str = "default-previous";

/// What an App is compiled from.
#[derive(Clone, Copy, Debug)]
pub struct AppInput<'a> {
    /// Whose configuration it becomes.
    pub id: &'a AppId,
    /// What its team wrote.
    pub spec: &'a AppSpec,
    /// Integrations of the namespace that are for this App (see [`crate::selection::includes`]), by name.
    pub integrations: &'a [(&'a str, &'a IntegrationSpec)],
    /// Digest of each write key, by the key's name: lower-case hexadecimal of HMAC-SHA256 under the namespace's
    /// pepper. For an App without `writeKeys` the caller generates a key and gives its digest under the name
    /// [`WRITE_KEY_DEFAULT`], and while a rotation overlaps, the one before under [`WRITE_KEY_DEFAULT_PREVIOUS`].
    /// Digests that no key asks for are ignored, so that a removed key opens nothing.
    pub key_digests: &'a BTreeMap<String, String>,
    /// What fills the rest.
    pub installation: &'a Installation,
}

/// Compiles an App, or says everything that is wrong with what it is compiled from.
pub fn compile_app(input: &AppInput<'_>) -> Result<AppConfig, Vec<Problem>> {
    let AppInput { id, spec, installation, .. } = *input;
    let mut problems = validate::app_spec(id, spec);
    let mut report = Report::new(ObjectRef::new(Kind::App.as_str(), id.namespace(), id.name()));
    let mut integrations = BTreeMap::new();
    for (name, integration) in input.integrations {
        problems.extend(validate::integration_spec(id.namespace(), name, integration));
        integrations.extend(compile_integration(integration).map(|compiled| ((*name).to_owned(), compiled)));
    }
    let topics = topics::desired(id, &spec.topics, spec.events.dedupe_window.as_ms(), installation);
    if spec.topics.raw.retention.is_none() {
        check_dedupe_window(spec, &topics, &mut report);
    }
    let write_keys = compile_write_keys(&spec.ingest, input.key_digests, &mut report);
    problems.extend(report.into_problems());
    if !problems.is_empty() {
        return Err(problems);
    }
    let events = compile_events(&spec.events);
    let (database, retention_seconds) =
        (id.database(&installation.prefix), spec.storage.retention.as_ms() / 1_000);
    let schema = schema::desired(&database, &events, retention_seconds).sized_for(&topics);
    let schema_hash = schema.hash();
    Ok(AppConfig {
        format: Format::V1,
        app: id.clone(),
        ingest: compile_ingest(&spec.ingest, write_keys, installation),
        events,
        privacy: compile_privacy(&spec.privacy),
        storage: Storage { database, retention_seconds, schema_hash },
        topics,
        integrations,
    })
}

/// The window against the installation's retention; `validate` has already held it against the App's own.
fn check_dedupe_window(spec: &AppSpec, topics: &[Topic], report: &mut Report) {
    let window = spec.events.dedupe_window;
    let raw = topics.iter().find(|topic| topic.kind == TopicKind::EventsRaw);
    if raw.is_some_and(|raw| window.as_ms() > raw.retention_ms) {
        let path = Path::root("spec").field("events").field("dedupeWindow");
        let message = format!("`{window}` exceeds the installation's retention of the raw topic");
        report.add(&path, message, "shorten it, or set `topics.raw.retention`");
    }
}

fn compile_write_keys(
    spec: &IngestSpec,
    digests: &BTreeMap<String, String>,
    report: &mut Report,
) -> BTreeMap<String, WriteKey> {
    let path = Path::root("spec").field("ingest").field("writeKeys");
    if spec.write_keys.is_empty() {
        let previous = digests.contains_key(WRITE_KEY_DEFAULT_PREVIOUS).then_some(WRITE_KEY_DEFAULT_PREVIOUS);
        let generated = [WRITE_KEY_DEFAULT].into_iter().chain(previous).filter_map(|name| {
            let digest = digest_of(name, digests, &path, report)?;
            Some((name.to_owned(), WriteKey { digest, allowed_origins: BTreeSet::new(), dialect: None }))
        });
        return generated.collect();
    }
    let mut keys: BTreeMap<String, WriteKey> = BTreeMap::new();
    for (index, key) in spec.write_keys.iter().enumerate() {
        let at = path.index(index);
        let Some(digest) = digest_of(&key.name, digests, &at, report) else { continue };
        if let Some((other, _)) = keys.iter().find(|(_, known)| known.digest == digest) {
            let message = format!("`{}` is the same key as `{other}`", key.name);
            report.add(&at.field("secretRef"), message, "give each its own: a key says who sends");
        }
        let allowed_origins = key.allowed_origins.iter().cloned().collect();
        keys.insert(key.name.clone(), WriteKey { digest, allowed_origins, dialect: key.dialect });
    }
    keys
}

fn digest_of(
    name: &str,
    digests: &BTreeMap<String, String>,
    path: &Path,
    report: &mut Report,
) -> Option<String> {
    let Some(digest) = digests.get(name) else {
        report.add(path, format!("the value of write key `{name}` is not known"), "add it to the Secret");
        return None;
    };
    let is_digest = digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_digest {
        report.add(path, format!("the digest of write key `{name}` is not a SHA-256"), "");
        return None;
    }
    Some(digest.clone())
}

/// Fills limits so that they fit each other: what the App says stands, what it leaves open gives way.
fn compile_ingest(
    spec: &IngestSpec,
    write_keys: BTreeMap<String, WriteKey>,
    installation: &Installation,
) -> Ingest {
    let limits = installation.ingest;
    let stated_event = spec.max_event_bytes.map(u64::from);
    let max_body_bytes =
        spec.max_body_bytes.map_or(limits.max_body_bytes.max(stated_event.unwrap_or_default()), u64::from);
    let stated_burst = spec.rate_limit.and_then(|limit| limit.burst);
    let max_batch_events = spec
        .max_batch_events
        .unwrap_or_else(|| limits.max_batch_events.min(stated_burst.unwrap_or(u32::MAX)));
    let rate_limit = spec.rate_limit.map(|limit| RateLimit {
        events_per_second: limit.events_per_second,
        burst: limit.burst.unwrap_or_else(|| limit.events_per_second.saturating_mul(2).max(max_batch_events)),
    });
    Ingest {
        dialects: spec.dialects.clone().unwrap_or_else(|| Dialect::ALL.to_vec()).into_iter().collect(),
        write_keys,
        rate_limit,
        max_body_bytes,
        max_event_bytes: stated_event.unwrap_or(limits.max_event_bytes.min(max_body_bytes)),
        max_batch_events,
        trust_forwarded_client: spec.trust_forwarded_client,
    }
}

fn compile_events(spec: &EventsSpec) -> Events {
    let declared = spec.declared.iter().map(|event| {
        let properties = event.properties.iter();
        let properties =
            properties.map(|p| (p.name.clone(), Property { kind: p.kind, required: p.required })).collect();
        (event.name.clone(), DeclaredEvent { properties })
    });
    Events {
        on_undeclared: spec.on_undeclared,
        declared: declared.collect(),
        revenue: spec.revenue.as_ref().map(|revenue| Revenue {
            property: revenue.property.clone(),
            currency_property: revenue.currency_property.clone(),
        }),
        conversions: spec.conversions.iter().cloned().collect(),
        dedupe_window_ms: spec.dedupe_window.as_ms(),
    }
}

fn compile_privacy(spec: &PrivacySpec) -> Privacy {
    let below_data = |path: &str| path.split('.').skip(1).map(ToOwned::to_owned).collect();
    let mut fields: Vec<FieldRule> = spec
        .fields
        .iter()
        .map(|rule| FieldRule { path: below_data(&rule.path), action: rule.action })
        .collect();
    fields.sort_by(|a, b| a.path.cmp(&b.path));
    Privacy {
        user_ids: spec.user_ids,
        device_ids: spec.device_ids,
        ip: spec.ip,
        fields,
        required_consent: spec.consent.required.iter().cloned().collect(),
    }
}

/// `None` for an Integration without a service, which `validate` reports.
fn compile_integration(spec: &IntegrationSpec) -> Option<Integration> {
    let webhook = spec.webhook.as_ref()?;
    let headers = webhook.headers.iter().map(|header| (header.name.clone(), header.value.clone()));
    let service = Service::Webhook(Webhook {
        url: webhook.url.clone(),
        headers: headers.collect(),
        signing_secret: format!("{}/{}", webhook.signing_secret_ref.name, webhook.signing_secret_ref.key),
        template: webhook.template.clone(),
        timeout_ms: webhook.timeout.as_ms(),
    });
    let retry =
        Retry { attempts_max: spec.retry.max_attempts, expire_after_ms: spec.retry.expire_after.as_ms() };
    Some(Integration { events: spec.events.iter().cloned().collect(), service, retry })
}
