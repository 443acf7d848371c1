//! The text of a request in, the shape of its one statement out: rows, insert with data, or other.
//! Pure. Looks at words only as far as the HTTP protocol needs; the engine's own parser judges the rest.

mod lexer;

use std::ops::Range;

use super::refusal::Refusal;
use lexer::{Kind, Lexer, Token};

/// One statement, comments blanked out so that no client-side hint in them has an effect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// Answers rows: written as the engine makes them.
    Rows(Rows),
    /// Takes rows from the request.
    Insert(Insert),
    /// Anything else: definitions, commands, `INSERT … SELECT`.
    Other {
        /// The statement.
        sql: Vec<u8>,
    },
}

/// A statement that answers rows, in two halves around the place of `INTO OUTFILE`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rows {
    before: Vec<u8>,
    /// From `FORMAT` on, or empty.
    after: Vec<u8>,
    /// The format the statement names.
    pub(super) format: Option<String>,
}

/// An `INSERT` whose rows come with the request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Insert {
    target: Vec<u8>,
    settings: Vec<u8>,
    /// The format the statement names; `Values` for `VALUES`.
    pub(super) format: Option<String>,
    /// Where in the text the rows begin.
    pub(super) data_at: usize,
}

impl Rows {
    /// The statement as it was written.
    pub(super) fn sql(&self) -> Vec<u8> {
        [&self.before[..], b"\n", &self.after].concat()
    }

    /// The statement with its rows written to a file (or a pipe) of this process.
    pub(super) fn writing_to(&self, path: &str) -> Vec<u8> {
        let clause = format!("\nINTO OUTFILE '{path}' TRUNCATE COMPRESSION 'none'\n");
        [&self.before, clause.as_bytes(), &self.after].concat()
    }
}

impl Insert {
    /// The statement without rows, for analysis only.
    pub(super) fn sql(&self, format: &str) -> Vec<u8> {
        [&self.target[..], b"\n", &self.settings, b"\nFORMAT ", format.as_bytes()].concat()
    }

    /// The statement with its rows read from a file of this process. `SETTINGS` must follow `INFILE`.
    pub(super) fn reading_from(&self, path: &str, format: &str) -> Vec<u8> {
        let clause = format!("\nFROM INFILE '{path}' COMPRESSION 'none'\n");
        [&self.target[..], clause.as_bytes(), &self.settings, b"\nFORMAT ", format.as_bytes()].concat()
    }
}

/// Reads the one statement of `text`. For an insert, what follows the statement is not looked at.
pub(super) fn read(text: &[u8]) -> Result<Statement, Refusal> {
    let mut lexer = Lexer::new(text);
    let Some(first) = lexer.next() else { return Err(Refusal::syntax("the query is empty")) };
    if first.is_word(text, "INSERT")
        && let Some(insert) = read_insert(text, &mut lexer)?
    {
        return Ok(Statement::Insert(insert));
    }
    read_whole(text)
}

/// Whether every character outside quotes and comments is one that no reading of the text can mistake: no
/// heredoc, no `#` comment, no typographic quote, no control character in a quoted name.
pub(super) fn is_plain(text: &[u8]) -> bool {
    Lexer::new(text).all(|token| match token.kind {
        Kind::Word | Kind::Number | Kind::Text => true,
        Kind::Name => token.of(text).iter().all(|byte| !byte.is_ascii_control() && *byte != b'\\'),
        Kind::Sign => token.of(text).is_ascii() && !matches!(token.of(text), b"$" | b"#" | b"\0"),
        Kind::Heredoc | Kind::Unclosed => false,
    })
}

/// Every bare word and quoted name of the text, lower case: to look for names that are forbidden anywhere.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = String> + '_ {
    Lexer::new(text)
        .filter(|token| matches!(token.kind, Kind::Word | Kind::Name))
        .map(|token| String::from_utf8_lossy(token.of(text)).trim_matches(['`', '"']).to_lowercase())
}

fn read_whole(text: &[u8]) -> Result<Statement, Refusal> {
    let tokens: Vec<Token> = Lexer::new(text).collect();
    let end = tokens.iter().position(|token| token.is_sign(text, b';')).unwrap_or(tokens.len());
    if tokens[end..].iter().any(|token| !token.is_sign(text, b';')) {
        return Err(Refusal::syntax("multi-statements are not allowed; send one statement per request"));
    }
    let tokens = &tokens[..end];
    let Some(last) = tokens.last() else { return Err(Refusal::syntax("the query is empty")) };
    let sql = blank(text, 0..last.span.end, tokens);
    let word = |at: usize, word: &str| tokens.get(at).is_some_and(|token| token.is_word(text, word));
    if (0..tokens.len()).any(|at| word(at, "INTO") && word(at + 1, "OUTFILE")) {
        return Err(Refusal::unsupported("INTO OUTFILE is not allowed over HTTP; read the response instead"));
    }
    if (0..tokens.len()).any(|at| word(at, "FROM") && word(at + 1, "INFILE")) {
        return Err(Refusal::unsupported("FROM INFILE is not allowed over HTTP; send the rows as the body"));
    }
    let waits = word(tokens.len() - 1, "SYNC") || word(tokens.len() - 1, "DELAY");
    if waits && ["DROP", "DETACH"].iter().any(|verb| word(0, verb)) {
        // libchdb never runs the background task that such a statement waits for.
        return Err(Refusal::unsupported("DROP and DETACH with SYNC are not supported; leave SYNC away"));
    }
    let opening = tokens.iter().find(|token| !token.is_sign(text, b'(')).unwrap_or(last);
    let inserts = tokens.iter().any(|token| token.depth == 0 && token.is_word(text, "INSERT"));
    if inserts || !ROWS_VERBS.iter().any(|verb| opening.is_word(text, verb)) {
        return Ok(Statement::Other { sql });
    }
    let format = format_clause(text, tokens);
    let split = format.map_or(sql.len(), |at| tokens[at].span.start);
    Ok(Statement::Rows(Rows {
        before: sql[..split].to_vec(),
        after: sql[split..].to_vec(),
        format: format.map(|at| tokens[at + 1].text(text)),
    }))
}

/// First words of statements that answer rows and take `INTO OUTFILE`.
const ROWS_VERBS: [&str; 9] =
    ["SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK"];

/// The `FORMAT name` that ends a statement, alone or before `SETTINGS`.
fn format_clause(text: &[u8], tokens: &[Token]) -> Option<usize> {
    let at = tokens.iter().rposition(|token| token.depth == 0 && token.is_word(text, "FORMAT"))?;
    let named = matches!(tokens.get(at + 1)?.kind, Kind::Word);
    let ends = tokens.get(at + 2).is_none_or(|token| token.is_word(text, "SETTINGS"));
    let after_value =
        at > 0 && !["SELECT", "FROM", "JOIN", "AS"].iter().any(|word| tokens[at - 1].is_word(text, word));
    (named && ends && after_value).then_some(at)
}

/// Reads up to the rows; `None` when the rows come from a query of the statement itself.
fn read_insert(text: &[u8], lexer: &mut Lexer<'_>) -> Result<Option<Insert>, Refusal> {
    let mut read: Vec<Token> = Vec::new();
    let mut settings_at: Option<usize> = None;
    let mut before = Kind::Word;
    let mut is_name = true;
    for token in lexer.by_ref() {
        if token.depth == 0 && token.kind == Kind::Word && !is_name {
            let clause = token.text(text).to_ascii_uppercase();
            match clause.as_str() {
                "SELECT" | "WITH" | "WATCH" => return Ok(None),
                "INFILE" if read.last().is_some_and(|last| last.is_word(text, "FROM")) => {
                    return Err(Refusal::unsupported(
                        "FROM INFILE is not allowed over HTTP; send the rows as the body",
                    ));
                }
                "SETTINGS" => settings_at = settings_at.or(Some(token.span.start)),
                "VALUES" => {
                    return finish(text, &read, settings_at, Some("Values".to_owned()), token.span.end)
                        .map(Some);
                }
                "FORMAT" => return named_format(text, lexer, &read, settings_at).map(Some),
                _ => {}
            }
        }
        if token.is_sign(text, b'(') && token.depth == 0 && starts_query(text, token.span.end) {
            return Ok(None);
        }
        if token.is_sign(text, b';') {
            return ends_without_rows(text, lexer, &read, settings_at).map(Some);
        }
        is_name = next_is_name(text, &token, before, is_name);
        before = token.kind;
        read.push(token);
    }
    finish(text, &read, settings_at, None, text.len()).map(Some)
}

/// Whether the next word can only be a name: after `INSERT INTO [TABLE|FUNCTION]`, a dot, a comma or `=`.
fn next_is_name(text: &[u8], token: &Token, before: Kind, was_name: bool) -> bool {
    let opens = ["INTO", "TABLE", "FUNCTION"].iter().any(|word| token.is_word(text, word));
    let joins = [b'.', b',', b'='].iter().any(|sign| token.is_sign(text, *sign));
    joins || (was_name && opens && before != Kind::Sign)
}

fn starts_query(text: &[u8], at: usize) -> bool {
    let next = Lexer::new(&text[at..]).find(|token| !token.is_sign(&text[at..], b'('));
    next.is_some_and(|token| ["SELECT", "WITH"].iter().any(|word| token.is_word(&text[at..], word)))
}

fn named_format(
    text: &[u8],
    lexer: &mut Lexer<'_>,
    read: &[Token],
    settings_at: Option<usize>,
) -> Result<Insert, Refusal> {
    let name = lexer.next().filter(|token| token.kind == Kind::Word);
    let Some(name) = name else { return Err(Refusal::syntax("FORMAT needs the name of a format")) };
    let format = name.text(text);
    finish(text, read, settings_at, Some(format), skip_to_data(text, name.span.end)?)
}

fn ends_without_rows(
    text: &[u8],
    lexer: &mut Lexer<'_>,
    read: &[Token],
    settings_at: Option<usize>,
) -> Result<Insert, Refusal> {
    match lexer.find(|token| !token.is_sign(text, b';')) {
        Some(_) => Err(Refusal::syntax("multi-statements are not allowed; send one statement per request")),
        None => finish(text, read, settings_at, None, text.len()),
    }
}

/// Rows begin after blanks and at most one line break, as the server reads them.
fn skip_to_data(text: &[u8], from: usize) -> Result<usize, Refusal> {
    let mut at = from;
    while matches!(text.get(at), Some(b' ' | b'\t' | 0x0c)) {
        at += 1;
    }
    if text.get(at) == Some(&b';') {
        return Err(Refusal::syntax("there is a `;` before the rows of the INSERT; remove it"));
    }
    if text.get(at) == Some(&b'\r') {
        at += 1;
    }
    if text.get(at) == Some(&b'\n') {
        at += 1;
    }
    Ok(at)
}

fn finish(
    text: &[u8],
    read: &[Token],
    settings_at: Option<usize>,
    format: Option<String>,
    data_at: usize,
) -> Result<Insert, Refusal> {
    let Some(last) = read.last() else { return Err(Refusal::syntax("INSERT needs the name of a table")) };
    let end = last.span.end;
    let split = settings_at.unwrap_or(end);
    Ok(Insert {
        target: [b"INSERT ", &blank(text, read[0].span.start..split, read)[..]].concat(),
        settings: blank(text, split..end, read),
        format,
        data_at,
    })
}

/// The text of a range with everything that is no token (comments, blanks) made into blanks; line breaks stay.
fn blank(text: &[u8], range: Range<usize>, tokens: &[Token]) -> Vec<u8> {
    let keep_break = |byte: &u8| if *byte == b'\n' { b'\n' } else { b' ' };
    let mut out: Vec<u8> = text[range.clone()].iter().map(keep_break).collect();
    for token in tokens.iter().filter(|token| range.start <= token.span.start && token.span.end <= range.end)
    {
        let at = token.span.start - range.start;
        out[at..at + token.span.len()].copy_from_slice(token.of(text));
    }
    out
}

#[cfg(test)]
mod tests;
