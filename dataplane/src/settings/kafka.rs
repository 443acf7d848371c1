//! How to reach Kafka: options and environment in, the settings of its clients out. Credentials come from the resolved
//! Secret, never from the environment.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use millrace_crds::pod;
use millrace_crds::resolved::Credentials;
use millrace_provision::kafka::{Ca, Mechanism, Password, Sasl, Settings};

/// Where Kafka is, and how we show who we are.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArgs {
    /// Brokers to begin with: `host:port`, several separated by commas.
    #[arg(long, env = pod::ENV_KAFKA_BROKERS, value_name = "LIST")]
    pub kafka_brokers: String,
    /// Speak TLS.
    #[arg(
        long, env = pod::ENV_KAFKA_TLS, value_name = "BOOL", action = clap::ArgAction::Set,
        num_args = 0..=1, default_value_t = false, default_missing_value = "true"
    )]
    pub kafka_tls: bool,
    /// PEM file with the authority of the brokers' certificates; by default those this machine trusts.
    #[arg(long, env = pod::ENV_KAFKA_CA_FILE, value_name = "FILE")]
    pub kafka_ca_file: Option<PathBuf>,
    /// How credentials are shown to the brokers; they are in the resolved Secret.
    #[arg(long, env = pod::ENV_KAFKA_SASL_MECHANISM, value_enum, value_name = "NAME")]
    pub kafka_sasl_mechanism: Option<SaslMechanism>,
}

/// How credentials are shown to the brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SaslMechanism {
    /// The password itself: only over TLS.
    #[value(name = "PLAIN")]
    Plain,
    /// A proof of the password, SHA-256.
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
    /// A proof of the password, SHA-512.
    #[value(name = "SCRAM-SHA-512")]
    ScramSha512,
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

impl KafkaArgs {
    /// The settings of a client that the brokers call `client_id`. Without a mechanism the credentials are not shown.
    pub fn settings(
        &self,
        client_id: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Settings, KafkaArgsError> {
        let tls = match (self.kafka_tls, &self.kafka_ca_file) {
            (false, None) => None,
            (false, Some(_)) => return Err(KafkaArgsError::CaWithoutTls),
            (true, None) => Some(Ca::System),
            (true, Some(path)) => Some(Ca::File(path.clone())),
        };
        let sasl = match (self.kafka_sasl_mechanism, credentials) {
            (None, _) => None,
            (Some(_), None) => return Err(KafkaArgsError::NoCredentials),
            (Some(mechanism), Some(account)) => Some(Sasl {
                mechanism: mechanism.into(),
                username: account.username.clone(),
                password: Password::new(account.password.expose().to_owned()),
            }),
        };
        Ok(Settings { brokers: self.kafka_brokers.clone(), tls, sasl, client_id: client_id.to_owned() })
    }
}

/// Why Kafka cannot be reached as it is said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KafkaArgsError {
    /// An authority is named, and nothing is checked by it.
    #[error("--kafka-ca-file needs --kafka-tls; without TLS no certificate is checked")]
    CaWithoutTls,
    /// Nothing to show.
    #[error("--kafka-sasl-mechanism needs an account, and the resolved Secret has no `kafka`")]
    NoCredentials,
}

#[cfg(test)]
mod tests {
    use millrace_crds::resolved::Sensitive;

    use super::*;

    fn args() -> KafkaArgs {
        KafkaArgs {
            kafka_brokers: "a:1".to_owned(),
            kafka_tls: false,
            kafka_ca_file: None,
            kafka_sasl_mechanism: None,
        }
    }

    #[test]
    fn what_is_said_is_what_clients_do() {
        let account =
            Credentials { username: "worker".to_owned(), password: Sensitive::new("hunter2".to_owned()) };
        assert_eq!(args().settings("pod", Some(&account)).unwrap().sasl, None);
        let scram = KafkaArgs { kafka_sasl_mechanism: Some(SaslMechanism::ScramSha512), ..args() };
        let sasl = scram.settings("pod", Some(&account)).unwrap().sasl.unwrap();
        assert_eq!((sasl.mechanism, sasl.username.as_str()), (Mechanism::ScramSha512, "worker"));
        assert_eq!(scram.settings("pod", None), Err(KafkaArgsError::NoCredentials));
        let ca = KafkaArgs { kafka_ca_file: Some("ca.pem".into()), ..args() };
        assert_eq!(ca.settings("pod", None), Err(KafkaArgsError::CaWithoutTls));
        let tls = KafkaArgs { kafka_tls: true, ..ca }.settings("pod", None).unwrap().tls;
        assert_eq!(tls, Some(Ca::File("ca.pem".into())));
    }

    #[test]
    fn the_mechanisms_are_spelt_as_brokers_spell_them() {
        for mechanism in SaslMechanism::value_variants() {
            let name = mechanism.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(name, Mechanism::from(*mechanism).as_str());
        }
    }
}
