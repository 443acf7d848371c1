//! What the client library says in, one of few kinds of failure out: who can do something about it.

use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};

use super::settings::SettingsError;

/// Why something was not done on Kafka.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// The settings contradict themselves.
    #[error("the Kafka settings cannot be used")]
    Settings {
        /// How.
        source: SettingsError,
    },
    /// No broker answered in time.
    #[error("no Kafka broker answers at `{brokers}`{}; check the address and the network", because(reason))]
    Unreachable {
        /// Where it was looked for.
        brokers: String,
        /// The last thing the client library said about it; may be empty.
        reason: String,
    },
    /// A broker answered, and does not let us do this.
    #[error("Kafka refuses to {step}{}; check credentials, certificates and ACLs", because(reason))]
    Refused {
        /// What was to be done.
        step: &'static str,
        /// The last thing the client library said about it; may be empty.
        reason: String,
    },
    /// Not enough brokers for so many copies.
    #[error(
        "topic `{topic}` cannot have {wanted} copies: Kafka has too few brokers; add brokers or lower the \
         replication factor"
    )]
    TooFewBrokers {
        /// The topic.
        topic: String,
        /// Copies asked for.
        wanted: u16,
    },
    /// Kafka does not take this topic.
    #[error("Kafka refuses to {step} topic `{topic}`")]
    Topic {
        /// The topic.
        topic: String,
        /// What was to be done.
        step: &'static str,
        /// Why.
        source: Code,
    },
    /// Anything else.
    #[error("Kafka failed to {step}")]
    Failed {
        /// What was to be done.
        step: &'static str,
        /// Why.
        source: ClientError,
    },
    /// A bug of ours.
    #[error("work on Kafka panicked")]
    Panicked {
        /// How.
        source: tokio::task::JoinError,
    },
}

impl KafkaError {
    /// Whether the same call may succeed later without a change of the settings or the topic. Credentials are
    /// changed on either side, so a refusal may pass too.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::TooFewBrokers { .. }
            | Self::Failed { .. } => true,
            Self::Settings { .. } | Self::Topic { .. } | Self::Panicked { .. } => false,
        }
    }

    /// Whether the brokers do not know what was asked of them.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Failed { source, .. } => code_of(source).is_some_and(is_unsupported),
            Self::Topic { source, .. } => is_unsupported(*source),
            Self::Settings { .. }
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::TooFewBrokers { .. }
            | Self::Panicked { .. } => false,
        }
    }
}

/// The code in a failure; the client library leaves it out of those of the admin client.
pub(super) fn code_of(error: &ClientError) -> Option<Code> {
    match error {
        ClientError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

/// Whether nobody answered, or nobody who may.
pub fn is_unreachable(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::NotController
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::WaitingForCoordinator
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
    )
}

/// Whether credentials, certificates or rights are at fault.
pub fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SSL
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

/// Whether the brokers, or the version of them that speaks to us, do not know what was asked.
pub fn is_unsupported(code: Code) -> bool {
    matches!(code, Code::UnsupportedVersion | Code::UnsupportedFeature | Code::NotImplemented)
}
