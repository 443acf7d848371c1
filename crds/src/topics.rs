//! The log topics an App needs, and what must change to get there from what is observed. Pure values.

use crate::app::{TopicSpec, TopicsSpec};
use crate::compile::{Installation, TopicDefaults};
use crate::config::Topic;
use crate::names::{AppId, TopicKind};

/// The topics of an App, internal ones included, in the order of [`TopicKind::ALL`].
pub fn desired(
    id: &AppId,
    spec: &TopicsSpec,
    dedupe_window_ms: u64,
    installation: &Installation,
) -> Vec<Topic> {
    let defaults = &installation.topics;
    let raw = filled(spec.raw, defaults.raw);
    let sizes = |kind| match kind {
        TopicKind::EventsRaw => raw,
        TopicKind::EventsProcessed => filled(spec.processed, defaults.processed),
        TopicKind::Alerts => filled(spec.alerts, defaults.alerts),
        TopicKind::DeadLetters => defaults.dead_letters,
        // One changelog partition per raw partition. A duplicate can come as late as the window, of a raw record as
        // old as the raw topic keeps; the changelog must still know it then. Hence no limit by size either.
        TopicKind::Seen => TopicDefaults {
            partitions: raw.partitions,
            retention_ms: raw.retention_ms + dedupe_window_ms,
            retention_bytes: None,
        },
        TopicKind::Ledger => defaults.ledger,
    };
    let topic = |kind: TopicKind| {
        let TopicDefaults { partitions, retention_ms, retention_bytes } = sizes(kind);
        let name = id.topic(&installation.prefix, kind);
        Topic { kind, name, partitions, retention_ms, retention_bytes }
    };
    TopicKind::ALL.into_iter().map(topic).collect()
}

fn filled(spec: TopicSpec, default: TopicDefaults) -> TopicDefaults {
    TopicDefaults {
        partitions: spec.partitions.unwrap_or(default.partitions),
        retention_ms: spec.retention.map_or(default.retention_ms, |retention| retention.as_ms()),
        retention_bytes: spec.retention_bytes.map(|size| size.as_bytes()).or(default.retention_bytes),
    }
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its name.
    pub name: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Age at which records may be removed, in milliseconds.
    pub retention_ms: u64,
    /// Size per partition at which the oldest may be removed.
    pub retention_bytes: Option<u64>,
}

/// One step towards what is desired. Each may be repeated safely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make this topic.
    Create(Topic),
    /// Add partitions.
    Grow {
        /// The topic.
        name: String,
        /// Partitions it has.
        from: u32,
        /// Partitions it gets, a multiple of what it has.
        to: u32,
    },
    /// Keep records for another time or size.
    SetRetention {
        /// The topic.
        name: String,
        /// New age in milliseconds.
        retention_ms: u64,
        /// New size per partition.
        retention_bytes: Option<u64>,
    },
}

/// Why a topic cannot become what is desired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Partitions cannot be taken away.
    #[error("topic `{name}` has {from} partitions and cannot shrink to {to}; set at least {from}")]
    Shrink {
        /// The topic.
        name: String,
        /// Partitions it has.
        from: u32,
        /// Partitions asked for.
        to: u32,
    },
    /// Only a multiple keeps each key's history within known partitions.
    #[error(
        "topic `{name}` has {from} partitions and can only grow to a multiple of that, not to {to}; set {next}",
        next = from.saturating_mul(to.div_ceil(*from))
    )]
    NotAMultiple {
        /// The topic.
        name: String,
        /// Partitions it has, at least 1.
        from: u32,
        /// Partitions asked for.
        to: u32,
    },
}

/// What to do to get from the observed topics to the desired ones, or everything that stands against it. Topics
/// that nobody desires are left alone: only a deletion removes data.
pub fn diff(observed: &[Observed], desired: &[Topic]) -> Result<Vec<Change>, Vec<Refused>> {
    let mut changes = Vec::new();
    let mut refused = Vec::new();
    for topic in desired {
        let Some(found) = observed.iter().find(|observed| observed.name == topic.name) else {
            changes.push(Change::Create(topic.clone()));
            continue;
        };
        let (name, from, to) = (topic.name.clone(), found.partitions, topic.partitions);
        if to < from {
            refused.push(Refused::Shrink { name, from, to });
        } else if from == 0 || !to.is_multiple_of(from) {
            refused.push(Refused::NotAMultiple { name, from: from.max(1), to });
        } else if to > from {
            changes.push(Change::Grow { name, from, to });
        }
        if (found.retention_ms, found.retention_bytes) != (topic.retention_ms, topic.retention_bytes) {
            changes.push(Change::SetRetention {
                name: topic.name.clone(),
                retention_ms: topic.retention_ms,
                retention_bytes: topic.retention_bytes,
            });
        }
    }
    if refused.is_empty() { Ok(changes) } else { Err(refused) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quantity::{ByteSize, Duration};

    const DAY_MS: u64 = 86_400_000;

    fn shop(spec: &TopicsSpec) -> Vec<Topic> {
        desired(&AppId::new("default", "shop").unwrap(), spec, DAY_MS, &Installation::standalone())
    }

    fn as_observed(topic: &Topic) -> Observed {
        Observed {
            name: topic.name.clone(),
            partitions: topic.partitions,
            retention_ms: topic.retention_ms,
            retention_bytes: topic.retention_bytes,
        }
    }

    #[test]
    fn fills_what_is_absent_and_derives_the_changelog_from_raw() {
        let raw = TopicSpec {
            partitions: Some(8),
            retention: Some(Duration::days(3)),
            retention_bytes: Some(ByteSize::gibibytes(1)),
        };
        let topics = shop(&TopicsSpec { raw, ..TopicsSpec::default() });
        let find = |kind| topics.iter().find(|topic: &&Topic| topic.kind == kind).unwrap();
        assert_eq!(topics.iter().map(|t| t.kind).collect::<Vec<_>>(), TopicKind::ALL);
        let seen = find(TopicKind::Seen);
        assert_eq!((seen.partitions, seen.retention_ms, seen.retention_bytes), (8, 4 * DAY_MS, None));
        assert_eq!(find(TopicKind::EventsRaw).retention_bytes, Some(1 << 30));
        assert_eq!(find(TopicKind::EventsProcessed).partitions, 2);
        assert_eq!(seen.name, "millrace.default.shop.seen");
    }

    #[test]
    fn grows_by_multiples_and_never_shrinks() {
        for (from, to, expected) in [
            (4, 4, Ok(0)),
            (4, 8, Ok(1)),
            (4, 12, Ok(1)),
            (4, 2, Err("cannot shrink to 2; set at least 4")),
            (4, 6, Err("not to 6; set 8")),
            (0, 4, Err("not to 4; set 4")),
        ] {
            let wanted = Topic { partitions: to, ..shop(&TopicsSpec::default())[0].clone() };
            let found = Observed { partitions: from, ..as_observed(&wanted) };
            match (diff(&[found], &[wanted]), expected) {
                (Ok(changes), Ok(count)) => assert_eq!(changes.len(), count, "{from} to {to}"),
                (Err(refused), Err(text)) => assert!(refused[0].to_string().contains(text), "{refused:?}"),
                (got, _) => panic!("{from} to {to}: {got:?}"),
            }
        }
    }

    #[test]
    fn creates_what_is_missing_sets_what_differs_and_leaves_strangers_alone() {
        let wanted = shop(&TopicsSpec::default());
        assert_eq!(diff(&[], &wanted).unwrap().len(), TopicKind::ALL.len());
        let mut found: Vec<Observed> = wanted.iter().map(as_observed).collect();
        found.push(Observed { name: "millrace.default.blog.events-raw".to_owned(), ..found[0].clone() });
        assert_eq!(diff(&found, &wanted), Ok(vec![]));
        found[0].retention_ms = 1;
        assert!(matches!(diff(&found, &wanted).unwrap()[..], [Change::SetRetention { .. }]));
    }

    proptest! {
        #[test]
        fn carrying_out_the_changes_leaves_nothing_to_do(partitions in 1_u32..64, times in 1_u32..8, ms in 1_u64..99) {
            let wanted = vec![Topic { partitions: partitions * times, ..shop(&TopicsSpec::default())[0].clone() }];
            let mut found = Observed { partitions, retention_ms: ms, ..as_observed(&wanted[0]) };
            for change in diff(&[found.clone()], &wanted).unwrap() {
                match change {
                    Change::Create(_) => unreachable!("it exists"),
                    Change::Grow { to, .. } => found.partitions = to,
                    Change::SetRetention { retention_ms, retention_bytes, .. } => {
                        found.retention_ms = retention_ms;
                        found.retention_bytes = retention_bytes;
                    }
                }
            }
            prop_assert_eq!(diff(&[found], &wanted), Ok(vec![]));
        }
    }
}
