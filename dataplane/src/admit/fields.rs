//! Members of an event by type and limit: raw JSON text in, a checked value out, or a refusal that names the
//! member and what it must be. Nothing is converted: a number is not taken for a text, nor the reverse.

use std::borrow::Cow;
use std::fmt;

use super::json::{Scanner, Syntax};
use super::moment;
use super::rejection::{Code, Refusal};
use super::shape::Field;
use super::suggest;
use super::text::string_of;

/// Where a member stands, for messages: `consent.version`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Empty, or ending in a dot.
    pub(crate) prefix: &'static str,
    pub(crate) name: &'static str,
}

impl From<Field> for Place {
    fn from(field: Field) -> Self {
        Self { prefix: "", name: field.name() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}{}`", self.prefix, self.name)
    }
}

/// How many characters a text may have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    /// At least one.
    Required(usize),
    /// May be empty.
    UpTo(usize),
}

impl Length {
    fn allows(self, text: &str) -> bool {
        let (is_empty_allowed, chars_max) = match self {
            Self::Required(chars_max) => (false, chars_max),
            Self::UpTo(chars_max) => (true, chars_max),
        };
        // No text has more characters than bytes, so most need no counting.
        (is_empty_allowed || !text.is_empty())
            && (text.len() <= chars_max || text.chars().count() <= chars_max)
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required(chars_max) => write!(f, "1 to {chars_max} characters"),
            Self::UpTo(chars_max) => write!(f, "at most {chars_max} characters"),
        }
    }
}

/// A text without control characters.
pub(crate) fn text(value: &str, place: Place, length: Length) -> Result<Cow<'_, str>, Refusal> {
    string_of(value).filter(|text| length.allows(text) && !has_control(text)).ok_or_else(|| {
        let message = format!("{place} must be a string of {length}, none of them control characters");
        Refusal::new(Code::InvalidField, message)
    })
}

/// A moment, in UTC epoch milliseconds.
pub(crate) fn moment(value: &str, place: Place) -> Result<i64, Refusal> {
    moment::parse(value).ok_or_else(|| {
        let message =
            format!("{place} must be RFC 3339 text with an offset, or whole milliseconds since 1970");
        Refusal::new(Code::InvalidField, message)
    })
}

/// The members of an object that has these and no others. Null counts as absent.
pub(crate) fn members<const N: usize>(
    value: &str,
    place: Place,
    known: [Place; N],
) -> Result<[Option<&str>; N], Refusal> {
    let mut members = [None; N];
    let mut unknown = None;
    let read = Scanner::new(value).object::<Syntax, _>(|scanner, key| {
        let value = scanner.value()?;
        match known.iter().position(|place| place.name == key) {
            Some(index) => members[index] = Some(value).filter(|value| *value != "null"),
            None => {
                let names = known.map(|place| place.name);
                let prefix = known.first().map_or("", |place| place.prefix);
                unknown.get_or_insert_with(|| suggest::describe_unknown(prefix, key, &names));
            }
        }
        Ok(())
    });
    match (read, unknown) {
        (Err(_), _) => Err(Refusal::new(Code::InvalidField, format!("{place} must be an object"))),
        (Ok(_), Some(name)) => Err(Refusal::unknown(&name)),
        (Ok(_), None) => Ok(members),
    }
}

/// The elements of an array.
pub(crate) fn elements(value: &str, place: Place, count_max: usize) -> Result<Vec<&str>, Refusal> {
    let mut elements = Vec::new();
    let read = Scanner::new(value).array::<Syntax, _>(|scanner| {
        elements.push(scanner.value()?);
        Ok(())
    });
    match read {
        Ok(_) if elements.len() <= count_max => Ok(elements),
        Ok(_) | Err(_) => {
            let message = format!("{place} must be an array of at most {count_max} elements");
            Err(Refusal::new(Code::InvalidField, message))
        }
    }
}

/// Control characters are U+0000 to U+001F, U+007F, and U+0080 to U+009F, which start with C2 in UTF-8.
fn has_control(text: &str) -> bool {
    // Without an early exit, so that the compiler compares many bytes at once.
    let may_have = text.bytes().fold(false, |found, byte| found | matches!(byte, 0..0x20 | 0x7f | 0xc2));
    may_have && text.chars().any(char::is_control)
}
