//! The text patterns of the custom resources: each is written into the CRD and explained to people in one place.
//! The API server matches unanchored, so every one is anchored; classes are spelled out in ASCII, because `\s` means
//! other characters there than here.

/// A DNS label without `--`: names of Apps, Integrations, policies, keys, roles.
pub const LABEL: &str = "^[a-z0-9]+(-[a-z0-9]+)*$";
/// A DNS subdomain: names of Secrets.
pub const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// A key inside a Secret.
pub const SECRET_KEY: &str = r"^[-._a-zA-Z0-9]+$";
/// An event type: anything without control characters.
pub const EVENT_TYPE: &str = r"^\P{Cc}+$";
/// A declared property; becomes the column `p_<name>`.
pub const PROPERTY: &str = "^[a-zA-Z_][a-zA-Z0-9_]{0,63}$";
/// A consent category.
pub const CATEGORY: &str = "^[a-z][a-z0-9_-]{0,62}$";
/// A field below `event_data`.
pub const DATA_PATH: &str = r"^event_data(\.[^.]+)+$";
/// A field of an event.
pub const EVENT_PATH: &str = r"^[a-z_]+(\.[^.]+)*$";
/// An origin as a browser sends it; `validate` parses the rest.
pub const ORIGIN: &str = r"^https?://[^/?#@*\x00-\x20]+$";
/// A duration: a count and one unit.
pub const DURATION: &str = "^[1-9][0-9]{0,8}(ms|s|m|h|d)$";
/// A size: a count and one binary unit.
pub const BYTE_SIZE: &str = "^[1-9][0-9]{0,6}(Ki|Mi|Gi|Ti)$";
/// An amount of processor time.
pub const CPU: &str = r"^([0-9]{1,6}m|[0-9]{1,4}(\.[0-9]{1,3})?)$";
/// A `host:port` list as Kafka clients take it, or an http(s) URL.
pub const ENDPOINT: &str = r"^[^@\x00-\x20]+$";
/// The name of an HTTP header.
pub const HEADER_NAME: &str = "^[A-Za-z0-9][A-Za-z0-9-]*$";
/// The value of an HTTP header: visible ASCII and spaces.
pub const HEADER_VALUE: &str = r"^[\x20-\x7e]*$";
/// The name of a claim in a token.
pub const CLAIM: &str = r"^[!-~]+$";
/// A URL with TLS.
pub const HTTPS_URL: &str = r"^https://[^@\x00-\x20]+$";
/// SHA-256 in lower-case hexadecimal.
pub const SHA256: &str = "^[0-9a-f]{64}$";

/// What a text must look like, for people: continues "must be …".
pub fn explain(pattern: &str) -> Option<&'static str> {
    Some(match pattern {
        LABEL => "lower-case letters, digits and single `-` between them",
        SUBDOMAIN => "the name of a Secret: lower-case letters, digits, `-` and `.`",
        SECRET_KEY => "a key of a Secret: letters, digits, `-`, `_` and `.`",
        EVENT_TYPE => "text without control characters",
        PROPERTY => "a letter or `_`, then up to 63 letters, digits or `_`",
        CATEGORY => "a lower-case letter, then up to 62 lower-case letters, digits, `_` or `-`",
        DATA_PATH => "a path below the event's data, such as `event_data.email`",
        EVENT_PATH => "a field of the event, such as `ip` or `event_data.email`",
        ORIGIN => "an origin as browsers send it, `https://shop.example`: no path, no wildcard",
        DURATION => "a count and one unit out of ms, s, m, h, d, such as `24h` or `7d`",
        BYTE_SIZE => "a count and one unit out of Ki, Mi, Gi, Ti, such as `10Gi`",
        CPU => "an amount of processor time, such as `500m` or `2`, in quotes",
        ENDPOINT => "an address without spaces or credentials",
        HEADER_NAME => "the name of an HTTP header: letters, digits and `-`",
        HEADER_VALUE => "printable ASCII",
        CLAIM => "the name of a claim, without spaces",
        HTTPS_URL => "a URL that starts with `https://` and holds no credentials",
        SHA256 => "64 lower-case hexadecimal digits",
        _ => return None,
    })
}
