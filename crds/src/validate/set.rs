//! All resources of a folder together: each by itself, and the names between them. Takes it that the set is whole,
//! as in standalone; in a cluster the operator gathers the neighbours instead.

use std::collections::{BTreeMap, BTreeSet};

use super::access::{Apps, namespace_access};
use super::secret::{Purpose, SecretUse};
use super::{app, integration, namespace_of, object_ref, role_policy};
use crate::crd::Kind;
use crate::manifest::{Manifest, Parsed};
use crate::problem::{ObjectRef, Path, Problem, Report};
use crate::role_policy::RolePolicySpec;

/// Every problem of everything that was read, in the order of the files. Does not repeat [`Parsed::problems`].
pub fn set(parsed: &Parsed) -> Vec<Problem> {
    let mut problems = Vec::new();
    alone(&parsed.apps, app, &mut problems);
    alone(&parsed.integrations, integration, &mut problems);
    alone(&parsed.role_policies, role_policy, &mut problems);
    twice(&parsed.apps, |app| object_ref(Kind::App, &app.metadata), &mut problems);
    twice(&parsed.integrations, |i| object_ref(Kind::Integration, &i.metadata), &mut problems);
    twice(&parsed.role_policies, |policy| object_ref(Kind::RolePolicy, &policy.metadata), &mut problems);
    twice(&parsed.secrets, |s| ObjectRef::new("Secret", &s.namespace, &s.name), &mut problems);
    secrets(parsed, &mut problems);
    integration_apps(parsed, &mut problems);
    access(parsed, &mut problems);
    problems.sort();
    problems
}

fn alone<T>(manifests: &[Manifest<T>], check: fn(&T) -> Vec<Problem>, problems: &mut Vec<Problem>) {
    for manifest in manifests {
        problems.extend(check(&manifest.object).into_iter().map(|problem| located(problem, manifest)));
    }
}

fn located<T>(mut problem: Problem, manifest: &Manifest<T>) -> Problem {
    problem.source = Some(manifest.locate(&problem.path));
    problem
}

fn twice<T>(manifests: &[Manifest<T>], named: fn(&T) -> ObjectRef, problems: &mut Vec<Problem>) {
    let mut seen: BTreeMap<ObjectRef, &Manifest<T>> = BTreeMap::new();
    for manifest in manifests {
        let object = named(&manifest.object);
        if let Some(first) = seen.get(&object) {
            let message = format!("this {} is given twice, first at {}", object.kind, first.place);
            let mut report = Report::new(object);
            report.add(&Path::root("metadata").field("name"), message, "remove one or rename it");
            problems.extend(report.into_problems().into_iter().map(|problem| located(problem, manifest)));
        } else {
            seen.insert(object, manifest);
        }
    }
}

/// Every Secret that is named exists, is labelled, and holds a usable value; no two write keys are the same.
fn secrets(parsed: &Parsed, problems: &mut Vec<Problem>) {
    let find = |namespace: &str, name: &str| {
        let mut secrets = parsed.secrets.iter().map(|manifest| &manifest.object);
        secrets.find(|secret| secret.namespace == namespace && secret.name == name)
    };
    let mut write_keys: BTreeMap<&[u8], String> = BTreeMap::new();
    for manifest in &parsed.apps {
        let namespace = namespace_of(&manifest.metadata);
        let object = object_ref(Kind::App, &manifest.metadata);
        let mut report = Report::new(object.clone());
        for usage in SecretUse::of_app(&manifest.spec) {
            let value = usage.check(find(namespace, usage.secret), &mut report);
            let Some(value) = value.filter(|_| usage.purpose == Purpose::WriteKey) else { continue };
            let here = format!("{} of {object}", usage.path.as_str());
            if let Some(first) = write_keys.get(value.expose()) {
                let message = format!("is the same key as {first}");
                report.add(&usage.path, message, "give each its own: a key says who sends");
            } else {
                write_keys.insert(value.expose(), here);
            }
        }
        problems.extend(report.into_problems().into_iter().map(|problem| located(problem, manifest)));
    }
    for manifest in &parsed.integrations {
        let namespace = namespace_of(&manifest.metadata);
        let mut report = Report::new(object_ref(Kind::Integration, &manifest.metadata));
        for usage in SecretUse::of_integration(&manifest.spec) {
            usage.check(find(namespace, usage.secret), &mut report);
        }
        problems.extend(report.into_problems().into_iter().map(|problem| located(problem, manifest)));
    }
}

fn app_names<'a>(parsed: &'a Parsed, namespace: &str) -> BTreeSet<&'a str> {
    let here = parsed.apps.iter().filter(|manifest| namespace_of(&manifest.metadata) == namespace);
    here.filter_map(|manifest| manifest.metadata.name.as_deref()).collect()
}

/// Every App that an Integration names exists.
fn integration_apps(parsed: &Parsed, problems: &mut Vec<Problem>) {
    for manifest in &parsed.integrations {
        let known = app_names(parsed, namespace_of(&manifest.metadata));
        let named = manifest.spec.apps.as_ref().and_then(|apps| apps.names.as_ref());
        let mut report = Report::new(object_ref(Kind::Integration, &manifest.metadata));
        for (index, app) in named.into_iter().flatten().enumerate() {
            if !known.contains(app.as_str()) {
                let at = Path::root("spec").field("apps").field("names").index(index);
                report.add(&at, format!("there is no App `{app}`"), "add it, or correct the name");
            }
        }
        problems.extend(report.into_problems().into_iter().map(|problem| located(problem, manifest)));
    }
}

fn access(parsed: &Parsed, problems: &mut Vec<Problem>) {
    let namespaces: BTreeSet<&str> =
        parsed.role_policies.iter().map(|manifest| namespace_of(&manifest.metadata)).collect();
    for namespace in namespaces {
        let here = || parsed.role_policies.iter().filter(|m| namespace_of(&m.metadata) == namespace);
        let policies: Vec<(&str, &RolePolicySpec)> =
            here().map(|m| (m.metadata.name.as_deref().unwrap_or_default(), &m.spec)).collect();
        let known = app_names(parsed, namespace);
        for problem in namespace_access(namespace, &policies, Apps::Known(&known)) {
            let manifest =
                here().find(|m| problem.object.as_ref() == Some(&object_ref(Kind::RolePolicy, &m.metadata)));
            problems.push(manifest.map_or(problem.clone(), |manifest| located(problem, manifest)));
        }
    }
}
