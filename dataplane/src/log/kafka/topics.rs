//! What the brokers say about topics, kept until something shows that it is no longer true.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use millrace_provision::kafka::{Admin, KafkaError};

use super::error::not_told;
use crate::log::{Committed, LogError, NewRecord, TopicInfo, TopicPartition};

/// What brokers take where their settings may not be read.
const RECORD_BYTES_DEFAULT: usize = 1_000_000;

/// What fails when the brokers do not tell of a topic.
const DESCRIBE: &str = "describe a topic";

/// A topic as it was last seen.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Name, identity, partitions.
    pub(super) info: TopicInfo,
    /// Largest record it takes.
    pub(super) record_bytes_max: usize,
}

/// Topics that were asked for.
pub(super) struct Topics {
    admin: Admin,
    known: RwLock<HashMap<Arc<str>, Known>>,
    /// One question at a time: what one caller learns answers the others.
    asking: tokio::sync::Mutex<()>,
}

impl Topics {
    pub(super) fn new(admin: Admin) -> Self {
        Self { admin, known: RwLock::default(), asking: tokio::sync::Mutex::default() }
    }

    /// Asks the brokers.
    pub(super) async fn ask(&self, name: &str) -> Result<Known, LogError> {
        match self.observe(name).await? {
            // Positions and tokens of loaded blocks name topics by their ids.
            Some(known) if known.info.id.is_nil() => {
                Err(LogError::Unsupported { step: "tell the id of a topic", source: None })
            }
            Some(known) => {
                let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
                all.insert(Arc::clone(&known.info.name), known.clone());
                Ok(known)
            }
            None => {
                self.forget(name);
                Err(LogError::UnknownTopic { topic: name.to_owned() })
            }
        }
    }

    async fn observe(&self, name: &str) -> Result<Option<Known>, LogError> {
        let info = |id, partitions| TopicInfo { name: Arc::from(name), id, partitions };
        match self.admin.observe(&[name]).await {
            Ok(found) => Ok(found.into_iter().next().map(|found| Known {
                info: info(found.id, found.topic.partitions),
                record_bytes_max: found.record_bytes_max,
            })),
            // Who may use a topic may not always read its settings.
            Err(KafkaError::Refused { .. }) => {
                let found = self.admin.describe(&[name]).await.map_err(|error| not_told(DESCRIBE, error))?;
                Ok(found.into_iter().next().map(|found| Known {
                    info: info(found.id, found.partitions),
                    record_bytes_max: RECORD_BYTES_DEFAULT,
                }))
            }
            Err(error) => Err(not_told(DESCRIBE, error)),
        }
    }

    /// The topic of a partition that exists.
    pub(super) async fn of(&self, of: &TopicPartition) -> Result<Known, LogError> {
        if let Some(known) = self.has(of) {
            return Ok(known);
        }
        let _only_one = self.asking.lock().await;
        if let Some(known) = self.has(of) {
            return Ok(known);
        }
        let known = self.ask(&of.topic).await?;
        if of.partition < known.info.partitions {
            Ok(known)
        } else {
            Err(LogError::UnknownPartition { partition: of.clone() })
        }
    }

    /// See [`crate::log::Log::committed`].
    pub(super) async fn committed(
        &self,
        group: &str,
        of: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, LogError> {
        let asked: Vec<_> = of.iter().map(|of| (of.topic.to_string(), of.partition)).collect();
        let found = self.admin.group_positions(group, asked).await;
        let found = found.map_err(|error| not_told("find where a group stands", error))?;
        let position = |of: &TopicPartition| {
            let found = found.iter().find(|at| *at.topic == *of.topic && at.partition == of.partition)?;
            Some(Committed { offset: found.offset, metadata: found.metadata.clone() })
        };
        Ok(of.iter().map(position).collect())
    }

    /// Why nothing came of a step: a client that waited in vain does not say whether it was refused, so the brokers are
    /// asked something that anybody may ask.
    pub(super) async fn reason_of(&self, failed: LogError, step: &'static str) -> LogError {
        match self.admin.cluster().await {
            Ok(_) => failed,
            Err(error) => not_told(step, error),
        }
    }

    fn has(&self, of: &TopicPartition) -> Option<Known> {
        let all = self.known.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&of.topic).filter(|known| of.partition < known.info.partitions).cloned()
    }

    /// What was known about it turned out wrong.
    pub(super) fn forget(&self, name: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Whether the brokers will take these records; returns their bytes.
    pub(super) async fn check(&self, records: &[NewRecord]) -> Result<usize, LogError> {
        let mut bytes_all = 0;
        let mut last: Option<Known> = None;
        for NewRecord { to, key, value } in records {
            // Records of one call mostly go to one topic.
            let is_same = |known: &Known| known.info.name == to.topic && to.partition < known.info.partitions;
            let known = match last.take().filter(is_same) {
                Some(known) => known,
                None => self.of(to).await?,
            };
            let bytes = key.len() + value.len();
            if bytes > known.record_bytes_max {
                return Err(LogError::TooLarge { bytes, bytes_max: known.record_bytes_max });
            }
            bytes_all += bytes;
            last = Some(known);
        }
        Ok(bytes_all)
    }
}
