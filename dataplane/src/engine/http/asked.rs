//! The head of a request in (query string and headers), what it asks for out. Pure.

use axum::extract::Query;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::engine::refusal::{Refusal, code};
use crate::engine::users::Credentials;

/// A request's query string and headers, sorted by meaning.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) query: String,
    pub(super) database: Option<String>,
    pub(super) default_format: Option<String>,
    pub(super) query_id: Option<String>,
    /// Settings of the statement, in the order given.
    pub(super) settings: Vec<(String, String)>,
    /// `param_*`, without the prefix.
    pub(super) parameters: Vec<(String, String)>,
    pub(super) readonly: Option<u8>,
    /// `compress=1`: the response in ClickHouse's frames.
    pub(super) response_frames: bool,
    /// `decompress=1`: the body in ClickHouse's frames.
    pub(super) body_frames: bool,
    /// `enable_http_compression`, on by default as on a server.
    pub(super) may_encode: bool,
    pub(super) wait_end_of_query: bool,
    pub(super) credentials: Credentials,
}

/// Parameters of the protocol that need no action here.
const IGNORED: [&str; 6] =
    ["buffer_size", "stacktrace", "quota_key", "session_timeout", "session_check", "no_cache"];

impl Asked {
    pub(super) fn read(parts: &Parts) -> Result<Self, Refusal> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| Refusal::new(code::BAD_ARGUMENTS, "the query string is not URL-encoded"))?;
        let mut asked = Self { may_encode: true, ..Self::default() };
        let (mut user, mut password) = (None, None);
        for (name, value) in pairs {
            match name.as_str() {
                "user" => user = Some(value),
                "password" => password = Some(value),
                _ => asked.take(name, value)?,
            }
        }
        let from_query = (user.is_some() || password.is_some())
            .then(|| Credentials { user: user.unwrap_or_default(), password: password.unwrap_or_default() });
        asked.credentials = credentials(&parts.headers, from_query)?;
        asked.take_headers(&parts.headers);
        if parts.method == Method::GET {
            // As on a server: a GET changes nothing, but may choose settings.
            asked.readonly = Some(asked.readonly.filter(|level| *level == 1).unwrap_or(2));
        }
        Ok(asked)
    }

    /// Takes one parameter, from the query string or from a form.
    pub(super) fn take(&mut self, name: String, value: String) -> Result<(), Refusal> {
        match name.as_str() {
            "query" => self.query = value,
            "database" => self.database = Some(value).filter(|value| !value.is_empty()),
            "default_format" => self.default_format = Some(format_name(value)?),
            "query_id" => self.query_id = Some(value).filter(|value| !value.is_empty()),
            "compress" => self.response_frames = flag(&name, &value)?,
            "decompress" => self.body_frames = flag(&name, &value)?,
            "enable_http_compression" => self.may_encode = flag(&name, &value)?,
            "wait_end_of_query" => self.wait_end_of_query = flag(&name, &value)?,
            "readonly" => self.readonly = Some(readonly_level(&value)?).filter(|level| *level > 0),
            "session_id" => {
                return Err(Refusal::unsupported(
                    "sessions are not supported; send settings with each query",
                ));
            }
            "role" => {
                return Err(Refusal::new(
                    (511, "UNKNOWN_ROLE"),
                    format!("There is no role `{value}`; the engine has none"),
                ));
            }
            "client_protocol_version" if value != "0" => {
                return Err(Refusal::unsupported("client_protocol_version is not supported"));
            }
            "client_protocol_version" => {}
            ignored if IGNORED.contains(&ignored) => {}
            _ => match name.strip_prefix("param_") {
                Some(parameter) => self.parameters.push((parameter.to_owned(), value)),
                None if is_name(&name) => self.settings.push((name, value)),
                None => {
                    return Err(Refusal::new((115, "UNKNOWN_SETTING"), format!("Unknown setting '{name}'")));
                }
            },
        }
        Ok(())
    }

    fn take_headers(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if self.database.is_none() {
            self.database = text("X-ClickHouse-Database").filter(|value| !value.is_empty());
        }
        if self.default_format.is_none() {
            self.default_format = text("X-ClickHouse-Format").filter(|value| is_name(value));
        }
    }

    /// The statements that give a fresh handle these settings and this database.
    pub(super) fn setup(&self) -> Vec<String> {
        // The engine's embedding default; a server reads `1 + 1` as an error.
        let mut setup = vec!["SET implicit_select = 0".to_owned()];
        for (name, value) in &self.settings {
            setup.push(format!("SET {name} = '{}'", escape(value)));
        }
        if let Some(id) =
            self.query_id.as_ref().filter(|_| self.settings.iter().all(|(name, _)| name != "log_comment"))
        {
            setup.push(format!("SET log_comment = '{}'", escape(id)));
        }
        if let Some(database) = &self.database {
            setup.push(format!("USE `{}`", escape(database).replace('`', "\\`")));
        }
        setup
    }
}

/// Credentials from one place; two places at once are an error, none is the user `default`.
fn credentials(headers: &HeaderMap, from_query: Option<Credentials>) -> Result<Credentials, Refusal> {
    let refuse =
        |text: &str| Refusal::new(code::AUTHENTICATION_FAILED, format!("Invalid authentication: {text}"));
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (user, key) = (text("X-ClickHouse-User"), text("X-ClickHouse-Key"));
    let from_headers = (user.is_some() || key.is_some())
        .then(|| Credentials { user: user.unwrap_or_default(), password: key.unwrap_or_default() });
    let from_basic = match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            Some(basic(value.as_bytes()).ok_or_else(|| refuse("the Authorization header is not Basic"))?)
        }
        None => None,
    };
    let mut given = [from_headers, from_basic, from_query].into_iter().flatten();
    let first =
        given.next().unwrap_or_else(|| Credentials { user: "default".to_owned(), password: String::new() });
    if given.next().is_some() {
        return Err(refuse(
            "it is not allowed to use two of headers, Authorization and parameters simultaneously",
        ));
    }
    Ok(first)
}

fn basic(value: &[u8]) -> Option<Credentials> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let decoded =
        scheme.eq_ignore_ascii_case(b"Basic ").then(|| BASE64_STANDARD.decode(rest.trim_ascii()).ok())??;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(Credentials { user: user.to_owned(), password: password.to_owned() })
}

fn flag(name: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" | "" => Ok(false),
        _ => Err(Refusal::new(code::BAD_ARGUMENTS, format!("`{name}` is 0 or 1, not `{value}`"))),
    }
}

fn readonly_level(value: &str) -> Result<u8, Refusal> {
    value
        .parse()
        .ok()
        .filter(|level| *level <= 2)
        .ok_or_else(|| Refusal::new(code::BAD_ARGUMENTS, format!("`readonly` is 0, 1 or 2, not `{value}`")))
}

fn format_name(value: String) -> Result<String, Refusal> {
    if is_name(&value) {
        Ok(value)
    } else {
        Err(Refusal::new((73, "UNKNOWN_FORMAT"), format!("Unknown format {value}")))
    }
}

/// A bare name: safe to stand in a statement without quotes.
pub(super) fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "\\'")
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn read(uri: &str, headers: &[(&str, &str)]) -> Result<Asked, Refusal> {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Asked::read(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn parameters_are_sorted_by_meaning() {
        let asked = read(
            "/?query=SELECT+%7Ba:String%7D&database=d&param_a=x%0Ay&max_threads=2&query_id=q&compress=1",
            &[],
        )
        .unwrap();
        assert_eq!(asked.query, "SELECT {a:String}");
        assert_eq!(asked.parameters, [("a".to_owned(), "x\ny".to_owned())]);
        assert!(asked.response_frames && !asked.body_frames && asked.may_encode);
        assert_eq!(
            asked.setup(),
            ["SET implicit_select = 0", "SET max_threads = '2'", "SET log_comment = 'q'", "USE `d`",]
        );
    }

    #[test]
    fn values_cannot_leave_their_quotes() {
        let asked = read("/?max_threads=1%27%2C+readonly%3D%270&database=a%60b%5C", &[]).unwrap();
        assert_eq!(asked.setup()[1..], ["SET max_threads = '1\\', readonly=\\'0'", "USE `a\\`b\\\\`"]);
        assert_eq!(read("/?max_threads%3D1%2Cx=2", &[]).unwrap_err().code, 115);
        assert_eq!(read("/?default_format=CSV%20--", &[]).unwrap_err().code, 73);
    }

    #[test]
    fn a_get_is_read_only() {
        let level = |uri: &str| {
            let parts = Request::get(uri).body(()).unwrap().into_parts().0;
            Asked::read(&parts).unwrap().readonly
        };
        assert_eq!(level("/?query=x"), Some(2));
        assert_eq!(level("/?query=x&readonly=0"), Some(2));
        assert_eq!(level("/?query=x&readonly=1"), Some(1));
    }

    #[test]
    fn credentials_come_from_exactly_one_place() {
        let user = |uri: &str, headers: &[(&str, &str)]| {
            read(uri, headers).map(|asked| (asked.credentials.user, asked.credentials.password))
        };
        let pair = |user: &str, password: &str| Ok((user.to_owned(), password.to_owned()));
        assert_eq!(user("/", &[]), pair("default", ""));
        assert_eq!(user("/?user=a&password=b%26", &[]), pair("a", "b&"));
        assert_eq!(user("/", &[("X-ClickHouse-User", "a"), ("X-ClickHouse-Key", "b")]), pair("a", "b"));
        assert_eq!(user("/", &[("Authorization", "basic YTpiOmM=")]), pair("a", "b:c"));
        assert_eq!(user("/?user=a", &[("X-ClickHouse-User", "a")]).unwrap_err().code, 516);
        assert_eq!(user("/", &[("Authorization", "Bearer x")]).unwrap_err().code, 516);
        assert_eq!(user("/", &[("Authorization", "Basic !!")]).unwrap_err().code, 516);
    }

    #[test]
    fn what_is_not_supported_is_refused_in_words() {
        assert_eq!(read("/?session_id=x", &[]).unwrap_err().code, 48);
        assert_eq!(read("/?role=x", &[]).unwrap_err().code, 511);
        assert_eq!(read("/?compress=maybe", &[]).unwrap_err().code, 36);
    }
}
