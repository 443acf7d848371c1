//! Durations and sizes as people write them (`24h`, `10Gi`), parsed once at the edge and printed as they were.
//! Their patterns in the CRD accept exactly what these types parse.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::pattern;

/// A duration such as `24h`: a count and one unit out of ms, s, m, h, d.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration {
    count: u32,
    unit: TimeUnit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeUnit {
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
}

impl Duration {
    /// So many seconds.
    pub const fn seconds(count: u32) -> Self {
        Self { count, unit: TimeUnit::Second }
    }

    /// So many minutes.
    pub const fn minutes(count: u32) -> Self {
        Self { count, unit: TimeUnit::Minute }
    }

    /// So many hours.
    pub const fn hours(count: u32) -> Self {
        Self { count, unit: TimeUnit::Hour }
    }

    /// So many days of 24 hours.
    pub const fn days(count: u32) -> Self {
        Self { count, unit: TimeUnit::Day }
    }

    /// Length in milliseconds. Cannot overflow: nine digits of days are below 2⁶⁴.
    pub const fn as_ms(self) -> u64 {
        let unit_ms = match self.unit {
            TimeUnit::Millisecond => 1,
            TimeUnit::Second => 1_000,
            TimeUnit::Minute => 60_000,
            TimeUnit::Hour => 3_600_000,
            TimeUnit::Day => 86_400_000,
        };
        self.count as u64 * unit_ms
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            TimeUnit::Millisecond => "ms",
            TimeUnit::Second => "s",
            TimeUnit::Minute => "m",
            TimeUnit::Hour => "h",
            TimeUnit::Day => "d",
        };
        write!(f, "{}{unit}", self.count)
    }
}

impl FromStr for Duration {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || QuantityError::Duration { text: text.to_owned() };
        let (digits, unit) = split_unit(text);
        let unit = match unit {
            "ms" => TimeUnit::Millisecond,
            "s" => TimeUnit::Second,
            "m" => TimeUnit::Minute,
            "h" => TimeUnit::Hour,
            "d" => TimeUnit::Day,
            _ => return Err(refused()),
        };
        let count = parse_count(digits, DURATION_DIGITS_MAX).ok_or_else(refused)?;
        Ok(Self { count, unit })
    }
}

/// A size such as `10Gi`: a count and one binary unit out of Ki, Mi, Gi, Ti.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize {
    count: u32,
    unit: SizeUnit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizeUnit {
    Kibi,
    Mebi,
    Gibi,
    Tebi,
}

impl ByteSize {
    /// So many gibibytes.
    pub const fn gibibytes(count: u32) -> Self {
        Self { count, unit: SizeUnit::Gibi }
    }

    /// Size in bytes. Cannot overflow: seven digits of Ti are below 2⁶⁴.
    pub const fn as_bytes(self) -> u64 {
        let shift = match self.unit {
            SizeUnit::Kibi => 10,
            SizeUnit::Mebi => 20,
            SizeUnit::Gibi => 30,
            SizeUnit::Tebi => 40,
        };
        (self.count as u64) << shift
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            SizeUnit::Kibi => "Ki",
            SizeUnit::Mebi => "Mi",
            SizeUnit::Gibi => "Gi",
            SizeUnit::Tebi => "Ti",
        };
        write!(f, "{}{unit}", self.count)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || QuantityError::ByteSize { text: text.to_owned() };
        let (digits, unit) = split_unit(text);
        let unit = match unit {
            "Ki" => SizeUnit::Kibi,
            "Mi" => SizeUnit::Mebi,
            "Gi" => SizeUnit::Gibi,
            "Ti" => SizeUnit::Tebi,
            _ => return Err(refused()),
        };
        let count = parse_count(digits, BYTE_SIZE_DIGITS_MAX).ok_or_else(refused)?;
        Ok(Self { count, unit })
    }
}

/// Why a quantity is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a duration.
    #[error("`{text}` is not a duration; write a count and one unit out of ms, s, m, h, d, such as `24h`")]
    Duration {
        /// What was given.
        text: String,
    },
    /// Not a size.
    #[error("`{text}` is not a size; write a count and one unit out of Ki, Mi, Gi, Ti, such as `10Gi`")]
    ByteSize {
        /// What was given.
        text: String,
    },
}

/// As in [`pattern::DURATION`].
const DURATION_DIGITS_MAX: usize = 9;
/// As in [`pattern::BYTE_SIZE`].
const BYTE_SIZE_DIGITS_MAX: usize = 7;

fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

fn parse_count(digits: &str, digits_max: usize) -> Option<u32> {
    if digits.starts_with('0') || digits.len() > digits_max {
        return None;
    }
    digits.parse().ok()
}

impl TryFrom<String> for Duration {
    type Error = QuantityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(value: Duration) -> Self {
        value.to_string()
    }
}

impl TryFrom<String> for ByteSize {
    type Error = QuantityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(value: ByteSize) -> Self {
        value.to_string()
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": pattern::DURATION, "maxLength": 11})
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": pattern::BYTE_SIZE, "maxLength": 9})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write_and_prints_it_back() {
        for (text, ms) in
            [("1ms", 1), ("30s", 30_000), ("15m", 900_000), ("24h", 86_400_000), ("730d", 63_072_000_000)]
        {
            let duration: Duration = text.parse().unwrap();
            assert_eq!((duration.as_ms(), duration.to_string().as_str()), (ms, text));
        }
        for (text, bytes) in
            [("1Ki", 1024), ("5Mi", 5 << 20), ("10Gi", 10 << 30), ("9999999Ti", 9_999_999u64 << 40)]
        {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.as_bytes(), size.to_string().as_str()), (bytes, text));
        }
    }

    #[test]
    fn refuses_what_could_be_misread_or_overflow() {
        for text in ["", "24", "h", "0h", "01h", "-1h", "1.5h", "1h30m", "1 h", "24H", "9999999999d", "٣h"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
        for text in ["", "10", "10G", "10GB", "0Gi", "1.5Gi", "10gi", "99999999Ti"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_patterns_accept_exactly_what_parses(text in "[0-9]{0,10}[a-zA-Z]{0,2}") {
            let matches = |pattern| regex::Regex::new(pattern).unwrap().is_match(&text);
            prop_assert_eq!(matches(pattern::DURATION), text.parse::<Duration>().is_ok());
            prop_assert_eq!(matches(pattern::BYTE_SIZE), text.parse::<ByteSize>().is_ok());
        }
    }
}
