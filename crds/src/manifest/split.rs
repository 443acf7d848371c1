//! A YAML stream into its documents. YAML allows `---` and `...` at the start of a line nowhere but between
//! documents, not even inside a block of text, so lines are enough; and one broken document leaves the others whole.

/// One document of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// Number in the stream, from 1; documents without content do not count.
    pub(super) number: usize,
    /// Lines of the stream before it.
    pub(super) lines_before: u64,
    /// Its text, the marker line included.
    pub(super) text: &'a str,
}

/// Every document with content.
pub(super) fn documents(stream: &str) -> Vec<Document<'_>> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let mut parts = Vec::new();
    let (mut start, mut lines_before, mut offset) = (0, 0, 0);
    for (line_number, line) in (0u64..).zip(stream.split_inclusive('\n')) {
        if is_marker(line, "---") {
            parts.push((lines_before, &stream[start..offset]));
            (start, lines_before) = (offset, line_number);
        } else if is_marker(line, "...") {
            parts.push((lines_before, &stream[start..offset]));
            (start, lines_before) = (offset + line.len(), line_number + 1);
        }
        offset += line.len();
    }
    parts.push((lines_before, &stream[start..]));
    let with_content = parts.into_iter().filter(|(_, text)| has_content(text));
    (1..)
        .zip(with_content)
        .map(|(number, (lines_before, text))| Document { number, lines_before, text })
        .collect()
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Comments, blank lines, directives and markers alone are no document.
fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(stream: &str) -> Vec<(usize, u64, &str)> {
        documents(stream).into_iter().map(|d| (d.number, d.lines_before, d.text)).collect()
    }

    #[test]
    fn splits_at_markers_and_keeps_count_of_lines() {
        for (stream, expected) in [
            ("", vec![]),
            ("# only a comment\n---\n# another\n", vec![]),
            ("a: 1", vec![(1, 0, "a: 1")]),
            ("a: 1\n---\nb: 2\n", vec![(1, 0, "a: 1\n"), (2, 1, "---\nb: 2\n")]),
            ("# head\n---\na: 1\n---\n---\nb: 2", vec![(1, 1, "---\na: 1\n"), (2, 4, "---\nb: 2")]),
            ("a: 1\r\n---\r\nb: 2\r\n", vec![(1, 0, "a: 1\r\n"), (2, 1, "---\r\nb: 2\r\n")]),
            ("a: 1\n...\nb: 2\n", vec![(1, 0, "a: 1\n"), (2, 2, "b: 2\n")]),
            ("--- {a: 1}\n--- {b: 2}\n", vec![(1, 0, "--- {a: 1}\n"), (2, 1, "--- {b: 2}\n")]),
            ("\u{feff}a: 1\n", vec![(1, 0, "a: 1\n")]),
        ] {
            assert_eq!(found(stream), expected, "{stream:?}");
        }
    }

    #[test]
    fn leaves_dashes_inside_a_document_alone() {
        for stream in ["a: |\n  ---\n  b\n", "a: ---x\n", "----\n", "key: 'a --- b'\n"] {
            assert_eq!(documents(stream).len(), 1, "{stream:?}");
        }
    }
}
