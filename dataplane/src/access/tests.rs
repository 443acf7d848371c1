//! Decisions by table, and the law that taking something away never allows more, over random policies.

use std::collections::{BTreeMap, BTreeSet};

use millrace_crds::config::{Format, Issuer};
use proptest::prelude::{Just, Strategy, prop_assert, prop_oneof, proptest};
use proptest::sample::select;
use serde_json::json;

use super::*;

const PERMISSIONS: [Permission; 4] =
    [Permission::DashboardRead, Permission::AnalyticsRead, Permission::AppsRead, Permission::Admin];

fn app(name: &str) -> AppId {
    AppId::new("default", name).unwrap()
}

fn subject(issuer: &str, matches: Matches) -> Subject {
    Subject { issuer: issuer.to_owned(), matches }
}

fn issuer(claims: &[(&str, &str)]) -> Issuer {
    Issuer {
        issuer: "https://issuer.example".to_owned(),
        jwks_uri: None,
        audiences: BTreeSet::new(),
        authorized_parties: BTreeSet::new(),
        algorithms: BTreeSet::new(),
        claims: claims.iter().map(|(name, claim)| ((*name).to_owned(), (*claim).to_owned())).collect(),
    }
}

/// Analysts are bound on `shop` in every way a subject can be named.
fn rules() -> AccessConfig {
    let subjects = [
        subject(ISSUER_LOCAL, Matches::Email("ann@example.com".to_owned())),
        subject("clerk", Matches::Subject("user_1".to_owned())),
        subject("clerk", Matches::Claim { claim: "groups".to_owned(), value: "data".to_owned() }),
        subject("gone", Matches::Subject("user_1".to_owned())),
    ];
    AccessConfig {
        format: Format::V1,
        namespace: "default".to_owned(),
        issuers: BTreeMap::from([("clerk".to_owned(), issuer(&[("groups", "org_groups")]))]),
        roles: BTreeMap::from([("analyst".to_owned(), BTreeSet::from([Permission::AnalyticsRead]))]),
        bindings: vec![Binding {
            role: "analyst".to_owned(),
            subjects: BTreeSet::from(subjects),
            apps: BTreeSet::from([app("shop")]),
        }],
        masked_fields: BTreeMap::new(),
        rate_limits: BTreeMap::new(),
    }
}

fn identity(issuer: &str, name: &str) -> Identity {
    Identity { issuer: issuer.to_owned(), subject: name.to_owned(), verified_email: None, claims: Map::new() }
}

fn allows(rules: &AccessConfig, identity: &Identity, permission: Permission, app: &AppId) -> bool {
    decide(Some(rules), &Principal::Subject(identity.clone()), permission, app).grant().is_some()
}

#[test]
fn only_what_a_binding_names_is_allowed() {
    let email =
        |email: &str| Identity { verified_email: Some(email.to_owned()), ..identity(ISSUER_LOCAL, "anyone") };
    let claims = |claims: Value| Identity {
        claims: claims.as_object().unwrap().clone(),
        ..identity("clerk", "anyone")
    };
    let cases = [
        ("subject", identity("clerk", "user_1"), true),
        ("another subject", identity("clerk", "user_2"), false),
        ("the same subject of another issuer", identity(ISSUER_LOCAL, "user_1"), false),
        ("an issuer that bindings name and no policy declares", identity("gone", "user_1"), false),
        ("verified e-mail", email("ann@example.com"), true),
        ("verified e-mail in capitals", email("Ann@Example.com"), true),
        ("e-mail as the subject", identity(ISSUER_LOCAL, "ann@example.com"), false),
        (
            "e-mail of another issuer",
            Identity { issuer: "clerk".to_owned(), ..email("ann@example.com") },
            false,
        ),
        ("claim that contains the value", claims(json!({ "org_groups": ["ops", "data"] })), true),
        ("claim that is the value", claims(json!({ "org_groups": "data" })), true),
        ("claim that merely starts with it", claims(json!({ "org_groups": "database" })), false),
        ("claim under the name before mapping", claims(json!({ "groups": ["data"] })), false),
        ("claim nested deeper", claims(json!({ "org_groups": [["data"]] })), false),
        ("claim of another type", claims(json!({ "org_groups": { "data": true } })), false),
    ];
    for (what, identity, expected) in cases {
        assert_eq!(allows(&rules(), &identity, Permission::AnalyticsRead, &app("shop")), expected, "{what}");
        assert!(!allows(&rules(), &identity, Permission::AnalyticsRead, &app("other")), "{what}: other App");
        assert!(!allows(&rules(), &identity, Permission::DashboardRead, &app("shop")), "{what}: other verb");
    }
}

#[test]
fn rules_of_one_namespace_say_nothing_about_another() {
    let foreign = AppId::new("team-a", "shop").unwrap();
    let mut rules = rules();
    rules.bindings[0].apps.insert(foreign.clone());
    assert!(!allows(&rules, &identity("clerk", "user_1"), Permission::AnalyticsRead, &foreign));
}

#[test]
fn without_rules_only_the_bootstrap_admin_may_act() {
    let someone = Principal::Subject(identity(ISSUER_LOCAL, "user_1"));
    for permission in PERMISSIONS {
        assert_eq!(decide(None, &someone, permission, &app("shop")), Decision::Deny);
        let grant = decide(None, &Principal::BootstrapAdmin, permission, &app("shop")).grant().unwrap();
        assert_eq!((grant.app(), grant.permission()), (&app("shop"), permission));
    }
}

#[test]
fn a_role_without_apps_holds_the_permission_and_opens_none() {
    let mut rules = rules();
    rules.bindings[0].apps.clear();
    let who = Principal::Subject(identity("clerk", "user_1"));
    assert!(holds(&rules, &who, Permission::AnalyticsRead));
    assert!(!holds(&rules, &who, Permission::AppsRead));
    assert_eq!(decide(Some(&rules), &who, Permission::AnalyticsRead, &app("shop")), Decision::Deny);
}

/// Names are few, so that random policies and random people meet often.
fn names() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn issuers() -> impl Strategy<Value = String> {
    select(vec![ISSUER_LOCAL, "x", "y"]).prop_map(str::to_owned)
}

fn random_subject() -> impl Strategy<Value = Subject> {
    let matches = prop_oneof![
        names().prop_map(Matches::Subject),
        names().prop_map(Matches::Email),
        (names(), names()).prop_map(|(claim, value)| Matches::Claim { claim, value }),
    ];
    (issuers(), matches).prop_map(|(issuer, matches)| Subject { issuer, matches })
}

fn random_binding() -> impl Strategy<Value = Binding> {
    let subjects = proptest::collection::btree_set(random_subject(), 0..4);
    let apps = proptest::collection::btree_set(names().prop_map(|name| app(&name)), 0..3);
    (names(), subjects, apps).prop_map(|(role, subjects, apps)| Binding { role, subjects, apps })
}

fn random_rules() -> impl Strategy<Value = AccessConfig> {
    let permissions = proptest::collection::btree_set(select(PERMISSIONS.to_vec()), 0..4);
    let roles = proptest::collection::btree_map(names(), permissions, 0..4);
    let known = proptest::collection::btree_map(select(vec!["x", "y"]), Just(issuer(&[])), 0..3);
    let bindings = proptest::collection::vec(random_binding(), 0..5);
    (roles, known, bindings).prop_map(|(roles, known, bindings)| AccessConfig {
        format: Format::V1,
        namespace: "default".to_owned(),
        issuers: known.into_iter().map(|(name, issuer)| (name.to_owned(), issuer)).collect(),
        roles,
        bindings,
        masked_fields: BTreeMap::new(),
        rate_limits: BTreeMap::new(),
    })
}

fn random_identity() -> impl Strategy<Value = Identity> {
    let claims = proptest::collection::btree_map(names(), names(), 0..3);
    (issuers(), names(), proptest::option::of(names()), claims).prop_map(
        |(issuer, subject, verified_email, claims)| Identity {
            issuer,
            subject,
            verified_email,
            claims: claims.into_iter().map(|(name, value)| (name, Value::String(value))).collect(),
        },
    )
}

/// Every way to take one thing away: a permission, a role, an issuer, a binding, one of its subjects or Apps.
fn weakened(rules: &AccessConfig) -> Vec<AccessConfig> {
    let mut all = Vec::new();
    let mut without = |take: &dyn Fn(&mut AccessConfig)| {
        let mut less = rules.clone();
        take(&mut less);
        all.push(less);
    };
    for (name, permissions) in &rules.roles {
        without(&|less| {
            less.roles.remove(name);
        });
        for permission in permissions {
            without(&|less| {
                less.roles.get_mut(name).unwrap().remove(permission);
            });
        }
    }
    for name in rules.issuers.keys() {
        without(&|less| {
            less.issuers.remove(name);
        });
    }
    for (index, binding) in rules.bindings.iter().enumerate() {
        without(&|less| {
            less.bindings.remove(index);
        });
        for subject in &binding.subjects {
            without(&|less| {
                less.bindings[index].subjects.remove(subject);
            });
        }
        for app in &binding.apps {
            without(&|less| {
                less.bindings[index].apps.remove(app);
            });
        }
    }
    all
}

proptest! {
    #[test]
    fn taking_something_away_never_allows_more(before in random_rules(), who in random_identity()) {
        for after in weakened(&before) {
            for (permission, name) in PERMISSIONS.iter().flat_map(|p| ["a", "b", "c"].map(|name| (*p, name))) {
                let then = allows(&before, &who, permission, &app(name));
                let now = allows(&after, &who, permission, &app(name));
                prop_assert!(then || !now, "{permission:?} on {name} came with taking away: {after:?}");
            }
            let someone = Principal::Subject(who.clone());
            for permission in PERMISSIONS {
                let (then, now) = (holds(&before, &someone, permission), holds(&after, &someone, permission));
                prop_assert!(then || !now, "{permission:?} came with taking away: {after:?}");
            }
        }
    }

    #[test]
    fn nobody_from_an_undeclared_issuer_is_ever_allowed(
        rules in random_rules(),
        mut who in random_identity(),
    ) {
        who.issuer = "z".to_owned();
        let mut rules = rules;
        for binding in &mut rules.bindings {
            binding.subjects.insert(subject("z", Matches::Subject(who.subject.clone())));
        }
        for permission in PERMISSIONS {
            prop_assert!(!holds(&rules, &Principal::Subject(who.clone()), permission));
            prop_assert!(!allows(&rules, &who, permission, &app("a")));
        }
    }

    #[test]
    fn a_decision_carries_exactly_what_was_asked(
        rules in random_rules(),
        who in random_identity(),
        permission in select(PERMISSIONS.to_vec()),
        name in names(),
    ) {
        let asked = app(&name);
        if let Decision::Allow(grant) = decide(Some(&rules), &Principal::Subject(who), permission, &asked) {
            prop_assert!(grant.app() == &asked && grant.permission() == permission);
        }
    }
}
