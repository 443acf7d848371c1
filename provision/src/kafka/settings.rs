//! How to reach Kafka: brokers, TLS, SASL in; the client library's configuration out. Certificates are always
//! verified: there is no setting that turns it off.

use std::fmt;
use std::path::PathBuf;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

/// Longest wait for one answer of a broker.
const ANSWER_MS: &str = "10000";
/// Pauses between attempts to reach a broker that is away.
const RECONNECT_MS: (&str, &str) = ("100", "2000");

/// Where Kafka is and who we are there. The same for operator and data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// TLS, and whose certificates are trusted; `None` sends everything in the clear.
    pub tls: Option<Ca>,
    /// Who we are; `None` where the brokers ask nobody.
    pub sasl: Option<Sasl>,
    /// What the brokers call us in their logs and quotas.
    pub client_id: String,
}

/// Whose certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ca {
    /// The authorities this machine trusts.
    System,
    /// Those in a PEM file.
    File(PathBuf),
    /// Those in this PEM text.
    Pem(String),
}

/// Credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sasl {
    /// How they are shown to the brokers.
    pub mechanism: Mechanism,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Password,
}

/// How credentials are shown to the brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The password itself: only over TLS.
    Plain,
    /// A proof of the password, SHA-256.
    ScramSha256,
    /// A proof of the password, SHA-512.
    ScramSha512,
}

impl Mechanism {
    /// Its registered name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A password. It has no `Display`, and its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps it as early as possible.
    pub fn new(password: String) -> Self {
        Self(password)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Settings that contradict themselves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Nowhere to go.
    #[error("no Kafka brokers are named; give at least one `host:port`")]
    NoBrokers,
    /// One entry is no address.
    #[error("`{entry}` is not a Kafka broker; write `host:port`, several separated by commas")]
    Broker {
        /// The entry.
        entry: String,
    },
    /// The password would travel in the clear.
    #[error(
        "SASL `PLAIN` without TLS would send the password in the clear; turn TLS on or use `SCRAM-SHA-512`"
    )]
    PlainWithoutTls,
}

impl Settings {
    /// Brokers without TLS and credentials.
    pub fn plain(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), tls: None, sasl: None, client_id: "millrace".to_owned() }
    }

    /// What every client starts from. Its `Debug` may show the password: do not print it.
    pub fn client_config(&self) -> Result<ClientConfig, SettingsError> {
        self.check()?;
        let mut config = ClientConfig::new();
        config
            .set_log_level(RDKafkaLogLevel::Info)
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("allow.auto.create.topics", "false")
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", ANSWER_MS)
            .set("socket.connection.setup.timeout.ms", ANSWER_MS)
            .set("reconnect.backoff.ms", RECONNECT_MS.0)
            .set("reconnect.backoff.max.ms", RECONNECT_MS.1)
            // Idle connections are closed by brokers all the time.
            .set("log.connection.close", "false");
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(ca) = &self.tls {
            ca.set(&mut config);
        }
        if let Some(sasl) = &self.sasl {
            config
                .set("sasl.mechanism", sasl.mechanism.as_str())
                .set("sasl.username", &sasl.username)
                .set("sasl.password", &sasl.password.0);
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), SettingsError> {
        if self.brokers.trim().is_empty() {
            return Err(SettingsError::NoBrokers);
        }
        for entry in self.brokers.split(',').map(str::trim) {
            let port = entry.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none() {
                return Err(SettingsError::Broker { entry: entry.to_owned() });
            }
        }
        let is_plain = self.sasl.as_ref().is_some_and(|sasl| sasl.mechanism == Mechanism::Plain);
        if is_plain && self.tls.is_none() { Err(SettingsError::PlainWithoutTls) } else { Ok(()) }
    }
}

impl Ca {
    fn set(&self, config: &mut ClientConfig) {
        // The library's defaults, said here so that none of its later versions changes them for us.
        config
            .set("enable.ssl.certificate.verification", "true")
            .set("ssl.endpoint.identification.algorithm", "https");
        match self {
            Self::System => config.set("ssl.ca.location", "probe"),
            Self::File(path) => config.set("ssl.ca.location", path.display().to_string()),
            Self::Pem(text) => config.set("ssl.ca.pem", text),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scram() -> Sasl {
        Sasl {
            mechanism: Mechanism::ScramSha512,
            username: "worker".to_owned(),
            password: Password::new("hunter2".to_owned()),
        }
    }

    #[test]
    fn every_combination_becomes_its_protocol_and_tls_always_verifies() {
        for (tls, sasl, protocol) in [
            (None, None, "plaintext"),
            (Some(Ca::System), None, "ssl"),
            (None, Some(scram()), "sasl_plaintext"),
            (Some(Ca::Pem("pem".to_owned())), Some(scram()), "sasl_ssl"),
        ] {
            let is_tls = tls.is_some();
            let config = Settings { tls, sasl, ..Settings::plain("a:1,b:2") }.client_config().unwrap();
            assert_eq!(config.get("security.protocol"), Some(protocol));
            let verifies = config.get("enable.ssl.certificate.verification");
            assert_eq!(verifies, is_tls.then_some("true"));
            assert_eq!(config.get("ssl.endpoint.identification.algorithm"), is_tls.then_some("https"));
        }
    }

    #[test]
    fn the_password_is_never_printed() {
        let settings = Settings { sasl: Some(scram()), ..Settings::plain("a:1") };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn settings_that_contradict_themselves_are_refused_with_the_fix() {
        let plain = Sasl { mechanism: Mechanism::Plain, ..scram() };
        let refused = |settings: Settings| settings.client_config().unwrap_err();
        let in_the_clear = Settings { sasl: Some(plain.clone()), ..Settings::plain("a:1") };
        assert_eq!(refused(in_the_clear), SettingsError::PlainWithoutTls);
        Settings { sasl: Some(plain), tls: Some(Ca::System), ..Settings::plain("a:1") }
            .client_config()
            .unwrap();
        assert_eq!(refused(Settings::plain(" ")), SettingsError::NoBrokers);
        for entry in ["a", "a:x", ":1", "a:99999"] {
            assert_eq!(
                refused(Settings::plain(format!("b:1,{entry}"))),
                SettingsError::Broker { entry: entry.to_owned() }
            );
        }
    }
}
