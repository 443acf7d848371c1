//! A declared property: the JSON text of a value in, the typed value or the reason it does not fit out.
//! Works on the text, never through a 64-bit float, so that `process` (required?) and `load` (which column
//! value?) answer alike and decimals stay exact. Pure.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use millrace_crds::config::PropertyType;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Digits after the point of a [`Decimal`]: the scale of ClickHouse `Decimal(38, 9)`.
pub const DECIMAL_SCALE: u32 = 9;
/// Digits of a [`Decimal`] in all: the precision of ClickHouse `Decimal(38, 9)`.
pub const DECIMAL_DIGITS: u32 = 38;
/// First moment a `DateTime64(3)` column holds: 1900-01-01, in epoch milliseconds.
const TIMESTAMP_MS_MIN: i64 = -2_208_988_800_000;
/// Last moment a `DateTime64(3)` column holds: the end of 2299, in epoch milliseconds.
const TIMESTAMP_MS_MAX: i64 = 10_413_791_999_999;

/// A value that fits its declared type.
#[derive(Clone, Debug, PartialEq)]
pub enum PropertyValue {
    /// Text.
    String(String),
    /// Signed 64-bit integer.
    Integer(i64),
    /// Finite 64-bit float.
    Float(f64),
    /// Exact decimal.
    Decimal(Decimal),
    /// True or false.
    Boolean(bool),
    /// UTC epoch milliseconds.
    Timestamp(i64),
}

/// Why a value does not fit. The text names no value: values may be personal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// `null`, which counts as absent.
    #[error("it is null")]
    Null,
    /// Another kind of JSON value.
    #[error("it is {found}, not {expected}")]
    Kind {
        /// What was found.
        found: &'static str,
        /// What was declared.
        expected: &'static str,
    },
    /// The right kind, but too large, too small or too long for the type.
    #[error("it is out of range for {expected}")]
    Range {
        /// What was declared.
        expected: &'static str,
    },
}

/// A decimal with nine digits after the point, at most 38 in all: the value times 10⁹.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal(i128);

impl Decimal {
    /// Reads a JSON number's text, exponent included. Digits beyond the ninth after the point are below every
    /// currency's smallest unit and come from binary floats (`0.1 + 0.2`), so they are rounded, half to even.
    /// `None`: not a number, or more than 38 digits.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (digits, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let written = whole.len() + fraction.len();
        let is_number = !whole.is_empty()
            && (!mantissa.contains('.') || !fraction.is_empty())
            && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
        if !is_number {
            return None;
        }
        // The digits that end up in front of the scaled value's point; the rest decides the rounding.
        let kept = i64::try_from(whole.len()).ok()? + exponent + i64::from(DECIMAL_SCALE);
        let mut scaled: i128 = 0;
        for (index, byte) in whole.bytes().chain(fraction.bytes()).enumerate() {
            if i64::try_from(index).ok()? >= kept {
                break;
            }
            scaled = scaled.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
        }
        if scaled != 0 {
            let zeros = u32::try_from((kept - i64::try_from(written).ok()?).max(0)).ok()?;
            scaled = scaled.checked_mul(10_i128.checked_pow(zeros)?)?;
        }
        let scaled = scaled.checked_add(rounding(whole, fraction, kept, scaled))?;
        let scaled = if negative { -scaled } else { scaled };
        (scaled.unsigned_abs() < 10_u128.pow(DECIMAL_DIGITS)).then_some(Self(scaled))
    }

    /// The value times 10⁹: what a `Decimal(38, 9)` column stores.
    pub fn scaled(self) -> i128 {
        self.0
    }
}

/// 1 when the digits behind `kept` are more than a half, or a half behind an odd digit; else 0.
fn rounding(whole: &str, fraction: &str, kept: i64, scaled: i128) -> i128 {
    let Ok(kept) = usize::try_from(kept) else { return 0 };
    let mut rest = whole.bytes().chain(fraction.bytes()).skip(kept);
    let Some(first) = rest.next() else { return 0 };
    let beyond_half = rest.any(|b| b != b'0');
    i128::from(first > b'5' || (first == b'5' && (beyond_half || scaled % 2 != 0)))
}

fn parse_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Beyond this every number is zero or out of range; clamping keeps the sums below from overflowing.
    let magnitude = digits.parse::<i64>().unwrap_or(i64::MAX).min(1 << 40);
    Some(if text.starts_with('-') { -magnitude } else { magnitude })
}

impl fmt::Display for Decimal {
    /// The shortest text: `19.99`, `-3`, `0.000000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10_u128.pow(DECIMAL_SCALE);
        let magnitude = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}", magnitude / unit)?;
        let fraction = format!("{:09}", magnitude % unit);
        match fraction.trim_end_matches('0') {
            "" => Ok(()),
            digits => write!(f, ".{digits}"),
        }
    }
}

impl fmt::Debug for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a value as its declared type.
pub fn parse_property(kind: PropertyType, value: &RawValue) -> Result<PropertyValue, Misfit> {
    let json = Json::of(value);
    match kind {
        PropertyType::String => match json {
            Json::String(text) => Ok(PropertyValue::String(text.into_owned())),
            other => Err(other.instead_of("text")),
        },
        PropertyType::Integer => match json {
            Json::Number(text) => integer(text).map(PropertyValue::Integer),
            other => Err(other.instead_of("an integer")),
        },
        PropertyType::Float => match json {
            Json::Number(text) => float(text).map(PropertyValue::Float),
            other => Err(other.instead_of("a number")),
        },
        PropertyType::Decimal => parse_decimal(value).map(PropertyValue::Decimal),
        PropertyType::Boolean => match json {
            Json::Boolean(value) => Ok(PropertyValue::Boolean(value)),
            other => Err(other.instead_of("a boolean")),
        },
        PropertyType::Timestamp => timestamp(json).map(PropertyValue::Timestamp),
    }
}

/// Reads an amount: a JSON number or its text.
pub fn parse_decimal(value: &RawValue) -> Result<Decimal, Misfit> {
    const EXPECTED: &str = "a decimal";
    match Json::of(value) {
        Json::Number(text) => Decimal::parse(text).ok_or(Misfit::Range { expected: EXPECTED }),
        Json::String(text) => {
            Decimal::parse(text.trim()).ok_or(Misfit::Kind { found: "other text", expected: EXPECTED })
        }
        other => Err(other.instead_of(EXPECTED)),
    }
}

/// Reads text; `None` for any other kind.
pub fn parse_text(value: &RawValue) -> Option<Cow<'_, str>> {
    match Json::of(value) {
        Json::String(text) => Some(text),
        Json::Null | Json::Boolean(_) | Json::Number(_) | Json::Array | Json::Object => None,
    }
}

/// The properties of one event: the top level of its `event_data`, values as written.
#[derive(Default)]
pub struct Properties<'a>(HashMap<Name<'a>, &'a RawValue>);

#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Properties<'a> {
    /// Splits `event_data`; what is no object has no properties.
    pub fn of(event_data: Option<&'a RawValue>) -> Self {
        event_data.and_then(|data| serde_json::from_str(data.get()).ok()).map(Self).unwrap_or_default()
    }

    /// A property that is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let value = self.0.get(&Name(Cow::Borrowed(name)))?;
        (value.get() != "null").then_some(*value)
    }
}

/// A JSON value as far as properties care.
enum Json<'a> {
    Null,
    Boolean(bool),
    Number(&'a str),
    String(Cow<'a, str>),
    Array,
    Object,
}

impl<'a> Json<'a> {
    /// Total: a [`RawValue`] is valid JSON, so its first byte tells the kind.
    fn of(value: &'a RawValue) -> Self {
        let text = value.get();
        match text.as_bytes().first() {
            Some(b'"') => {
                serde_json::from_str::<Name<'a>>(text).map_or(Self::Null, |name| Self::String(name.0))
            }
            Some(b't') => Self::Boolean(true),
            Some(b'f') => Self::Boolean(false),
            Some(b'[') => Self::Array,
            Some(b'{') => Self::Object,
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number(text),
        }
    }

    fn instead_of(&self, expected: &'static str) -> Misfit {
        let found = match self {
            Self::Null => return Misfit::Null,
            Self::Boolean(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "text",
            Self::Array => "an array",
            Self::Object => "an object",
        };
        Misfit::Kind { found, expected }
    }
}

/// Any notation of a whole number counts: `3`, `3.0` and `3e0` are the same to JSON.
fn integer(text: &str) -> Result<i64, Misfit> {
    const EXPECTED: &str = "an integer";
    if let Ok(value) = text.parse() {
        return Ok(value);
    }
    let out_of_range = Misfit::Range { expected: EXPECTED };
    let scaled = Decimal::parse(text).ok_or(out_of_range)?.scaled();
    let unit = 10_i128.pow(DECIMAL_SCALE);
    // A value so small that it was rounded to a whole number is told from one by reading it as a float too.
    let is_whole = scaled % unit == 0 && text.parse::<f64>().is_ok_and(|value| value.fract() == 0.0);
    if !is_whole {
        return Err(Misfit::Kind { found: "a fraction", expected: EXPECTED });
    }
    i64::try_from(scaled / unit).map_err(|_| out_of_range)
}

fn float(text: &str) -> Result<f64, Misfit> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite());
    value.ok_or(Misfit::Range { expected: "a number" })
}

fn timestamp(json: Json<'_>) -> Result<i64, Misfit> {
    const EXPECTED: &str = "a timestamp";
    let milliseconds = match json {
        Json::Number(text) => integer(text).map_err(|_| Misfit::Range { expected: EXPECTED })?,
        Json::String(text) => text
            .parse::<jiff::Timestamp>()
            .map_err(|_| Misfit::Kind { found: "other text", expected: EXPECTED })?
            .as_millisecond(),
        other => return Err(other.instead_of(EXPECTED)),
    };
    let fits = (TIMESTAMP_MS_MIN..=TIMESTAMP_MS_MAX).contains(&milliseconds);
    fits.then_some(milliseconds).ok_or(Misfit::Range { expected: EXPECTED })
}

#[cfg(test)]
mod tests;
