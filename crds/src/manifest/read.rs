//! One document into the resource it is, or into problems.

use std::collections::BTreeMap;

use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::split::Document;
use super::{Manifest, Note, Parsed, secret, tree};
use crate::crd::{API_VERSION, GROUP, Kind};
use crate::problem::{ObjectRef, Path, Place, Problem, nearest};
use crate::structure::{self, Fault, FaultKind};
use crate::validate::object_ref;

/// What is known about a document while it is read.
struct Reading {
    place: Place,
    /// Line in the file of each field, by path.
    lines: BTreeMap<String, u64>,
}

/// A problem of a place.
pub(super) fn problem(
    place: Place,
    object: Option<ObjectRef>,
    path: &str,
    message: impl Into<String>,
    fix: impl Into<String>,
) -> Problem {
    Problem { source: Some(place), object, path: path.to_owned(), message: message.into(), fix: fix.into() }
}

/// Reads one document into `parsed`.
pub(super) fn document(file: &str, document: &Document<'_>, parsed: &mut Parsed) {
    let first_line = document.lines_before + 1;
    let mut place = Place { file: file.to_owned(), document: document.number, line: Some(first_line) };
    match tree::read(document.text) {
        Ok(tree) => {
            let lines = tree.lines.into_iter();
            let lines: BTreeMap<_, _> =
                lines.map(|(path, line)| (path, document.lines_before + line)).collect();
            place.line = lines.values().min().copied().or(place.line);
            object(tree.value, Reading { place, lines }, parsed);
        }
        Err(error) => {
            if let Some(location) = error.location() {
                place.line = Some(document.lines_before + location.line());
            }
            let message = format!("is not valid YAML: {}", one_line(&error.without_snippet().to_string()));
            parsed.problems.push(problem(place, None, "", message, ""));
        }
    }
}

/// Error texts of the parser may span lines; a problem is one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn object(value: Value, reading: Reading, parsed: &mut Parsed) {
    let text = |field: &str| value[field].as_str().map(ToOwned::to_owned);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        let fix = format!("begin with `apiVersion: {API_VERSION}` and `kind: App`");
        let message = "is not a Kubernetes resource: `apiVersion` or `kind` is missing";
        return parsed.problems.push(problem(reading.place, None, "", message, fix));
    };
    match (api_version.as_str(), kind.as_str()) {
        ("v1", "List") => list(value, reading, parsed),
        ("v1", "Secret") => read_secret(&value, reading, parsed),
        (API_VERSION, "App") => read_as(Kind::App, value, reading, parsed, |p| &mut p.apps),
        (API_VERSION, "Integration") => {
            read_as(Kind::Integration, value, reading, parsed, |p| &mut p.integrations)
        }
        (API_VERSION, "RolePolicy") => {
            read_as(Kind::RolePolicy, value, reading, parsed, |p| &mut p.role_policies)
        }
        (API_VERSION, "Revision") => parsed.notes.push(Note {
            place: reading.place,
            message: "Revision left aside: Millrace writes these itself".to_owned(),
        }),
        (version, kind) if version.split('/').next() == Some(GROUP) => {
            parsed.problems.push(unknown_kind(version, kind, reading.place));
        }
        (version, kind) => parsed.notes.push(Note {
            place: reading.place,
            message: format!("{kind} ({version}) left aside: not a resource of Millrace"),
        }),
    }
}

fn unknown_kind(version: &str, kind: &str, place: Place) -> Problem {
    if version != API_VERSION {
        let message = format!("version `{version}` is not known");
        return problem(place, None, "apiVersion", message, format!("write `{API_VERSION}`"));
    }
    let names = Kind::ALL.map(Kind::as_str);
    let fix = match nearest(kind, names) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("use one of {}", names.join(", ")),
    };
    problem(place, None, "kind", format!("kind `{kind}` is not known"), fix)
}

/// Reads the items of a `List` as if each were a document.
fn list(mut value: Value, reading: Reading, parsed: &mut Parsed) {
    let Some(items) = value["items"].as_array_mut() else {
        let message = "a List must have a list of `items`";
        return parsed.problems.push(problem(reading.place, None, "items", message, ""));
    };
    for (index, item) in items.drain(..).enumerate() {
        let prefix = Path::root("items").index(index);
        let own = |(path, line): (&String, &u64)| {
            let path = path.strip_prefix(prefix.as_str())?.strip_prefix('.')?;
            Some((path.to_owned(), *line))
        };
        let lines: BTreeMap<_, _> = reading.lines.iter().filter_map(own).collect();
        let line = reading.lines.get(prefix.as_str()).copied().or(reading.place.line);
        let place = Place { line, ..reading.place.clone() };
        object(item, Reading { place, lines }, parsed);
    }
}

fn read_secret(value: &Value, reading: Reading, parsed: &mut Parsed) {
    let Reading { place, lines } = reading;
    match secret::from_document(value) {
        Ok(object) => parsed.secrets.push(Manifest { object, place, lines }),
        Err(faults) => {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            let namespace =
                value["metadata"]["namespace"].as_str().unwrap_or(crate::names::NAMESPACE_DEFAULT);
            let object = ObjectRef::new("Secret", namespace, name);
            let manifest = Manifest { object, place, lines };
            parsed.problems.extend(faults.into_iter().map(|(path, message, fix)| {
                problem(manifest.locate(&path), Some(manifest.object.clone()), &path, message, fix)
            }));
        }
    }
}

/// Reads a resource of ours. A typed object no longer shows unknown fields, so these are reported here in any case;
/// all other faults only when no typed object comes out, since `validate` finds them in it otherwise.
fn read_as<T: Resource + DeserializeOwned>(
    kind: Kind,
    mut value: Value,
    reading: Reading,
    parsed: &mut Parsed,
    list: fn(&mut Parsed) -> &mut Vec<Manifest<T>>,
) {
    structure::drop_nulls(kind.schema(), &mut value);
    let faults = structure::faults(kind.schema(), &value, &Path::root(""));
    let metadata = serde_json::from_value(value["metadata"].clone()).unwrap_or_default();
    let named = object_ref(kind, &metadata);
    let typed = serde_json::from_value::<T>(value);
    let Reading { place, lines } = reading;
    let located = Manifest { object: (), place, lines };
    let told = |fault: &Fault| {
        let (place, path) = (located.locate(fault.path.as_str()), fault.path.as_str());
        problem(place, Some(named.clone()), path, &*fault.message, &*fault.fix)
    };
    let before = parsed.problems.len();
    let shown = |fault: &&Fault| typed.is_err() || fault.kind == FaultKind::UnknownField;
    parsed.problems.extend(faults.iter().filter(shown).map(told));
    match typed {
        Ok(object) => list(parsed).push(Manifest { object, place: located.place, lines: located.lines }),
        // The schema is at least as strict as the types; should it ever miss something, this still tells.
        Err(error) if parsed.problems.len() == before => {
            parsed.problems.push(problem(located.place.clone(), Some(named), "", error.to_string(), ""));
        }
        Err(_) => {}
    }
}
