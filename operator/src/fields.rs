//! Fields of two objects in, an answer out: whether one says all that the other does, and what server-side apply would
//! make of them. Pure; knows which lists Kubernetes merges by a key and which it replaces.

use std::borrow::Cow;

use kube::core::DynamicObject;
use serde_json::{Map, Value};

pub(crate) mod owners;

/// How Kubernetes treats a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// Items are the same where these fields are; others' items stay beside ours.
    Keyed(&'static [&'static str]),
    /// A set of scalars; others' values stay beside ours.
    Set,
    /// One value: ours or another's.
    Atomic,
}

/// Kinds with a pod template; the lists of all others are atomic unless named in [`list`].
const WITH_PODS: [&str; 3] = ["Deployment", "StatefulSet", "Pod"];

fn list(kind: &str, field: &str) -> List {
    match field {
        "ownerReferences" => List::Keyed(&["uid"]),
        "finalizers" => List::Set,
        "conditions" => List::Keyed(&["type"]),
        "ports" if kind == "Service" => List::Keyed(&["port", "protocol"]),
        "imagePullSecrets" | "secrets" if kind == "ServiceAccount" => List::Keyed(&["name"]),
        _ if WITH_PODS.contains(&kind) => of_pod(field),
        _ => List::Atomic,
    }
}

fn of_pod(field: &str) -> List {
    match field {
        "containers" | "initContainers" | "ephemeralContainers" | "env" | "volumes" | "imagePullSecrets" => {
            List::Keyed(&["name"])
        }
        "ports" => List::Keyed(&["containerPort", "protocol"]),
        "volumeMounts" => List::Keyed(&["mountPath"]),
        "volumeDevices" => List::Keyed(&["devicePath"]),
        "hostAliases" => List::Keyed(&["ip"]),
        "topologySpreadConstraints" => List::Keyed(&["topologyKey", "whenUnsatisfiable"]),
        _ => List::Atomic,
    }
}

/// Where a value stands: the kind of the object and the nearest named fields above it.
#[derive(Clone, Copy)]
struct Place<'a> {
    kind: &'a str,
    parent: &'a str,
    field: &'a str,
}

impl<'a> Place<'a> {
    fn below(self, field: &'a str) -> Self {
        Self { kind: self.kind, parent: self.field, field }
    }

    /// Whether the API server rewrites the text here: `1000m` becomes `1`.
    fn is_quantity(self) -> bool {
        matches!(self.parent, "limits" | "requests")
            || matches!(self.field, "sizeLimit" | "averageValue" | "divisor")
    }
}

/// An object as one tree of fields, without what the server alone writes.
pub(crate) fn tree(object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).expect("an object has text keys and no failing field");
    for field in ["resourceVersion", "uid", "generation", "creationTimestamp", "managedFields", "selfLink"] {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove(field);
        }
    }
    value
}

/// Whether `stored` says everything that `intent` says. What the server or others added is no difference, except in
/// lists that Kubernetes takes as one value; `null`, absent and empty are the same.
pub(crate) fn contains(kind: &str, stored: &Value, intent: &Value) -> bool {
    holds(Place { kind, parent: "", field: "" }, stored, intent)
}

fn holds(place: Place<'_>, stored: &Value, intent: &Value) -> bool {
    match (stored, intent) {
        (_, Value::Null) => true,
        (Value::Null, intent) => is_empty(intent),
        (Value::Object(stored), Value::Object(intent)) => intent.iter().all(|(field, intent)| {
            holds(place.below(field), stored.get(field).unwrap_or(&Value::Null), intent)
        }),
        (Value::Array(stored), Value::Array(intent)) => lists_hold(place, stored, intent),
        (Value::String(stored), Value::String(intent)) if place.is_quantity() => {
            stored == intent || quantity(stored).is_some_and(|amount| quantity(intent) == Some(amount))
        }
        (stored, intent) => stored == intent,
    }
}

fn lists_hold(place: Place<'_>, stored: &[Value], intent: &[Value]) -> bool {
    match list(place.kind, place.field) {
        List::Keyed(keys) => intent.iter().all(|wanted| {
            let found = stored.iter().find(|item| same_key(keys, item, wanted));
            found.is_some_and(|found| holds(place, found, wanted))
        }),
        List::Set => intent.iter().all(|wanted| stored.contains(wanted)),
        List::Atomic => {
            stored.len() == intent.len()
                && stored.iter().zip(intent).all(|(stored, intent)| holds(place, stored, intent))
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn same_key(keys: &[&str], a: &Value, b: &Value) -> bool {
    keys.iter().all(|key| key_part(key, a) == key_part(key, b))
}

fn key_part<'a>(key: &str, item: &'a Value) -> Cow<'a, Value> {
    match item.get(key) {
        None | Some(Value::Null) if key == "protocol" => Cow::Owned(Value::from("TCP")),
        None => Cow::Owned(Value::Null),
        Some(value) => Cow::Borrowed(value),
    }
}

/// A quantity in billionths; `None` for what is none.
pub(crate) fn quantity(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '-' | '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor: i128 = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => BILLION,
        "k" => BILLION * 1_000,
        "M" => BILLION * 1_000_000,
        "G" => BILLION * 1_000_000_000,
        "T" => BILLION * 1_000_000_000_000,
        "P" => BILLION * 1_000_000_000_000_000,
        "E" => BILLION * 1_000_000_000_000_000_000,
        "Ki" => BILLION << 10,
        "Mi" => BILLION << 20,
        "Gi" => BILLION << 30,
        "Ti" => BILLION << 40,
        "Pi" => BILLION << 50,
        "Ei" => BILLION << 60,
        exponent => return scientific(number, exponent),
    };
    let (sign, number) = number.strip_prefix('-').map_or((1, number), |number| (-1, number));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}").parse::<i128>().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    // The server rounds up to a billionth too.
    digits.checked_mul(factor).map(|amount| sign * ((amount + scale - 1) / scale))
}

const BILLION: i128 = 1_000_000_000;

fn scientific(number: &str, exponent: &str) -> Option<i128> {
    let power = exponent.strip_prefix(['e', 'E'])?.parse::<u32>().ok()?;
    quantity(number)?.checked_mul(10_i128.checked_pow(power)?)
}

/// What server-side apply makes of an object: what the manager's last intent had and this one has not goes, the rest of
/// the intent is laid over what is there.
pub(crate) fn apply(kind: &str, stored: &mut Value, last: &Value, intent: &Value) {
    let top = Place { kind, parent: "", field: "" };
    withdraw(top, stored, last, intent);
    merge(top, stored, intent);
}

fn withdraw(place: Place<'_>, stored: &mut Value, last: &Value, intent: &Value) {
    match (stored, last) {
        (Value::Object(stored), Value::Object(last)) => {
            for (field, last) in last {
                let wanted = intent.get(field).unwrap_or(&Value::Null);
                withdraw_field(place.below(field), stored, last, wanted);
            }
        }
        (Value::Array(stored), Value::Array(last)) => {
            let wanted = intent.as_array().map_or(&[][..], Vec::as_slice);
            withdraw_items(place, stored, last, wanted);
        }
        _ => {}
    }
}

fn withdraw_field(place: Place<'_>, stored: &mut Map<String, Value>, last: &Value, wanted: &Value) {
    let Some(value) = stored.get_mut(place.field) else { return };
    withdraw(place, value, last, wanted);
    let is_leaf = match last {
        Value::Object(_) => is_empty(value),
        Value::Array(_) => list(place.kind, place.field) == List::Atomic || is_empty(value),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    if wanted.is_null() && is_leaf {
        stored.remove(place.field);
    }
}

fn withdraw_items(place: Place<'_>, stored: &mut Vec<Value>, last: &[Value], wanted: &[Value]) {
    match list(place.kind, place.field) {
        List::Keyed(keys) => {
            let has = |items: &[Value], item: &Value| items.iter().any(|other| same_key(keys, other, item));
            stored.retain(|item| !has(last, item) || has(wanted, item));
            for item in stored {
                let of = |items: &[Value]| items.iter().find(|other| same_key(keys, other, item)).cloned();
                if let (Some(last), Some(wanted)) = (of(last), of(wanted)) {
                    withdraw(place, item, &last, &wanted);
                }
            }
        }
        List::Set => stored.retain(|item| !last.contains(item) || wanted.contains(item)),
        List::Atomic => {}
    }
}

fn merge(place: Place<'_>, stored: &mut Value, intent: &Value) {
    match (stored, intent) {
        (_, Value::Null) => {}
        (Value::Object(stored), Value::Object(intent)) => {
            for (field, intent) in intent.iter().filter(|(_, intent)| !intent.is_null()) {
                merge(place.below(field), stored.entry(field.as_str()).or_insert(Value::Null), intent);
            }
        }
        (stored @ Value::Null, Value::Object(_)) => {
            *stored = Value::Object(Map::new());
            merge(place, stored, intent);
        }
        (Value::Array(stored), Value::Array(intent)) => merge_items(place, stored, intent),
        // The same amount stays in the server's words.
        (stored, intent) if holds(place, stored, intent) => {}
        (stored, intent) => *stored = intent.clone(),
    }
}

fn merge_items(place: Place<'_>, stored: &mut Vec<Value>, intent: &[Value]) {
    match list(place.kind, place.field) {
        List::Keyed(keys) => {
            for wanted in intent {
                match stored.iter_mut().find(|item| same_key(keys, item, wanted)) {
                    Some(item) => merge(place, item, wanted),
                    None => stored.push(wanted.clone()),
                }
            }
        }
        List::Set => {
            let new: Vec<_> = intent.iter().filter(|wanted| !stored.contains(wanted)).cloned().collect();
            stored.extend(new);
        }
        // One value, and yet what stands beside ours in an item are the server's defaults, which come again.
        List::Atomic => {
            let kept = |(n, wanted): (usize, &Value)| {
                let there = stored.get(n).filter(|item| holds(place, item, wanted));
                there.unwrap_or(wanted).clone()
            };
            *stored = intent.iter().enumerate().map(kept).collect();
        }
    }
}

#[cfg(test)]
mod tests;
