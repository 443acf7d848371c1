//! What a caller is told when a request is refused or fails: ClickHouse's code, name and text, and the HTTP
//! status that a server gives it. Pure.

use axum::http::StatusCode;

/// An error in ClickHouse's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// ClickHouse's error code.
    pub(super) code: u16,
    /// `Code: N. DB::Exception: … (NAME)`, without the version.
    text: String,
}

/// Codes of our own refusals, as ClickHouse numbers them.
pub(super) mod code {
    pub(in super::super) const CANNOT_READ_ALL_DATA: (u16, &str) = (33, "CANNOT_READ_ALL_DATA");
    pub(in super::super) const BAD_ARGUMENTS: (u16, &str) = (36, "BAD_ARGUMENTS");
    pub(in super::super) const CHECKSUM_DOESNT_MATCH: (u16, &str) = (40, "CHECKSUM_DOESNT_MATCH");
    pub(in super::super) const NOT_IMPLEMENTED: (u16, &str) = (48, "NOT_IMPLEMENTED");
    pub(in super::super) const SYNTAX_ERROR: (u16, &str) = (62, "SYNTAX_ERROR");
    pub(in super::super) const CANNOT_DECOMPRESS: (u16, &str) = (271, "CANNOT_DECOMPRESS");
    pub(in super::super) const TOO_MANY_SIMULTANEOUS_QUERIES: (u16, &str) =
        (202, "TOO_MANY_SIMULTANEOUS_QUERIES");
    pub(in super::super) const QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING: (u16, &str) =
        (216, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING");
    pub(in super::super) const CANNOT_WRITE_TO_FILE: (u16, &str) = (75, "CANNOT_WRITE_TO_FILE_DESCRIPTOR");
    pub(in super::super) const QUERY_IS_TOO_LARGE: (u16, &str) = (229, "QUERY_IS_TOO_LARGE");
    pub(in super::super) const ACCESS_DENIED: (u16, &str) = (497, "ACCESS_DENIED");
    pub(in super::super) const AUTHENTICATION_FAILED: (u16, &str) = (516, "AUTHENTICATION_FAILED");
    pub(in super::super) const UNKNOWN_EXCEPTION: (u16, &str) = (1002, "UNKNOWN_EXCEPTION");
}

impl Refusal {
    /// A refusal of ours.
    pub(super) fn new((code, name): (u16, &str), text: impl std::fmt::Display) -> Self {
        Self { code, text: format!("Code: {code}. DB::Exception: {text}. ({name})") }
    }

    pub(super) fn syntax(text: impl std::fmt::Display) -> Self {
        Self::new(code::SYNTAX_ERROR, text)
    }

    pub(super) fn unsupported(text: impl std::fmt::Display) -> Self {
        Self::new(code::NOT_IMPLEMENTED, text)
    }

    pub(super) fn denied(text: impl std::fmt::Display) -> Self {
        Self::new(code::ACCESS_DENIED, text)
    }

    /// The engine's own text. It nests an error of its inner client in itself; the inner one is kept.
    pub(super) fn from_engine(text: &str) -> Self {
        let Some(code) = leading_code(text) else {
            return Self::new(code::UNKNOWN_EXCEPTION, text.trim_end_matches('.'));
        };
        let prefix = format!("Code: {code}. DB::Exception: ");
        let inner = text.strip_prefix(&prefix).filter(|inner| inner.starts_with(&prefix));
        let text = inner.unwrap_or(text);
        let text = text.rsplit_once(" (version ").map_or(text, |(message, _)| message);
        Self { code, text: text.trim_end().to_owned() }
    }

    /// The text a server sends, with a line break.
    pub(super) fn line(&self, version: &str) -> String {
        format!("{} (version {version})\n", self.text)
    }

    /// The status a server gives this code while nothing has been sent.
    pub(super) fn status(&self) -> StatusCode {
        match self.code {
            194 => StatusCode::UNAUTHORIZED,
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            6 | 8 | 15 | 25 | 26 | 27 | 36 | 37 | 38 | 41 | 44 | 53 | 62 | 72 | 117 | 123 | 167 | 168
            | 223 | 321 | 376 | 427 | 441 | 675 | 676 => StatusCode::BAD_REQUEST,
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => StatusCode::NOT_FOUND,
            229 => StatusCode::PAYLOAD_TOO_LARGE,
            48 => StatusCode::NOT_IMPLEMENTED,
            76 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            381 => StatusCode::LENGTH_REQUIRED,
            159 => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

fn leading_code(text: &str) -> Option<u16> {
    text.strip_prefix("Code: ")?.split_once('.')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_inner_of_two_nested_errors() {
        let text = "Code: 27. DB::Exception: Code: 27. DB::Exception: Cannot parse: x. (CANNOT_PARSE) \
                    (version 26.5.1.1). (CANNOT_PARSE)";
        let refusal = Refusal::from_engine(text);
        assert_eq!(refusal.code, 27);
        assert_eq!(
            refusal.line("26.5.1.1"),
            "Code: 27. DB::Exception: Cannot parse: x. (CANNOT_PARSE) (version 26.5.1.1)\n"
        );
    }

    #[test]
    fn keeps_a_plain_error_and_adds_the_version() {
        let refusal =
            Refusal::from_engine("Code: 60. DB::Exception: Table a.b does not exist. (UNKNOWN_TABLE)");
        assert_eq!(
            refusal.line("1"),
            "Code: 60. DB::Exception: Table a.b does not exist. (UNKNOWN_TABLE) (version 1)\n"
        );
        assert_eq!(refusal.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn text_without_a_code_is_an_unknown_exception() {
        assert_eq!(Refusal::from_engine("Invalid or closed connection").code, 1002);
    }

    #[test]
    fn statuses_are_those_of_a_server() {
        let check = |code: u16, status: u16| {
            assert_eq!(Refusal { code, text: String::new() }.status().as_u16(), status, "{code}");
        };
        for (code, status) in
            [(62, 400), (60, 404), (81, 404), (516, 403), (497, 403), (194, 401), (202, 500)]
        {
            check(code, status);
        }
        check(48, 501);
        check(164, 500);
        check(159, 408);
    }
}
