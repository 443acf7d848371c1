//! The objects of a data plane are what is committed, and few enough to be read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use millrace_operator::workloads::golden;

/// Longest golden file in lines; a longer one is not read in review.
const LINES_MAX: usize = 200;

#[test]
fn committed_objects_are_what_the_code_makes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = golden::files();
    for (path, text) in &files {
        let committed = fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(committed == *text, "`{path}` is not current; run `make generate`");
        assert!(text.lines().count() <= LINES_MAX, "`{path}` is longer than {LINES_MAX} lines");
    }
    let known: BTreeSet<&str> = files.keys().map(String::as_str).collect();
    for entry in fs::read_dir(root.join(golden::FOLDER)).unwrap() {
        let path = format!("{}/{}", golden::FOLDER, entry.unwrap().file_name().to_string_lossy());
        assert!(known.contains(path.as_str()), "nothing generates `{path}`; remove it");
    }
}
