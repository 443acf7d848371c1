//! Options that say where Kafka is; credentials come from the resolved Secret, never from the environment.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use millrace_provision::kafka::{Ca, Mechanism, Password, Sasl, Settings};

use crate::secret::Secret;

/// Where Kafka is and how it is spoken to.
#[derive(Clone, Debug, Args)]
pub struct KafkaArgs {
    /// Kafka brokers: `host:port`, several separated by commas.
    #[arg(long, env = "MILLRACE_KAFKA_BROKERS", value_name = "HOST:PORT,…")]
    pub kafka_brokers: String,
    /// Speak TLS; certificates are always verified.
    #[arg(long, env = "MILLRACE_KAFKA_TLS")]
    pub kafka_tls: bool,
    /// Certificates to trust, as PEM; by default those this machine trusts.
    #[arg(long, env = "MILLRACE_KAFKA_CA_FILE", value_name = "FILE", requires = "kafka_tls")]
    pub kafka_ca_file: Option<PathBuf>,
    /// How the user and password of the Secret are shown to the brokers.
    #[arg(long, value_enum, env = "MILLRACE_KAFKA_SASL_MECHANISM", value_name = "MECHANISM")]
    pub kafka_sasl_mechanism: Option<SaslMechanism>,
}

/// How credentials are shown to the brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SaslMechanism {
    /// The password itself: only with TLS.
    #[value(name = "PLAIN")]
    Plain,
    /// A proof of the password, SHA-256.
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
    /// A proof of the password, SHA-512.
    #[value(name = "SCRAM-SHA-512")]
    ScramSha512,
}

/// Who we are to Kafka.
#[derive(Clone, Debug)]
pub struct KafkaCredentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret<String>,
}

/// Options and Secret that do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KafkaArgsError {
    /// There is no password.
    #[error("--kafka-sasl-mechanism is given, but the Secret has no Kafka user and password; add them to it")]
    NoCredentials,
    /// Nobody says how to show it.
    #[error("the Secret has a Kafka user and password; say how to use them with --kafka-sasl-mechanism")]
    NoMechanism,
}

impl KafkaArgs {
    /// Together with the credentials of the resolved Secret; `client_id` is what the brokers call us.
    pub fn settings(
        &self,
        credentials: Option<KafkaCredentials>,
        client_id: &str,
    ) -> Result<Settings, KafkaArgsError> {
        let sasl = match (self.kafka_sasl_mechanism, credentials) {
            (None, None) => None,
            (Some(mechanism), Some(KafkaCredentials { username, password })) => Some(Sasl {
                mechanism: mechanism.into(),
                username,
                password: Password::new(password.expose().clone()),
            }),
            (Some(_), None) => return Err(KafkaArgsError::NoCredentials),
            (None, Some(_)) => return Err(KafkaArgsError::NoMechanism),
        };
        let tls = self.kafka_tls.then(|| self.kafka_ca_file.clone().map_or(Ca::System, Ca::File));
        Ok(Settings { brokers: self.kafka_brokers.clone(), tls, sasl, client_id: client_id.to_owned() })
    }
}

impl From<SaslMechanism> for Mechanism {
    fn from(mechanism: SaslMechanism) -> Self {
        match mechanism {
            SaslMechanism::Plain => Self::Plain,
            SaslMechanism::ScramSha256 => Self::ScramSha256,
            SaslMechanism::ScramSha512 => Self::ScramSha512,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        kafka: KafkaArgs,
    }

    fn args(words: &[&str]) -> Result<KafkaArgs, clap::Error> {
        Cli::try_parse_from(["test", "--kafka-brokers", "a:1,b:2"].iter().chain(words)).map(|cli| cli.kafka)
    }

    fn credentials() -> Option<KafkaCredentials> {
        Some(KafkaCredentials { username: "worker".to_owned(), password: Secret::new("hunter2".to_owned()) })
    }

    #[test]
    fn options_and_the_secret_become_settings() {
        let plain = args(&[]).unwrap().settings(None, "ingest").unwrap();
        assert_eq!(plain, Settings { client_id: "ingest".to_owned(), ..Settings::plain("a:1,b:2") });
        let words = ["--kafka-tls", "--kafka-ca-file", "ca.pem", "--kafka-sasl-mechanism", "SCRAM-SHA-512"];
        let full = args(&words).unwrap().settings(credentials(), "ingest").unwrap();
        assert_eq!(full.tls, Some(Ca::File("ca.pem".into())));
        assert_eq!(full.sasl.map(|sasl| sasl.mechanism), Some(Mechanism::ScramSha512));
        assert_eq!(args(&["--kafka-tls"]).unwrap().settings(None, "x").unwrap().tls, Some(Ca::System));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        assert!(args(&["--kafka-ca-file", "ca.pem"]).is_err(), "a CA file without TLS would be ignored");
        assert!(args(&["--kafka-sasl-mechanism", "GSSAPI"]).is_err());
        let with = args(&["--kafka-sasl-mechanism", "SCRAM-SHA-256"]).unwrap();
        assert_eq!(with.settings(None, "x"), Err(KafkaArgsError::NoCredentials));
        assert_eq!(args(&[]).unwrap().settings(credentials(), "x"), Err(KafkaArgsError::NoMechanism));
    }
}
