//! The texts of a folder in, everything that is to be in force out, or every problem. The same validation and
//! compilation as on a cluster; only the keys come from this process's own ring.

use std::collections::BTreeMap;

use millrace_crds::app::App;
use millrace_crds::compile::{
    AccessInput, AppInput, Installation, WRITE_KEY_DEFAULT, compile_access, compile_app, revision_hash,
};
use millrace_crds::config::{AccessConfig, AppConfig};
use millrace_crds::manifest::{self, Manifest, Parsed, Source};
use millrace_crds::names::{AppId, NameError};
use millrace_crds::problem::Problem;
use millrace_crds::{selection, validate};

use super::keys::{KeyError, KeyRing};
use crate::admin::changes::RefusedProblem;
use crate::config::key_digest;

/// Everything that is to be in force.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// The Apps, in the order of their ids.
    pub apps: Vec<AppConfig>,
    /// Access rules, one per namespace that has an App or a RolePolicy.
    pub access: Vec<AccessConfig>,
    /// Apps that name no write key and so got one made.
    pub generated: Vec<AppId>,
    /// What was left aside on purpose, for people.
    pub notes: Vec<String>,
}

impl Built {
    /// Hash per configuration: App ids and `<namespace>/access`.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        let apps = self.apps.iter().map(|app| (app.app.to_string(), revision_hash(app)));
        let access =
            self.access.iter().map(|access| (format!("{}/access", access.namespace), revision_hash(access)));
        apps.chain(access).collect()
    }
}

/// Parses, validates and compiles. Keys that are missing are made, and kept where the ring keeps them.
pub fn build(sources: &[Source], keys: &mut KeyRing) -> Result<Built, BuildError> {
    let parsed = manifest::parse(sources);
    let mut problems = parsed.problems.clone();
    problems.extend(validate::set(&parsed));
    if !problems.is_empty() {
        return Err(BuildError::Problems { problems });
    }
    let installation = Installation::standalone();
    let mut built = Built::default();
    for app in &parsed.apps {
        let id = id_of(&app.object).map_err(|source| BuildError::Name { source })?;
        let key_digests = digests(app, &id, &parsed, keys)?;
        let integrations = integrations_of(app, &id, &parsed);
        let input = AppInput {
            id: &id,
            spec: &app.spec,
            integrations: &integrations,
            key_digests: &key_digests,
            installation: &installation,
        };
        if app.spec.ingest.write_keys.is_empty() {
            built.generated.push(id.clone());
        }
        match compile_app(&input) {
            Ok(config) => built.apps.push(config),
            Err(found) => problems.extend(found.into_iter().map(|problem| located(problem, app))),
        }
    }
    built.apps.sort_by(|a, b| a.app.cmp(&b.app));
    built.access = access_of(&parsed, &mut problems)?;
    built.notes = parsed.notes.iter().map(|note| format!("{}: {}", note.place, note.message)).collect();
    if problems.is_empty() { Ok(built) } else { Err(BuildError::Problems { problems }) }
}

/// A problem as `/state` shows it.
pub fn refused_problem(problem: &Problem) -> RefusedProblem {
    RefusedProblem {
        source: problem.source.as_ref().map(ToString::to_string),
        object: problem.object.as_ref().map(ToString::to_string).unwrap_or_default(),
        path: problem.path.clone(),
        message: problem.message.clone(),
        fix: problem.fix.clone(),
    }
}

fn id_of(app: &App) -> Result<AppId, NameError> {
    AppId::new(validate::namespace_of(&app.metadata), app.metadata.name.as_deref().unwrap_or_default())
}

/// Digest of every key of an App. `validate::set` has shown that each Secret is there.
fn digests(
    app: &Manifest<App>,
    id: &AppId,
    parsed: &Parsed,
    keys: &mut KeyRing,
) -> Result<BTreeMap<String, String>, BuildError> {
    let pepper = keys.pepper();
    let digest = |key: &[u8]| hex::encode(key_digest(pepper.expose(), key));
    if app.spec.ingest.write_keys.is_empty() {
        let key = keys.write_key(id)?;
        return Ok(BTreeMap::from([(WRITE_KEY_DEFAULT.to_owned(), digest(key.expose().as_bytes()))]));
    }
    let written = app.spec.ingest.write_keys.iter().filter_map(|key| {
        let secret = parsed
            .secrets
            .iter()
            .find(|secret| secret.namespace == id.namespace() && secret.name == key.secret_ref.name)?;
        Some((key.name.clone(), digest(secret.data.get(&key.secret_ref.key)?.expose())))
    });
    Ok(written.collect())
}

fn integrations_of<'a>(
    app: &Manifest<App>,
    id: &AppId,
    parsed: &'a Parsed,
) -> Vec<(&'a str, &'a millrace_crds::integration::IntegrationSpec)> {
    let labels = app.metadata.labels.clone().unwrap_or_default();
    parsed
        .integrations
        .iter()
        .filter(|integration| validate::namespace_of(&integration.metadata) == id.namespace())
        .filter(|integration| selection::includes(integration.spec.apps.as_ref(), id.name(), &labels))
        .map(|integration| {
            (integration.metadata.name.as_deref().unwrap_or_default(), &integration.object.spec)
        })
        .collect()
}

/// An App and its labels, by which policies may choose it.
type LabelledApp = (AppId, BTreeMap<String, String>);

/// Access rules of every namespace that has something to rule.
fn access_of(parsed: &Parsed, problems: &mut Vec<Problem>) -> Result<Vec<AccessConfig>, BuildError> {
    let mut apps: BTreeMap<&str, Vec<LabelledApp>> = BTreeMap::new();
    for app in &parsed.apps {
        let id = id_of(&app.object).map_err(|source| BuildError::Name { source })?;
        let labels = app.metadata.labels.clone().unwrap_or_default();
        apps.entry(validate::namespace_of(&app.metadata)).or_default().push((id, labels));
    }
    for policy in &parsed.role_policies {
        apps.entry(validate::namespace_of(&policy.metadata)).or_default();
    }
    let mut access = Vec::new();
    for (namespace, apps) in &apps {
        let policies: Vec<_> = parsed
            .role_policies
            .iter()
            .filter(|policy| validate::namespace_of(&policy.metadata) == *namespace)
            .map(|policy| (policy.metadata.name.as_deref().unwrap_or_default(), &policy.object.spec))
            .collect();
        match compile_access(&AccessInput { namespace, apps, policies: &policies }) {
            Ok(config) => access.push(config),
            Err(found) => problems.extend(found),
        }
    }
    Ok(access)
}

fn located(mut problem: Problem, app: &Manifest<App>) -> Problem {
    if problem.source.is_none() {
        problem.source = Some(app.locate(&problem.path));
    }
    problem
}

/// Why a folder cannot be brought into force.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The resources have problems.
    #[error("{} problem(s) in the resources:\n{}", problems.len(), listed(problems))]
    Problems {
        /// All of them.
        problems: Vec<Problem>,
    },
    /// An App's name cannot be used.
    #[error("an App cannot be named so")]
    Name {
        /// Why.
        source: NameError,
    },
    /// The keys cannot be used.
    #[error("the keys of the Apps cannot be used")]
    Keys {
        /// Why.
        #[from]
        source: KeyError,
    },
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(text: &str) -> Result<Built, BuildError> {
        let source = Source { name: "a.yaml".to_owned(), text: text.to_owned() };
        build(&[source], &mut KeyRing::in_memory())
    }

    #[test]
    fn the_smallest_app_is_complete_and_gets_a_key() {
        let text = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec: {}\n";
        let built = built(text).unwrap();
        assert_eq!(built.apps.len(), 1);
        assert!(built.apps[0].ingest.write_keys.contains_key(WRITE_KEY_DEFAULT));
        assert_eq!(built.access.len(), 1);
        assert_eq!(built.hashes().len(), 2);
    }

    #[test]
    fn tells_every_problem_with_its_place() {
        let text = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec:\n  ingset: {}\n  events: {dedupeWindow: soon}\n";
        let Err(BuildError::Problems { problems }) = built(text) else { panic!("accepted") };
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|line| line.contains("a.yaml:5") && line.contains("ingest")), "{said:?}");
        assert!(said.iter().any(|line| line.contains("dedupeWindow")), "{said:?}");
    }

    #[test]
    fn an_app_only_gets_integrations_of_its_namespace() {
        let text = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop, namespace: a}\nspec: {}\n---\n\
                    apiVersion: v1\nkind: Secret\nmetadata: {name: hook, namespace: b, labels: {millrace.dev/app-use: \"true\"}}\n\
                    stringData: {key: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw}\n---\n\
                    apiVersion: millrace.dev/v1alpha1\nkind: Integration\nmetadata: {name: out, namespace: b}\n\
                    spec: {webhook: {url: \"https://hooks.example/in\", signingSecretRef: {name: hook, key: key}}}\n";
        match built(text) {
            Ok(built) => assert!(built.apps[0].integrations.is_empty()),
            Err(error) => panic!("{error}"),
        }
    }
}
