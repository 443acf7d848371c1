//! The generated files are what this code generates, CRDs stay small, and every golden configuration loads.

#![expect(clippy::unwrap_used, reason = "a fixture that does not hold should end the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use millrace_crds::compile::canonical;
use millrace_crds::config::{AccessConfig, AppConfig};
use millrace_crds::crd::CRD_BYTES_MAX;
use millrace_crds::generated::{self, CHART_CRDS, CRDS, EXAMPLES, Example, GOLDEN};
use millrace_crds::manifest::{self, Source};
use millrace_crds::validate;

/// Longest golden file in lines; a longer one tells more than one story.
const GOLDEN_LINES_MAX: usize = 200;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn examples() -> Vec<Example> {
    let source = |path: PathBuf| Source { name: name(&path), text: fs::read_to_string(path).unwrap() };
    let folders = entries(&root().join(EXAMPLES));
    folders
        .into_iter()
        .map(|dir| Example { name: name(&dir), sources: entries(&dir).into_iter().map(source).collect() })
        .collect()
}

#[test]
fn committed_files_are_what_the_code_generates() {
    let files = generated::files(&examples()).unwrap();
    for (path, text) in &files {
        let committed = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(committed == *text, "`{path}` is not current; run `make generate`");
    }
    let generated: BTreeSet<&str> = files.keys().map(String::as_str).collect();
    for folder in [CRDS, CHART_CRDS] {
        for path in entries(&root().join(folder)) {
            let path = format!("{folder}/{}", name(&path));
            assert!(generated.contains(path.as_str()), "nothing generates `{path}`; remove it");
        }
    }
}

#[test]
fn definitions_fit_into_the_annotation_of_kubectl_apply() {
    for (name, text) in generated::crds() {
        assert!(text.len() < CRD_BYTES_MAX, "{name} has {} bytes", text.len());
    }
}

#[test]
fn the_chart_keeps_every_definition_when_it_goes_and_leaves_helm_no_template_of_ours() {
    let files = generated::chart_crds();
    assert_eq!(files.len(), 4);
    for (name, text) in files {
        assert!(text.contains("  annotations:\n    helm.sh/resource-policy: keep\n"), "{name}");
        assert!(!text.replace(r#"{{ "{{" }}"#, "").contains("{{"), "{name}");
    }
}

#[test]
fn every_golden_configuration_loads() {
    let files = entries(&root().join(GOLDEN));
    assert!(files.len() >= 3, "{files:?}");
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() < GOLDEN_LINES_MAX, "{} is too long to be read", path.display());
        let same = |read: String| {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(read, canonical(&value), "{}", path.display());
        };
        if name(&path).ends_with("-access.json") {
            same(canonical(&serde_json::from_str::<AccessConfig>(&text).unwrap()));
        } else {
            same(canonical(&serde_json::from_str::<AppConfig>(&text).unwrap()));
        }
    }
}

#[test]
fn every_example_is_read_without_problems_or_leftovers_and_explains_itself() {
    for example in examples() {
        let parsed = manifest::parse(&example.sources);
        assert_eq!(parsed.problems, vec![], "{}", example.name);
        assert_eq!(validate::set(&parsed), vec![], "{}", example.name);
        assert_eq!(parsed.notes, vec![], "{}", example.name);
        assert!(!parsed.apps.is_empty(), "{}", example.name);
        for source in &example.sources {
            assert!(
                source.text.starts_with("# "),
                "{} of {} opens without a word",
                source.name,
                example.name
            );
        }
    }
}
