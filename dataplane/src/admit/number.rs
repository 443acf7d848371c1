//! Numbers of JSON, by their text: what shape they have, and whether the database will keep them exactly.
//!
//! An integer must fit 64 bits, signed or unsigned. A number with a fraction or an exponent becomes a 64-bit
//! float; it may have up to 17 significant digits, since so many identify every float and no program prints more
//! for one, and it must not overflow nor fall below the smallest normal float, where digits are lost silently.

use super::json::{Fault, Syntax};

/// Digits that always tell two 64-bit floats apart.
const SIGNIFICANT_DIGITS_MAX: usize = 17;
/// A number of so few characters, without an exponent, is kept by a 64-bit float and, if whole, by an i64.
const EXACT_DIGITS: usize = 15;
/// Up to here every integer is a 64-bit float: 2^53.
const FLOAT_INTEGER_MAX: u64 = 1 << 53;

/// Which kinds of numbers stand in an array, its nested arrays included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    float: bool,
    wide_integer: bool,
}

impl Numbers {
    /// Both together.
    pub(crate) fn with(self, other: Self) -> Self {
        Self { float: self.float | other.float, wide_integer: self.wide_integer | other.wide_integer }
    }

    /// ClickHouse infers one type for an array, `Array(Float64)` here, and would round the wide integers.
    pub(crate) fn cannot_share_an_array(self) -> bool {
        self.float && self.wide_integer
    }
}

/// Extent and kind of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Length of its text.
    pub(crate) bytes: usize,
    pub(crate) kind: Kind,
}

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Integer,
    Fraction,
    Exponent,
}

/// Reads the number at the start of `text` by the grammar of RFC 8259, section 6.
pub(crate) fn shape(text: &[u8]) -> Result<Shape, Syntax> {
    let mut at = usize::from(text.first() == Some(&b'-'));
    at = match text.get(at) {
        Some(b'0') => at + 1,
        _ => digits(text, at)?,
    };
    let mut kind = Kind::Integer;
    if text.get(at) == Some(&b'.') {
        kind = Kind::Fraction;
        at = digits(text, at + 1)?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        kind = Kind::Exponent;
        at += 1;
        if let Some(b'+' | b'-') = text.get(at) {
            at += 1;
        }
        at = digits(text, at)?;
    }
    Ok(Shape { bytes: at, kind })
}

/// The end of the digits that start at `from`; there must be one.
fn digits(text: &[u8], from: usize) -> Result<usize, Syntax> {
    let count = text[from.min(text.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    match (count, text.get(from)) {
        (0, Some(_)) => Err(Syntax::Unexpected),
        (0, None) => Err(Syntax::End),
        _ => Ok(from + count),
    }
}

/// Whether a well-formed number will be kept, and what it means for an array around it.
pub(crate) fn judge(text: &str, kind: Kind) -> (Numbers, Option<Fault>) {
    let float = Numbers { float: true, ..Numbers::default() };
    match kind {
        Kind::Integer => judge_integer(text),
        Kind::Fraction if text.len() <= EXACT_DIGITS => (float, None),
        Kind::Fraction | Kind::Exponent => (float, float_fault(text)),
    }
}

fn judge_integer(text: &str) -> (Numbers, Option<Fault>) {
    if text.len() <= EXACT_DIGITS {
        return (Numbers::default(), None);
    }
    let magnitude = match (text.parse::<i64>(), text.parse::<u64>()) {
        (Ok(signed), _) => signed.unsigned_abs(),
        (_, Ok(unsigned)) => unsigned,
        _ => return (Numbers::default(), Some(Fault::IntegerTooLarge)),
    };
    (Numbers { wide_integer: magnitude > FLOAT_INTEGER_MAX, ..Numbers::default() }, None)
}

fn float_fault(text: &str) -> Option<Fault> {
    let significant = significant_digits(text);
    if significant > SIGNIFICANT_DIGITS_MAX {
        return Some(Fault::TooManyDigits);
    }
    if significant == 0 {
        return None;
    }
    match text.parse::<f64>() {
        Ok(float) if float.is_infinite() => Some(Fault::NumberTooLarge),
        Ok(float) if float.abs() < f64::MIN_POSITIVE => Some(Fault::NumberTooSmall),
        Ok(_) => None,
        Err(_) => Some(Fault::NumberTooLarge),
    }
}

/// Digits of the mantissa without the zeros around them.
fn significant_digits(text: &str) -> usize {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let count = |digits: &str| digits.bytes().filter(u8::is_ascii_digit).count();
    let from_first = mantissa.trim_start_matches(['-', '0', '.']);
    count(from_first.trim_end_matches(['0', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<Fault>) {
        let shape = shape(text.as_bytes()).unwrap();
        assert_eq!(shape.bytes, text.len(), "{text}");
        assert_eq!(judge(text, shape.kind).1, expected, "{text}");
    }

    #[test]
    fn keeps_integers_of_64_bits_and_refuses_wider_ones() {
        for kept in ["0", "-0", "7", "9223372036854775807", "-9223372036854775808", "18446744073709551615"] {
            check(kept, None);
        }
        for refused in ["18446744073709551616", "-9223372036854775809", "100000000000000000000000000"] {
            check(refused, Some(Fault::IntegerTooLarge));
        }
    }

    #[test]
    fn keeps_fractions_a_float_can_hold_and_refuses_what_it_would_change() {
        let kept = [
            "0.0",
            "-0.0",
            "0e999999",
            "19.99",
            "1E5",
            "1e308",
            "5.000000000000000000000000",
            "0.10000000000000001",
        ];
        for kept in kept.into_iter().chain(["2.2250738585072014e-308", "1e22", "0.000000000000000000001"]) {
            check(kept, None);
        }
        for refused in ["1e309", "-1e309", "1e99999999999999999999"] {
            check(refused, Some(Fault::NumberTooLarge));
        }
        for refused in ["1e-400", "-1e-400", "2e-320"] {
            check(refused, Some(Fault::NumberTooSmall));
        }
        for refused in ["0.123456789012345678", "123456789012345678.5", "1.00000000000000000001"] {
            check(refused, Some(Fault::TooManyDigits));
        }
    }

    #[test]
    fn reads_the_grammar_and_nothing_more() {
        for (text, bytes) in [("1,", 1), ("-0.5e+3]", 7), ("01", 1), ("1.5.5", 3), ("1e5e", 3)] {
            assert_eq!(shape(text.as_bytes()).unwrap().bytes, bytes, "{text}");
        }
        for text in ["-", "-a", "1.", "1.e5", "1e", "1e+", "+1", ".5", ""] {
            assert!(shape(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn any_float_that_a_program_prints_is_kept() {
        proptest::proptest!(|(float in proptest::num::f64::NORMAL)| {
            for text in [format!("{float:?}"), format!("{float:e}"), format!("{float:.16e}")] {
                let shape = shape(text.as_bytes()).unwrap();
                proptest::prop_assert_eq!(judge(&text, shape.kind).1, None, "{}", text);
            }
        });
    }
}
