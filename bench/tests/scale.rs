//! The counters of the operator with sixty Apps on a real API server: what it writes, and that it writes nothing when
//! nothing changed. Times and memory are `make bench`'s and are not looked at here.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails there fails the test")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs the measurement beside an API server of its own, which has this name, and gives its figures.
fn measure(name: &str, arguments: &[&str]) -> Vec<Value> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/cluster/on-api-server");
    let size = ["--apps", "60", "--namespaces", "3", "--output", "json"];
    let instance = format!("{name}-{}", std::process::id());
    let program = env!("CARGO_BIN_EXE_millrace-bench");
    let done = Command::new(beside)
        .env("MILLRACE_CLUSTER", instance)
        .arg(program)
        .arg("operator")
        .args(size)
        .args(arguments)
        .output()
        .unwrap();
    let (figures, words) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let figures: Vec<Value> =
        serde_json::from_str(&figures).unwrap_or_else(|error| panic!("{error}: {figures}\n{words}"));
    assert!(figures.iter().any(|figure| figure["held"] == true), "{figures:?}");
    figures
}

fn check(figures: &[Value]) {
    let missed: Vec<_> =
        figures.iter().filter(|figure| figure["held"] == true && figure["met"] == false).collect();
    assert!(missed.is_empty(), "missed {missed:#?} of {figures:#?}");
}

#[test]
fn sixty_apps_become_ready_with_few_writes_and_an_idle_hour_has_none() {
    check(&measure("scale", &[]));
}

#[test]
fn a_second_operator_takes_over_half_way_without_a_duplicate_or_a_write_in_vain() {
    check(&measure("scale-hand-over", &["--hand-over"]));
}
