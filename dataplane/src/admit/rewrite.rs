//! Applies field rules to `event_data`: scanned JSON in, the same JSON with ruled values replaced or removed out.
//! What no rule names is copied as it stands. Nesting was bounded when the value was scanned first.

use std::borrow::Cow;

use millrace_crds::config::FieldAction;

use super::canonical::{canonical, plain_text, write_string};
use super::json::{Scanner, Syntax};
use super::privacy::{self, Anonymiser, Rule};
use super::text::string_of;

/// `event_data` as it may be written.
pub(crate) fn event_data<'a>(value: &'a str, anonymiser: &mut Anonymiser<'_>) -> Cow<'a, str> {
    let rules = anonymiser.rules();
    if rules.is_empty() {
        return Cow::Borrowed(value);
    }
    let open: Vec<_> = rules.iter().map(|rule| Open { rule, rest: &rule.path }).collect();
    let mut out = String::with_capacity(value.len());
    let mut rewriter = Rewriter { anonymiser, out: &mut out };
    // Scanned text cannot fail again; if it did, nothing personal would be written.
    match rewriter.value(&mut Scanner::new(value), &open) {
        Ok(()) => Cow::Owned(out),
        Err(_) => Cow::Borrowed("{}"),
    }
}

/// A rule that applies somewhere below, and the part of its path not yet walked.
#[derive(Clone, Copy)]
struct Open<'r> {
    rule: &'r Rule,
    rest: &'r str,
}

struct Rewriter<'o, 'a, 'k> {
    anonymiser: &'a mut Anonymiser<'k>,
    out: &'o mut String,
}

impl Rewriter<'_, '_, '_> {
    fn value(&mut self, scanner: &mut Scanner<'_>, open: &[Open<'_>]) -> Result<(), Syntax> {
        match scanner.peek_value() {
            Some(b'{') => self.object(scanner, open),
            Some(b'[') => self.array(scanner, open),
            _ => {
                self.out.push_str(scanner.value()?);
                Ok(())
            }
        }
    }

    fn array(&mut self, scanner: &mut Scanner<'_>, open: &[Open<'_>]) -> Result<(), Syntax> {
        self.out.push('[');
        let mut is_first = true;
        scanner.array(|scanner| {
            if !std::mem::take(&mut is_first) {
                self.out.push(',');
            }
            self.value(scanner, open)
        })?;
        self.out.push(']');
        Ok(())
    }

    fn object(&mut self, scanner: &mut Scanner<'_>, open: &[Open<'_>]) -> Result<(), Syntax> {
        self.out.push('{');
        let mut is_first = true;
        scanner.object(|scanner, key| {
            let (rule, below) = step(open, key);
            let replacement = match rule {
                None => None,
                Some(rule) => match self.replace(scanner.value()?, rule) {
                    None => return Ok::<_, Syntax>(()),
                    replacement => replacement,
                },
            };
            if !std::mem::take(&mut is_first) {
                self.out.push(',');
            }
            write_string(key, self.out);
            self.out.push(':');
            match replacement {
                Some(replacement) => self.out.push_str(&replacement),
                None if below.is_empty() => self.out.push_str(scanner.value()?),
                None => self.value(scanner, &below)?,
            }
            Ok(())
        })?;
        self.out.push('}');
        Ok(())
    }

    /// The JSON that stands in for a ruled value; none removes its key. Elements of an array are replaced one by
    /// one, and null says nothing about anyone.
    fn replace(&mut self, value: &str, rule: &Rule) -> Option<String> {
        let kind = value.as_bytes().first();
        match (rule.action, kind) {
            (FieldAction::Drop, _) => None,
            (_, Some(b'[')) => Some(self.replace_elements(value, rule)),
            (_, Some(b'n')) => Some("null".to_owned()),
            (FieldAction::Hash, _) => {
                Some(quoted(&self.anonymiser.hash_field(&rule.path, &plain_text(value))))
            }
            (FieldAction::Encrypt, _) => {
                Some(quoted(&self.anonymiser.encrypt_field(&rule.path, &canonical(value))))
            }
            // Numbers, booleans and objects have no shorter form that says less, so they go.
            (FieldAction::Truncate, _) => string_of(value).map(|text| quoted(&privacy::truncate(&text))),
        }
    }

    fn replace_elements(&mut self, array: &str, rule: &Rule) -> String {
        let mut elements = Vec::new();
        // Scanned text cannot fail again; what was not read is left out.
        let _ = Scanner::new(array).array::<Syntax, _>(|scanner| {
            elements.extend(self.replace(scanner.value()?, rule));
            Ok(())
        });
        format!("[{}]", elements.join(","))
    }
}

/// What holds for the member `key`: the strictest rule that ends here, or else the rules that go on below.
fn step<'r>(open: &[Open<'r>], key: &str) -> (Option<&'r Rule>, Vec<Open<'r>>) {
    let mut ends = None;
    let mut below = Vec::new();
    for Open { rule, rest } in open {
        match rest.strip_prefix(key) {
            Some("") => ends = ends.into_iter().chain([*rule]).max_by_key(|rule| strictness(rule.action)),
            Some(rest) => below.extend(rest.strip_prefix('.').map(|rest| Open { rule, rest })),
            None => {}
        }
    }
    (ends, below)
}

/// How little is left of a value, for rules that name the same place.
fn strictness(action: FieldAction) -> u8 {
    match action {
        FieldAction::Truncate => 0,
        FieldAction::Encrypt => 1,
        FieldAction::Hash => 2,
        FieldAction::Drop => 3,
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    write_string(text, &mut out);
    out
}

#[cfg(test)]
mod tests;
