//! The CRDs are what an API server takes: structural, documented throughout, within the cost of CEL. And where CEL
//! refuses an object, `validate` does too, at the same field.

#![expect(clippy::unwrap_used, reason = "a fixture that does not hold should end the test")]

mod corpus;

use corpus::corpus;
use kube_cel::{ScopeContext, Validator, WarningKind, analyze_rule, compile_schema};
use millrace_crds::app::{App, AppSpec};
use millrace_crds::crd;
use millrace_crds::integration::{Integration, IntegrationSpec};
use millrace_crds::problem::Problem;
use millrace_crds::role_policy::{RolePolicy, RolePolicySpec};
use millrace_crds::validate;
use serde_json::{Value, json};

/// Calls `visit` with every schema node and its path.
fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(field, &format!("{path}.{name}"), visit);
    }
    for keyword in ["items", "additionalProperties"] {
        if schema[keyword].is_object() {
            walk(&schema[keyword], &format!("{path}[]"), visit);
        }
    }
}

fn each_node(visit: &mut dyn FnMut(&str, &Value)) {
    for definition in crd::all() {
        walk(&crd::schema(&definition), &definition.spec.names.kind, visit);
    }
}

#[test]
fn every_schema_is_structural() {
    each_node(&mut |path, node| {
        let preserves = node["x-kubernetes-preserve-unknown-fields"] == true;
        assert!(node["type"].is_string() || preserves, "{path} has no type: {node}");
        assert!(node.get("$ref").is_none(), "{path} refers elsewhere");
        assert!(node.get("nullable").is_none(), "{path} is nullable");
        for choice in ["oneOf", "anyOf", "allOf", "not"] {
            assert!(node.get(choice).is_none(), "{path} has {choice}");
        }
        if node["properties"].is_object() {
            assert!(node.get("additionalProperties").is_none(), "{path} has both kinds of properties");
        }
        assert!(node["format"].as_str().is_none_or(|f| !f.starts_with('u')), "{path}: {}", node["format"]);
    });
}

#[test]
fn every_field_is_documented() {
    let mut fields = 0;
    each_node(&mut |path, node| {
        for (name, field) in node["properties"].as_object().into_iter().flatten() {
            let text = field["description"].as_str().unwrap_or_default();
            assert!(text.ends_with('.') || text.contains('\n'), "{path}.{name} says {text:?}");
            fields += 1;
        }
    });
    assert!(fields > 100, "only {fields} fields were visited");
}

#[test]
fn everything_is_bounded() {
    each_node(&mut |path, node| {
        let in_status = path.contains(".status");
        let bounded = match node["type"].as_str() {
            Some("array") => node["maxItems"].is_u64(),
            Some("string") => node["maxLength"].is_u64() || node["enum"].is_array(),
            Some("integer") => node["maximum"].is_number() || node["format"] == "int64",
            Some("object") if node["additionalProperties"].is_object() => node["maxProperties"].is_u64(),
            _ => true,
        };
        // Conditions come from Kubernetes; labels are bounded there.
        assert!(bounded || in_status || path.ends_with("matchLabels[]"), "{path} has no bound: {node}");
    });
}

#[test]
fn every_pattern_compiles_and_has_words_for_people() {
    each_node(&mut |path, node| {
        let Some(pattern) = node["pattern"].as_str() else { return };
        assert!(regex::Regex::new(pattern).is_ok(), "{path}: {pattern}");
        assert!(
            !pattern.contains(r"\s") && pattern.starts_with('^') && pattern.ends_with('$'),
            "{path}: {pattern}"
        );
        assert!(millrace_crds::pattern::explain(pattern).is_some(), "{path}: {pattern}");
    });
}

#[test]
fn every_rule_compiles_has_a_message_and_is_cheap() {
    let mut rules = 0;
    each_node(&mut |path, node| {
        let compiled = compile_schema(node);
        assert!(!compiled.has_errors(), "{path}: {:?}", compiled.compilation_errors());
        for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let text = rule["rule"].as_str().unwrap();
            assert!(rule["message"].is_string(), "{path}: `{text}` has no message");
            let mut warnings = analyze_rule(text, &compiled, ScopeContext::CrdValidation);
            // The analysis takes the variables of `all` and `filter` for free ones; the corpus below runs each rule.
            warnings.retain(|warning| warning.kind != WarningKind::WrongScope);
            assert!(warnings.is_empty(), "{path}: {warnings:?}");
            rules += 1;
        }
    });
    assert!(rules >= 20, "only {rules} rules were visited");
}

#[test]
fn definitions_say_how_they_are_listed_and_that_nobody_has_looked_yet() {
    for definition in crd::all() {
        let names = &definition.spec.names;
        assert_eq!(names.categories.as_deref(), Some(&["millrace".to_owned()][..]), "{}", names.kind);
        assert_eq!(names.short_names.as_ref().map(Vec::len), Some(1), "{}", names.kind);
        assert_eq!(definition.spec.scope, "Namespaced");
        let version = &definition.spec.versions[0];
        let columns = version.additional_printer_columns.as_ref().unwrap();
        assert_eq!(columns.last().unwrap().name, "Age");
        let has_status = version.subresources.as_ref().is_some_and(|s| s.status.is_some());
        assert_eq!(has_status, names.kind != "Revision");
        let default = crd::schema(&definition)["properties"]["status"]["default"].clone();
        assert_eq!(default, if has_status { json!({"observedGeneration": -1}) } else { Value::Null });
    }
}

#[test]
fn settings_of_an_installation_are_not_written_into_objects() {
    let all = crd::all();
    let spec = &crd::schema(&all[0])["properties"]["spec"]["properties"];
    for pointer in
        ["/topics", "/ingest/properties/maxBodyBytes", "/ingest/properties/dialects", "/connections"]
    {
        let field = spec.pointer(pointer).unwrap();
        assert!(field.get("default").is_none(), "{pointer}: {field}");
        assert!(
            field["description"].as_str().unwrap().contains("bsent means") || pointer == "/topics",
            "{pointer}"
        );
    }
    for (pointer, default) in [
        ("/events/properties/dedupeWindow", json!("24h")),
        ("/storage/properties/retention", json!("730d")),
        ("/privacy/properties/userIds", json!("Hash")),
        ("/privacy/properties/deviceIds", json!("Encrypt")),
        ("/privacy/properties/ip", json!("Truncate")),
        ("/dataplane/properties/placement", json!("Shared")),
        ("/rollout/properties/percent", json!(100)),
        ("/deletionPolicy", json!("Retain")),
    ] {
        assert_eq!(spec.pointer(pointer).unwrap()["default"], default, "{pointer}");
    }
}

/// Messages of the CEL rules that refuse `document`, with defaults filled in as the API server does.
fn refused_by_cel(kind: &str, document: &Value, old: Option<&Value>) -> Vec<String> {
    let definition = crd::all().into_iter().find(|d| d.spec.names.kind == kind).unwrap();
    let schema = crd::schema(&definition);
    let result = Validator::new().validate_with_defaults(&schema, document, old);
    result.err().into_iter().flat_map(|errors| errors.into_vec()).map(|error| error.message).collect()
}

fn problems(kind: &str, name: &str, spec: &Value) -> Vec<Problem> {
    match kind {
        "App" => {
            let spec: AppSpec = serde_json::from_value(spec.clone()).unwrap();
            validate::app(&App::new(name, spec))
        }
        "Integration" => {
            let spec: IntegrationSpec = serde_json::from_value(spec.clone()).unwrap();
            validate::integration(&Integration::new(name, spec))
        }
        "RolePolicy" => {
            let spec: RolePolicySpec = serde_json::from_value(spec.clone()).unwrap();
            validate::role_policy(&RolePolicy::new(name, spec))
        }
        _ => panic!("no validate for {kind}"),
    }
}

#[test]
fn validate_gives_the_same_verdict_as_cel() {
    for (kind, name, spec, expected) in corpus() {
        let document =
            json!({"apiVersion": crd::API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec});
        let refused = refused_by_cel(kind, &document, None);
        let found = problems(kind, name, &spec);
        assert_eq!(
            refused.is_empty(),
            found.is_empty(),
            "{kind} {name} {spec}\nCEL: {refused:?}\nvalidate: {found:#?}"
        );
        assert_eq!(refused.is_empty(), expected.is_empty(), "{kind} {name} {spec}: {refused:?}");
        if !expected.is_empty() {
            assert!(refused.iter().any(|message| message.contains(expected)), "{expected}: {refused:?}");
        }
    }
}

#[test]
fn every_rule_is_broken_by_some_object() {
    let mut broken: Vec<String> = corpus()
        .into_iter()
        .flat_map(|(kind, name, spec, _)| {
            let document = json!({"metadata": {"name": name}, "spec": spec});
            refused_by_cel(kind, &document, None)
        })
        .collect();
    broken.extend(refused_by_cel("Revision", &revision("{}"), Some(&revision("[]"))));
    each_node(&mut |path, node| {
        for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().unwrap().to_owned();
            assert!(broken.contains(&message), "{path}: nothing breaks `{message}`");
        }
    });
}

fn revision(config: &str) -> Value {
    let spec = json!({"sequence": 1, "format": "v1", "rollout": {"percent": 100}, "config": config});
    json!({"apiVersion": crd::API_VERSION, "kind": "Revision", "metadata": {"name": "shop-1"}, "spec": spec})
}

#[test]
fn a_revision_never_changes() {
    assert_eq!(refused_by_cel("Revision", &revision("{}"), Some(&revision("{}"))), Vec::<String>::new());
    let refused = refused_by_cel("Revision", &revision("{}"), Some(&revision("[]")));
    assert!(refused[0].contains("never changes"), "{refused:?}");
}
