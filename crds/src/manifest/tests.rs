use super::*;
use crate::validate;

fn source(name: &str, text: &str) -> Source {
    Source { name: name.to_owned(), text: text.to_owned() }
}

fn parse_one(text: &str) -> Parsed {
    parse(&[source("f.yaml", text)])
}

fn problems(text: &str) -> Vec<String> {
    let parsed = parse_one(text);
    let mut all = parsed.problems.clone();
    all.extend(validate::set(&parsed));
    all.iter().map(ToString::to_string).collect()
}

const APP: &str = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\n";

#[test]
fn reads_every_kind_from_every_source() {
    let policy = "apiVersion: millrace.dev/v1alpha1\nkind: RolePolicy\nmetadata: {name: p}\nspec: {}\n";
    let hook = "apiVersion: millrace.dev/v1alpha1\nkind: Integration\nmetadata: {name: i}\nspec: {webhook: {url: \
                https://x, signingSecretRef: {name: s, key: k}}}\n";
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: v}\n";
    let parsed = parse(&[
        source("a", &format!("{APP}spec: {{}}\n---\n{policy}")),
        source("b", &format!("{hook}---\n{secret}")),
    ]);
    assert_eq!(parsed.problems, vec![]);
    let counts =
        (parsed.apps.len(), parsed.role_policies.len(), parsed.integrations.len(), parsed.secrets.len());
    assert_eq!(counts, (1, 1, 1, 1));
    assert_eq!(parsed.secrets[0].place, Place { file: "b".to_owned(), document: 2, line: Some(6) });
}

#[test]
fn reads_json_and_lists_too() {
    let list = "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"millrace.dev/v1alpha1\",\n\
                \"kind\": \"App\", \"metadata\": {\"name\": \"shop\"},\n\"spec\": {\"ingset\": {}}}]}";
    let found = problems(list);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].starts_with("f.yaml:3 (document 1): App default/shop: spec.ingset: unknown field"),
        "{found:?}"
    );
}

#[test]
fn names_file_document_line_and_field() {
    let text = format!("# a shop\n---\n{APP}spec:\n  storage:\n    retention: 1h\n---\n{APP}spec: {{}}\n");
    let found = problems(&text);
    assert!(
        found.contains(
            &"f.yaml:8 (document 1): App default/shop: spec.storage.retention: `1h` is not between 1d and 3650d; \
              choose a value between"
                .to_owned()
        ),
        "{found:#?}"
    );
    assert!(
        found.iter().any(|line| line.contains("given twice, first at f.yaml:3 (document 1)")),
        "{found:#?}"
    );
}

#[test]
fn one_broken_document_does_not_hide_another() {
    let text = format!("{APP}spec: {{\n---\n{APP}spec: {{}}\n---\na: b: c\n");
    let parsed = parse_one(&text);
    assert_eq!((parsed.apps.len(), parsed.problems.len()), (1, 2));
    let places: Vec<_> =
        parsed.problems.iter().map(|p| p.source.clone().unwrap()).map(|p| (p.document, p.line)).collect();
    assert_eq!(places[1], (3, Some(11)));
    assert_eq!(places[0].0, 1);
}

#[test]
fn reports_every_fault_of_a_document_once() {
    let text = format!("{APP}spec:\n  ingset: {{}}\n  storage: {{retention: 5}}\n  deletionPolicy: Keep\n");
    let found = problems(&text);
    assert_eq!(found.len(), 3, "{found:#?}");
    let typed = format!("{APP}spec:\n  ingset: {{}}\n  rollout: {{percent: 0}}\n");
    let found = problems(&typed);
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn finds_slips_in_metadata_and_at_the_top() {
    let found = problems(
        "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop, lables: {}}\nspce: {}\n",
    );
    for wanted in ["did you mean `labels`?", "did you mean `spec`?", "spec: is missing"] {
        assert!(found.iter().any(|line| line.contains(wanted)), "{wanted}: {found:#?}");
    }
}

#[test]
fn tells_slips_in_kinds_from_resources_of_others() {
    for (head, expected) in [
        (
            "apiVersion: millrace.dev/v1alpha1\nkind: Ap\n",
            "kind: kind `Ap` is not known; did you mean `App`?",
        ),
        ("apiVersion: millrace.dev/v1\nkind: App\n", "apiVersion: version `millrace.dev/v1` is not known"),
        ("kind: App\n", "`apiVersion` or `kind` is missing"),
        ("- 1\n", "`apiVersion` or `kind` is missing"),
    ] {
        let found = problems(head);
        assert!(found.len() == 1 && found[0].contains(expected), "{head}: {found:#?}");
    }
    let parsed = parse_one("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n");
    assert_eq!((parsed.problems.len(), parsed.notes.len()), (0, 1));
}

#[test]
fn treats_a_field_with_nothing_behind_it_as_absent() {
    let parsed = parse_one(&format!("{APP}spec:\n  ingest:\n  connections:\n  storage:\n    retention:\n"));
    assert_eq!(parsed.problems, vec![]);
    assert_eq!(parsed.apps[0].spec, crate::app::AppSpec::default());
}

#[test]
fn checks_that_named_secrets_can_be_used() {
    let app = format!(
        "{APP}spec:\n  ingest:\n    writeKeys:\n      - name: web\n        secretRef: {{name: keys, key: web}}\n      \
         - name: server\n        secretRef: {{name: keys, key: server}}\n"
    );
    let secret = |labels: &str, data: &str| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: keys, labels: {labels}}}\nstringData: {data}\n"
        )
    };
    let (label, good) =
        ("{millrace.dev/app-use: \"true\"}", "{web: 0123456789abcdef, server: fedcba9876543210}");
    for (secret, expected) in [
        (secret(label, good), vec![]),
        (String::new(), vec!["there is no Secret `keys`", "there is no Secret `keys`"]),
        (secret("{}", good), vec!["not labelled", "not labelled"]),
        (secret("{millrace.dev/app-use: \"yes\"}", good), vec!["not labelled", "not labelled"]),
        (secret(label, "{web: 0123456789abcdef}"), vec!["has no key `server`"]),
        (secret(label, "{web: 0123456789abcdef, server: short}"), vec!["must have 16 to 256"]),
        (secret(label, "{web: 0123456789abcdef, server: 0123456789abcdef}"), vec!["is the same key as"]),
    ] {
        let found = problems(&format!("{app}{secret}"));
        assert_eq!(found.len(), expected.len(), "{secret}: {found:#?}");
        for (line, wanted) in found.iter().zip(&expected) {
            assert!(line.contains(wanted) && line.starts_with("f.yaml:"), "{line}");
            assert!(!line.contains("0123456789abcdef"), "{line}");
        }
    }
}

#[test]
fn checks_names_between_resources() {
    let policy = "---\napiVersion: millrace.dev/v1alpha1\nkind: RolePolicy\nmetadata: {name: p}\nspec:\n  apps:\n    \
                  names: [blog]\n  bindings:\n    - role: gest\n      subjects: [{issuer: local, email: a@b.c}]\n";
    let found = problems(&format!("{APP}spec: {{}}\n{policy}"));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("f.yaml:11") && found[0].contains("no App `blog`"), "{found:#?}");
    assert!(found[1].starts_with("f.yaml:13") && found[1].contains("no role `gest`"), "{found:#?}");
}

#[test]
fn refuses_a_source_that_is_too_large() {
    let parsed = parse_one(&"#".repeat(SOURCE_BYTES_MAX + 1));
    assert_eq!(parsed.problems.len(), 1);
}

#[test]
fn says_in_one_line_what_is_wrong_with_yaml() {
    for text in ["a: [1", "a: 'x", "a: 1\na: 2", "a: *b"] {
        let found = problems(text);
        assert!(found.len() == 1 && !found[0].contains('\n'), "{text:?}: {found:?}");
        assert!(found[0].starts_with("f.yaml:") && found[0].contains("is not valid YAML"), "{found:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_gives_an_answer(text in "[ -~\n]{0,200}", cut in 0_usize..200) {
        let _ = parse_one(&text);
        let valid = format!("{APP}spec: {{events: {{conversions: [a, b]}}}}\n---\n{APP}spec: {{}}\n");
        let _ = problems(&valid[..cut.min(valid.len())]);
    }
}
