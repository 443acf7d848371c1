//! Two states of an object in, the fields that differ out, as people may see them: no value of a Secret, no digest of a
//! key, nothing that only machines read. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::DynamicObject;
use millrace_crds::labels::{ADMIN_TOKEN, INTENT_ANNOTATION, PEPPER, PRIVACY_KEYS, STATE_TOKEN, WRITE_KEY};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::overlay::said;
use crate::kind::Kind;

/// Longest value shown, in characters; more of it does not help to decide.
const VALUE_CHARS_MAX: usize = 160;
/// Annotations that are written for machines.
const UNSHOWN: [&str; 2] = [INTENT_ANNOTATION, "kubectl.kubernetes.io/last-applied-configuration"];
/// Keys of Secrets whose values the operator makes itself.
const GENERATED: [&str; 5] = [WRITE_KEY, PRIVACY_KEYS, PEPPER, ADMIN_TOKEN, STATE_TOKEN];
/// Stands for a digest of a key.
const DIGEST: &str = "(digest of a key)";
/// Fields that tell items of a list apart, the first that all of them have.
const ITEM_KEYS: [&str; 6] = ["name", "mountPath", "containerPort", "port", "type", "uid"];

/// One field that differs. Absent on one side: added or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Where, such as `spec.template.spec.containers[ingest].image`.
    pub path: String,
    /// What it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it becomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What differs between two states of an object; the status does not count.
pub fn of_objects(kind: Kind, before: &DynamicObject, after: &DynamicObject) -> Vec<FieldChange> {
    let (mut before, mut after) = (shown(before), shown(after));
    let secrets = match kind {
        Kind::Secret => of_secret(Some(&before), &after),
        _ => Vec::new(),
    };
    if kind == Kind::Secret {
        for side in [&mut before, &mut after] {
            if let Some(fields) = side.as_object_mut() {
                fields.remove("data");
                fields.remove("stringData");
            }
        }
    }
    let mut changes = of_values(&before, &after);
    changes.extend(secrets);
    changes
}

/// What an object says to people: no status, and no annotation that is written for machines. Shows values of a Secret.
fn shown(object: &DynamicObject) -> Value {
    let mut value = said(object);
    let annotations = value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    if let Some(annotations) = annotations {
        annotations.retain(|name, _| !UNSHOWN.contains(&name.as_str()));
        if annotations.is_empty()
            && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("annotations");
        }
    }
    value
}

/// What is written into a new object, as people may see it; nothing of a Secret.
pub fn of_new(kind: Kind, object: &DynamicObject) -> Option<Value> {
    let mut value = shown(object);
    if let Some(Value::String(config)) = value.pointer_mut("/spec/config")
        && kind == Kind::Revision
        && let Ok(mut parsed) = serde_json::from_str::<Value>(config)
    {
        hide_digests(&mut parsed);
        *config = parsed.to_string();
    }
    (kind != Kind::Secret).then_some(value)
}

fn hide_digests(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "digest" {
                    *value = DIGEST.into();
                } else {
                    hide_digests(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_digests),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Which values of a Secret differ, in words. Values written as `stringData` count as those of `data`.
pub fn of_secret(before: Option<&Value>, after: &Value) -> Vec<FieldChange> {
    let values = |side: Option<&Value>| {
        let data = side.and_then(|side| side.get("data")).and_then(Value::as_object);
        data.cloned().unwrap_or_default()
    };
    let (old, new) = (values(before), values(Some(after)));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differing = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    let in_words = |name: &String| {
        let word = |is_new: bool| match (is_new, GENERATED.contains(&name.as_str())) {
            (true, true) => "(generated)",
            (true, false) => "(set)",
            (false, true) => "(generated anew)",
            (false, false) => "(other value)",
        };
        let before = old.get(name).map(|_| "(value)".to_owned());
        let after = new.get(name).map(|_| word(before.is_none()).to_owned());
        FieldChange { path: format!("data.{name}"), before, after }
    };
    differing.map(in_words).collect()
}

/// What differs between two compiled configurations. Digests of keys are named and not shown.
pub fn of_configs(before: &str, after: &str) -> Vec<FieldChange> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let mut changes = of_values(&parse(before), &parse(after));
    for change in &mut changes {
        if change.path.ends_with(".digest") || change.path.contains(".writeKeys.") {
            for side in [&mut change.before, &mut change.after] {
                *side = side.as_ref().map(|_| DIGEST.to_owned());
            }
        }
    }
    changes
}

/// What differs between two values.
pub fn of_values(before: &Value, after: &Value) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    walk("", before, after, &mut changes);
    changes
}

fn walk(path: &str, before: &Value, after: &Value, changes: &mut Vec<FieldChange>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let side =
                    |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                walk(&below(path, name), &side(old), &side(new), changes);
            }
        }
        (Value::Array(old), Value::Array(new)) => match (keyed(old), keyed(new)) {
            (Some(old), Some(new)) => {
                let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
                for key in keys {
                    let side = |items: &BTreeMap<String, &Value>| {
                        items.get(key).copied().cloned().unwrap_or_default()
                    };
                    walk(&format!("{path}[{key}]"), &side(&old), &side(&new), changes);
                }
            }
            _ => changes.push(change(path, before, after)),
        },
        _ => changes.push(change(path, before, after)),
    }
}

/// Names with dots, such as labels, stay readable in quotes.
fn below(path: &str, name: &str) -> String {
    let name = if name.contains(['.', '/']) { format!("\"{name}\"") } else { name.to_owned() };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

/// The items of a list by what tells them apart.
fn keyed(items: &[Value]) -> Option<BTreeMap<String, &Value>> {
    let by = |key: &str| -> Option<BTreeMap<String, &Value>> {
        let named = items.iter().map(|item| match item.get(key)? {
            Value::String(text) => Some((text.clone(), item)),
            Value::Number(number) => Some((number.to_string(), item)),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        });
        let found: BTreeMap<_, _> = named.collect::<Option<_>>()?;
        (found.len() == items.len()).then_some(found)
    };
    ITEM_KEYS.into_iter().find_map(by)
}

fn change(path: &str, before: &Value, after: &Value) -> FieldChange {
    let shown = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(shortened(text)),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Some(shortened(&value.to_string()))
        }
    };
    FieldChange { path: path.to_owned(), before: shown(before), after: shown(after) }
}

fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let short: String = chars.by_ref().take(VALUE_CHARS_MAX).collect();
    if chars.next().is_some() { format!("{short}…") } else { short }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: Kind, mut value: Value) -> DynamicObject {
        value["apiVersion"] = kind.resource().api_version.into();
        value["kind"] = kind.as_str().into();
        serde_json::from_value(value).unwrap()
    }

    fn lines(changes: &[FieldChange]) -> Vec<String> {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "∅".to_owned());
        changes.iter().map(|c| format!("{}: {} → {}", c.path, side(&c.before), side(&c.after))).collect()
    }

    #[test]
    fn names_items_of_lists_by_what_tells_them_apart() {
        let pod = |image: &str, args: Value| json!({"containers": [{"name": "a", "image": image, "args": args}, {"name": "b"}]});
        let changes = of_values(&pod("x:1", json!(["p"])), &pod("x:2", json!(["p", "q"])));
        let expected = [r#"containers[a].args: ["p"] → ["p","q"]"#, "containers[a].image: x:1 → x:2"];
        assert_eq!(lines(&changes), expected);
    }

    #[test]
    fn shows_no_value_of_a_secret_and_no_annotation_of_machines() {
        let before = object(
            Kind::Secret,
            json!({"metadata": {"annotations": {INTENT_ANNOTATION: "1"}}, "data": {"a": "aHVzaA==", "b": "b2xk"}}),
        );
        let after = object(
            Kind::Secret,
            json!({"metadata": {"annotations": {INTENT_ANNOTATION: "2"}}, "data": {"a": "aHVzaDI=", "write-key": "bmV3", "c": "Yw=="}}),
        );
        let changes = of_objects(Kind::Secret, &before, &after);
        let expected = [
            "data.a: (value) → (other value)",
            "data.b: (value) → ∅",
            "data.c: ∅ → (set)",
            "data.write-key: ∅ → (generated)",
        ];
        assert_eq!(lines(&changes), expected);
    }

    #[test]
    fn names_digests_without_showing_them() {
        let config =
            |digest: &str| json!({"ingest": {"writeKeys": {"web": {"digest": digest}}}, "n": 1}).to_string();
        let changes = of_configs(&config("0a"), &config("0b"));
        assert_eq!(lines(&changes), ["ingest.writeKeys.web.digest: (digest of a key) → (digest of a key)"]);
    }

    #[test]
    fn shortens_long_values_and_quotes_names_with_dots() {
        let changes = of_values(&json!({"a.b/c": "x"}), &json!({"a.b/c": "y".repeat(1_000)}));
        assert_eq!(changes[0].path, "\"a.b/c\"");
        assert_eq!(changes[0].after.as_ref().unwrap().chars().count(), VALUE_CHARS_MAX + 1);
    }
}
