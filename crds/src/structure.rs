//! A document against the structural schema of its kind, as the API server checks it: every unknown field, wrong
//! type, missing field, broken bound or pattern is found. Standalone has no API server, so this stands in for it.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use crate::pattern;
use crate::problem::{Path, nearest};

/// One thing wrong with the shape of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field.
    pub path: Path,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub fix: String,
    /// What sort of fault it is.
    pub kind: FaultKind,
}

/// Sorts of faults that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A field that does not exist. A typed object no longer shows it.
    UnknownField,
    /// Anything that the typed object shows too, or that keeps it from being read.
    Value,
}

/// Every fault of `document`, found at `path`, against `schema`.
pub fn faults(schema: &Value, document: &Value, path: &Path) -> Vec<Fault> {
    let mut walk = Walk { faults: Vec::new(), patterns: BTreeMap::new() };
    walk.value(schema, document, path);
    walk.faults
}

/// Removes what the API server removes before it looks: a known field with nothing behind it (`ingest:`), unless it
/// may be null.
pub fn drop_nulls(schema: &Value, document: &mut Value) {
    match document {
        Value::Object(fields) => {
            let Some(known) = schema["properties"].as_object() else { return };
            fields.retain(|name, value| {
                let field = known.get(name);
                !value.is_null() || field.is_none_or(|field| is_true(field, "nullable"))
            });
            for (name, value) in fields {
                if let Some(field) = known.get(name) {
                    drop_nulls(field, value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| drop_nulls(&schema["items"], item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

struct Walk<'s> {
    faults: Vec<Fault>,
    patterns: BTreeMap<&'s str, Regex>,
}

impl<'s> Walk<'s> {
    fn value(&mut self, schema: &'s Value, value: &Value, path: &Path) {
        if value.is_null() && is_true(schema, "nullable") {
            return;
        }
        let Some(expected) = schema["type"].as_str() else { return };
        match (expected, value) {
            ("object", Value::Object(fields)) => self.object(schema, fields, path),
            ("array", Value::Array(items)) => self.array(schema, items, path),
            ("string", Value::String(text)) => self.string(schema, text, path),
            ("integer", Value::Number(number)) if number.is_i64() || number.is_u64() => {
                self.number(schema, number, path);
            }
            ("number", Value::Number(number)) => self.number(schema, number, path),
            ("boolean", Value::Bool(_)) => {}
            _ => self.wrong_type(expected, value, path),
        }
        self.allowed(schema, value, path);
    }

    fn object(&mut self, schema: &'s Value, fields: &Map<String, Value>, path: &Path) {
        let known = schema["properties"].as_object();
        for (name, value) in fields {
            let at = path.field(name);
            if let Some(field) = known.and_then(|known| known.get(name)) {
                self.value(field, value, &at);
            } else if let Some(any) = schema.get("additionalProperties") {
                self.value(any, value, &at);
            } else if let Some(known) = known
                && !is_true(schema, "x-kubernetes-preserve-unknown-fields")
            {
                self.unknown(name, known, &at);
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                self.fault(&path.field(name), "is missing", "add it");
            }
        }
        self.count(schema, fields.len(), path, ("minProperties", "maxProperties", "entries"));
    }

    fn unknown(&mut self, name: &str, known: &Map<String, Value>, at: &Path) {
        let fix = match nearest(name, known.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => {
                format!("known here: {}", known.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
        };
        let message = format!("unknown field `{}`", shown(name));
        self.faults.push(Fault { path: at.clone(), message, fix, kind: FaultKind::UnknownField });
    }

    fn array(&mut self, schema: &'s Value, items: &[Value], path: &Path) {
        self.count(schema, items.len(), path, ("minItems", "maxItems", "elements"));
        for (index, item) in items.iter().enumerate() {
            self.value(&schema["items"], item, &path.index(index));
        }
        match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => {
                self.unique(items, path, |item| Some(text_of(item)));
            }
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array();
                for key in keys.into_iter().flatten().filter_map(Value::as_str) {
                    self.unique(items, path, |item| item.get(key).map(text_of));
                }
            }
            _ => {}
        }
    }

    fn unique(&mut self, items: &[Value], path: &Path, key: impl Fn(&Value) -> Option<String>) {
        let mut seen = BTreeMap::new();
        for (index, item) in items.iter().enumerate() {
            let Some(text) = key(item) else { continue };
            if let Some(first) = seen.get(&text) {
                let message = format!("`{text}` is here twice, first at {}", path.index(*first).as_str());
                self.fault(&path.index(index), message, "remove one or rename it");
            } else {
                seen.insert(text, index);
            }
        }
    }

    fn string(&mut self, schema: &'s Value, text: &str, path: &Path) {
        self.count(schema, text.chars().count(), path, ("minLength", "maxLength", "characters"));
        let Some(wanted) = schema["pattern"].as_str() else { return };
        let regex = self
            .patterns
            .entry(wanted)
            .or_insert_with(|| Regex::new(wanted).expect("patterns of our own schemas compile"));
        if !regex.is_match(text) {
            let must = pattern::explain(wanted).unwrap_or(wanted);
            self.fault(path, format!("`{}` must be {must}", shown(text)), "");
        }
    }

    fn number(&mut self, schema: &Value, number: &serde_json::Number, path: &Path) {
        let bound = |name: &str| schema[name].as_f64();
        let value = number.as_f64().unwrap_or(f64::INFINITY);
        if let Some(least) = bound("minimum").filter(|least| value < *least) {
            self.fault(path, format!("{number} is below the least allowed, {least}"), "raise it");
        }
        if let Some(most) = bound("maximum").filter(|most| value > *most) {
            self.fault(path, format!("{number} is above the most allowed, {most}"), "lower it");
        }
    }

    fn allowed(&mut self, schema: &'s Value, value: &Value, path: &Path) {
        let (Some(allowed), Some(text)) = (schema["enum"].as_array(), value.as_str()) else { return };
        if allowed.contains(value) {
            return;
        }
        let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        let fix = match nearest(text, names.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("use one of {}", names.join(", ")),
        };
        self.fault(path, format!("`{}` is not allowed here", shown(text)), fix);
    }

    fn count(&mut self, schema: &Value, count: usize, path: &Path, words: (&str, &str, &str)) {
        let (least_name, most_name, what) = words;
        let bound = |name: &str| schema[name].as_u64().and_then(|bound| usize::try_from(bound).ok());
        if let Some(least) = bound(least_name).filter(|least| count < *least) {
            self.fault(path, format!("has {count} {what}, the fewest allowed is {least}"), "");
        }
        if let Some(most) = bound(most_name).filter(|most| count > *most) {
            self.fault(path, format!("has {count} {what}, the most allowed is {most}"), "");
        }
    }

    fn wrong_type(&mut self, expected: &str, value: &Value, path: &Path) {
        let found = match value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        };
        let (wanted, fix) = match expected {
            "object" => ("a mapping", "write `key: value` lines below it"),
            "array" => ("a list", "write `- ` before each element"),
            "string" => ("text", "put it in quotes"),
            "integer" => ("a whole number", "write it without quotes or fraction"),
            "boolean" => ("true or false", "write it without quotes"),
            _ => ("a number", "write it without quotes"),
        };
        self.fault(path, format!("must be {wanted}, not {found}"), fix);
    }

    fn fault(&mut self, path: &Path, message: impl Into<String>, fix: impl Into<String>) {
        let (message, fix) = (message.into(), fix.into());
        self.faults.push(Fault { path: path.clone(), message, fix, kind: FaultKind::Value });
    }
}

fn is_true(schema: &Value, keyword: &str) -> bool {
    schema[keyword].as_bool() == Some(true)
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// A value short enough for a message.
fn shown(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    let start: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{start}…")
}

/// Longer values would hide the message around them.
const SHOWN_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::Kind;

    fn found(spec: Value) -> Vec<String> {
        let document = json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "App", "metadata": {"name": "a"},
            "spec": spec});
        faults(Kind::App.schema(), &document, &Path::root(""))
            .into_iter()
            .map(|fault| format!("{}: {}; {}", fault.path.as_str(), fault.message, fault.fix))
            .collect()
    }

    #[test]
    fn accepts_what_the_api_server_accepts() {
        for spec in [
            json!({}),
            json!({"ingest": {"maxBodyBytes": 1024}}),
            json!({"dataplane": {"placement": "Shared"}}),
        ] {
            assert_eq!(found(spec.clone()), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn names_every_fault_with_its_field() {
        for (spec, expected) in [
            (json!({"ingset": {}}), "ingset: unknown field `ingset`; did you mean `ingest`?"),
            (json!({"ingest": []}), "ingest: must be a mapping, not a list"),
            (
                json!({"ingest": {"maxBodyBytes": 1}}),
                "ingest.maxBodyBytes: 1 is below the least allowed, 1024",
            ),
            (json!({"ingest": {"maxBodyBytes": "1"}}), "must be a whole number, not text"),
            (json!({"ingest": {"maxBodyBytes": 2000.5}}), "must be a whole number, not a number"),
            (json!({"ingest": {"rateLimit": {}}}), "ingest.rateLimit.eventsPerSecond: is missing"),
            (json!({"ingest": {"dialects": []}}), "has 0 elements, the fewest allowed is 1"),
            (json!({"ingest": {"dialects": ["natve"]}}), "did you mean `native`?"),
            (json!({"events": {"dedupeWindow": "24"}}), "`24` must be a count and one unit"),
            (json!({"events": {"conversions": ["a", "b", "a"]}}), "conversions[2]: `a` is here twice"),
            (
                json!({"events": {"declared": [{"name": "a"}, {"name": "a"}]}}),
                "declared[1]: `a` is here twice, first at spec.events.declared[0]",
            ),
            (json!({"dashboards": null, "storage": 7}), "storage: must be a mapping, not a number"),
        ] {
            let found = found(spec.clone());
            assert!(found.iter().any(|line| line.contains(expected)), "{spec}: {found:?}");
        }
    }

    #[test]
    fn finds_all_faults_at_once() {
        let spec = json!({"ingset": {}, "events": {"conversions": [1, 2]}, "deletionPolicy": "Keep"});
        assert_eq!(found(spec).len(), 4);
    }

    #[test]
    fn drops_fields_with_nothing_behind_them_but_not_unknown_ones() {
        let spec = json!({"ingest": null, "storage": {"retention": null}, "ingset": null, "events": {"declared": [
            {"name": "a", "properties": null},
        ]}});
        let mut document = json!({"spec": spec});
        drop_nulls(Kind::App.schema(), &mut document);
        let expected = json!({"storage": {}, "ingset": null, "events": {"declared": [{"name": "a"}]}});
        assert_eq!(document["spec"], expected);
    }

    #[test]
    fn shortens_long_values() {
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), SHOWN_CHARS_MAX + 1);
    }
}
