//! Every type against what fits, what does not, and the edges between.

use proptest::prelude::*;

use super::*;

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// Shows the outcome as a person would write it.
fn check(kind: PropertyType, cases: &[(&str, &str)]) {
    for (json, expected) in cases {
        let shown = match parse_property(kind, &raw(json)) {
            Ok(PropertyValue::String(text)) => text,
            Ok(PropertyValue::Integer(value)) => value.to_string(),
            Ok(PropertyValue::Float(value)) => value.to_string(),
            Ok(PropertyValue::Decimal(value)) => value.to_string(),
            Ok(PropertyValue::Boolean(value)) => value.to_string(),
            Ok(PropertyValue::Timestamp(value)) => value.to_string(),
            Err(misfit) => misfit.to_string(),
        };
        assert_eq!(&shown, expected, "{kind:?} {json}");
    }
}

#[test]
fn a_string_is_text_and_nothing_else() {
    check(
        PropertyType::String,
        &[
            (r#""plan""#, "plan"),
            (r#""""#, ""),
            (r#""a\"\u00e9\n""#, "a\"é\n"),
            ("7", "it is a number, not text"),
            ("true", "it is a boolean, not text"),
            ("[]", "it is an array, not text"),
            ("{}", "it is an object, not text"),
            ("null", "it is null"),
        ],
    );
}

#[test]
fn an_integer_is_any_notation_of_a_whole_number_of_64_bits() {
    check(
        PropertyType::Integer,
        &[
            ("7", "7"),
            ("-0", "0"),
            ("3.0", "3"),
            ("1.2e1", "12"),
            ("9223372036854775807", "9223372036854775807"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("9223372036854775808", "it is out of range for an integer"),
            ("1e400", "it is out of range for an integer"),
            ("1.5", "it is a fraction, not an integer"),
            ("1e-20", "it is a fraction, not an integer"),
            ("1.0000000001", "it is a fraction, not an integer"),
            (r#""7""#, "it is text, not an integer"),
        ],
    );
}

#[test]
fn a_float_is_a_finite_number() {
    check(
        PropertyType::Float,
        &[
            ("0.1", "0.1"),
            ("1e3", "1000"),
            ("1e999", "it is out of range for a number"),
            (r#""NaN""#, "it is text, not a number"),
        ],
    );
}

#[test]
fn a_decimal_is_exact_to_nine_digits_after_the_point() {
    check(
        PropertyType::Decimal,
        &[
            ("19.99", "19.99"),
            (r#""19.99""#, "19.99"),
            (r#"" 19.99 ""#, "19.99"),
            ("-3", "-3"),
            ("-0", "0"),
            ("-0.000000001", "-0.000000001"),
            ("1.5e3", "1500"),
            ("15e-1", "1.5"),
            ("1E+2", "100"),
            ("0.30000000000000004", "0.3"),
            ("0.0000000005", "0"),
            ("0.0000000015", "0.000000002"),
            ("0.0000000025", "0.000000002"),
            ("0.00000000250000001", "0.000000003"),
            ("4e-10", "0"),
            ("9e-10", "0.000000001"),
            ("1e-999999999999999999999", "0"),
            ("0e99999999999999999999", "0"),
            ("99999999999999999999999999999.999999999", "99999999999999999999999999999.999999999"),
            ("99999999999999999999999999999.9999999999", "it is out of range for a decimal"),
            ("100000000000000000000000000000", "it is out of range for a decimal"),
            ("1e28", "10000000000000000000000000000"),
            ("1e29", "it is out of range for a decimal"),
            ("1e999999999999999999999", "it is out of range for a decimal"),
            (r#""""#, "it is other text, not a decimal"),
            (r#""1,5""#, "it is other text, not a decimal"),
            (r#""1.""#, "it is other text, not a decimal"),
            (r#""+1""#, "it is other text, not a decimal"),
            (r#""1e""#, "it is other text, not a decimal"),
            (r#""NaN""#, "it is other text, not a decimal"),
            ("true", "it is a boolean, not a decimal"),
        ],
    );
}

#[test]
fn a_boolean_is_true_or_false() {
    check(
        PropertyType::Boolean,
        &[
            ("true", "true"),
            ("false", "false"),
            ("1", "it is a number, not a boolean"),
            (r#""true""#, "it is text, not a boolean"),
        ],
    );
}

#[test]
fn a_timestamp_is_rfc_3339_text_or_epoch_milliseconds_that_the_column_holds() {
    check(
        PropertyType::Timestamp,
        &[
            ("1700000000000", "1700000000000"),
            (r#""2023-11-14T22:13:20Z""#, "1700000000000"),
            (r#""2023-11-14T23:13:20.123456+01:00""#, "1700000000123"),
            ("-2208988800000", "-2208988800000"),
            ("-2208988800001", "it is out of range for a timestamp"),
            ("10413791999999", "10413791999999"),
            ("10413792000000", "it is out of range for a timestamp"),
            (r#""2023-11-14""#, "it is other text, not a timestamp"),
            (r#""yesterday""#, "it is other text, not a timestamp"),
            ("[]", "it is an array, not a timestamp"),
        ],
    );
}

#[test]
fn null_and_absent_are_the_same_and_escaped_names_are_found() {
    let data = raw(r#"{"a": null, "b\u0063": 1, "nested": {"x": 2}}"#);
    let properties = Properties::of(Some(&data));
    assert!(properties.get("a").is_none());
    assert!(properties.get("x").is_none());
    assert_eq!(properties.get("bc").unwrap().get(), "1");
    assert!(Properties::of(Some(&raw("[1]"))).get("a").is_none());
    assert!(Properties::of(None).get("a").is_none());
}

proptest! {
    #[test]
    fn a_decimal_survives_its_own_text(scaled in -99_999_999_999_999_999_999_999_999_999_999_999_999_i128..=99_999_999_999_999_999_999_999_999_999_999_999_999) {
        let decimal = Decimal(scaled);
        prop_assert_eq!(Decimal::parse(&decimal.to_string()), Some(decimal));
    }

    #[test]
    fn a_decimal_is_read_from_any_text_without_a_panic(text in "[-+0-9.eE]{0,60}") {
        let _outcome = Decimal::parse(&text);
    }
}
