//! One Kafka behind [`Topics`]: `provision` does the work, here its failures become the words of a condition.

use async_trait::async_trait;
use millrace_crds::conditions::reason;
use millrace_crds::names::AppId;
use millrace_crds::resolved::Credentials;
use millrace_crds::schema::Owner;
use millrace_crds::topics::{Change, Observed};
use millrace_provision::kafka::{
    Admin, Ca, KafkaError, Mechanism, ObservedTopic, Owners, Password, Replication, Sasl, Settings,
};

use super::clickhouse::chain;
use super::{BackendError, Durability, Topics};
use crate::installation;

/// A Kafka, reached under one account.
pub struct Kafka {
    admin: Admin,
    owners: Owners,
    replication: Replication,
}

impl Kafka {
    /// Asks nothing yet, so this succeeds while Kafka is away. Settings that contradict themselves are an error.
    pub fn new(
        brokers: &str,
        credentials: Option<&Credentials>,
        installation: &installation::Kafka,
        prefix: &str,
    ) -> Result<Self, BackendError> {
        let settings = settings(brokers, credentials, installation)?;
        let copies = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        let replication = Replication {
            factor: copies(installation.replication),
            min_in_sync: copies(installation.min_in_sync_replicas),
        };
        let admin = Admin::lazy(&settings).map_err(|error| failed(&error))?;
        let owners = Owners::new(admin.clone(), prefix, replication);
        Ok(Self { admin, owners, replication })
    }

    async fn seen(&self, names: &[String]) -> Result<Vec<ObservedTopic>, BackendError> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.admin.observe(&names).await.map_err(|error| failed(&error))
    }
}

/// An App's own Kafka is reached as the installation's: over TLS if that is, by its SASL mechanism.
fn settings(
    brokers: &str,
    credentials: Option<&Credentials>,
    installation: &installation::Kafka,
) -> Result<Settings, BackendError> {
    let mechanism = match installation.sasl_mechanism.as_deref() {
        None => Mechanism::ScramSha512,
        Some(name) => [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512]
            .into_iter()
            .find(|mechanism| mechanism.as_str() == name)
            .ok_or_else(|| unknown_mechanism(name))?,
    };
    let sasl = credentials.map(|Credentials { username, password }| Sasl {
        mechanism,
        username: username.clone(),
        password: Password::new(password.expose().to_owned()),
    });
    Ok(Settings {
        brokers: brokers.to_owned(),
        tls: installation.tls.then_some(Ca::System),
        sasl,
        client_id: "millrace-operator".to_owned(),
    })
}

fn unknown_mechanism(name: &str) -> BackendError {
    BackendError {
        reason: reason::REFUSED,
        message: format!(
            "`{name}` is no SASL mechanism of Kafka that Millrace knows; set `kafka.saslMechanism` of the installation \
             to `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`"
        ),
        retryable: false,
    }
}

fn failed(error: &KafkaError) -> BackendError {
    let reason = match error {
        KafkaError::Unreachable { .. } | KafkaError::Failed { .. } | KafkaError::Panicked { .. } => {
            reason::UNREACHABLE
        }
        KafkaError::Settings { .. }
        | KafkaError::Refused { .. }
        | KafkaError::TooFewBrokers { .. }
        | KafkaError::Topic { .. } => reason::REFUSED,
    };
    BackendError { reason, message: chain(error), retryable: error.is_retryable() }
}

#[async_trait]
impl Topics for Kafka {
    async fn observe(&self, names: &[String]) -> Result<Vec<Observed>, BackendError> {
        Ok(self.seen(names).await?.into_iter().map(|seen| seen.topic).collect())
    }

    async fn owner(&self, app: &AppId) -> Result<Option<Owner>, BackendError> {
        self.owners.of(app).await.map_err(|error| failed(&error))
    }

    async fn claim(&self, app: &AppId, owner: &Owner) -> Result<(), BackendError> {
        let written = self.owners.set(app, owner).await.map_err(|error| failed(&error))?;
        if written.as_ref() == Some(owner) {
            return Ok(());
        }
        Err(BackendError {
            reason: reason::OWNED_BY_ANOTHER,
            message: format!(
                "another installation claimed the topics of App `{app}` at the same moment; choose another App name or \
                 prefix in one of them"
            ),
            retryable: true,
        })
    }

    async fn carry_out(&self, change: &Change) -> Result<(), BackendError> {
        let one = std::slice::from_ref(change);
        self.admin.carry_out(one, self.replication).await.map_err(|error| failed(&error))
    }

    async fn delete(&self, app: &AppId, names: &[String]) -> Result<(), BackendError> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.admin.delete(&names).await.map_err(|error| failed(&error))?;
        // The claim goes last: as long as it stands, a repeat knows that there may be something left.
        self.owners.clear(app).await.map_err(|error| failed(&error))
    }

    async fn durability(&self, names: &[String]) -> Result<Durability, BackendError> {
        let seen = self.seen(names).await?;
        let least = |count: fn(&Replication) -> u16| {
            seen.iter().map(|topic| u32::from(count(&topic.replication))).min().unwrap_or_default()
        };
        Ok(Durability { replication: least(|r| r.factor), in_sync_min: least(|r| r.min_in_sync) })
    }
}

#[cfg(test)]
mod tests {
    use millrace_crds::resolved::Sensitive;
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_follow_the_installation_and_contradictions_are_said() {
        let account =
            Credentials { username: "op".to_owned(), password: Sensitive::new("hunter2".to_owned()) };
        let kafka = |more: serde_json::Value| -> installation::Kafka {
            let mut value = json!({"brokers": "a:9092"});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(value).unwrap()
        };
        let made = settings("a:9092", Some(&account), &kafka(json!({"tls": true}))).unwrap();
        assert_eq!((made.tls, made.sasl.unwrap().mechanism), (Some(Ca::System), Mechanism::ScramSha512));
        for (more, words) in [
            (
                json!({"saslMechanism": "GSSAPI"}),
                "`GSSAPI` is no SASL mechanism of Kafka that Millrace knows",
            ),
            (json!({"saslMechanism": "PLAIN"}), "would send the password in the clear; turn TLS on"),
        ] {
            let refused = Kafka::new("a:9092", Some(&account), &kafka(more), "millrace").err().unwrap();
            assert_eq!(refused.reason, reason::REFUSED);
            assert!(refused.message.contains(words) && !refused.message.contains("hunter2"), "{refused}");
        }
    }
}
