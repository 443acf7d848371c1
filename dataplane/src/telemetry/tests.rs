//! Request ids from hostile clients.

use super::*;

#[test]
fn takes_only_harmless_request_ids() {
    let fresh = Uuid::from_u128(7);
    let longest = "x".repeat(REQUEST_ID_CHARS_MAX);
    for taken in ["a", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "A_b.9", &longest] {
        assert_eq!(request_id(Some(taken.as_bytes()), || fresh), taken);
    }
    let too_long = "x".repeat(REQUEST_ID_CHARS_MAX + 1);
    let refused: [&[u8]; 8] =
        [b"", b"a b", b"a\nb", b"a/../b", b"<script>", "ü".as_bytes(), b"\xff\xfe", too_long.as_bytes()];
    for refused in refused {
        assert_eq!(request_id(Some(refused), || fresh), fresh.to_string(), "{refused:?}");
    }
    assert_eq!(request_id(None, || fresh), fresh.to_string());
}

#[test]
fn what_goes_on_failing_is_told_at_first_and_then_once_a_minute() {
    let mut failing = Seldom::default();
    assert!(!failing.is_over());
    assert_eq!([failing.again(), failing.again()], [Telling::First, Telling::Not]);
    failing.told = failing.told.and_then(|told| told.checked_sub(TELL_AGAIN));
    assert_eq!([failing.again(), failing.again()], [Telling::Again, Telling::Not]);
    assert!(failing.is_over());
    assert_eq!(failing.again(), Telling::First);
}
