//! Minutes as they are read, again and again, in; differences that outlived the lag out. Pure.
//!
//! The lag is no number of seconds. Between two reads everything that stood in the log at the first has passed every
//! stage: what was only on its way at the first read has arrived at the second. So where nothing arrived in between,
//! nothing was on its way, and a difference is none of arrival. That the difference is the same is not enough: of what
//! was written together one half may be read at the first look and the other at the second.

use std::collections::{BTreeMap, BTreeSet};

use super::balance::{Extent, Minute, Place};
use super::sum::Sum;

/// What was different at the last read, and how much of its minute was there.
#[derive(Debug, Default)]
pub struct Watch {
    suspects: BTreeMap<Place, (Sum, Extent)>,
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
    /// Takes in what a read found. Everything that stood in the log at the last call has passed every stage before this
    /// read began.
    pub fn look(&mut self, minutes: &BTreeMap<i64, Minute>) -> Looked {
        let recorded = recorded(minutes);
        let found = found(minutes);
        let known = |place: &Place| recorded.get(place).copied().unwrap_or(Sum::ZERO);
        let mut looked = Looked::default();
        for (place, seen @ (missing, _)) in
            found.iter().filter(|(place, (missing, _))| known(place) != *missing)
        {
            if self.suspects.get(place) == Some(seen) {
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

/// Every difference on record.
pub fn recorded(minutes: &BTreeMap<i64, Minute>) -> BTreeMap<Place, Sum> {
    let of_minute = |(minute, counted): (&i64, &Minute)| {
        let place = |((instance, equation), sum): (&(String, _), &Sum)| {
            (Place { minute: *minute, instance: instance.clone(), equation: *equation }, *sum)
        };
        counted.breached.iter().map(place).collect::<Vec<_>>()
    };
    minutes.iter().flat_map(of_minute).collect()
}

/// Every equation that does not hold, with how much of its minute is there.
fn found(minutes: &BTreeMap<i64, Minute>) -> BTreeMap<Place, (Sum, Extent)> {
    let of_minute = |(minute, counted): (&i64, &Minute)| {
        let extent = counted.extent();
        let place = |((instance, equation), missing)| {
            (Place { minute: *minute, instance, equation }, (missing, extent))
        };
        counted.differences().into_iter().map(place).collect::<Vec<_>>()
    };
    minutes.iter().flat_map(of_minute).collect()
}
