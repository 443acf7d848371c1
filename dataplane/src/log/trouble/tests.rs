//! When a bad state is new, and how long it stands.

use super::*;

#[test]
fn a_state_is_new_once_and_stands_until_it_is_met_no_more() {
    let mut standing = Standing::default();
    let begin = Instant::now();
    assert!(standing.note(Trouble::Refused, "raw", "no".to_owned(), begin));
    assert!(!standing.note(Trouble::Refused, "raw", "still no".to_owned(), begin + STANDS / 2));
    assert!(standing.note(Trouble::Refused, "seen", "no".to_owned(), begin + STANDS / 2));
    let text = standing.text(begin + STANDS).unwrap();
    assert!(text.contains("refused (raw): still no; check the account"), "{text}");
    assert_eq!(standing.text(begin + 2 * STANDS), None);
    assert!(standing.note(Trouble::Refused, "raw", "no".to_owned(), begin + 2 * STANDS));
}

#[test]
fn more_than_can_be_kept_are_not_kept() {
    let mut standing = Standing::default();
    let now = Instant::now();
    for n in 0..2 * STANDING_MAX {
        standing.note(Trouble::TopicMissing, &n.to_string(), String::new(), now);
    }
    assert_eq!(standing.0.len(), STANDING_MAX);
}
