//! What was gathered in, a compiled App with all it needs out, or every problem. Pure; time and random are arguments.

use std::collections::BTreeMap;

use millrace_crds::app::{AppSpec, ConnectionSpec};
use millrace_crds::compile::{self, AppInput, WRITE_KEY_DEFAULT, compile_app};
use millrace_crds::conditions::reason;
use millrace_crds::config::AppConfig;
use millrace_crds::crd;
use millrace_crds::labels::{self, ROTATE_ANNOTATION};
use millrace_crds::manifest::{Secret, SecretValue};
use millrace_crds::problem::{ObjectRef, Path, Problem, Report};
use millrace_crds::resolved::{Credentials, Sensitive};
use millrace_crds::revision::CONFIG_BYTES_MAX;
use millrace_crds::validate::SecretUse;

use super::gather::Gathered;
use super::keys::{self, Generated, Keys, Source};
use super::objects::Meta as _;
use crate::backends::Connection;

/// Problems shown in a condition; the rest is counted.
const PROBLEMS_SHOWN_MAX: usize = 10;

/// An App without problems.
pub(crate) struct Valid {
    /// What the Secret should hold.
    pub(crate) keys: Keys,
    /// What pods will run.
    pub(crate) config: AppConfig,
    /// The same as the bytes of a Revision.
    pub(crate) bytes: String,
    /// Whether the bytes hold the digests of its keys.
    pub(crate) digests: Digests,
    /// Its Kafka, where it has its own.
    pub(crate) kafka: Option<Connection>,
    /// Its ClickHouse, where it has its own.
    pub(crate) clickhouse: Option<Connection>,
}

/// Whether digests of keys could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digests {
    /// They are in the configuration.
    Made,
    /// The namespace has no pepper yet: topics and tables can be made, nothing can be published.
    Awaited,
}

/// Everything that is wrong, for a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `Invalid`, or `SecretUnusable` where only Secrets stand against it.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

/// Judges an App.
pub(crate) fn validate(
    gathered: &Gathered,
    installation: &compile::Installation,
    source: Source,
) -> Result<Valid, Refusal> {
    let app = gathered.app.as_ref().map_err(|error| unreadable(error))?;
    let spec = &app.spec;
    let mut secrets = Report::new(reference(gathered));
    let values = named_values(gathered, spec, &mut secrets);
    let keys = own_keys(gathered, spec, source, &mut secrets);
    let secret_problems = secrets.into_problems();
    let (digests, state) = key_digests(gathered, spec, &values, keys.as_ref());
    let compiled = compile_app(&AppInput {
        id: &gathered.id,
        spec,
        integrations: &gathered.integrations.iter().map(|(n, s)| (n.as_str(), s)).collect::<Vec<_>>(),
        key_digests: &digests,
        installation,
    });
    match (compiled, keys) {
        (Ok(config), Some(keys)) if secret_problems.is_empty() => {
            let bytes = compile::canonical(&config);
            let problems = judge_compiled(gathered, &config, &bytes, state);
            if !problems.is_empty() {
                return Err(refusal(reason::INVALID, &problems));
            }
            let [kafka, clickhouse] = connections(gathered, spec);
            Ok(Valid { keys, config, bytes, digests: state, kafka, clickhouse })
        }
        (Ok(_), _) => Err(refusal(reason::SECRET_UNUSABLE, &secret_problems)),
        (Err(problems), _) => Err(refusal(reason::INVALID, &[problems, secret_problems].concat())),
    }
}

fn reference(gathered: &Gathered) -> ObjectRef {
    ObjectRef::new(crd::Kind::App.as_str(), gathered.id.namespace(), gathered.id.name())
}

fn unreadable(error: &str) -> Refusal {
    let message =
        format!("the App as stored is not understood: {error}; correct the field, or upgrade the operator");
    Refusal { reason: reason::INVALID, message }
}

/// Values of the Secrets that the App names, by Secret and key; only those fit for use.
fn named_values<'a>(
    gathered: &'a Gathered,
    spec: &'a AppSpec,
    report: &mut Report,
) -> BTreeMap<(&'a str, &'a str), &'a SecretValue> {
    let mut values = BTreeMap::new();
    for used in SecretUse::of_app(spec) {
        let found: Option<&Secret> = gathered.secrets.get(used.secret);
        if let Some(value) = used.check(found, report) {
            values.insert((used.secret, used.key), value);
        }
    }
    values
}

fn own_keys(gathered: &Gathered, spec: &AppSpec, source: Source, report: &mut Report) -> Option<Keys> {
    let generated = if spec.ingest.write_keys.is_empty() { Generated::Wanted } else { Generated::NotWanted };
    let rotate = gathered.object.annotation(ROTATE_ANNOTATION);
    let name = labels::app_secret(&gathered.id);
    match keys::wanted(&name, gathered.own_secret.as_ref(), generated, rotate, source) {
        Ok(keys) => Some(keys),
        Err(error) => {
            report.add(&Path::root("metadata").field("name"), error.to_string(), "");
            None
        }
    }
}

/// Digests by the name of the key. A key without a value has its problem already; here it gets a stand-in, so that
/// everything else is judged too. Nothing with a stand-in is ever published.
fn key_digests(
    gathered: &Gathered,
    spec: &AppSpec,
    values: &BTreeMap<(&str, &str), &SecretValue>,
    keys: Option<&Keys>,
) -> (BTreeMap<String, String>, Digests) {
    let stand_in = |name: &str| compile::hash(&format!("no value for {name}"));
    let Some(pepper) = &gathered.pepper else {
        let named = spec.ingest.write_keys.iter().map(|key| key.name.as_str());
        let names = named.chain([WRITE_KEY_DEFAULT]);
        return (names.map(|name| (name.to_owned(), stand_in(name))).collect(), Digests::Awaited);
    };
    let mut digests = BTreeMap::from([(WRITE_KEY_DEFAULT.to_owned(), stand_in(WRITE_KEY_DEFAULT))]);
    for (name, value) in keys.into_iter().flat_map(Keys::generated) {
        digests.insert(name.to_owned(), keys::digest(pepper, value));
    }
    if !spec.ingest.write_keys.is_empty() {
        digests.clear();
    }
    for key in &spec.ingest.write_keys {
        let value = values.get(&(key.secret_ref.name.as_str(), key.secret_ref.key.as_str()));
        let digest = value.map_or_else(|| stand_in(&key.name), |value| keys::digest(pepper, value));
        digests.insert(key.name.clone(), digest);
    }
    (digests, Digests::Made)
}

/// What only the result shows: its size, and keys that open another App already.
fn judge_compiled(gathered: &Gathered, config: &AppConfig, bytes: &str, digests: Digests) -> Vec<Problem> {
    let mut report = Report::new(reference(gathered));
    if bytes.len() > CONFIG_BYTES_MAX {
        let message = format!("the compiled App has {} bytes, more than {CONFIG_BYTES_MAX}", bytes.len());
        report.add(
            &Path::root("spec"),
            message,
            "declare fewer events, or shorten templates of Integrations",
        );
    }
    if digests == Digests::Made {
        let newest = gathered.revisions.last().and_then(|revision| revision.spec.as_ref());
        for (name, key) in &config.ingest.write_keys {
            // Who had the key first keeps it: what is published already is not judged again.
            let is_published = newest.is_some_and(|spec| spec.config.contains(&key.digest));
            let other = gathered.neighbours.iter().find(|other| other.config().contains(&key.digest));
            if let Some(other) = other.filter(|_| !is_published) {
                let path = Path::root("spec").field("ingest").field("writeKeys");
                let message = format!("write key `{name}` opens App `{}` already", other.app);
                report.add(&path, message, "give each App its own: a key says for whom an event is");
            }
        }
    }
    report.into_problems()
}

fn connections(gathered: &Gathered, spec: &AppSpec) -> [Option<Connection>; 2] {
    let connections = spec.connections.as_ref();
    [connections.and_then(|c| c.kafka.as_ref()), connections.and_then(|c| c.clickhouse.as_ref())]
        .map(|connection| connection.and_then(|connection| own_connection(&gathered.secrets, connection)))
}

/// A back end of the App's own, with the account in the Secret it names; `None` where that is not to be used.
pub(crate) fn own_connection(
    secrets: &BTreeMap<String, Secret>,
    connection: &ConnectionSpec,
) -> Option<Connection> {
    let secret = secrets.get(&connection.credentials_ref.name)?;
    if secret.labels.get(crd::SECRET_USE_LABEL).map(String::as_str) != Some("true") {
        return None;
    }
    let text = |key: &str| String::from_utf8(secret.data.get(key)?.expose().to_vec()).ok();
    let credentials =
        Credentials { username: text("username")?, password: Sensitive::new(text("password")?) };
    Some(Connection { endpoint: connection.endpoint.clone(), credentials })
}

fn refusal(reason: &'static str, problems: &[Problem]) -> Refusal {
    let mut shown: Vec<String> = problems.iter().take(PROBLEMS_SHOWN_MAX).map(in_short).collect();
    if problems.len() > PROBLEMS_SHOWN_MAX {
        shown.push(format!("and {} more", problems.len() - PROBLEMS_SHOWN_MAX));
    }
    Refusal { reason, message: shown.join("\n") }
}

/// A problem without the object: the condition stands on it.
fn in_short(problem: &Problem) -> String {
    let path = if problem.path.is_empty() { String::new() } else { format!("{}: ", problem.path) };
    let fix = if problem.fix.is_empty() { String::new() } else { format!("; {}", problem.fix) };
    format!("{path}{}{fix}", problem.message)
}
