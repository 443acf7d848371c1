//! Which Secrets a resource names, and whether what is found there can be used.

use crate::app::{AppSpec, SecretKeyRef};
use crate::crd::SECRET_USE_LABEL;
use crate::integration::IntegrationSpec;
use crate::manifest::{Secret, SecretValue};
use crate::problem::{Path, Report};

/// Shortest write key: anything shorter can be guessed.
const WRITE_KEY_BYTES_MIN: usize = 16;
/// Longest write key: it travels in a header.
const WRITE_KEY_BYTES_MAX: usize = 256;
/// Bounds of a signing key, by Standard Webhooks.
const SIGNING_KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// One place where a resource names a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse<'a> {
    /// The field that names it.
    pub path: Path,
    /// Name of the Secret.
    pub secret: &'a str,
    /// Key inside it.
    pub key: &'a str,
    /// What the value is for.
    pub purpose: Purpose,
}

/// What a value of a Secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A key that senders present.
    WriteKey,
    /// A key that signs deliveries.
    SigningKey,
    /// A user name or password of a back end.
    Credential,
}

impl<'a> SecretUse<'a> {
    /// Every Secret an App names.
    pub fn of_app(spec: &'a AppSpec) -> Vec<Self> {
        let root = Path::root("spec");
        let keys = root.field("ingest").field("writeKeys");
        let mut uses: Vec<Self> = (0..)
            .zip(&spec.ingest.write_keys)
            .map(|(index, key)| {
                Self::of_key(&key.secret_ref, keys.index(index).field("secretRef"), Purpose::WriteKey)
            })
            .collect();
        let connections = spec.connections.iter();
        for (name, connection) in
            connections.flat_map(|c| [("kafka", c.kafka.as_ref()), ("clickhouse", c.clickhouse.as_ref())])
        {
            let Some(connection) = connection else { continue };
            let path = root.field("connections").field(name).field("credentialsRef");
            for key in ["username", "password"] {
                let secret = &connection.credentials_ref.name;
                uses.push(Self { path: path.clone(), secret, key, purpose: Purpose::Credential });
            }
        }
        uses
    }

    /// Every Secret an Integration names.
    pub fn of_integration(spec: &'a IntegrationSpec) -> Vec<Self> {
        let path = Path::root("spec").field("webhook").field("signingSecretRef");
        let webhook = spec.webhook.iter();
        webhook.map(|w| Self::of_key(&w.signing_secret_ref, path.clone(), Purpose::SigningKey)).collect()
    }

    fn of_key(reference: &'a SecretKeyRef, path: Path, purpose: Purpose) -> Self {
        Self { path, secret: &reference.name, key: &reference.key, purpose }
    }

    /// Checks the Secret that was found under this name, if any, and gives the value.
    pub fn check<'s>(&self, found: Option<&'s Secret>, report: &mut Report) -> Option<&'s SecretValue> {
        let Some(secret) = found else {
            let message = format!("there is no Secret `{}` in this namespace", self.secret);
            report.add(&self.path, message, format!("add it, with the label {SECRET_USE_LABEL}: \"true\""));
            return None;
        };
        if secret.labels.get(SECRET_USE_LABEL).map(String::as_str) != Some("true") {
            let message = format!("Secret `{}` is not labelled for use by Millrace", self.secret);
            report.add(&self.path, message, format!("give it the label {SECRET_USE_LABEL}: \"true\""));
        }
        let Some(value) = secret.data.get(self.key) else {
            let message = format!("Secret `{}` has no key `{}`", self.secret, self.key);
            report.add(&self.path, message, "add the key to the Secret, or correct the name");
            return None;
        };
        if let Some((message, fix)) = self.purpose.fault(value) {
            let message = format!("key `{}` of Secret `{}` {message}", self.key, self.secret);
            report.add(&self.path, message, fix);
        }
        Some(value)
    }
}

impl Purpose {
    /// What keeps a value from its purpose. Says nothing of the value itself.
    fn fault(self, value: &SecretValue) -> Option<(String, &'static str)> {
        let bytes = value.expose();
        match self {
            Self::WriteKey => {
                let plain = bytes.iter().all(|b| b.is_ascii_graphic() && *b != b':');
                let long = (WRITE_KEY_BYTES_MIN..=WRITE_KEY_BYTES_MAX).contains(&bytes.len());
                (!plain || !long).then(|| {
                    let range = format!("{WRITE_KEY_BYTES_MIN} to {WRITE_KEY_BYTES_MAX}");
                    let message = format!("must have {range} visible ASCII characters without `:`");
                    (message, "generate one, for example `openssl rand -hex 24`")
                })
            }
            Self::SigningKey => (!is_signing_key(bytes)).then(|| {
                let message = "must be `whsec_` and the base64 of 24 to 64 bytes".to_owned();
                (message, "generate one, for example `echo whsec_$(openssl rand -base64 32)`")
            }),
            Self::Credential => {
                bytes.is_empty().then(|| ("is empty".to_owned(), "fill it in; an empty one opens nothing"))
            }
        }
    }
}

/// Refuses an empty key too: it would be one that everybody knows.
fn is_signing_key(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_prefix("whsec_"));
    // A `ByteString` is read from base64.
    let decoded = text.and_then(|text| serde_json::from_value::<k8s_openapi::ByteString>(text.into()).ok());
    decoded.is_some_and(|key| SIGNING_KEY_BYTES.contains(&key.0.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_keys_that_do_their_job() {
        let good_signing = format!("whsec_{}", "QUFB".repeat(8));
        for (purpose, value, good) in [
            (Purpose::WriteKey, "mrw_demo_web_key_not_for_production", true),
            (Purpose::WriteKey, "short", false),
            (Purpose::WriteKey, "with:colon-0123456789", false),
            (Purpose::WriteKey, "with space 0123456789", false),
            (Purpose::WriteKey, "newline-0123456789\n", false),
            (Purpose::SigningKey, good_signing.as_str(), true),
            (Purpose::SigningKey, "", false),
            (Purpose::SigningKey, "whsec_", false),
            (Purpose::SigningKey, "whsec_QUFB", false),
            (Purpose::SigningKey, "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB", false),
            (Purpose::Credential, "x", true),
            (Purpose::Credential, "", false),
        ] {
            let fault = purpose.fault(&SecretValue::new(value.as_bytes().to_vec()));
            assert_eq!(fault.is_none(), good, "{purpose:?} {value:?}");
            let shown =
                fault.is_some_and(|(message, _)| value.len() > "whsec_".len() && message.contains(value));
            assert!(!shown, "{value} is in the message");
        }
    }
}
