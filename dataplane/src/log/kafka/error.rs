//! What the client library says in, [`LogError`] out; and its log lines into ours.

use std::sync::Arc;

use millrace_provision::kafka::KafkaError as AdminError;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::log::LogError;

/// A failure that the library names.
pub(super) fn unavailable(step: &'static str, source: KafkaError) -> LogError {
    match source.rdkafka_error_code() {
        Some(code) if millrace_provision::kafka::is_refusal(code) => {
            LogError::Refused { step, source: Arc::new(source) }
        }
        Some(code) if millrace_provision::kafka::is_unsupported(code) => {
            LogError::Unsupported { step, source: Some(Arc::new(source)) }
        }
        _ => LogError::Unavailable { step, source: Arc::new(source) },
    }
}

/// A failure of which only the code is known.
pub(super) fn unavailable_code(step: &'static str, code: Code) -> LogError {
    unavailable(step, KafkaError::Global(code))
}

/// A failure to ask about topics and groups.
pub(super) fn not_told(step: &'static str, source: AdminError) -> LogError {
    match source {
        AdminError::Refused { .. } => LogError::Refused { step, source: Arc::new(source) },
        old if old.is_unsupported() => LogError::Unsupported { step, source: Some(Arc::new(old)) },
        other => LogError::Unavailable { step, source: Arc::new(other) },
    }
}

/// Work on a thread of its own panicked: a bug of ours.
pub(super) fn panicked(source: tokio::task::JoinError) -> LogError {
    LogError::Failed { step: "work on Kafka", source: Some(Arc::new(source)) }
}

/// Whether the group goes on without this member.
pub(super) fn is_lost_membership(code: Code) -> bool {
    matches!(
        code,
        Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::FencedInstanceId
            | Code::RebalanceInProgress
            | Code::AssignmentLost
            | Code::FencedMemberEpoch
            | Code::StaleMemberEpoch
    )
}

/// Whether the group has moved on while a position was on its way. Who is still a member, and still holds the
/// partitions, may ask again: nobody else can have them before its next call of `next`.
pub(super) fn is_outdated_generation(code: Code) -> bool {
    matches!(code, Code::IllegalGeneration | Code::RebalanceInProgress | Code::StaleMemberEpoch)
}

/// Whether a newer transactor has the id.
pub(super) fn is_fencing(code: Code) -> bool {
    matches!(
        code,
        Code::ProducerFenced | Code::InvalidProducerEpoch | Code::InvalidProducerIdMapping | Code::Fenced
    )
}

/// Lines of the library, with its own facility beside them. Connections come and go; only what it calls an error
/// is more than information here.
pub(super) fn tell(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "librdkafka");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(facility, message, "librdkafka");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, message, "librdkafka"),
        RDKafkaLogLevel::Debug => tracing::debug!(facility, message, "librdkafka"),
    }
}

/// The context of clients that only ask: their failures come with the answers.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tell(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(error = &error as &dyn std::error::Error, reason, "librdkafka");
    }
}

impl ConsumerContext for Quiet {}
