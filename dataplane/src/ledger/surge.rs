//! Counted minutes in, surges of dead letters out. Pure.
//!
//! A release that no longer sends what its App declares fills the dead letters within a minute, and nobody looks there
//! before a chart has a hole. A surge is told when it begins, not again for every minute it lasts.

use std::collections::BTreeMap;

use super::balance::Minute;

/// Fewest events set aside in a minute that make a surge: fewer are the mistakes of every day.
const EVENTS_MIN: i64 = 20;
/// Of how many records of raw one has to be set aside, at least: 5 %.
const ONE_OF: i64 = 20;
/// Minutes without a surge after which the next is a new one.
pub const QUIET_MINUTES: i64 = 10;

/// A surge that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surge {
    /// Its first minute, since the epoch.
    pub minute: i64,
    /// Events of that minute that were set aside.
    pub set_aside: i64,
    /// Everything in raw of that minute.
    pub raw: i64,
    /// By reason, the expired among them.
    pub reasons: BTreeMap<String, i64>,
}

/// The surge that begins in a minute. The [`QUIET_MINUTES`] before it have to be there, as far as anything was counted.
pub fn beginning(minutes: &BTreeMap<i64, Minute>, minute: i64) -> Option<Surge> {
    let counted = minutes.get(&minute)?;
    let goes_on = minutes.range(minute - QUIET_MINUTES..minute).any(|(_, earlier)| is_surge(earlier));
    (is_surge(counted) && !goes_on).then(|| Surge {
        minute,
        set_aside: set_aside(counted),
        raw: counted.raw().count,
        reasons: reasons(counted),
    })
}

fn is_surge(minute: &Minute) -> bool {
    let set_aside = set_aside(minute);
    set_aside >= EVENTS_MIN && set_aside.saturating_mul(ONE_OF) >= minute.raw().count
}

fn set_aside(minute: &Minute) -> i64 {
    minute.dead_lettered().count + minute.expired.count
}

fn reasons(minute: &Minute) -> BTreeMap<String, i64> {
    let counted = minute.dead_lettered.iter().map(|(reason, sum)| (reason.clone(), sum.count));
    let expired = (EXPIRED.to_owned(), minute.expired.count);
    counted.chain([expired]).filter(|(_, count)| *count > 0).collect()
}

/// The name of the reason that is counted apart.
const EXPIRED: &str = "expired";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::balance::Fact;
    use crate::ledger::sum::Sum;
    use crate::record::LedgerKind;

    fn minute(raw: i64, dead_lettered: i64, expired: i64) -> Minute {
        let mut minute = Minute::default();
        let facts = [
            (LedgerKind::Raw, "", raw),
            (LedgerKind::DeadLettered, "missing_property", dead_lettered),
            (LedgerKind::Expired, "", expired),
        ];
        for (kind, reason, count) in facts {
            let sum = Sum { count, hashes: 0 };
            minute.add(Fact {
                instance: "i".to_owned(),
                kind,
                reason: reason.to_owned(),
                sum,
                hash: 0,
                rows: 1,
            });
        }
        minute
    }

    fn begins(minutes: &[(i64, Minute)]) -> Vec<i64> {
        let minutes: BTreeMap<i64, Minute> = minutes.iter().cloned().collect();
        let begun = minutes.keys().filter_map(|minute| beginning(&minutes, *minute));
        begun.map(|surge| surge.minute).collect()
    }

    #[test]
    fn many_and_a_large_share_are_a_surge() {
        for (raw, dead_lettered, expired, expected) in [
            (20, 20, 0, true),
            (19, 19, 0, false),
            (400, 20, 0, true),
            (401, 20, 0, false),
            (400, 12, 8, true),
            (1_000_000, 49_999, 0, false),
            (1_000_000, 50_000, 0, true),
            (0, 0, 0, false),
        ] {
            let counted = minute(raw, dead_lettered, expired);
            assert_eq!(begins(&[(7, counted)]) == [7], expected, "{dead_lettered} + {expired} of {raw}");
        }
    }

    #[test]
    fn one_is_told_where_it_begins_and_again_after_quiet_minutes() {
        let surge = |at| (at, minute(30, 30, 0));
        let quiet = |at| (at, minute(30, 1, 0));
        assert_eq!(begins(&[surge(1), surge(2), quiet(3), surge(12), surge(23), quiet(24)]), [1, 23]);
    }

    #[test]
    fn it_says_how_many_of_how_many_and_why() {
        let minutes = BTreeMap::from([(7, minute(50, 25, 5))]);
        let reasons = BTreeMap::from([("missing_property".to_owned(), 25), ("expired".to_owned(), 5)]);
        let expected = Surge { minute: 7, set_aside: 30, raw: 50, reasons };
        assert_eq!(beginning(&minutes, 7), Some(expected));
    }
}
