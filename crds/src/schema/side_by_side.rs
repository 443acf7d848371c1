//! Two definitions in, one text with two columns out: what is there on the left, what is wanted on the right.

use std::fmt;

/// One line of the comparison. An empty side means the line is missing there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// As it is.
    pub found: String,
    /// As it is wanted.
    pub wanted: String,
    /// Whether this line is why it was refused.
    pub conflict: bool,
}

const FOUND: &str = "in ClickHouse";
const WANTED: &str = "wanted";

/// Pairs the lines of both sides by key, in the order wanted; what only exists on the left comes last.
pub(super) fn align(
    found: &[(String, String)],
    wanted: &[(String, String)],
    conflicts: &[String],
) -> Vec<Line> {
    let at = |side: &[(String, String)], key: &str| {
        side.iter().find(|(k, _)| k == key).map(|(_, line)| line.clone()).unwrap_or_default()
    };
    let line = |key: &String| Line {
        found: at(found, key),
        wanted: at(wanted, key),
        conflict: conflicts.contains(key),
    };
    let only_found = found.iter().filter(|(key, _)| !wanted.iter().any(|(k, _)| k == key));
    wanted.iter().chain(only_found).map(|(key, _)| line(key)).collect()
}

/// Writes the two columns; `!` marks the lines that are in the way.
pub(super) fn write(f: &mut fmt::Formatter<'_>, lines: &[Line]) -> fmt::Result {
    let width = |text: &String| text.chars().count();
    let left = lines.iter().map(|line| width(&line.found)).max().unwrap_or(0).max(FOUND.len());
    writeln!(f, "  {FOUND:left$} | {WANTED}")?;
    writeln!(f, "  {:-<left$}-+-{:-<left$}", "", "")?;
    for Line { found, wanted, conflict } in lines {
        let mark = if *conflict { '!' } else { ' ' };
        writeln!(f, "{mark} {found:left$} | {wanted}")?;
    }
    Ok(())
}
