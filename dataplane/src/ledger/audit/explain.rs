//! What stands in raw and what in the tables in, the events that are not where they should be out. Pure.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::ledger::sum::Sum;
use crate::record::event_hash;

/// Most events that are named.
pub(super) const EVENTS_MAX: usize = 1_000;

/// Records of raw, replays apart.
#[derive(Debug, Default)]
pub(super) struct InRaw {
    /// By event, each copy in the minute it was accepted in and where it stands.
    pub(super) events: HashMap<Uuid, Vec<Copy>>,
    /// What cannot be read and so has no id, by minute.
    pub(super) nameless: BTreeMap<i64, Sum>,
    /// Whether the log still holds all of the span.
    pub(super) is_whole: bool,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) minute: i64,
    pub(super) partition: u32,
    pub(super) offset: u64,
}

impl InRaw {
    /// What the ledger should have counted.
    pub(super) fn sums(&self) -> BTreeMap<i64, Sum> {
        let mut sums = self.nameless.clone();
        for (event_id, copies) in &self.events {
            let hash = event_hash(event_id);
            for copy in copies {
                *sums.entry(copy.minute).or_default() += Sum::one(hash);
            }
        }
        sums
    }
}

/// Where an event is that has no row in the span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Elsewhere {
    /// Whether it has a row of another minute: what stands here is a copy.
    pub(super) stored: bool,
    /// Whether it is set aside and was not taken up again.
    pub(super) set_aside: bool,
}

/// An event that is not where it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Which.
    pub event_id: Uuid,
    /// Minute in which it was accepted, since the epoch; of the first copy.
    pub minute: i64,
    /// Partition and offset in `events-raw`, where it stands there.
    pub raw: Option<(u32, u64)>,
    /// What is wrong.
    pub what: What,
}

/// What is wrong with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Neither stored nor set aside.
    Lost,
    /// More than one row.
    StoredTwice {
        /// How many.
        rows: u64,
    },
    /// A row, and no record it could come from.
    FromNowhere,
}

impl What {
    /// For programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::StoredTwice { .. } => "stored_twice",
            Self::FromNowhere => "from_nowhere",
        }
    }

    /// For people.
    pub fn text(self) -> String {
        match self {
            Self::Lost => "stands in events-raw and is neither stored nor set aside".to_owned(),
            Self::StoredTwice { rows } => format!("stored in {rows} rows"),
            Self::FromNowhere => "stored, and not in events-raw".to_owned(),
        }
    }
}

/// Rows of the span, by event.
pub(super) type Stored = HashMap<Uuid, (i64, u64)>;

/// Every event that is not where it should be, by minute.
pub(super) fn explain(raw: &InRaw, stored: &Stored, elsewhere: &HashMap<Uuid, Elsewhere>) -> Vec<Explained> {
    let mut found = Vec::new();
    for (event_id, copies) in &raw.events {
        let Some(first) = copies.iter().min_by_key(|copy| (copy.minute, copy.offset)) else { continue };
        let what = match stored.get(event_id) {
            Some((_, rows)) if *rows > 1 => What::StoredTwice { rows: *rows },
            Some(_) => continue,
            None => match elsewhere.get(event_id).copied().unwrap_or_default() {
                Elsewhere { stored: false, set_aside: false } => What::Lost,
                Elsewhere { .. } => continue,
            },
        };
        let place = Some((first.partition, first.offset));
        found.push(Explained { event_id: *event_id, minute: first.minute, raw: place, what });
    }
    for (event_id, (minute, rows)) in stored {
        if raw.is_whole && !raw.events.contains_key(event_id) {
            let what = if *rows > 1 { What::StoredTwice { rows: *rows } } else { What::FromNowhere };
            found.push(Explained { event_id: *event_id, minute: *minute, raw: None, what });
        }
    }
    found.sort_by_key(|explained| (explained.minute, explained.event_id));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_lost_doubled_or_from_nowhere_and_nothing_else() {
        let id = |n: u128| Uuid::from_u128(n);
        let copy = |offset| Copy { minute: 7, partition: 0, offset };
        let raw = InRaw {
            events: [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]
                .map(|(n, offset)| (id(n), vec![copy(offset), copy(offset + 100)]))
                .into(),
            is_whole: true,
            ..InRaw::default()
        };
        let stored: Stored = [(1, 1), (2, 2), (9, 1)].map(|(n, rows)| (id(n), (7, rows))).into();
        let elsewhere = HashMap::from([
            (id(3), Elsewhere { stored: true, set_aside: false }),
            (id(4), Elsewhere { stored: false, set_aside: true }),
        ]);
        let found: Vec<_> = explain(&raw, &stored, &elsewhere)
            .into_iter()
            .map(|explained| (explained.event_id.as_u128(), explained.what))
            .collect();
        assert_eq!(found, [(2, What::StoredTwice { rows: 2 }), (5, What::Lost), (9, What::FromNowhere)]);
        let cut = InRaw { is_whole: false, ..raw };
        assert_eq!(explain(&cut, &stored, &elsewhere).len(), 2, "what retention removed proves nothing");
    }
}
