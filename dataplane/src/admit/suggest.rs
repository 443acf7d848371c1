//! A name nobody knows in, a sentence with the nearest known one out. Names only; no values pass here.

/// Names other products use, and what we call them.
const ALIASES: [(&str, &str); 10] = [
    ("event", "event_type"),
    ("name", "event_type"),
    ("type", "event_type"),
    ("properties", "event_data"),
    ("props", "event_data"),
    ("data", "event_data"),
    ("payload", "event_data"),
    ("distinct_id", "user_id"),
    ("message_id", "event_id"),
    ("campaign", "attribution"),
];
/// Longest name that is repeated to the sender; with the alphabet below no personal value passes for a name.
const NAME_CHARS_MAX: usize = 64;

/// Describes the member `name` of the object at `prefix` (empty, or ending in a dot), which `known` does not have.
pub(crate) fn describe_unknown(prefix: &str, name: &str, known: &[&'static str]) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(is_plain) {
        let place = if prefix.is_empty() { "the event" } else { prefix.trim_end_matches('.') };
        return format!("a field of {place} whose name is not a plain word");
    }
    match nearest(name, known) {
        Some(known) => format!("`{prefix}{name}` (did you mean `{prefix}{known}`?)"),
        None => format!("`{prefix}{name}`"),
    }
}

fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let alias = ALIASES.iter().find(|(alias, _)| plain(alias) == plain(name)).map(|(_, known)| *known);
    alias.filter(|alias| known.contains(alias)).or_else(|| {
        let (distance, closest) =
            known.iter().map(|known| (distance(&plain(name), &plain(known)), *known)).min()?;
        (distance <= 2 && distance * 2 < closest.len()).then_some(closest)
    })
}

/// Levenshtein distance, one row at a time.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, left) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, right) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["event_type", "event_data", "user_id", "ip"];

    #[test]
    fn names_the_nearest_known_field() {
        for (name, expected) in [
            ("userId", "`userId` (did you mean `user_id`?)"),
            ("user_ids", "`user_ids` (did you mean `user_id`?)"),
            ("event_tpye", "`event_tpye` (did you mean `event_type`?)"),
            ("properties", "`properties` (did you mean `event_data`?)"),
            ("messageId", "`messageId`"),
            ("id", "`id`"),
            ("colour", "`colour`"),
        ] {
            assert_eq!(describe_unknown("", name, &KNOWN), expected);
        }
        assert_eq!(describe_unknown("consent.", "verison", &["version"]), {
            "`consent.verison` (did you mean `consent.version`?)"
        });
    }

    #[test]
    fn never_repeats_a_name_that_could_be_a_value() {
        for name in ["ada@example.com", "", "Ada Lovelace", &"x".repeat(65), "+49 151"] {
            assert_eq!(
                describe_unknown("", name, &KNOWN),
                "a field of the event whose name is not a plain word"
            );
        }
        assert_eq!(
            describe_unknown("consent.", "a b", &KNOWN),
            "a field of consent whose name is not a plain word"
        );
    }

    #[test]
    fn distance_counts_single_edits() {
        for (one, other, expected) in
            [("", "", 0), ("abc", "abc", 0), ("abc", "ac", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }
}
