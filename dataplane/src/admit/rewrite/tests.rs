use millrace_crds::config::FieldRule;
use proptest::prelude::{Just, Strategy, prop_assert_eq, prop_oneof, proptest};
use serde_json::Value;

use super::super::tests::app;
use super::*;
use crate::admit::open_field;

/// Applies the rules to one value.
fn apply(rules: &[(&str, FieldAction)], value: &str) -> String {
    let rule = |(path, action): &(&str, FieldAction)| FieldRule {
        path: path.split('.').map(str::to_owned).collect(),
        action: *action,
    };
    let app = app(|config| config.privacy.fields = rules.iter().map(rule).collect());
    event_data(value, &mut Anonymiser::new(&app)).into_owned()
}

#[test]
fn drops_at_a_path_through_arrays_and_literal_dots() {
    for (value, expected) in [
        (r#"{"profile":{"email":"x","n":1}}"#, r#"{"profile":{"n":1}}"#),
        (r#"{ "profile" : { "n" : [1, 2] , "em\u0061il" : "x" } }"#, r#"{"profile":{"n":[1, 2]}}"#),
        (r#"{"profile.email":"x","profile":{}}"#, r#"{"profile":{}}"#),
        (r#"{"profile":[{"email":"x"},[{"email":"y","a":1}],7]}"#, r#"{"profile":[{},[{"a":1}],7]}"#),
        (r#"{"profile":{"email":{"deep":["x"]}}}"#, r#"{"profile":{}}"#),
        (r#"{"email":"x","profile":{"emails":"y"},"profile.emai":1,"profil":2}"#, {
            r#"{"email":"x","profile":{"emails":"y"},"profile.emai":1,"profil":2}"#
        }),
        (r#"{"profile":"x"}"#, r#"{"profile":"x"}"#),
        ("{}", "{}"),
    ] {
        assert_eq!(apply(&[("profile.email", FieldAction::Drop)], value), expected, "{value}");
    }
}

#[test]
fn three_levels_are_found_however_the_dots_fall() {
    for value in [
        r#"{"a":{"b":{"c":"x"}}}"#,
        r#"{"a.b":{"c":"x"}}"#,
        r#"{"a":{"b.c":"x"}}"#,
        r#"{"a.b.c":"x"}"#,
        r#"{"a":[{"b.c":["x"]}]}"#,
    ] {
        let out = apply(&[("a.b.c", FieldAction::Hash)], value);
        assert!(!out.contains("\"x\"") && out.contains("f1_"), "{out}");
    }
}

#[test]
fn truncates_text_and_removes_what_has_no_shorter_form() {
    for (value, expected) in [
        (r#"{"x":"Lovelace"}"#, r#"{"x":"L"}"#),
        (r#"{"x":"203.0.113.77"}"#, r#"{"x":"203.0.113.0"}"#),
        (r#"{"x":["Ada","Bob",null,5,["Eve"]]}"#, r#"{"x":["A","B",null,["E"]]}"#),
        (r#"{"x":4915112345,"y":1}"#, r#"{"y":1}"#),
        (r#"{"y":1,"x":true}"#, r#"{"y":1}"#),
        (r#"{"x":{"name":"Ada"}}"#, "{}"),
        (r#"{"x":null}"#, r#"{"x":null}"#),
        (r#"{"x":"\"quoted"}"#, r#"{"x":"\""}"#),
    ] {
        assert_eq!(apply(&[("x", FieldAction::Truncate)], value), expected, "{value}");
    }
}

#[test]
fn hashes_by_value_and_not_by_spelling() {
    let hash = |value: &str| apply(&[("x", FieldAction::Hash)], &format!("{{\"x\":{value}}}"));
    assert_eq!(hash(r#"{"a":1,"b":2.0}"#), hash(r#"{ "b":2,"\u0061":1 }"#));
    assert_eq!(hash("42"), hash("42.0"));
    assert_ne!(hash("42"), hash("43"));
    assert_eq!(hash(r#"["p","q"]"#).matches("f1_").count(), 2);
    assert_eq!(hash("null"), r#"{"x":null}"#);
}

#[test]
fn encrypts_any_value_so_that_it_can_be_opened() {
    let app = app(|_| {});
    for (value, opened) in [
        (r#""ada@example.com""#, r#""ada@example.com""#),
        ("4.20", "4.2e0"),
        (r#"{"b":[1],"a":true}"#, r#"{"a":true,"b":[1]}"#),
    ] {
        let out = apply(&[("p.x", FieldAction::Encrypt)], &format!("{{\"p\":{{\"x\":{value}}}}}"));
        let out: Value = serde_json::from_str(&out).unwrap();
        let sealed = out["p"]["x"].as_str().unwrap();
        let open = |path| open_field(&app.config.app, &app.privacy_keys, path, sealed);
        assert_eq!(open("p.x").as_deref(), Ok(opened));
        assert!(open("p.y").is_err());
    }
}

#[test]
fn the_strictest_of_several_rules_wins_whatever_their_order() {
    use FieldAction::{Drop, Encrypt, Hash, Truncate};
    let value = r#"{"x":"secret"}"#;
    for (one, other, expected) in
        [(Truncate, Encrypt, "e1_"), (Encrypt, Hash, "f1_"), (Hash, Drop, "{}"), (Truncate, Drop, "{}")]
    {
        for rules in [[("x", one), ("x", other)], [("x", other), ("x", one)]] {
            assert!(apply(&rules, value).contains(expected));
        }
    }
    assert_eq!(apply(&[("x.y", Drop), ("x", Truncate)], r#"{"x":{"y":1}}"#), "{}");
}

/// Removes what `path` names; the plain way, on a tree.
fn dropped(value: Value, path: &str) -> Value {
    match value {
        Value::Array(elements) => elements.into_iter().map(|element| dropped(element, path)).collect(),
        Value::Object(members) => {
            let kept = members.into_iter().filter(|(key, _)| key != path).map(|(key, value)| {
                let rest = path.strip_prefix(&format!("{key}.")).map(str::to_owned);
                let value = rest.map_or(value.clone(), |rest| dropped(value, &rest));
                (key, value)
            });
            Value::Object(kept.collect())
        }
        other => other,
    }
}

fn trees() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), Just(Value::from(7)), Just(Value::from("text \\ \"é"))];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let key = proptest::sample::select(vec!["a", "b", "c", "a.b", "b.c", "a.b.c", "ab", "\"\n"]);
        let members = proptest::collection::btree_map(key.prop_map(str::to_owned), inner.clone(), 0..4);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Value::Array),
            members.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn drops_what_a_plain_walk_over_the_tree_drops(tree in trees(), path in "[abc](\\.[abc]){0,2}") {
        let out = apply(&[(&path, FieldAction::Drop)], &tree.to_string());
        prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), dropped(tree, &path));
    }

    #[test]
    fn a_rule_that_names_nothing_changes_nothing(tree in trees()) {
        let out = apply(&[("z", FieldAction::Drop)], &tree.to_string());
        prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), tree.clone());
        let text = tree.to_string();
        prop_assert_eq!(apply(&[], &text), text);
    }
}
