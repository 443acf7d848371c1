//! `Content-Encoding` and first bytes in, which decompression a body needs out. Pure.

use http::{HeaderMap, header};

/// What `Content-Encoding` may name; also the answer's `Accept-Encoding` where it names something else.
pub(super) const SUPPORTED: &str = "gzip, deflate, br, zstd, identity";
/// First bytes of a gzip member. No JSON begins so, and some clients compress without saying it.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A compression of the request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950; raw RFC 1951 is recognised too, since many clients mean that.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878 with the window of RFC 9659.
    Zstd,
}

/// The one coding the headers name.
pub(super) fn named(headers: &HeaderMap) -> Result<Option<Coding>, CodingError> {
    let mut found = None;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = value.to_str().map_err(|_| CodingError::Unknown)?;
        for name in text.split(',').map(str::trim) {
            let Some(coding) = parse(name)? else { continue };
            if found.replace(coding).is_some() {
                return Err(CodingError::Several);
            }
        }
    }
    Ok(found)
}

/// What the body needs: what was named, or gzip where nothing was and the bytes say so.
pub(super) fn of_body(named: Option<Coding>, body: &[u8]) -> Option<Coding> {
    named.or_else(|| body.starts_with(&GZIP_MAGIC).then_some(Coding::Gzip))
}

fn parse(name: &str) -> Result<Option<Coding>, CodingError> {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    Ok(match () {
        () if name.is_empty() || is("identity") => None,
        () if is("gzip") || is("x-gzip") => Some(Coding::Gzip),
        () if is("deflate") => Some(Coding::Deflate),
        () if is("br") => Some(Coding::Brotli),
        () if is("zstd") => Some(Coding::Zstd),
        () => return Err(CodingError::Unknown),
    })
}

/// Why the body's coding is not supported.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodingError {
    /// Not one of ours.
    #[error("this `Content-Encoding` is not supported; use one of {SUPPORTED}")]
    Unknown,
    /// More than one, applied in turn.
    #[error("`Content-Encoding` names several codings; use one of {SUPPORTED}")]
    Several,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_one_coding_or_says_why_not() {
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&[""], Ok(None)),
            (&["identity"], Ok(None)),
            (&["GZip"], Ok(Some(Coding::Gzip))),
            (&["x-gzip"], Ok(Some(Coding::Gzip))),
            (&[" deflate "], Ok(Some(Coding::Deflate))),
            (&["identity, br"], Ok(Some(Coding::Brotli))),
            (&["zstd"], Ok(Some(Coding::Zstd))),
            (&["gzip, gzip"], Err(CodingError::Several)),
            (&["gzip", "br"], Err(CodingError::Several)),
            (&["compress"], Err(CodingError::Unknown)),
            (&["gzip;q=1"], Err(CodingError::Unknown)),
            (&["gz\u{e4}ip"], Err(CodingError::Unknown)),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(
                    header::CONTENT_ENCODING,
                    http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                );
            }
            assert_eq!(named(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn recognises_gzip_that_nobody_named() {
        assert_eq!(of_body(None, &[0x1f, 0x8b, 8]), Some(Coding::Gzip));
        assert_eq!(of_body(None, b"{}"), None);
        assert_eq!(of_body(Some(Coding::Brotli), &[0x1f, 0x8b]), Some(Coding::Brotli));
    }
}
