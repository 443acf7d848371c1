//! Tidiness as a test: what a machine can check of the project's own rules, over the files as they are.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a file that cannot be read fails them")]

use std::fs;
use std::path::{Path, PathBuf};

/// Files that decide. They take clock, random source and ids as arguments and touch nothing outside.
/// A folder stands for every file below it.
const PURE: &[&str] = &[
    "crds/src",
    "dataplane/src/access.rs",
    "dataplane/src/admit.rs",
    "dataplane/src/admit",
    "dataplane/src/cluster/choose.rs",
    "dataplane/src/cluster/offer.rs",
    "dataplane/src/cluster/secrets.rs",
    "dataplane/src/ledger/balance.rs",
    "dataplane/src/ledger/book.rs",
    "dataplane/src/ledger/sum.rs",
    "dataplane/src/ledger/tally.rs",
    "dataplane/src/ledger/watch.rs",
    "dataplane/src/ledger/audit/explain.rs",
    "dataplane/src/ledger/reconcile/open.rs",
    "dataplane/src/load/block.rs",
    "dataplane/src/load/cells.rs",
    "dataplane/src/load/intent.rs",
    "dataplane/src/load/native.rs",
    "dataplane/src/load/row.rs",
    "dataplane/src/load/row",
    "dataplane/src/load/target.rs",
    "dataplane/src/log/trouble.rs",
    "dataplane/src/member.rs",
    "dataplane/src/process/decide.rs",
    "dataplane/src/process/property.rs",
    "dataplane/src/query.rs",
    "dataplane/src/query",
    "dataplane/src/record.rs",
    "dataplane/src/record",
    "operator/src/app/place.rs",
    "operator/src/app/volumes.rs",
    "operator/src/fields/owners.rs",
    "operator/src/namespace/access.rs",
    "operator/src/namespace/plan.rs",
    "operator/src/namespace/planes.rs",
    "operator/src/namespace/pods.rs",
    "operator/src/namespace/read.rs",
    "operator/src/namespace/resolved.rs",
    "operator/src/poller/schedule.rs",
    "operator/src/workloads.rs",
    "operator/src/workloads",
];

/// Names that would make a pure file impure.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "std::env::",
    "std::thread",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "SystemTime",
    "new_v4",
    "rand::",
    "reqwest::",
    "hyper::",
    "axum::",
    "fjall::",
    "println!",
];

/// Longest file, tests apart: past this it usually tells two stories.
const LINES_MAX: usize = 500;

/// Words that are not the product's: left-overs of work, or paths of a machine.
const STRAY: &[&str] =
    &["TODO", "FIXME", "HACK", "unimplemented!", "todo!(", "dbg!(", "/root/", "/work/", "/home/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// Every file below `folder` whose name ends so, the build output apart.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", ".git", ".cache", "node_modules"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// The lines of a Rust file up to its inline tests, comments apart, with their numbers.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn pure_files_name_no_clock_random_source_or_io() {
    let mut problems = Vec::new();
    for place in PURE {
        let path = root().join(place);
        assert!(path.exists(), "`{place}` is listed as pure and does not exist");
        let inside = if path.is_dir() { files(&path, &[".rs"]) } else { vec![path] };
        for file in inside.iter().filter(|file| !file.ends_with("tests.rs")) {
            let text = fs::read_to_string(file).unwrap();
            for (number, line) in code_lines(&text) {
                for word in IMPURE.iter().filter(|word| line.contains(*word)) {
                    problems.push(format!("{}:{number} is pure and names `{word}`", relative(file)));
                }
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent: Vec<_> = files(&root(), &[".rs"])
        .iter()
        .filter(|file| !file.ends_with("tests.rs")) // its parent says it
        .filter(|file| !fs::read_to_string(file).unwrap().starts_with("//!"))
        .map(|file| format!("{} does not open with `//!`", relative(file)))
        .collect();
    assert_none(&silent);
}

#[test]
fn no_file_holds_two_stories() {
    let long: Vec<_> = files(&root(), &[".rs"])
        .iter()
        .filter(|file| !relative(file).contains("/tests"))
        .filter_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
            (lines > LINES_MAX).then(|| format!("{} has {lines} lines", relative(file)))
        })
        .collect();
    assert_none(&long);
}

#[test]
fn no_error_text_repeats_its_source() {
    let mut problems = Vec::new();
    for file in files(&root(), &[".rs"]) {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in code_lines(&text).filter(|(_, line)| line.contains("#[error(")) {
            if line.contains("{source") || line.contains("{0}") && text.contains("#[from]") {
                problems.push(format!("{}:{number} prints its source: {}", relative(&file), line.trim()));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn no_stray_words_or_machine_paths() {
    let mut problems = Vec::new();
    for file in files(&root(), &[".rs", ".md", ".yaml", ".toml", ".sh", "Makefile"]) {
        if file.ends_with("e2e/tests/tidy.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for (index, line) in text.lines().enumerate() {
            for word in STRAY.iter().filter(|word| line.contains(*word)) {
                problems.push(format!("{}:{} holds `{word}`", relative(&file), index + 1));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut problems = Vec::new();
    for file in files(&root(), &[".md"]) {
        let text = fs::read_to_string(&file).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            if path.contains("://") {
                continue;
            }
            let linked = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            if !linked.exists() {
                problems.push(format!("{} links to `{target}`, which does not exist", relative(&file)));
            } else if !anchor.is_empty() && !anchors(&linked).contains(&anchor.to_owned()) {
                problems
                    .push(format!("{} links to `{target}`, and there is no such heading", relative(&file)));
            }
        }
    }
    assert_none(&problems);
}

/// Anchors of a document's headings, as the usual renderers make them.
fn anchors(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|letter| letter.is_alphanumeric() || *letter == ' ' || *letter == '-')
                .map(|letter| if letter == ' ' { '-' } else { letter })
                .collect()
        })
        .collect()
}
