//! What is wrong between the RolePolicies of one namespace: names that nothing defines, or that two define.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::Kind;
use crate::problem::{ObjectRef, Path, Problem, Report, nearest};
use crate::role_policy::{ISSUER_LOCAL, ROLES_BUILT_IN, RolePolicySpec};

/// Which Apps a policy may name.
#[derive(Clone, Copy, Debug)]
pub enum Apps<'a> {
    /// These exist; naming another is a problem.
    Known(&'a BTreeSet<&'a str>),
    /// Not judged: a name without an App grants nothing.
    NotJudged,
}

/// Problems between the policies of one namespace: roles, issuers and Apps that are named but do not exist, and
/// roles and issuers that two policies define.
pub fn namespace_access(
    namespace: &str,
    policies: &[(&str, &RolePolicySpec)],
    apps: Apps<'_>,
) -> Vec<Problem> {
    let roles = definers(policies, |spec| spec.roles.iter().map(|role| role.name.as_str()).collect());
    let issuers = definers(policies, |spec| spec.issuers.iter().map(|issuer| issuer.name.as_str()).collect());
    let known_roles: BTreeSet<&str> = roles.keys().copied().chain(ROLES_BUILT_IN).collect();
    let known_issuers: BTreeSet<&str> = issuers.keys().copied().chain([ISSUER_LOCAL]).collect();
    let mut problems = Vec::new();
    for (name, spec) in policies {
        let object = ObjectRef::new(Kind::RolePolicy.as_str(), namespace, name);
        let mut names = Names { report: Report::new(object), policy: name };
        names.check_definers(spec, &roles, &issuers);
        names.check_roles(spec, &known_roles);
        names.check_issuers(spec, &known_issuers);
        if let Apps::Known(apps) = apps {
            names.check_apps(spec, apps);
        }
        problems.extend(names.report.into_problems());
    }
    problems
}

/// Who defines a name, first by name of the policy.
type Definers<'a> = BTreeMap<&'a str, &'a str>;

fn definers<'a>(
    policies: &[(&'a str, &'a RolePolicySpec)],
    names: impl Fn(&'a RolePolicySpec) -> Vec<&'a str>,
) -> Definers<'a> {
    let mut definers = Definers::new();
    for (policy, spec) in policies {
        for name in names(spec) {
            let first = definers.entry(name).or_insert(policy);
            *first = (*first).min(policy);
        }
    }
    definers
}

struct Names<'a> {
    report: Report,
    policy: &'a str,
}

impl Names<'_> {
    fn check_definers(&mut self, spec: &RolePolicySpec, roles: &Definers<'_>, issuers: &Definers<'_>) {
        let root = Path::root("spec");
        for (index, role) in spec.roles.iter().enumerate() {
            self.defined_here("role", &role.name, roles, &root.field("roles").index(index));
        }
        for (index, issuer) in spec.issuers.iter().enumerate() {
            self.defined_here("issuer", &issuer.name, issuers, &root.field("issuers").index(index));
        }
    }

    fn defined_here(&mut self, what: &str, name: &str, definers: &Definers<'_>, path: &Path) {
        if let Some(first) = definers.get(name).filter(|first| **first != self.policy) {
            let message = format!("{what} `{name}` is already defined by RolePolicy `{first}`");
            self.report.add(
                &path.field("name"),
                message,
                "define it once per namespace; every policy knows it",
            );
        }
    }

    fn check_roles(&mut self, spec: &RolePolicySpec, known: &BTreeSet<&str>) {
        let root = Path::root("spec");
        for (index, binding) in spec.bindings.iter().enumerate() {
            self.exists("role", &binding.role, known, &root.field("bindings").index(index).field("role"));
        }
        for (index, limit) in spec.rate_limits.iter().enumerate() {
            self.exists("role", &limit.role, known, &root.field("rateLimits").index(index).field("role"));
        }
    }

    fn check_issuers(&mut self, spec: &RolePolicySpec, known: &BTreeSet<&str>) {
        let bindings = Path::root("spec").field("bindings");
        for (index, binding) in spec.bindings.iter().enumerate() {
            for (place, subject) in binding.subjects.iter().enumerate() {
                let at = bindings.index(index).field("subjects").index(place).field("issuer");
                self.exists("issuer", &subject.issuer, known, &at);
            }
        }
    }

    fn check_apps(&mut self, spec: &RolePolicySpec, known: &BTreeSet<&str>) {
        let root = Path::root("spec");
        let named = spec.apps.as_ref().and_then(|apps| apps.names.as_ref());
        for (index, app) in named.into_iter().flatten().enumerate() {
            self.exists("App", app, known, &root.field("apps").field("names").index(index));
        }
        for (index, binding) in spec.bindings.iter().enumerate() {
            for (place, app) in binding.apps.iter().flatten().enumerate() {
                let at = root.field("bindings").index(index).field("apps").index(place);
                self.exists("App", app, known, &at);
            }
        }
    }

    fn exists(&mut self, what: &str, name: &str, known: &BTreeSet<&str>, path: &Path) {
        if known.contains(name) {
            return;
        }
        let fix = match nearest(name, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.is_empty() => "there is none in this namespace".to_owned(),
            None => format!("known here: {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
        };
        self.report.add(path, format!("there is no {what} `{name}`"), fix);
    }
}
