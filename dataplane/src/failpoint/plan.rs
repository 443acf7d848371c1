//! The text of the settings in, what happens at which visit of which point out. Pure.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use super::{Defect, Point};

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// SIGKILL to this process: nothing is flushed, nothing is told.
    Abort,
    /// The step fails as if the log did not answer.
    Error,
    /// The step is late.
    Delay(Duration),
    /// SIGSTOP to this process, until somebody wakes it.
    Pause,
}

/// At which visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visits {
    /// At this one; the first is 1.
    Only(u64),
    /// At this one and all later ones.
    From(u64),
}

/// `point=action[@n[+]]`, separated by `;`: `load-inserted=abort@3;process-decided=delay(200)@1+`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Points(pub(super) BTreeMap<Point, (Action, Visits)>);

/// `defect[@n[+]]`, separated by `;`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Defects(pub(super) BTreeMap<Defect, Visits>);

/// What cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAPlan {
    /// No such point.
    #[error("`{name}` is no failpoint; the enum `failpoint::Point` lists them")]
    Point {
        /// What was given.
        name: String,
    },
    /// No such defect.
    #[error("`{name}` is no defect; the enum `failpoint::Defect` lists them")]
    Defect {
        /// What was given.
        name: String,
    },
    /// No such action.
    #[error("`{text}` is no action; use abort, error, delay(MILLISECONDS) or pause")]
    Action {
        /// What was given.
        text: String,
    },
    /// Not a number of visits.
    #[error("`{text}` is no visit; use @3 for the third, @3+ for the third and all later ones")]
    Visits {
        /// What was given.
        text: String,
    },
}

impl Visits {
    /// Whether the visit with this number is meant.
    pub(super) fn include(self, visit: u64) -> bool {
        match self {
            Self::Only(only) => visit == only,
            Self::From(first) => visit >= first,
        }
    }
}

impl FromStr for Points {
    type Err = NotAPlan;

    fn from_str(text: &str) -> Result<Self, NotAPlan> {
        let point = |part: &str| {
            let (name, rest) = part.split_once('=').unwrap_or((part, ""));
            let point =
                Point::from_str(name, false).map_err(|_| NotAPlan::Point { name: name.to_owned() })?;
            let (action, visits) = split_visits(rest)?;
            Ok((point, (action.parse()?, visits)))
        };
        parts(text).map(point).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Defects {
    type Err = NotAPlan;

    fn from_str(text: &str) -> Result<Self, NotAPlan> {
        let defect = |part: &str| {
            let (name, visits) = split_visits(part)?;
            let defect =
                Defect::from_str(name, false).map_err(|_| NotAPlan::Defect { name: name.to_owned() })?;
            Ok((defect, visits))
        };
        parts(text).map(defect).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Action {
    type Err = NotAPlan;

    fn from_str(text: &str) -> Result<Self, NotAPlan> {
        let delay = || text.strip_prefix("delay(")?.strip_suffix(')')?.parse().ok();
        match text {
            "abort" => Ok(Self::Abort),
            "error" => Ok(Self::Error),
            "pause" => Ok(Self::Pause),
            _ => delay()
                .map(|ms| Self::Delay(Duration::from_millis(ms)))
                .ok_or_else(|| NotAPlan::Action { text: text.to_owned() }),
        }
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(';').map(str::trim).filter(|part| !part.is_empty())
}

fn split_visits(text: &str) -> Result<(&str, Visits), NotAPlan> {
    let Some((what, visits)) = text.split_once('@') else { return Ok((text, Visits::Only(1))) };
    let (number, all): (&str, fn(u64) -> Visits) = match visits.strip_suffix('+') {
        Some(first) => (first, Visits::From),
        None => (visits, Visits::Only),
    };
    match number.parse() {
        Ok(number @ 1..) => Ok((what, all(number))),
        Ok(0) | Err(_) => Err(NotAPlan::Visits { text: visits.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_actions_and_visits() {
        let points: Points =
            "load-inserted=abort@3; process-decided=delay(20)@2+;load-cut=error".parse().unwrap();
        let expected = [
            (Point::ProcessDecided, (Action::Delay(Duration::from_millis(20)), Visits::From(2))),
            (Point::LoadCut, (Action::Error, Visits::Only(1))),
            (Point::LoadInserted, (Action::Abort, Visits::Only(3))),
        ];
        assert_eq!(points.0, BTreeMap::from(expected));
        let defects: Defects = "load-loses-row@2+".parse().unwrap();
        assert_eq!(defects.0, BTreeMap::from([(Defect::LoadLosesRow, Visits::From(2))]));
        assert!(Visits::From(2).include(3) && !Visits::From(2).include(1) && !Visits::Only(2).include(3));
    }

    #[test]
    fn names_what_it_cannot_read() {
        let refused = |text: &str| text.parse::<Points>().unwrap_err().to_string();
        assert!(refused("load=abort").contains("`load` is no failpoint"));
        assert!(refused("load-cut=explode").contains("`explode` is no action"));
        assert!(refused("load-cut=delay(x)").contains("`delay(x)` is no action"));
        assert!(refused("load-cut=abort@0").contains("`0` is no visit"));
        assert!("nothing".parse::<Defects>().unwrap_err().to_string().contains("`nothing` is no defect"));
    }
}
