//! `event_data` as admitted in, a document that ClickHouse's JSON type takes out. Pure and total: no document may
//! make a block unstorable. What ClickHouse refuses is turned into the nearest text it takes:
//! - integers beyond 64 bits and floats beyond the largest double become strings of their digits;
//! - a lone half of a surrogate pair (`\ud800`), which is no character, becomes `\ufffd`;
//! - what is no object is put under the key `value`.

use std::borrow::Cow;

/// The document as ClickHouse takes it; borrowed when nothing had to change. `json` must be valid JSON.
pub fn storable(json: &str) -> Cow<'_, str> {
    let json = json.trim();
    let document = Scan::new(json).run();
    match json.as_bytes().first() {
        Some(b'{') => document,
        _ => Cow::Owned(format!("{{\"value\":{document}}}")),
    }
}

/// One pass over the text; copies only once something has to change.
struct Scan<'a> {
    text: &'a str,
    /// Everything before this is in `changed`, once that exists.
    copied: usize,
    changed: Option<String>,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, copied: 0, changed: None }
    }

    fn run(mut self) -> Cow<'a, str> {
        let mut at = 0;
        while let Some(byte) = self.byte(at) {
            at = match byte {
                b'"' => self.string(at + 1),
                b'-' | b'0'..=b'9' => self.number(at),
                _ => at + 1,
            };
        }
        match self.changed {
            None => Cow::Borrowed(self.text),
            Some(mut changed) => {
                changed.push_str(&self.text[self.copied..]);
                Cow::Owned(changed)
            }
        }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    /// From behind the opening quote to behind the closing one.
    fn string(&mut self, mut at: usize) -> usize {
        while let Some(byte) = self.byte(at) {
            at = match byte {
                b'"' => return at + 1,
                b'\\' if self.byte(at + 1) == Some(b'u') => self.escape(at),
                b'\\' => at + 2,
                _ => at + 1,
            };
        }
        at
    }

    /// A `\uXXXX`, or two that make one character.
    fn escape(&mut self, at: usize) -> usize {
        let end = at + 6;
        match self.code_unit(at) {
            Some(0xD800..=0xDBFF) if matches!(self.code_unit(end), Some(0xDC00..=0xDFFF)) => end + 6,
            Some(0xD800..=0xDFFF) => {
                self.replace(at, end, "\\ufffd");
                end
            }
            _ => end,
        }
    }

    fn code_unit(&self, at: usize) -> Option<u16> {
        let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    }

    fn number(&mut self, at: usize) -> usize {
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = self.text.as_bytes()[at..].iter().take_while(|byte| is_part(byte)).count();
        let end = at + length;
        let number = &self.text[at..end];
        if !fits(number) {
            self.replace(at, end, &format!("\"{number}\""));
        }
        end
    }

    fn replace(&mut self, start: usize, end: usize, with: &str) {
        let changed = self.changed.get_or_insert_default();
        changed.push_str(&self.text[self.copied..start]);
        changed.push_str(with);
        self.copied = end;
    }
}

fn fits(number: &str) -> bool {
    // 18 digits always fit; nearly every number is that short.
    let is_integer = !number.contains(['.', 'e', 'E']);
    if is_integer {
        number.len() <= 18 || number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok()
    } else {
        number.parse::<f64>().is_ok_and(f64::is_finite)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn changes_only_what_clickhouse_refuses() {
        for (json, expected) in [
            (r#"{}"#, r#"{}"#),
            (r#" {"a":1} "#, r#"{"a":1}"#),
            (r#"{"a":18446744073709551615}"#, r#"{"a":18446744073709551615}"#),
            (r#"{"a":18446744073709551616}"#, r#"{"a":"18446744073709551616"}"#),
            (r#"{"a":-9223372036854775808}"#, r#"{"a":-9223372036854775808}"#),
            (r#"{"a":[-9223372036854775809,1]}"#, r#"{"a":["-9223372036854775809",1]}"#),
            (r#"{"a":1e400,"b":-1E+999}"#, r#"{"a":"1e400","b":"-1E+999"}"#),
            (r#"{"a":123456789012345678901234567890.5}"#, r#"{"a":123456789012345678901234567890.5}"#),
            (r#"{"a":"99999999999999999999 \" 1e400"}"#, r#"{"a":"99999999999999999999 \" 1e400"}"#),
            (r#"{"a":"\ud83d\ude00"}"#, r#"{"a":"\ud83d\ude00"}"#),
            (r#"{"a":"\ud83d"}"#, r#"{"a":"\ufffd"}"#),
            (r#"{"a":"\ud83dx\ude00"}"#, r#"{"a":"\ufffdx\ufffd"}"#),
            (r#"{"\udc00":"\ud800\ud800\udc00"}"#, r#"{"\ufffd":"\ufffd\ud800\udc00"}"#),
            (r#"{"a":"\\ud800"}"#, r#"{"a":"\\ud800"}"#),
            (r#"[1,2]"#, r#"{"value":[1,2]}"#),
            (r#"null"#, r#"{"value":null}"#),
        ] {
            assert_eq!(storable(json), expected, "{json}");
        }
    }

    proptest! {
        #[test]
        fn is_total_and_stays_valid(text in r#"[\{\}\[\]",:\\u0-9dD8cC\-+.eE x😀]{0,60}"#) {
            let out = storable(&text);
            let is_json = |text: &str| serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
            if is_json(&text) {
                prop_assert!(is_json(&out), "{text} became {out}");
                // Without lone surrogates and huge numbers it now reads as a value too.
                prop_assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{text} became {out}");
                prop_assert_eq!(storable(&out), out.as_ref());
            }
        }
    }
}
