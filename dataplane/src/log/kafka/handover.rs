//! Records in, lent to librdkafka without a copy of their values, and let go of when it says what became of them. The only
//! unsafe code of the log. Decides nothing: what a delivery means is up to the call that it belongs to.
//!
//! librdkafka copies a record's key, and reads its value until the delivery report, which comes once for every record that
//! it took. Until then the record's [`Slot`] owns the value; librdkafka carries the slot as the opaque of the record.

#![expect(unsafe_code, reason = "calls into librdkafka; each block says what makes it sound")]

use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::bindings as sys;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{NoCustomPartitioner, Producer, ProducerContext, PurgeConfig, ThreadedProducer};
use rdkafka::util::IntoOpaque;

use super::append::Call;
use super::error::tell;
use crate::log::TopicPartition;

/// Longest wait for the reports of records that are given up with their producer. They come at once, unless a thread of
/// librdkafka gets no processor for so long; what it still carries then is never let go of.
const PURGE_MAX: Duration = Duration::from_secs(10);

/// Longest wait for what the brokers know of a topic: a caller waits as long for an error that says to come back.
const LEARN_MAX: Duration = Duration::from_secs(5);

/// One record of a call while librdkafka has it.
pub(super) struct Slot {
    pub(super) call: Arc<Call>,
    pub(super) index: usize,
    /// What librdkafka reads.
    pub(super) value: Bytes,
}

/// Hands deliveries to the calls they belong to.
pub(super) struct Deliveries;

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tell(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(error = &error as &dyn std::error::Error, reason, "the Kafka producer has a problem");
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, slot: Box<Slot>) {
        match delivered {
            Ok(message) => slot.call.delivered(slot.index, message.offset()),
            Err((error, _)) => slot.call.failed(1, error.clone()),
        }
    }
}

/// A producer that says what became of its records.
pub(super) struct Deliverer {
    producer: ThreadedProducer<Deliveries>,
}

impl Deliverer {
    /// Asks no broker yet.
    pub(super) fn new(config: &ClientConfig) -> Result<Self, KafkaError> {
        Ok(Self { producer: config.create_with_context(Deliveries)? })
    }

    /// What else a producer can do.
    pub(super) fn producer(&self) -> &ThreadedProducer<Deliveries> {
        &self.producer
    }

    /// Has librdkafka ask the brokers what a topic is; by itself it asks every few minutes. Blocks.
    pub(super) fn learn(&self, topic: &str) {
        if let Err(error) = self.producer.client().fetch_metadata(Some(topic), LEARN_MAX) {
            tracing::debug!(
                topic,
                error = &error as &dyn std::error::Error,
                "the brokers do not tell of a topic"
            );
        }
    }

    /// Hands one record over. What is not taken was not looked at, and comes back.
    pub(super) fn lend(
        &self,
        to: &TopicPartition,
        key: &[u8],
        slot: Box<Slot>,
    ) -> Result<(), (KafkaError, Box<Slot>)> {
        let Ok(topic) = CString::new(&*to.topic) else {
            return Err((KafkaError::MessageProduction(Code::InvalidTopic), slot));
        };
        let partition = i32::try_from(to.partition).unwrap_or(i32::MAX);
        let (value, value_bytes) = (slot.value.as_ptr().cast_mut().cast::<c_void>(), slot.value.len());
        // No flag for the value: neither copied nor given back with `free`.
        let flags: std::ffi::c_int = 0;
        let opaque = slot.into_ptr();
        // SAFETY: the client lives as long as `self`. Topic and key live for the call, which copies them. The value is
        // only read, and lives as long as the slot, whose owner is the opaque now: it stands on the heap, nothing changes
        // it, and it is dropped in `delivery` alone, after which librdkafka does not look at the value any more. The
        // arguments have the types that their tags ask for, and the last tag ends them.
        let code = unsafe {
            sys::rd_kafka_producev(
                self.producer.client().native_ptr(),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC,
                topic.as_ptr(),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
                partition,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                flags,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                value,
                value_bytes,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                key.as_ptr(),
                key.len(),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
                opaque,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
            )
        };
        match Code::from(code) {
            Code::NoError => Ok(()),
            refused => {
                // SAFETY: the pointer was made from this box above. librdkafka took nothing, so it reports nothing: the
                // box comes back here and nowhere else.
                let slot = unsafe { Box::<Slot>::from_ptr(opaque) };
                Err((KafkaError::MessageProduction(refused), slot))
            }
        }
    }
}

impl Drop for Deliverer {
    /// Every record that was lent is reported before the producer is gone, so that its slot is let go of, and its call
    /// hears of it.
    fn drop(&mut self) {
        self.producer.purge(PurgeConfig::default().queue().inflight());
        if let Err(error) = self.producer.flush(PURGE_MAX) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a Kafka producer ended with records");
        }
    }
}

#[cfg(test)]
mod tests;
