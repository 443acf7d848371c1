//! Strict JSON, scanned in place: text in, spans of values out, nothing allocated on the common path.
//! What breaks the grammar is a [`Syntax`] error and ends the scan, since nothing after it can be trusted.
//! What is well formed but would not be kept exactly is a [`Fault`]: it is noted, and the scan goes on, so that
//! one bad event of a batch does not take the others along.

use super::number::{self, Numbers};
use super::text::{Text, Unit, escaped_unit, plain_run};

/// Levels of nesting inside an event, the event itself included. Deeper than any event seen in the field, and
/// shallow enough that the scanner's recursion stays within a few kilobytes of stack.
pub(crate) const DEPTH_MAX: usize = 32;
/// Keys in one event, over all levels. ClickHouse keeps 1024 paths per part in columns of their own; a cart of a
/// few hundred lines still fits.
pub(crate) const KEYS_MAX: usize = 4096;
/// Bytes of one key, unescaped. A path made of such keys stays a usable column name.
pub(crate) const KEY_BYTES_MAX: usize = 256;
/// Up to this many keys an object is checked pair by pair; beyond it, by sorting.
const PAIRWISE_KEYS_MAX: usize = 16;

/// Why a text is not JSON, or not JSON that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    /// The text ends inside a value.
    End,
    /// A byte that cannot stand here: also `NaN`, `Infinity`, comments, trailing commas, a second value.
    Unexpected,
    /// A control character inside a string, not escaped.
    Control,
    /// `\` followed by something that is no escape.
    Escape,
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
}

/// What is wrong with a well-formed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Two members of an object have the same key.
    DuplicateKey,
    /// A key without characters: no query could name it.
    EmptyKey,
    /// A key longer than [`KEY_BYTES_MAX`].
    KeyTooLong,
    /// More keys than [`KEYS_MAX`].
    TooManyKeys,
    /// `\u0000`.
    NulCharacter,
    /// Half of a surrogate pair: not a character, and no UTF-8 can carry it.
    LoneSurrogate,
    /// An integer outside the 64-bit ranges, signed and unsigned.
    IntegerTooLarge,
    /// A number beyond the range of a 64-bit float.
    NumberTooLarge,
    /// A number so small that a 64-bit float would lose digits of it or all of it.
    NumberTooSmall,
    /// A fraction with more digits than a 64-bit float holds.
    TooManyDigits,
    /// An array with fractions and with integers that a 64-bit float cannot hold: the database makes all floats.
    MixedNumbers,
    /// Two keys that name the same path once dots are read as levels.
    CollidingKeys,
}

/// A key seen in an object that is still open.
#[derive(Clone, Copy)]
struct Key<'a> {
    /// Most comparisons end here.
    digest: u64,
    text: Text<'a>,
}

/// Walks a text from left to right.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    keys: Vec<Key<'a>>,
    keys_seen: usize,
    dotted: bool,
    fault: Option<Fault>,
}

impl<'a> Scanner<'a> {
    /// Starts at the first character.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, keys: Vec::new(), keys_seen: 0, dotted: false, fault: None }
    }

    /// Bytes read so far; where an error was met.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// What was found wrong since the last call, the first of it, and whether a key held a dot.
    pub(crate) fn take_faults(&mut self) -> (Option<Fault>, bool) {
        self.keys_seen = 0;
        (self.fault.take(), std::mem::take(&mut self.dotted))
    }

    /// The first byte of the next value.
    pub(crate) fn peek_value(&mut self) -> Option<u8> {
        self.whitespace();
        self.peek()
    }

    /// Reads one value and gives the text it spans.
    pub(crate) fn value(&mut self) -> Result<&'a str, Syntax> {
        self.whitespace();
        let start = self.at;
        self.any()?;
        Ok(&self.text[start..self.at])
    }

    /// Nothing but whitespace may follow.
    pub(crate) fn end(&mut self) -> Result<(), Syntax> {
        match self.peek_value() {
            None => Ok(()),
            Some(_) => Err(Syntax::Unexpected),
        }
    }

    /// Reads an object; `member` gets each key and must read the value.
    pub(crate) fn object<E, F>(&mut self, mut member: F) -> Result<&'a str, E>
    where
        E: From<Syntax>,
        F: FnMut(&mut Self, &str) -> Result<(), E>,
    {
        let first_key = self.keys.len();
        let span = self.container::<E, _>([b'{', b'}'], |scanner| {
            let key = scanner.key()?;
            member(scanner, &key.decode())?;
            scanner.remember(key);
            Ok(())
        })?;
        if has_duplicate(&mut self.keys[first_key..]) {
            self.note(Fault::DuplicateKey);
        }
        self.keys.truncate(first_key);
        Ok(span)
    }

    /// Reads an array; `element` must read one value.
    pub(crate) fn array<E, F>(&mut self, element: F) -> Result<&'a str, E>
    where
        E: From<Syntax>,
        F: FnMut(&mut Self) -> Result<(), E>,
    {
        self.container([b'[', b']'], element)
    }

    fn container<E, F>(&mut self, [open, close]: [u8; 2], mut item: F) -> Result<&'a str, E>
    where
        E: From<Syntax>,
        F: FnMut(&mut Self) -> Result<(), E>,
    {
        self.whitespace();
        let start = self.at;
        self.expect(open)?;
        self.whitespace();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(&self.text[start..self.at]);
        }
        loop {
            self.whitespace();
            item(self)?;
            self.whitespace();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(&self.text[start..self.at]);
                }
                Some(_) => return Err(Syntax::Unexpected.into()),
                None => return Err(Syntax::End.into()),
            }
        }
    }

    fn any(&mut self) -> Result<Numbers, Syntax> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| Numbers::default()),
            Some(b'{') => self.deeper(|scanner| {
                scanner.object::<Syntax, _>(|scanner, _| scanner.any().map(drop))?;
                Ok(Numbers::default())
            }),
            Some(b'[') => self.deeper(Self::numbers_of_array),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => Err(Syntax::Unexpected),
            None => Err(Syntax::End),
        }
    }

    fn numbers_of_array(&mut self) -> Result<Numbers, Syntax> {
        let mut numbers = Numbers::default();
        self.array::<Syntax, _>(|scanner| {
            numbers = numbers.with(scanner.any()?);
            Ok(())
        })?;
        if numbers.cannot_share_an_array() {
            self.note(Fault::MixedNumbers);
        }
        Ok(numbers)
    }

    fn deeper(&mut self, read: impl FnOnce(&mut Self) -> Result<Numbers, Syntax>) -> Result<Numbers, Syntax> {
        if self.depth + 1 >= DEPTH_MAX {
            return Err(Syntax::TooDeep);
        }
        self.depth += 1;
        let numbers = read(self);
        self.depth -= 1;
        numbers
    }

    #[inline]
    fn key(&mut self) -> Result<Text<'a>, Syntax> {
        let key = self.string()?;
        self.whitespace();
        self.expect(b':')?;
        self.whitespace();
        Ok(key)
    }

    #[inline]
    fn remember(&mut self, text: Text<'a>) {
        self.keys_seen += 1;
        if self.keys_seen > KEYS_MAX {
            return self.note(Fault::TooManyKeys);
        }
        let key = text.decode();
        if key.is_empty() {
            self.note(Fault::EmptyKey);
        } else if key.len() > KEY_BYTES_MAX {
            self.note(Fault::KeyTooLong);
        }
        self.dotted |= has_dot(key.as_bytes());
        self.keys.push(Key { digest: digest(key.as_bytes()), text });
    }

    /// Reads a string. The scanner stands on its first quote.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Text<'a>, Syntax> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_run(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Text { raw, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(Syntax::Control),
                None => return Err(Syntax::End),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Syntax> {
        let rest = &self.text.as_bytes()[self.at..];
        match rest.get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let (unit, bytes) = escaped_unit(rest)?;
                match unit {
                    Unit::Char('\0') => self.note(Fault::NulCharacter),
                    Unit::Char(_) => {}
                    Unit::Lone => self.note(Fault::LoneSurrogate),
                }
                self.at += bytes;
            }
            Some(_) => return Err(Syntax::Escape),
            None => return Err(Syntax::End),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Numbers, Syntax> {
        let rest = &self.text[self.at..];
        let shape = number::shape(rest.as_bytes())?;
        let (numbers, fault) = number::judge(&rest[..shape.bytes], shape.kind);
        self.at += shape.bytes;
        if let Some(fault) = fault {
            self.note(fault);
        }
        Ok(numbers)
    }

    fn literal(&mut self, word: &'static str) -> Result<Numbers, Syntax> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Syntax::Unexpected);
        }
        self.at += word.len();
        Ok(Numbers::default())
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), Syntax> {
        match self.peek() {
            Some(found) if found == byte => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(Syntax::Unexpected),
            None => Err(Syntax::End),
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    #[cold]
    fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }
}

/// Whether two keys are equal. The order of `keys` is not kept.
fn has_duplicate(keys: &mut [Key<'_>]) -> bool {
    if keys.len() <= PAIRWISE_KEYS_MAX {
        return keys.iter().enumerate().any(|(at, key)| {
            keys[..at]
                .iter()
                .any(|other| other.digest == key.digest && other.text.decode() == key.text.decode())
        });
    }
    keys.sort_unstable_by(|one, other| {
        one.digest.cmp(&other.digest).then_with(|| one.text.decode().cmp(&other.text.decode()))
    });
    keys.windows(2)
        .any(|pair| pair[0].digest == pair[1].digest && pair[0].text.decode() == pair[1].text.decode())
}

/// Whether a key holds a dot, or the sign that ClickHouse writes one with. Without an early exit, which would keep
/// the compiler from comparing many bytes at once.
#[inline]
fn has_dot(key: &[u8]) -> bool {
    key.iter().fold(false, |found, byte| found | matches!(byte, b'.' | b'%'))
}

/// A number that equal keys share and different ones rarely do: from both ends and the length. Read in whole
/// words; copying a few bytes into one first stalls the processor.
#[inline]
fn digest(key: &[u8]) -> u64 {
    let word = match (key.first_chunk(), key.last_chunk()) {
        (Some(first), Some(last)) => u64::from_le_bytes(*first).rotate_left(7) ^ u64::from_le_bytes(*last),
        _ => match (key.first_chunk(), key.last_chunk()) {
            (Some(first), Some(last)) => {
                u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))
            }
            _ => key.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        },
    };
    word ^ (key.len() as u64) << 56
}

#[cfg(test)]
mod tests;
