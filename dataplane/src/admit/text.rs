//! Strings of JSON: where they end, and what their escapes stand for. The scanner asks; nothing is judged here.

use std::borrow::Cow;

use super::json::Syntax;

/// A string as it stands between its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    /// Without the quotes, escapes untouched.
    pub(crate) raw: &'a str,
    /// Whether there is any escape.
    pub(crate) escaped: bool,
}

impl<'a> Text<'a> {
    /// The string meant. A lone surrogate becomes U+FFFD; it was noted as a fault before.
    #[inline]
    pub(crate) fn decode(self) -> Cow<'a, str> {
        if self.escaped { Cow::Owned(unescape(self.raw)) } else { Cow::Borrowed(self.raw) }
    }
}

/// How many bytes at the start are neither quote, backslash nor control character. Eight at a time: a subtraction
/// borrows into the high bit of exactly those bytes that were below the bound, up to the first hit.
#[inline]
pub(crate) fn plain_run(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return index * 8 + (special.trailing_zeros() / 8) as usize;
        }
    }
    let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
    words.len() * 8 + plain.unwrap_or(rest.len())
}

#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zero(word ^ (ONES * b'"' as u64));
    let backslash = zero(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control) & HIGH
}

/// What a `\u` escape stands for.
pub(crate) enum Unit {
    Char(char),
    /// Half of a surrogate pair.
    Lone,
}

/// Reads `\uXXXX`, or a pair of them, at the start of `bytes`; also how many bytes it took.
pub(crate) fn escaped_unit(bytes: &[u8]) -> Result<(Unit, usize), Syntax> {
    let high = hex4(bytes.get(2..6))?;
    if let Some(char) = char::from_u32(high) {
        return Ok((Unit::Char(char), 6));
    }
    if high < 0xDC00 && bytes.get(6..8) == Some(br"\u") {
        let low = hex4(bytes.get(8..12))?;
        if (0xDC00..0xE000).contains(&low) {
            let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            return Ok((char::from_u32(code).map_or(Unit::Lone, Unit::Char), 12));
        }
    }
    Ok((Unit::Lone, 6))
}

fn hex4(digits: Option<&[u8]>) -> Result<u32, Syntax> {
    digits.ok_or(Syntax::End)?.iter().try_fold(0, |code, digit| {
        char::from(*digit).to_digit(16).map(|digit| code * 16 + digit).ok_or(Syntax::Escape)
    })
}

/// Resolves the escapes of a string that was scanned before.
fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let (char, bytes) = match rest.as_bytes().get(1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => match escaped_unit(rest.as_bytes()) {
                Ok((Unit::Char(char), bytes)) => (char, bytes),
                Ok((Unit::Lone, bytes)) => (char::REPLACEMENT_CHARACTER, bytes),
                Err(_) => (char::REPLACEMENT_CHARACTER, rest.len()),
            },
            Some(byte) => (char::from(*byte), 2),
            None => (char::REPLACEMENT_CHARACTER, 1),
        };
        text.push(char);
        rest = &rest[bytes..];
    }
    text.push_str(rest);
    text
}

/// The string of a raw JSON value that was scanned before; nothing where it is no string.
pub(crate) fn string_of(value: &str) -> Option<Cow<'_, str>> {
    let raw = value.strip_prefix('"')?.strip_suffix('"')?;
    Some(Text { raw, escaped: raw.as_bytes().contains(&b'\\') }.decode())
}
