//! Whether two keys of a JSON object name the same path once ClickHouse flattens it.
//!
//! ClickHouse 26.5 refuses the whole insert for `{"a.b":1,"a":{"b":2}}`, and with
//! `json_type_escape_dots_in_keys=1` for `{"a%2Eb":1,"a.b":2}`. Both spellings of a dot are read as a level here,
//! so what passes is safe under either setting. Elements of arrays are flattened on their own.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::json::{Scanner, Syntax};

/// What ClickHouse writes for a dot in a key.
const ESCAPED_DOT: &str = "%2E";

/// Whether any path is named twice in the scanned value.
pub(crate) fn collide(value: &str) -> bool {
    let mut found = false;
    // Scanned text cannot fail again.
    let _ = walk(&mut Scanner::new(value), None, &mut found);
    found
}

/// The paths of one object, as a tree: no path is ever spelled out, so a long chain of keys stays cheap.
#[derive(Default)]
struct Paths {
    children: BTreeMap<(usize, String), usize>,
    leaves: Vec<bool>,
}

impl Paths {
    const ROOT: usize = 0;

    fn new() -> Self {
        Self { leaves: vec![false], ..Self::default() }
    }

    /// The node below `node` that `key` names.
    fn descend(&mut self, node: usize, key: &str) -> usize {
        let key =
            if key.contains('%') { Cow::Owned(key.replace(ESCAPED_DOT, ".")) } else { Cow::Borrowed(key) };
        key.split('.').fold(node, |node, level| {
            let next = self.leaves.len();
            let child = *self.children.entry((node, level.to_owned())).or_insert(next);
            if child == next {
                self.leaves.push(false);
            }
            child
        })
    }
}

fn walk(
    scanner: &mut Scanner<'_>,
    place: Option<(&mut Paths, usize)>,
    found: &mut bool,
) -> Result<(), Syntax> {
    match (scanner.peek_value(), place) {
        (Some(b'{'), Some((paths, node))) => members(scanner, paths, node, found),
        (Some(b'{'), None) => members(scanner, &mut Paths::new(), Paths::ROOT, found),
        (kind, place) => {
            if let Some((paths, node)) = place {
                *found |= std::mem::replace(&mut paths.leaves[node], true);
            }
            match kind {
                Some(b'[') => scanner.array(|scanner| walk(scanner, None, found)).map(drop),
                _ => scanner.value().map(drop),
            }
        }
    }
}

fn members(
    scanner: &mut Scanner<'_>,
    paths: &mut Paths,
    node: usize,
    found: &mut bool,
) -> Result<(), Syntax> {
    scanner
        .object(|scanner, key| {
            let child = paths.descend(node, key);
            walk(scanner, Some((&mut *paths, child)), found)
        })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_paths_that_clickhouse_would_see_twice() {
        for value in [
            r#"{"a.b":1,"a":{"b":2}}"#,
            r#"{"a":{"b":2},"a.b":1}"#,
            r#"{"a.b":{"c":1},"a":{"b":{"c":2}}}"#,
            r#"{"a":{"b.c":1},"a.b":{"c":2}}"#,
            r#"{"a%2Eb":1,"a.b":2}"#,
            r#"{"a.b":[],"a":{"b":1}}"#,
            r#"{"x":[[{"a.b":1,"a":{"b":2}}]]}"#,
            r#"{"a\u002eb":1,"a":{"b":2}}"#,
        ] {
            assert!(collide(value), "{value}");
        }
    }

    #[test]
    fn leaves_other_dots_alone() {
        for value in [
            r#"{"a.b":1,"a":{"c":2}}"#,
            r#"{"a.b":{"c":1},"a":{"b":{"d":2}}}"#,
            r#"{"a.b":1,"a":2}"#,
            r#"{"x":[{"a.b":1},{"a":{"b":2}}]}"#,
            r#"{"$screen.width":1,"100%":2,".":3}"#,
        ] {
            assert!(!collide(value), "{value}");
        }
    }
}
