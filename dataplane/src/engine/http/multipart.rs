//! The fields of a `multipart/form-data` body, which clients use for long queries and parameters. Pure.

use crate::engine::refusal::{Refusal, code};

/// More fields than any statement has parameters.
const FIELDS_MAX: usize = 10_000;

/// The boundary of a form, if the content type says that the body is one.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (kind, attributes) = content_type.split_once(';')?;
    let attribute = |part: &str| {
        let (name, value) = part.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then_some(())?;
        value.trim_matches('"').len().ne(&0).then_some(())
    };
    let part = attributes.split(';').find(|part| attribute(part).is_some())?;
    let value = part.trim().split_once('=')?.1.trim_matches('"');
    kind.trim().eq_ignore_ascii_case("multipart/form-data").then_some(value)
}

/// Name and value of every field. Files are refused: they would be temporary tables.
pub(super) fn fields(body: &[u8], boundary: &str) -> Result<Vec<(String, String)>, Refusal> {
    let broken = || Refusal::new(code::BAD_ARGUMENTS, "the form (multipart/form-data) is not complete");
    let delimiter = format!("\r\n--{boundary}");
    // The first delimiter has no line break before it.
    let body = [b"\r\n", body].concat();
    let mut rest = after(&body, delimiter.as_bytes()).ok_or_else(broken)?;
    let mut fields = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Ok(fields);
        }
        let part = rest.strip_prefix(b"\r\n").ok_or_else(broken)?;
        let end = find(part, delimiter.as_bytes()).ok_or_else(broken)?;
        fields.push(field(&part[..end])?);
        if fields.len() > FIELDS_MAX {
            return Err(Refusal::new(
                code::BAD_ARGUMENTS,
                format!("the form has more than {FIELDS_MAX} fields"),
            ));
        }
        rest = &part[end + delimiter.len()..];
    }
}

fn field(part: &[u8]) -> Result<(String, String), Refusal> {
    let broken = || Refusal::new(code::BAD_ARGUMENTS, "a field of the form has no name or is not UTF-8");
    let head_end = find(part, b"\r\n\r\n").ok_or_else(broken)?;
    let head = std::str::from_utf8(&part[..head_end]).map_err(|_| broken())?;
    let value = std::str::from_utf8(&part[head_end + 4..]).map_err(|_| broken())?;
    let disposition = head
        .split("\r\n")
        .find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))
        .ok_or_else(broken)?;
    if disposition.to_ascii_lowercase().contains("filename=") {
        return Err(Refusal::unsupported("temporary tables from a form are not supported"));
    }
    let name =
        disposition.split_once("name=\"").and_then(|(_, rest)| rest.split_once('"')).ok_or_else(broken)?.0;
    Ok((name.to_owned(), value.to_owned()))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn after<'a>(text: &'a [u8], what: &[u8]) -> Option<&'a [u8]> {
    find(text, what).map(|at| &text[at + what.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_of_a_form() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT 1\r\n\
                    --B\r\nContent-Disposition: form-data; name=\"param_a\"\r\n\r\nx\r\ny\r\n--B--\r\n";
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            fields(body.as_bytes(), "B").unwrap(),
            [pair("query", "SELECT 1"), pair("param_a", "x\r\ny")]
        );
    }

    #[test]
    fn an_incomplete_form_is_refused() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT 1\r\n--B--";
        for end in 0..body.len() - 2 {
            assert!(fields(&body.as_bytes()[..end], "B").is_err(), "{}", &body[..end]);
        }
    }

    #[test]
    fn knows_a_form_by_its_content_type() {
        assert_eq!(boundary("multipart/form-data; boundary=abc"), Some("abc"));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; Boundary=\"a b\""), Some("a b"));
        assert_eq!(boundary("application/x-www-form-urlencoded"), None);
        assert_eq!(boundary("multipart/form-data; boundary="), None);
    }

    #[test]
    fn a_file_is_refused_in_words() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"t\"; filename=\"t\"\r\n\r\n1\r\n--B--\r\n";
        assert_eq!(fields(body.as_bytes(), "B").unwrap_err().code, 48);
    }
}
