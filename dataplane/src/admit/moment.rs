//! A moment as clients write it in, UTC epoch milliseconds out: RFC 3339 text, or whole milliseconds.
//! Finer fractions are cut off: milliseconds are what is stored.

use jiff::Timestamp;

use super::text::string_of;

/// 2000-01-01T00:00:00Z. Earlier moments come from clocks that were never set.
pub(crate) const OLDEST_MS: i64 = 946_684_800_000;
/// How far ahead of the server a corrected moment may be: a day, for clocks set to local time.
pub(crate) const AHEAD_MS_MAX: i64 = 24 * 60 * 60 * 1000;
/// Years 1 to 9999, so that arithmetic on moments cannot overflow.
const REPRESENTABLE_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// The moment in a raw JSON value; none where it is neither of the two forms.
pub(crate) fn parse(value: &str) -> Option<i64> {
    let milliseconds = match string_of(value) {
        Some(text) => rfc3339(&text)?,
        None => value.parse().ok()?,
    };
    REPRESENTABLE_MS.contains(&milliseconds).then_some(milliseconds)
}

/// The client's moment by our clock: what its clock showed at sending is what ours showed on receipt.
pub(crate) fn correct_skew(timestamp: i64, sent_at: i64, received_at: i64) -> i64 {
    received_at - (sent_at - timestamp)
}

/// Only the form of RFC 3339; jiff alone would also take other forms of ISO 8601 and zone names.
fn rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (date_time, rest) = bytes.split_at_checked(19)?;
    let fraction = match rest.first() {
        Some(b'.') => 1 + rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => 0,
    };
    let is_rfc3339 = matches(date_time, b"0000-00-00T00:00:00")
        && fraction != 1
        && match &rest[fraction..] {
            [b'Z' | b'z'] => true,
            [b'+' | b'-', offset @ ..] => matches(offset, b"00:00"),
            _ => false,
        };
    if !is_rfc3339 {
        return None;
    }
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

/// `0` in the form stands for a digit, `T` for the separator (also `t` and a space), anything else for itself.
fn matches(text: &[u8], form: &[u8]) -> bool {
    text.len() == form.len()
        && text.iter().zip(form).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            b'T' => matches!(byte, b'T' | b't' | b' '),
            _ => byte == form,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rfc_3339_and_whole_milliseconds() {
        for (value, expected) in [
            (r#""2026-01-02T03:04:05Z""#, 1_767_323_045_000),
            (r#""2026-01-02t03:04:05.678901z""#, 1_767_323_045_678),
            (r#""2026-01-02 03:04:05.6+02:00""#, 1_767_315_845_600),
            (r#""2026-01-02T03:04:05-00:00""#, 1_767_323_045_000),
            (r#""2016-12-31T23:59:60Z""#, 1_483_228_799_000),
            ("1767323045678", 1_767_323_045_678),
            ("0", 0),
            ("-1", -1),
        ] {
            assert_eq!(parse(value), Some(expected), "{value}");
        }
    }

    #[test]
    fn refuses_anything_else() {
        for value in [
            r#""2026-01-02""#,
            r#""2026-01-02T03:04:05""#,
            r#""2026-02-30T03:04:05Z""#,
            r#""2026-01-02T25:04:05Z""#,
            r#""2026-01-02T03:04:05.Z""#,
            r#""2026-01-02T03:04:05+02:00[Europe/Paris]""#,
            r#""20260102T030405Z""#,
            r#""+002026-01-02T03:04:05Z""#,
            r#""1767323045678""#,
            r#""""#,
            "1767323045678.5",
            "1.7e12",
            "99999999999999999",
            "true",
            "{}",
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
    }

    #[test]
    fn a_clock_that_is_wrong_by_years_still_gives_the_right_moment() {
        let (sent_at, received_at) = (60_000, 1_767_323_045_000);
        assert_eq!(correct_skew(sent_at - 5_000, sent_at, received_at), received_at - 5_000);
    }
}
