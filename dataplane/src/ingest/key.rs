//! Request headers in, the write key that was presented out, or why there is none. Pure; never shows a key.

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, header};

use crate::secret::Secret;

/// Basic credentials come with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key as presented: not yet known to open anything.
#[derive(Debug)]
pub(super) struct Presented {
    /// Its bytes.
    pub(super) key: Secret<Vec<u8>>,
    /// Where it stood.
    pub(super) place: Place,
}

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `Authorization: Basic`, the user name. The password is not looked at: clients send none or any.
    BasicUser,
    /// `Authorization: Bearer`.
    Bearer,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BasicUser => "the Basic user name of `Authorization`",
            Self::Bearer => "the Bearer token of `Authorization`",
        })
    }
}

/// Finds the write key.
pub(super) fn presented(headers: &HeaderMap) -> Result<Presented, KeyError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(KeyError::Missing)?;
    if values.next().is_some() {
        return Err(KeyError::Several);
    }
    let value = value.as_bytes().trim_ascii();
    let space = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(space);
    let credentials = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        not_empty(credentials.to_vec(), Place::Bearer)
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        not_empty(basic_user(credentials)?, Place::BasicUser)
    } else {
        Err(KeyError::Scheme)
    }
}

fn basic_user(credentials: &[u8]) -> Result<Vec<u8>, KeyError> {
    let mut pair = BASE64.decode(credentials).map_err(|_| KeyError::NotBase64)?;
    let colon = pair.iter().position(|byte| *byte == b':').ok_or(KeyError::NoColon)?;
    pair.truncate(colon);
    Ok(pair)
}

fn not_empty(key: Vec<u8>, place: Place) -> Result<Presented, KeyError> {
    if key.is_empty() {
        return Err(KeyError::Empty { place });
    }
    Ok(Presented { key: Secret::new(key), place })
}

/// Why a request opens no App.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    /// Nowhere.
    #[error(
        "no write key: there is no header `Authorization`; send `Authorization: Bearer <write key>` or the key \
         as the Basic user name"
    )]
    Missing,
    /// More than one header.
    #[error("several headers `Authorization`; send one")]
    Several,
    /// Neither Basic nor Bearer.
    #[error("the scheme of `Authorization` is not supported; use Bearer or Basic")]
    Scheme,
    /// Basic credentials that are not base64.
    #[error("the Basic credentials in `Authorization` are not base64 of `<write key>:`")]
    NotBase64,
    /// Basic credentials without the colon.
    #[error("the Basic credentials in `Authorization` have no colon after the write key")]
    NoColon,
    /// Nothing stands where the key should.
    #[error("{place} is empty; put the write key there")]
    Empty {
        /// Where.
        place: Place,
    },
    /// It is not a key of an App known here, but what is known may be out of date.
    #[error(
        "the write key in {place} cannot be looked up at the moment; retry after the time in `Retry-After`"
    )]
    Unverified {
        /// Where.
        place: Place,
    },
    /// It is not a key of an App served here.
    #[error(
        "the write key in {place} opens no App here; it is mistyped, revoked, or of another installation"
    )]
    Unknown {
        /// Where.
        place: Place,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn finds_the_key_in_bearer_and_in_the_basic_user_name() {
        for (value, key, place) in [
            ("Bearer mrw_a", "mrw_a", Place::Bearer),
            ("bEaReR   mrw_a  ", "mrw_a", Place::Bearer),
            // base64 of `mrw_a:`, `mrw_a:pass:word`, and the first without padding
            ("Basic bXJ3X2E6", "mrw_a", Place::BasicUser),
            ("basic bXJ3X2E6cGFzczp3b3Jk", "mrw_a", Place::BasicUser),
            ("Basic bXJ3X2FiOg==", "mrw_ab", Place::BasicUser),
            ("Basic bXJ3X2FiOg", "mrw_ab", Place::BasicUser),
        ] {
            let presented = presented(&headers(&[value])).unwrap();
            assert_eq!(presented.key.expose(), key.as_bytes(), "{value}");
            assert_eq!(presented.place, place, "{value}");
        }
    }

    #[test]
    fn says_why_there_is_no_key() {
        for (values, expected) in [
            (&[][..], KeyError::Missing),
            (&["Bearer a", "Bearer a"], KeyError::Several),
            (&[""], KeyError::Scheme),
            (&["Digest abc"], KeyError::Scheme),
            (&["mrw_a"], KeyError::Scheme),
            (&["Bearer"], KeyError::Empty { place: Place::Bearer }),
            (&["Bearer  "], KeyError::Empty { place: Place::Bearer }),
            (&["Basic"], KeyError::NoColon),
            (&["Basic Og=="], KeyError::Empty { place: Place::BasicUser }),
            (&["Basic !!!"], KeyError::NotBase64),
            (&["Basic bXJ3X2E"], KeyError::NoColon),
        ] {
            assert_eq!(presented(&headers(values)).unwrap_err(), expected, "{values:?}");
        }
    }

    #[test]
    fn never_shows_the_key() {
        let presented = presented(&headers(&["Bearer mrw_secret"])).unwrap();
        assert!(!format!("{presented:?}").contains("mrw_secret"));
    }
}
