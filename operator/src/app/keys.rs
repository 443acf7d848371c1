//! The App's own Secret in, what it should hold and the digests of write keys out: keys are made once, never replaced
//! and never dropped, but by a rotation that was asked for. Pure: time and random bytes are arguments.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use millrace_crds::compile::{WRITE_KEY_DEFAULT, WRITE_KEY_DEFAULT_PREVIOUS};
use millrace_crds::labels::{
    PRIVACY_KEYS, ROTATE_ANNOTATION, ROTATE_UNTIL_ANNOTATION, WRITE_KEY, WRITE_KEY_PREVIOUS,
};
use millrace_crds::manifest::SecretValue;
use millrace_crds::resolved::{PrivacyKeys, Sensitive};
use sha2::Sha256;

use super::gather::OwnSecret;

/// Random bytes in a write key: 192 bits, beyond guessing.
const WRITE_KEY_BYTES: usize = 24;
/// How long the key before a rotation still opens the App: a day for every sender to change over.
pub(crate) const OVERLAP: SignedDuration = SignedDuration::from_hours(24);

/// What the App's Secret should hold.
pub(crate) struct Keys {
    /// Its values.
    pub(crate) data: BTreeMap<String, SecretValue>,
    /// Its annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    /// When the previous key ends, while there is one.
    pub(crate) previous_until: Option<Timestamp>,
}

/// Whether the App needs a generated write key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generated {
    /// It names none of its own.
    Wanted,
    /// It names its own.
    NotWanted,
}

/// Why the Secret cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeysError {
    /// Somebody else's Secret has the name.
    #[error(
        "Secret `{name}` exists and was not made by Millrace; remove it, or if it is a backup of the App's keys, give \
         it the label app.kubernetes.io/managed-by: millrace-operator"
    )]
    Foreign {
        /// Its name.
        name: String,
    },
    /// The keys cannot be read. They are never replaced: stored ids could not be made again.
    #[error("key `privacy-keys` of Secret `{name}` is damaged; restore the Secret from a backup")]
    Damaged {
        /// Its name.
        name: String,
    },
}

/// What the Secret of this name should hold. `rotate` is the App's rotation annotation.
pub(crate) fn wanted(
    name: &str,
    found: Option<&OwnSecret>,
    generated: Generated,
    rotate: Option<&str>,
    source: Source,
) -> Result<Keys, KeysError> {
    if found.is_some_and(|secret| !secret.is_ours) {
        return Err(KeysError::Foreign { name: name.to_owned() });
    }
    let mut data = found.map(|secret| secret.data.clone()).unwrap_or_default();
    data.retain(|key, _| [PRIVACY_KEYS, WRITE_KEY, WRITE_KEY_PREVIOUS].contains(&key.as_str()));
    match data.get(PRIVACY_KEYS) {
        Some(keys) if !is_privacy_keys(keys) => return Err(KeysError::Damaged { name: name.to_owned() }),
        Some(_) => {}
        None => _ = data.insert(PRIVACY_KEYS.to_owned(), source.privacy_keys()),
    }
    let known = found.map(|secret| &secret.annotations);
    let annotation = |key: &str| known.and_then(|known| known.get(key)).map(String::as_str);
    let mut until = annotation(ROTATE_UNTIL_ANNOTATION).and_then(|text| text.parse::<Timestamp>().ok());
    let mut rotated = annotation(ROTATE_ANNOTATION);
    if generated == Generated::Wanted {
        match (data.remove(WRITE_KEY), rotate) {
            (None, _) => {
                data.insert(WRITE_KEY.to_owned(), source.write_key());
                rotated = rotate.or(rotated);
            }
            (Some(key), Some(asked)) if rotated != Some(asked) => {
                data.insert(WRITE_KEY_PREVIOUS.to_owned(), key);
                data.insert(WRITE_KEY.to_owned(), source.write_key());
                (until, rotated) = (Some(source.now + OVERLAP), Some(asked));
            }
            (Some(key), _) => _ = data.insert(WRITE_KEY.to_owned(), key),
        }
    }
    let until = until.filter(|until| *until > source.now && data.contains_key(WRITE_KEY_PREVIOUS));
    if until.is_none() {
        data.remove(WRITE_KEY_PREVIOUS);
    }
    let annotations = [
        (ROTATE_ANNOTATION, rotated.map(ToOwned::to_owned)),
        (ROTATE_UNTIL_ANNOTATION, until.map(|until| until.to_string())),
    ];
    let annotations = annotations.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Ok(Keys { data, annotations: annotations.collect(), previous_until: until })
}

/// Where what is not given comes from.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// Fills with random bytes.
    pub(crate) random: fn(&mut [u8]),
    /// The time.
    pub(crate) now: Timestamp,
}

impl Source {
    fn bytes<const N: usize>(self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }

    fn write_key(self) -> SecretValue {
        let key = format!("mrw_{}", URL_SAFE_NO_PAD.encode(self.bytes::<WRITE_KEY_BYTES>()));
        SecretValue::new(key.into_bytes())
    }

    fn privacy_keys(self) -> SecretValue {
        let keys = PrivacyKeys {
            epoch: 1,
            hash: Sensitive::new(hex::encode(self.bytes::<32>())),
            encrypt: Sensitive::new(hex::encode(self.bytes::<64>())),
        };
        SecretValue::new(serde_json::to_vec(&keys).expect("keys are a number and two texts"))
    }
}

fn is_privacy_keys(value: &SecretValue) -> bool {
    let is_hex = |text: &Sensitive, bytes: usize| {
        hex::decode(text.expose()).is_ok_and(|decoded| decoded.len() == bytes)
    };
    serde_json::from_slice::<PrivacyKeys>(value.expose())
        .is_ok_and(|keys| is_hex(&keys.hash, 32) && is_hex(&keys.encrypt, 64))
}

impl Keys {
    /// The generated write keys, by the name the configuration knows them by.
    pub(crate) fn generated(&self) -> impl Iterator<Item = (&'static str, &SecretValue)> {
        let names = [(WRITE_KEY_DEFAULT, WRITE_KEY), (WRITE_KEY_DEFAULT_PREVIOUS, WRITE_KEY_PREVIOUS)];
        names.into_iter().filter_map(|(name, key)| Some((name, self.data.get(key)?)))
    }
}

/// Digest of a write key as configurations hold it: hex of HMAC-SHA256 under the pepper's bytes.
pub(crate) fn digest(pepper: &SecretValue, key: &SecretValue) -> String {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(pepper.expose()).expect("HMAC takes keys of any length");
    mac.update(key.expose());
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_what_ingest_computes() {
        // By Python's `hmac`.
        let expected = "98ecb72b1b45958a4d94227e3207a3b407dfb84796f603c2617fcd9a624c196e";
        let digest = digest(&SecretValue::new(vec![0x00, 0xff]), &SecretValue::new(b"mrw_key".to_vec()));
        assert_eq!(digest, expected);
    }
}
