//! Differences as they are read, again and again, in; those that outlived the lag out. Pure.
//!
//! The lag is no number of seconds. Between two reads everything that stood in the log at the first has passed every
//! stage: what was only on its way at the first read has arrived at the second. So a difference that is the same at
//! both is none of arrival. One that changed is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use super::balance::Place;
use super::sum::Sum;

/// What was different at the last read.
#[derive(Debug, Default)]
pub struct Watch {
    suspects: BTreeMap<Place, Sum>,
}

/// What a look came to.
#[derive(Debug, Default)]
pub struct Looked {
    /// What is certain, and not on record.
    pub changes: Vec<Change>,
    /// Minutes with a difference that the next look confirms or not.
    pub waiting: BTreeSet<i64>,
}

/// A difference to be put on record, told, or taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which equation of which minute.
    pub place: Place,
    /// What is on record so far.
    pub recorded: Sum,
    /// What is true; zero where the equation holds after all.
    pub missing: Sum,
}

impl Watch {
    /// Takes in what a read found different and what it found on record, of the same minutes. Everything that stood in
    /// the log at the last call has passed every stage before this read began.
    pub fn look(&mut self, found: BTreeMap<Place, Sum>, recorded: &BTreeMap<Place, Sum>) -> Looked {
        let known = |place: &Place| recorded.get(place).copied().unwrap_or(Sum::ZERO);
        let mut looked = Looked::default();
        for (place, missing) in found.iter().filter(|(place, missing)| known(place) != **missing) {
            if self.suspects.get(place) == Some(missing) {
                let recorded = known(place);
                looked.changes.push(Change { place: place.clone(), recorded, missing: *missing });
            } else {
                looked.waiting.insert(place.minute);
            }
        }
        for (place, known) in recorded.iter().filter(|(place, _)| !found.contains_key(*place)) {
            looked.changes.push(Change { place: place.clone(), recorded: *known, missing: Sum::ZERO });
        }
        self.suspects = found;
        looked
    }
}
