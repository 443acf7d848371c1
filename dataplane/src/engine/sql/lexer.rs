//! Bytes of SQL in, tokens out; comments and blanks are skipped. Knows ClickHouse's quoting, not its grammar.

use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A bare word: keyword or name.
    Word,
    /// A quoted name.
    Name,
    /// A string literal.
    Text,
    /// `$tag$ … $tag$`.
    Heredoc,
    Number,
    /// A quote or a comment that never ends.
    Unclosed,
    /// Any other single character.
    Sign,
}

/// A token and how deep in brackets it stands; an opening bracket has the depth outside of it.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Range<usize>,
    pub(super) depth: usize,
}

impl Token {
    pub(super) fn of<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.span.clone()]
    }

    pub(super) fn text(&self, text: &[u8]) -> String {
        String::from_utf8_lossy(self.of(text)).into_owned()
    }

    pub(super) fn is_word(&self, text: &[u8], word: &str) -> bool {
        self.kind == Kind::Word && self.of(text).eq_ignore_ascii_case(word.as_bytes())
    }

    pub(super) fn is_sign(&self, text: &[u8], sign: u8) -> bool {
        self.kind == Kind::Sign && self.of(text) == [sign]
    }
}

pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// Skips blanks and comments; false when a comment never ends.
    fn skip(&mut self) -> bool {
        loop {
            let rest = self.rest();
            let length = match rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, ..] => 1,
                [b'-', b'-', ..] | [b'#', b' ' | b'!', ..] => line_length(rest),
                [b'/', b'*', inner @ ..] => match find(inner, b"*/") {
                    Some(end) => end + 4,
                    None => return false,
                },
                _ => return true,
            };
            self.at += length;
        }
    }

    /// Kind and length of the token that starts here.
    fn measure(&self) -> (Kind, usize) {
        let rest = self.rest();
        match rest[0] {
            b'\'' => quoted(rest, Kind::Text),
            b'`' | b'"' => quoted(rest, Kind::Name),
            b'$' => heredoc(rest).map_or((Kind::Sign, 1), |length| (Kind::Heredoc, length)),
            first if first.is_ascii_digit() => (Kind::Number, word_length(rest)),
            first if first.is_ascii_alphabetic() || first == b'_' => (Kind::Word, word_length(rest)),
            // A whole non-ASCII run is one sign: what it means is for the engine to say.
            first if !first.is_ascii() => {
                (Kind::Sign, rest.iter().take_while(|byte| !byte.is_ascii()).count())
            }
            _ => (Kind::Sign, 1),
        }
    }

    /// The depth of a token, and the depth after it.
    fn step_depth(&mut self, sign: u8) -> usize {
        let depth = self.depth;
        match sign {
            b'(' | b'[' | b'{' => self.depth += 1,
            b')' | b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        depth
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let closed = self.skip();
        let start = self.at;
        if start >= self.text.len() {
            return None;
        }
        let (kind, length) = if closed { self.measure() } else { (Kind::Unclosed, self.text.len() - start) };
        self.at = start + length;
        let depth = if kind == Kind::Sign { self.step_depth(self.text[start]) } else { self.depth };
        Some(Token { kind, span: start..self.at, depth })
    }
}

fn word_length(rest: &[u8]) -> usize {
    rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count()
}

fn line_length(rest: &[u8]) -> usize {
    rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// A quote ends at the next quote that is neither escaped by a backslash nor doubled.
fn quoted(rest: &[u8], kind: Kind) -> (Kind, usize) {
    let quote = rest[0];
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote && rest.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return (kind, at + 1),
            _ => at += 1,
        }
    }
    (Kind::Unclosed, rest.len())
}

fn heredoc(rest: &[u8]) -> Option<usize> {
    let tag_end = find(&rest[1..], b"$")? + 2;
    let tag = &rest[..tag_end];
    find(&rest[tag_end..], tag).map(|inner| tag_end + inner + tag_end)
}
