//! A scanned JSON value in, one text for all its spellings out: keys sorted, no whitespace, numbers in one form.
//! It decides event ids and keyed hashes, so it may never change.

use std::borrow::Cow;
use std::fmt::Write;

use super::json::{Scanner, Syntax};

/// Up to here a float that is whole is written as an integer: 2^53.
const WHOLE_FLOAT_MAX: f64 = 9_007_199_254_740_992.0;

/// The canonical text. The value must have been scanned before; a remainder that cannot be read is left out.
pub(crate) fn canonical(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    // Scanned text cannot fail again.
    let _ = write_value(&mut Scanner::new(value), &mut text);
    text
}

/// The value as text: a string without quotes, anything else in canonical form.
pub(crate) fn plain_text(value: &str) -> Cow<'_, str> {
    super::text::string_of(value).unwrap_or_else(|| Cow::Owned(canonical(value)))
}

/// Writes a JSON string with the fewest escapes.
pub(crate) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            control => write!(out, "\\u{control:04x}").expect("writing to a String cannot fail"),
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

fn write_value(scanner: &mut Scanner<'_>, out: &mut String) -> Result<(), Syntax> {
    match scanner.peek_value() {
        Some(b'{') => write_object(scanner, out),
        Some(b'[') => write_array(scanner, out),
        Some(b'"') => {
            write_string(&scanner.string()?.decode(), out);
            Ok(())
        }
        Some(b'-' | b'0'..=b'9') => {
            out.push_str(&number(scanner.value()?));
            Ok(())
        }
        _ => {
            out.push_str(scanner.value()?);
            Ok(())
        }
    }
}

fn write_object(scanner: &mut Scanner<'_>, out: &mut String) -> Result<(), Syntax> {
    let mut members = Vec::new();
    scanner.object(|scanner, key| {
        let mut value = String::new();
        write_value(scanner, &mut value)?;
        members.push((key.to_owned(), value));
        Ok::<_, Syntax>(())
    })?;
    members.sort();
    out.push('{');
    for (index, (key, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(key, out);
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    Ok(())
}

fn write_array(scanner: &mut Scanner<'_>, out: &mut String) -> Result<(), Syntax> {
    out.push('[');
    let mut is_first = true;
    scanner.array(|scanner| {
        if !std::mem::take(&mut is_first) {
            out.push(',');
        }
        write_value(scanner, out)
    })?;
    out.push(']');
    Ok(())
}

/// Integers in decimal; floats in the shortest form that reads back the same, whole ones as integers.
fn number(text: &str) -> String {
    if let Ok(integer) = text.parse::<i64>() {
        return integer.to_string();
    }
    match (text.parse::<u64>(), text.parse::<f64>()) {
        (Ok(integer), _) => integer.to_string(),
        // Adding zero turns -0 into 0.
        (_, Ok(float)) if float.fract() == 0.0 && float.abs() < WHOLE_FLOAT_MAX => {
            format!("{:.0}", float + 0.0)
        }
        (_, Ok(float)) => format!("{float:e}"),
        (_, Err(_)) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_value_have_one_text() {
        for (spellings, expected) in [
            (&[r#"{"b":1,"a":[ 1.0 , 1e0, 1 ]}"#, r#"{ "\u0061":[1,10e-1,1.00],"b":1.0 }"#][..], {
                r#"{"a":[1,1,1],"b":1}"#
            }),
            (&["0", "-0", "0.0", "-0.0", "0e9"], "0"),
            (&["-5", "-5.0", "-50e-1"], "-5"),
            (&["19.99", "1999e-2", "19.990"], "1.999e1"),
            (&["1e300", "10e299"], "1e300"),
            (&["18446744073709551615"], "18446744073709551615"),
            (&[r#""\u00e9\n\/\"\\""#, r#""é\u000a/\"\u005c""#], r#""é\u000a/\"\\""#),
            (&["true", " true "], "true"),
            (&["{}", "{ }"], "{}"),
            (&["null"], "null"),
        ] {
            for spelling in spellings {
                assert_eq!(canonical(spelling), expected, "{spelling}");
            }
        }
    }

    #[test]
    fn different_values_have_different_texts() {
        for (one, other) in
            [("1", "1.5"), (r#""1""#, "1"), ("[1,2]", "[2,1]"), ("{}", "[]"), (r#"{"a":null}"#, "{}")]
        {
            assert_ne!(canonical(one), canonical(other));
        }
    }
}
