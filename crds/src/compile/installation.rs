//! What an installation may set for all its Apps, and its defaults. The only place where these numbers stand.

use crate::names::PREFIX_DEFAULT;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Settings of an installation that fill what an App leaves open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// First part of topic and database names.
    pub prefix: String,
    /// Limits of the ingest endpoint.
    pub ingest: IngestLimits,
    /// Topics.
    pub topics: TopicsDefaults,
}

/// Limits of the ingest endpoint where an App names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngestLimits {
    /// Largest body in bytes.
    pub max_body_bytes: u64,
    /// Largest event in bytes.
    pub max_event_bytes: u64,
    /// Most events in one request.
    pub max_batch_events: u32,
}

/// Topics where an App names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicsDefaults {
    /// Accepted events.
    pub raw: TopicDefaults,
    /// Events after processing.
    pub processed: TopicDefaults,
    /// Alerts.
    pub alerts: TopicDefaults,
    /// Events that could not be processed.
    pub dead_letters: TopicDefaults,
    /// Counts that prove that nothing was lost.
    pub ledger: TopicDefaults,
}

/// One topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicDefaults {
    /// Number of partitions.
    pub partitions: u32,
    /// Age at which records may be removed, in milliseconds.
    pub retention_ms: u64,
    /// Size per partition at which the oldest may be removed; absent means no limit by size.
    pub retention_bytes: Option<u64>,
}

impl TopicDefaults {
    const fn days(partitions: u32, days: u64) -> Self {
        Self { partitions, retention_ms: days * DAY_MS, retention_bytes: None }
    }
}

impl Installation {
    /// A cluster with Kafka.
    pub fn cluster() -> Self {
        Self::with(TopicsDefaults {
            raw: TopicDefaults::days(12, 7),
            processed: TopicDefaults::days(6, 30),
            alerts: TopicDefaults::days(1, 90),
            // As long as processed: a replay finds the events around it still there.
            dead_letters: TopicDefaults::days(1, 30),
            ledger: TopicDefaults::days(1, 30),
        })
    }

    /// One process on one machine: each partition costs memory, and few cores share them.
    pub fn standalone() -> Self {
        let cluster = Self::cluster().topics;
        Self::with(TopicsDefaults {
            raw: TopicDefaults { partitions: 4, ..cluster.raw },
            processed: TopicDefaults { partitions: 2, ..cluster.processed },
            ..cluster
        })
    }

    fn with(topics: TopicsDefaults) -> Self {
        // A body holds a full batch of ordinary events (about 1 KiB) four times over; an event with its envelope
        // stays well below the megabyte that brokers take by default.
        let ingest =
            IngestLimits { max_body_bytes: 4 << 20, max_event_bytes: 256 << 10, max_batch_events: 1_000 };
        Self { prefix: PREFIX_DEFAULT.to_owned(), ingest, topics }
    }
}
