//! Positions of the groups of every App's stages, and the ends of their topics, in; how far each stage is behind out. Asked
//! from outside of the groups, so it is told too where nobody owns a partition. Every worker tells the same. Only asks.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use millrace_crds::config::Topic;
use millrace_crds::names::{AppId, TopicKind};

use crate::config::Current;
use crate::load::target::Target;
use crate::log::{Log, LogError, ReadLimits, TopicPartition};
use crate::member::Member;
use crate::metrics::Metrics;
use crate::process;

/// Shortest time between two rounds.
const PERIOD: Duration = Duration::from_secs(5);
/// How many times as long as a round took nothing is asked afterwards: with many Apps the figures get older, and the
/// brokers are not asked more.
const REST: u32 = 9;

/// What looks at the stages of every App.
pub struct Lag {
    config: Current,
    log: Arc<dyn Log>,
    member: Member,
    metrics: Arc<Metrics>,
    /// What is told at the moment.
    told: BTreeSet<(AppId, &'static str)>,
}

/// How far a stage is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Behind {
    /// Offsets between where it stands and the ends.
    records: u64,
    /// When the log took the oldest record that it has not passed.
    oldest_at: Option<i64>,
}

impl Lag {
    /// Tells nothing yet.
    pub fn new(config: Current, log: Arc<dyn Log>, member: Member, metrics: Arc<Metrics>) -> Self {
        Self { config, log, member, metrics, told: BTreeSet::new() }
    }

    /// For ever.
    pub async fn report(mut self) -> Infallible {
        loop {
            let begun = Instant::now();
            self.round().await;
            tokio::time::sleep(PERIOD.max(begun.elapsed() * REST)).await;
        }
    }

    /// Every stage once. What cannot be found out is not told, so that an old figure does not pass for a new one.
    pub async fn round(&mut self) {
        let config = self.config.load_full();
        let mut told = BTreeSet::new();
        for (id, app) in config.apps() {
            for (stage, kind) in stages() {
                let Some(topic) = app.config.topics.iter().find(|topic| topic.kind == kind) else { continue };
                match behind(&*self.log, &self.member.group(id, stage), topic).await {
                    Ok(behind) => {
                        self.tell(id, stage, behind);
                        told.insert((id.clone(), stage));
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(app = %id, stage, error, "cannot find out how far a stage is behind");
                    }
                }
            }
        }
        for (id, stage) in std::mem::replace(&mut self.told, told) {
            if !self.told.contains(&(id.clone(), stage)) {
                let labels = [id.to_string(), stage.to_owned()];
                let labels = labels.each_ref().map(String::as_str);
                // Told before, so both are there.
                let _ = self.metrics.stage_lag_records.remove_label_values(&labels);
                let _ = self.metrics.stage_lag_seconds.remove_label_values(&labels);
            }
        }
    }

    fn tell(&self, app: &AppId, stage: &str, behind: Behind) {
        let labels = [app.to_string(), stage.to_owned()];
        let labels = labels.each_ref().map(String::as_str);
        let records = i64::try_from(behind.records).unwrap_or(i64::MAX);
        let now = Timestamp::now().as_millisecond();
        let age_ms = behind.oldest_at.map_or(0, |at| now.saturating_sub(at).max(0));
        self.metrics.stage_lag_records.with_label_values(&labels).set(records);
        let age = Duration::from_millis(age_ms.cast_unsigned());
        self.metrics.stage_lag_seconds.with_label_values(&labels).set(age.as_secs_f64());
    }
}

/// Every stage that passes through a topic, and which.
fn stages() -> impl Iterator<Item = (&'static str, TopicKind)> {
    let process = (process::STAGE, TopicKind::EventsRaw);
    std::iter::once(process).chain(Target::ALL.into_iter().map(|target| (target.stage(), target.topic())))
}

async fn behind(log: &dyn Log, group: &str, topic: &Topic) -> Result<Behind, LogError> {
    let name: Arc<str> = Arc::from(topic.name.as_str());
    let of = |partition| TopicPartition { topic: Arc::clone(&name), partition };
    let partitions: Vec<TopicPartition> = (0..topic.partitions).map(of).collect();
    let committed = log.committed(group, &partitions).await?;
    let mut behind = Behind::default();
    for (of, committed) in partitions.iter().zip(committed) {
        let ends = log.watermarks(of).await?;
        let next = committed.map_or(0, |committed| committed.offset).max(ends.low);
        if next >= ends.high {
            continue;
        }
        // Nothing but markers of transactions is no lag.
        let Some(oldest) = log.read(of, next, ReadLimits::PEEK).await?.into_iter().next() else { continue };
        behind.records += ends.high.saturating_sub(oldest.offset);
        behind.oldest_at = behind.oldest_at.into_iter().chain([oldest.appended_at]).min();
    }
    Ok(behind)
}

#[cfg(test)]
mod tests;
