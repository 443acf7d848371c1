use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::app::AppSpec;
use crate::config::{AccessConfig, AppConfig, Permission, Subject};
use crate::integration::IntegrationSpec;
use crate::names::{AppId, TopicKind};
use crate::problem::Problem;
use crate::role_policy::{BindingSpec, RolePolicySpec, RoleSpec, SubjectSpec};

fn spec(value: serde_json::Value) -> AppSpec {
    serde_json::from_value(value).unwrap()
}

fn digests(names: &[&str]) -> BTreeMap<String, String> {
    names.iter().map(|name| ((*name).to_owned(), hash(name))).collect()
}

fn compiled(spec: &AppSpec, keys: &[&str]) -> Result<AppConfig, Vec<Problem>> {
    compile_app(&AppInput {
        id: &AppId::new("default", "shop").unwrap(),
        spec,
        integrations: &[],
        key_digests: &digests(keys),
        installation: &Installation::standalone(),
    })
}

#[test]
fn the_generated_key_before_a_rotation_opens_the_app_only_while_it_is_given() {
    let both = [WRITE_KEY_DEFAULT, WRITE_KEY_DEFAULT_PREVIOUS];
    let keys = compiled(&AppSpec::default(), &both).unwrap().ingest.write_keys;
    assert_eq!(keys.keys().collect::<Vec<_>>(), both);
    assert!(
        compiled(&AppSpec::default(), &[WRITE_KEY_DEFAULT_PREVIOUS]).is_err(),
        "one is no stand-in for the other"
    );
    let named =
        spec(json!({"ingest": {"writeKeys": [{"name": "web", "secretRef": {"name": "s", "key": "k"}}]}}));
    let keys = compiled(&named, &["web", WRITE_KEY_DEFAULT_PREVIOUS]).unwrap().ingest.write_keys;
    assert_eq!(keys.keys().collect::<Vec<_>>(), ["web"]);
}

#[test]
fn fills_everything_that_an_empty_app_leaves_open() {
    let config = compiled(&AppSpec::default(), &[WRITE_KEY_DEFAULT]).unwrap();
    assert_eq!(config.ingest.write_keys[WRITE_KEY_DEFAULT].digest, hash(WRITE_KEY_DEFAULT));
    assert_eq!((config.ingest.max_body_bytes, config.ingest.max_batch_events), (4 << 20, 1_000));
    assert_eq!(config.storage.database, "millrace_default__shop");
    assert_eq!(config.storage.retention_seconds, 730 * 86_400);
    assert_eq!(config.events.dedupe_window_ms, 86_400_000);
    assert_eq!(config.topics.iter().map(|topic| topic.kind).collect::<Vec<_>>(), TopicKind::ALL);
    assert_eq!(config.topics.iter().map(|topic| topic.partitions).collect::<Vec<_>>(), [4, 2, 1, 1, 4, 1]);
}

#[test]
fn limits_that_are_left_open_give_way_to_those_that_are_set() {
    for (ingest, body, event, batch, burst) in [
        (json!({"maxBodyBytes": 2048}), 2048, 2048, 1_000, None),
        (json!({"maxEventBytes": 921_600}), 4 << 20, 921_600, 1_000, None),
        (json!({"rateLimit": {"eventsPerSecond": 10}}), 4 << 20, 256 << 10, 1_000, Some(1_000)),
        (json!({"rateLimit": {"eventsPerSecond": 9_000}}), 4 << 20, 256 << 10, 1_000, Some(18_000)),
        (json!({"rateLimit": {"eventsPerSecond": 5, "burst": 10}}), 4 << 20, 256 << 10, 10, Some(10)),
    ] {
        let config = compiled(&spec(json!({"ingest": ingest})), &[WRITE_KEY_DEFAULT]).unwrap().ingest;
        let got = (config.max_body_bytes, config.max_event_bytes, config.max_batch_events);
        assert_eq!(
            (got, config.rate_limit.map(|limit| limit.burst)),
            ((body, event, batch), burst),
            "{ingest}"
        );
    }
}

#[test]
fn refuses_what_cannot_be_compiled_and_says_all_of_it() {
    let key = |name: &str| json!({"name": name, "secretRef": {"name": "s", "key": name}});
    let keys = spec(json!({"ingest": {"writeKeys": [key("a"), key("b")]}, "storage": {"retention": "1h"}}));
    let found = |keys: &AppSpec, digests: BTreeMap<String, String>| {
        let result = compile_app(&AppInput {
            id: &AppId::new("default", "shop").unwrap(),
            spec: keys,
            integrations: &[("hook", &serde_json::from_value::<IntegrationSpec>(json!({})).unwrap())],
            key_digests: &digests,
            installation: &Installation::standalone(),
        });
        result.unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let lines = found(&keys, digests(&["a"]));
    for wanted in
        ["spec.storage.retention", "write key `b` is not known", "Integration default/hook: spec: names no"]
    {
        assert!(lines.iter().any(|line| line.contains(wanted)), "{wanted}: {lines:#?}");
    }
    let same = BTreeMap::from([("a".to_owned(), hash("x")), ("b".to_owned(), hash("x"))]);
    assert!(found(&keys, same).iter().any(|line| line.contains("`b` is the same key as `a`")));
    let broken = BTreeMap::from([("a".to_owned(), "mrw_secret".to_owned()), ("b".to_owned(), hash("b"))]);
    let lines = found(&keys, broken);
    assert!(
        lines.iter().any(|line| line.contains("is not a SHA-256")) && !format!("{lines:?}").contains("mrw_")
    );
}

#[test]
fn holds_the_dedupe_window_against_the_installation_too() {
    let error = compiled(&spec(json!({"events": {"dedupeWindow": "8d"}})), &[WRITE_KEY_DEFAULT]).unwrap_err();
    assert!(error.len() == 1 && error[0].message.contains("installation's retention"), "{error:?}");
}

#[test]
fn a_digest_that_no_key_asks_for_opens_nothing() {
    let key = json!({"name": "web", "secretRef": {"name": "s", "key": "web"}});
    let one = spec(json!({"ingest": {"writeKeys": [key]}}));
    let config = compiled(&one, &["web", "old", WRITE_KEY_DEFAULT]).unwrap();
    assert_eq!(config.ingest.write_keys.keys().collect::<Vec<_>>(), ["web"]);
}

#[test]
fn canonical_json_has_sorted_keys_and_no_space() {
    for (value, text) in [
        (json!({"b": 1, "a": [true, null, "x\n"], "": {}}), r#"{"":{},"a":[true,null,"x\n"],"b":1}"#),
        (json!([]), "[]"),
        (json!("é"), "\"é\""),
    ] {
        assert_eq!(canonical(&value), text);
    }
    assert_eq!(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

#[test]
fn a_compiled_configuration_reads_back_as_itself_and_refuses_what_it_does_not_know() {
    let config = compiled(&AppSpec::default(), &[WRITE_KEY_DEFAULT]).unwrap();
    let text = canonical(&config);
    assert_eq!(serde_json::from_str::<AppConfig>(&text).unwrap(), config);
    for strange in [text.replacen("\"v1\"", "\"v2\"", 1), text.replacen("\"app\"", "\"more\":1,\"app\"", 1)] {
        assert!(serde_json::from_str::<AppConfig>(&strange).is_err(), "{strange:.80}");
    }
}

#[test]
fn the_admin_role_covers_every_app_and_the_wildcard_ends_here() {
    let policy: RolePolicySpec = serde_json::from_value(json!({
        "roles": [{"name": "owner", "permissions": ["admin:*"]}],
        "bindings": [
            {"role": "admin", "subjects": [{"issuer": "local", "email": "Ada@Shop.Example"}]},
            {"role": "owner", "subjects": [{"issuer": "local", "subject": "7"}], "apps": ["blog"]},
        ],
        "maskedFields": ["ip"],
        "rateLimits": [{"role": "owner", "requestsPerMinute": 60}],
    }))
    .unwrap();
    let config = access(&[("p", policy)]).unwrap();
    assert_eq!(config.roles["owner"].len(), Permission::ALL.len());
    assert_eq!(config.roles["admin"].len(), Permission::ALL.len());
    assert_eq!(config.rate_limits["owner"], 60);
    assert_eq!(config.masked_fields.len(), APPS.len());
    let apps = |role: &str| &config.bindings.iter().find(|binding| binding.role == role).unwrap().apps;
    assert_eq!(apps("admin").len(), APPS.len());
    assert_eq!(apps("owner").iter().map(AppId::name).collect::<Vec<_>>(), ["blog"]);
    assert!(canonical(&config).contains("ada@shop.example"));
}

#[test]
fn an_app_that_is_gone_grants_nothing_and_breaks_nothing() {
    let policy: RolePolicySpec = serde_json::from_value(json!({
        "apps": {"names": ["gone", "shop"]},
        "bindings": [{"role": "user", "subjects": [{"issuer": "local", "subject": "7"}]}],
    }))
    .unwrap();
    let config = access(&[("p", policy)]).unwrap();
    assert_eq!(config.bindings[0].apps.iter().map(AppId::name).collect::<Vec<_>>(), ["shop"]);
}

const APPS: [&str; 3] = ["shop", "blog", "game"];

fn access(policies: &[(&str, RolePolicySpec)]) -> Result<AccessConfig, Vec<Problem>> {
    access_of(policies, &APPS)
}

fn access_of(policies: &[(&str, RolePolicySpec)], apps: &[&str]) -> Result<AccessConfig, Vec<Problem>> {
    let id = |name: &&str| (AppId::new("default", name).unwrap(), BTreeMap::new());
    let mut apps: Vec<_> = apps.iter().map(id).collect();
    apps.push((AppId::new("elsewhere", "shop").unwrap(), BTreeMap::new()));
    let policies: Vec<_> = policies.iter().map(|(name, spec)| (*name, spec)).collect();
    compile_access(&AccessInput { namespace: "default", apps: &apps, policies: &policies })
}

type Triples<'a> = BTreeSet<(&'a Subject, &'a AppId, Permission)>;

/// Everything that is allowed.
fn triples(config: &AccessConfig) -> Triples<'_> {
    let mut all = Triples::new();
    for binding in &config.bindings {
        for subject in &binding.subjects {
            for app in &binding.apps {
                all.extend(config.roles[&binding.role].iter().map(|permission| (subject, app, *permission)));
            }
        }
    }
    all
}

const ROLES: [&str; 6] = ["r0", "r1", "r2", "admin", "user", "readonly"];
const POLICIES: [&str; 3] = ["p0", "p1", "p2"];

fn a_binding() -> impl Strategy<Value = (usize, BindingSpec)> {
    let apps = proptest::option::of(proptest::sample::subsequence(APPS.to_vec(), 1..=APPS.len()));
    (0..POLICIES.len(), 0..ROLES.len(), 0_usize..4, apps).prop_map(|(policy, role, subject, apps)| {
        let subject = SubjectSpec {
            issuer: "local".to_owned(),
            subject: Some(subject.to_string()),
            ..Default::default()
        };
        let apps = apps.filter(|_| ROLES[role] != "admin");
        let apps = apps.map(|apps| apps.into_iter().map(ToOwned::to_owned).collect());
        (policy, BindingSpec { role: ROLES[role].to_owned(), subjects: vec![subject], apps })
    })
}

/// Valid policies of a namespace: role `r<n>` is defined by policy `p<n>`.
fn policies() -> impl Strategy<Value = Vec<(&'static str, RolePolicySpec)>> {
    let permissions = proptest::sample::subsequence(Permission::ALL.to_vec(), 1..=4);
    let roles = proptest::collection::vec(permissions, POLICIES.len());
    (roles, proptest::collection::vec(a_binding(), 0..8)).prop_map(|(roles, bindings)| {
        let role = |(index, permissions): (usize, _)| RoleSpec { name: ROLES[index].to_owned(), permissions };
        let policy = |role| RolePolicySpec { roles: vec![role], ..Default::default() };
        let mut policies: Vec<_> =
            POLICIES.into_iter().zip(roles.into_iter().enumerate().map(role).map(policy)).collect();
        for (policy, binding) in bindings {
            policies[policy].1.bindings.push(binding);
        }
        policies
    })
}

/// Every set of policies with one thing less: a binding, a bound App, a permission.
fn with_one_thing_less(
    policies: &[(&'static str, RolePolicySpec)],
) -> Vec<Vec<(&'static str, RolePolicySpec)>> {
    let mut smaller = Vec::new();
    for (index, (_, policy)) in policies.iter().enumerate() {
        for (place, binding) in policy.bindings.iter().enumerate() {
            let mut without = policies.to_vec();
            without[index].1.bindings.remove(place);
            smaller.push(without);
            for app in 0..binding.apps.as_ref().map_or(0, Vec::len) {
                let mut without = policies.to_vec();
                let apps = without[index].1.bindings[place].apps.as_mut().unwrap();
                apps.remove(app);
                smaller.push(without);
            }
        }
        for permission in 0..policy.roles[0].permissions.len() {
            let mut without = policies.to_vec();
            without[index].1.roles[0].permissions.remove(permission);
            smaller.push(without);
        }
    }
    smaller
}

fn a_spec() -> impl Strategy<Value = (AppSpec, Vec<&'static str>)> {
    let names = proptest::sample::subsequence(vec!["a", "b", "c", "d"], 1..=4);
    let lists = proptest::sample::subsequence(vec!["v", "w", "x", "y"], 0..=4);
    (names, lists.clone(), lists).prop_map(|(keys, events, fields)| {
        let key = |name: &&str| {
            json!({"name": name, "secretRef": {"name": "s", "key": name},
            "allowedOrigins": ["https://b.example", "https://a.example"]})
        };
        let event = |name: &&str| json!({"name": name, "properties": [{"name": name, "type": "String"}]});
        let rule = |name: &&str| json!({"path": format!("event_data.f{name}"), "action": "Hash"});
        let spec = spec(json!({
            "ingest": {"writeKeys": keys.iter().map(key).collect::<Vec<_>>()},
            "events": {"declared": events.iter().map(event).collect::<Vec<_>>(), "conversions": events},
            "privacy": {"fields": fields.iter().map(rule).collect::<Vec<_>>()},
        }));
        (spec, keys)
    })
}

proptest! {
    #[test]
    fn the_order_of_inputs_makes_no_difference_to_an_app((spec, keys) in a_spec(), turn in 0_usize..4) {
        let mut turned = spec.clone();
        let by = |length: usize| turn % length.max(1);
        let (keys_len, events_len) = (turned.ingest.write_keys.len(), turned.events.declared.len());
        turned.ingest.write_keys.rotate_left(by(keys_len));
        turned.ingest.write_keys.iter_mut().for_each(|key| key.allowed_origins.reverse());
        turned.events.declared.rotate_left(by(events_len));
        turned.events.conversions.reverse();
        turned.privacy.fields.reverse();
        let (one, other) = (compiled(&spec, &keys).unwrap(), compiled(&turned, &keys).unwrap());
        prop_assert_eq!(hash(&canonical(&one)), hash(&canonical(&other)));
    }

    #[test]
    fn removing_a_key_never_adds_a_digest((spec, keys) in a_spec(), at in 0_usize..4) {
        let before = compiled(&spec, &keys).unwrap().ingest.write_keys;
        let mut without = spec.clone();
        let removed = without.ingest.write_keys.remove(at % keys.len());
        // The caller may still hold the digest of the removed key, and generates one when none is left.
        let generated = [keys.as_slice(), &[WRITE_KEY_DEFAULT]].concat();
        let after = compiled(&without, &generated).unwrap().ingest.write_keys;
        prop_assert!(!after.contains_key(&removed.name));
        prop_assert!(after.iter().all(|(name, key)| name == WRITE_KEY_DEFAULT || before[name] == *key));
    }

    #[test]
    fn the_order_of_inputs_makes_no_difference_to_access(policies in policies(), turn in 0_usize..3) {
        let mut turned = policies.clone();
        turned.rotate_left(turn);
        for (_, policy) in &mut turned {
            policy.bindings.reverse();
            policy.roles[0].permissions.reverse();
        }
        let apps = [APPS[2], APPS[0], APPS[1]];
        let (one, other) = (access(&policies).unwrap(), access_of(&turned, &apps).unwrap());
        prop_assert_eq!(canonical(&one), canonical(&other));
    }

    #[test]
    fn taking_something_away_never_allows_more(policies in policies()) {
        let whole = access(&policies).unwrap();
        let allowed = triples(&whole);
        for smaller in with_one_thing_less(&policies) {
            // What is refused is not in force, hence allows nothing.
            if let Ok(config) = access(&smaller) {
                prop_assert!(triples(&config).is_subset(&allowed), "{:?}", smaller);
            }
        }
    }
}
