//! Personal values in, what may be written out. Everything here is deterministic, so that events of one person
//! still group; who holds the App's keys can open what was encrypted, and nobody can invert a hash.
//!
//! Texts: `u1_…` user id, `a1_…` anonymous id, `dh1_…` device id, `f1_…` field (128 bits of HMAC-SHA256 in hex);
//! `d1_…` device id, `e1_…` field (AES-256-SIV in base64url). The number is the epoch of the keys. Purpose, App
//! and path are part of what is hashed or authenticated, so equal values in two places do not look equal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aes_siv::siv::Aes256Siv;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use millrace_crds::config::{DeviceIds, FieldAction, Ip, UserIds};
use millrace_crds::names::AppId;
use sha2::Sha256;

use crate::config::{App, PrivacyKeys};

/// Bytes of HMAC kept: 2^64 values before two are likely to meet.
const HASH_BYTES: usize = 16;
const ANONYMOUS_ID: Purpose = Purpose { prefix: "a", name: "anonymous_id" };
const DEVICE_ID_HASH: Purpose = Purpose { prefix: "dh", name: "device_id" };
const DEVICE_ID: Purpose = Purpose { prefix: "d", name: "device_id" };
const FIELD_HASH: Purpose = Purpose { prefix: "f", name: "field" };
const FIELD: Purpose = Purpose { prefix: "e", name: "field" };
const USER_ID: Purpose = Purpose { prefix: "u", name: "user_id" };

/// What a value is made unreadable for.
#[derive(Clone, Copy)]
struct Purpose {
    prefix: &'static str,
    name: &'static str,
}

/// The stored form of a user id under the App's rule; queries by user id pass theirs through it.
pub fn stored_user_id(app: &App, user_id: &str) -> String {
    Anonymiser::new(app).user_id(user_id)
}

/// The stored form of an anonymous id under the App's rule.
pub fn stored_anonymous_id(app: &App, anonymous_id: &str) -> String {
    Anonymiser::new(app).anonymous_id(anonymous_id)
}

/// The keyed hash of a user id: `u<epoch>_` and 32 hexadecimal characters.
pub fn hash_user_id(app: &AppId, keys: &PrivacyKeys, user_id: &str) -> String {
    Sealer::new(app, keys).hash(USER_ID, "", user_id)
}

/// The device id behind `d<epoch>_…`, for who holds the keys.
pub fn open_device_id(app: &AppId, keys: &PrivacyKeys, sealed: &str) -> Result<String, OpenError> {
    Sealer::new(app, keys).open(DEVICE_ID, "", sealed)
}

/// The JSON text of the value behind `e<epoch>_…` at `path` (below `event_data`, joined by dots).
pub fn open_field(app: &AppId, keys: &PrivacyKeys, path: &str, sealed: &str) -> Result<String, OpenError> {
    Sealer::new(app, keys).open(FIELD, path, sealed)
}

/// Why an encrypted value could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not of the form this function opens.
    #[error("not an encrypted value of this kind")]
    NotSealed,
    /// Made with keys that are not at hand.
    #[error("encrypted with the keys of epoch {epoch}; load those")]
    OtherEpoch {
        /// The epoch in the value.
        epoch: u32,
    },
    /// Changed, of another App or another field, or made with other keys.
    #[error("does not belong to this App, field and keys, or was changed")]
    Forged,
}

/// Applies an App's privacy rules. One per request: it holds the prepared keys, and the last id of each kind, since
/// the events of a batch mostly come from one person.
pub(crate) struct Anonymiser<'a> {
    app: &'a App,
    sealer: Sealer<'a>,
    rules: Arc<[Rule]>,
    user_id: Last,
    anonymous_id: Last,
    device_id: Last,
}

/// An id and what became of it.
#[derive(Default)]
struct Last {
    id: String,
    stored: String,
}

impl Last {
    fn or(&mut self, id: &str, make: impl FnOnce() -> String) -> String {
        // The empty id, which nothing admits, is never taken for the initial one.
        if self.id != id || id.is_empty() {
            *self = Self { id: id.to_owned(), stored: make() };
        }
        self.stored.clone()
    }
}

/// A rule on `event_data`, its path joined by dots: keys that contain the dots literally match it too.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) path: String,
    pub(crate) action: FieldAction,
}

impl<'a> Anonymiser<'a> {
    pub(crate) fn new(app: &'a App) -> Self {
        let rules = app.config.privacy.fields.iter();
        Self {
            app,
            sealer: Sealer::new(&app.config.app, &app.privacy_keys),
            rules: rules.map(|rule| Rule { path: rule.path.join("."), action: rule.action }).collect(),
            user_id: Last::default(),
            anonymous_id: Last::default(),
            device_id: Last::default(),
        }
    }

    pub(crate) fn app(&self) -> &'a App {
        self.app
    }

    pub(crate) fn rules(&self) -> Arc<[Rule]> {
        Arc::clone(&self.rules)
    }

    pub(crate) fn user_id(&mut self, id: &str) -> String {
        match self.app.config.privacy.user_ids {
            UserIds::Hash => self.user_id.or(id, || self.sealer.hash(USER_ID, "", id)),
            UserIds::Keep => id.to_owned(),
        }
    }

    pub(crate) fn anonymous_id(&mut self, id: &str) -> String {
        match self.app.config.privacy.user_ids {
            UserIds::Hash => self.anonymous_id.or(id, || self.sealer.hash(ANONYMOUS_ID, "", id)),
            UserIds::Keep => id.to_owned(),
        }
    }

    pub(crate) fn device_id(&mut self, id: &str) -> String {
        match self.app.config.privacy.device_ids {
            DeviceIds::Encrypt => self.device_id.or(id, || self.sealer.seal(DEVICE_ID, "", id)),
            DeviceIds::Hash => self.device_id.or(id, || self.sealer.hash(DEVICE_ID_HASH, "", id)),
            DeviceIds::Keep => id.to_owned(),
        }
    }

    pub(crate) fn ip(&self, ip: IpAddr) -> Option<String> {
        match self.app.config.privacy.ip {
            Ip::Truncate => Some(network_of(ip).to_string()),
            Ip::Drop => None,
            Ip::Keep => Some(ip.to_canonical().to_string()),
        }
    }

    pub(crate) fn hash_field(&self, path: &str, value: &str) -> String {
        self.sealer.hash(FIELD_HASH, path, value)
    }

    pub(crate) fn encrypt_field(&mut self, path: &str, value: &str) -> String {
        self.sealer.seal(FIELD, path, value)
    }
}

/// The network an address belongs to: /24 for IPv4, also where IPv6 carries it (mapped, or a 6to4 prefix, whose
/// first 48 bits hold all of it); /48 for other IPv6.
pub(crate) fn network_of(ip: IpAddr) -> IpAddr {
    const SIX_TO_FOUR: u16 = 0x2002;
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            let c = if a == SIX_TO_FOUR { c & 0xff00 } else { c };
            IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

/// A text with less in it: an address becomes its network, anything else its first character. A single character
/// becomes nothing, or all of it would be kept.
pub(crate) fn truncate(text: &str) -> String {
    if let Ok(ip) = text.trim().parse::<IpAddr>() {
        return network_of(ip).to_string();
    }
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(_)) => first.to_string(),
        _ => String::new(),
    }
}

/// The keyed functions of one App.
struct Sealer<'a> {
    owner: String,
    /// As written: `1_`.
    epoch: String,
    keys: &'a PrivacyKeys,
    /// Keyed once; a clone of it costs less than keying again.
    mac: Hmac<Sha256>,
    cipher: Option<Aes256Siv>,
}

impl<'a> Sealer<'a> {
    fn new(app: &AppId, keys: &'a PrivacyKeys) -> Self {
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(keys.hash.expose());
        Self {
            owner: app.to_string(),
            epoch: format!("{}_", keys.epoch),
            keys,
            mac: mac.expect("HMAC takes keys of any length"),
            cipher: None,
        }
    }

    fn hash(&self, purpose: Purpose, path: &str, value: &str) -> String {
        let mut mac = self.mac.clone();
        mac.update(self.context(purpose, path).as_bytes());
        mac.update(value.as_bytes());
        let digest = mac.finalize().into_bytes();
        let mut text = [0; 2 * HASH_BYTES];
        hex::encode_to_slice(&digest[..HASH_BYTES], &mut text).expect("two digits fit each byte");
        self.tagged(purpose, std::str::from_utf8(&text).expect("hexadecimal is ASCII"))
    }

    fn seal(&mut self, purpose: Purpose, path: &str, value: &str) -> String {
        let context = self.context(purpose, path);
        let sealed = self.cipher().encrypt([context], value.as_bytes());
        let sealed = sealed.expect("one header is within the limit of SIV");
        self.tagged(purpose, &URL_SAFE_NO_PAD.encode(sealed))
    }

    fn open(&mut self, purpose: Purpose, path: &str, sealed: &str) -> Result<String, OpenError> {
        let rest = sealed.strip_prefix(purpose.prefix).ok_or(OpenError::NotSealed)?;
        let (epoch, sealed) = rest.split_once('_').ok_or(OpenError::NotSealed)?;
        let epoch: u32 = epoch.parse().map_err(|_| OpenError::NotSealed)?;
        let sealed = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| OpenError::NotSealed)?;
        if epoch != self.keys.epoch {
            return Err(OpenError::OtherEpoch { epoch });
        }
        let context = self.context(purpose, path);
        let opened = self.cipher().decrypt([context], &sealed).map_err(|_| OpenError::Forged)?;
        String::from_utf8(opened).map_err(|_| OpenError::Forged)
    }

    /// What a value is bound to. The parts are ended by NUL, which none of them contains.
    fn context(&self, purpose: Purpose, path: &str) -> String {
        let mut context = String::with_capacity(purpose.name.len() + self.owner.len() + path.len() + 3);
        for part in [purpose.name, &self.owner, path] {
            context.push_str(part);
            context.push('\0');
        }
        context
    }

    fn tagged(&self, purpose: Purpose, text: &str) -> String {
        let mut tagged = String::with_capacity(purpose.prefix.len() + self.epoch.len() + text.len());
        for part in [purpose.prefix, &self.epoch, text] {
            tagged.push_str(part);
        }
        tagged
    }

    fn cipher(&mut self) -> &mut Aes256Siv {
        self.cipher.get_or_insert_with(|| Aes256Siv::new(self.keys.encrypt.expose().into()))
    }
}

#[cfg(test)]
mod tests;
