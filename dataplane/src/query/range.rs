//! The texts of `from` and `to` in, a half-open range of whole hours or days out. Pure; "now" is an argument.
//! A range is widened to whole steps, because rollups have no finer ones; answers say which range that was.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

/// Earliest moment a range may touch: ingest refuses events from before 2000.
const EARLIEST: Timestamp = Timestamp::constant(946_684_800, 0);
/// First moment a range may not touch, the year 2100; ClickHouse `DateTime` ends in 2106.
const LATEST: Timestamp = Timestamp::constant(4_102_444_800, 0);
/// Most characters of a parameter repeated in an error.
const ECHO_CHARS_MAX: usize = 64;

/// Seconds of a minute.
const MINUTE_SECONDS: u32 = 60;
/// Seconds of an hour.
const HOUR_SECONDS: u32 = 60 * MINUTE_SECONDS;
/// Seconds of a day; UTC has no other days.
const DAY_SECONDS: u32 = 24 * HOUR_SECONDS;

/// The grain of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Whole minutes.
    Minute,
    /// Whole hours.
    Hour,
    /// Whole days, UTC.
    Day,
}

impl Step {
    /// Its length in seconds.
    pub fn seconds(self) -> u32 {
        match self {
            Self::Minute => MINUTE_SECONDS,
            Self::Hour => HOUR_SECONDS,
            Self::Day => DAY_SECONDS,
        }
    }
}

/// What a question allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The grain.
    pub step: Step,
    /// Steps before the end, when no start is given.
    pub default_steps: u32,
    /// Most steps.
    pub steps_max: u32,
}

/// From when to when, half-open, in whole steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Range {
    /// First moment counted.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// First moment not counted any more.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
}

impl Range {
    /// Reads `from` and `to`, each RFC 3339 or a date (its whole day), and fills what is absent:
    /// `to` is now, `from` the rule's default before `to`.
    pub fn parse(
        from: Option<&str>,
        to: Option<&str>,
        rule: Rule,
        now: Timestamp,
    ) -> Result<Self, RangeError> {
        let step = rule.step.seconds();
        let to = to.map_or(Ok(now), |text| moment("to", text, Edge::End))?;
        let to = round(to, step, Edge::End);
        let from = match from {
            Some(text) => round(moment("from", text, Edge::Start)?, step, Edge::Start),
            None => to - seconds(i64::from(step) * i64::from(rule.default_steps)),
        };
        let range = Self { from, to };
        if from >= to {
            return Err(RangeError::Reversed { range });
        }
        let steps = range.len_seconds() / u64::from(step);
        if steps > u64::from(rule.steps_max) {
            return Err(RangeError::TooLong { steps, rule });
        }
        Ok(range)
    }

    /// First moment counted.
    pub fn from(&self) -> Timestamp {
        self.from
    }

    /// First moment not counted any more.
    pub fn to(&self) -> Timestamp {
        self.to
    }

    /// Its days, first to last, UTC.
    pub fn days(&self) -> impl Iterator<Item = Date> {
        self.starts(Step::Day).map(day_of)
    }

    /// The start of every step in it.
    pub fn starts(&self, step: Step) -> impl Iterator<Item = Timestamp> {
        let (first, end) = (self.from.as_second(), self.to.as_second());
        (first..end)
            .step_by(step.seconds() as usize)
            .map(|second| Timestamp::from_second(second).expect("lies between two valid moments"))
    }

    fn len_seconds(&self) -> u64 {
        u64::try_from(self.to.as_second() - self.from.as_second()).unwrap_or_default()
    }
}

/// The UTC day of a moment.
pub fn day_of(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// Which end of a range is meant.
#[derive(Clone, Copy)]
enum Edge {
    Start,
    End,
}

fn moment(parameter: &'static str, text: &str, edge: Edge) -> Result<Timestamp, RangeError> {
    let at = match text.parse::<Timestamp>() {
        Ok(at) => at,
        Err(_) => whole_day(text, edge).ok_or_else(|| RangeError::NotATime {
            parameter,
            text: text.chars().take(ECHO_CHARS_MAX).collect(),
        })?,
    };
    if (EARLIEST..=LATEST).contains(&at) { Ok(at) } else { Err(RangeError::OutOfBounds { parameter, at }) }
}

/// `2026-01-31` is the start of that day as `from`, and its end as `to`.
fn whole_day(text: &str, edge: Edge) -> Option<Timestamp> {
    // Exactly `YYYY-MM-DD`: the parser would also take a time without an offset, and drop that time.
    let date = (text.len() == "2026-01-31".len()).then(|| text.parse::<Date>().ok()).flatten()?;
    let date = match edge {
        Edge::Start => date,
        Edge::End => date.tomorrow().ok()?,
    };
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Rounds outwards to a whole step since the epoch. Within the bounds above nothing can overflow.
fn round(at: Timestamp, step: u32, edge: Edge) -> Timestamp {
    let step = i64::from(step);
    // A fraction of a second lies after the second it is cut to.
    let down = at.as_second().div_euclid(step) * step;
    let is_whole = at.as_second() == down && at.subsec_nanosecond() == 0;
    let second = match edge {
        Edge::End if !is_whole => down + step,
        Edge::Start | Edge::End => down,
    };
    Timestamp::from_second(second).expect("at most one step beyond a valid moment far from the limits")
}

fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

/// Why a range is refused. The text is for the caller.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RangeError {
    /// Neither a moment nor a date.
    #[error("`{parameter}` is `{text}`, which is neither an RFC 3339 time nor a date")]
    NotATime {
        /// `from` or `to`.
        parameter: &'static str,
        /// What was given, cut short.
        text: String,
    },
    /// A time no event can have.
    #[error("`{parameter}` is {at}; events lie between {EARLIEST} and {LATEST}")]
    OutOfBounds {
        /// `from` or `to`.
        parameter: &'static str,
        /// What was given.
        at: Timestamp,
    },
    /// Empty, or it ends before it starts.
    #[error("the range starts at {from} and ends at {to}", from = range.from, to = range.to)]
    Reversed {
        /// As read.
        range: Range,
    },
    /// Longer than the question allows.
    #[error("the range is {steps} {unit} long", unit = rule.unit())]
    TooLong {
        /// How long.
        steps: u64,
        /// How long it may be.
        rule: Rule,
    },
}

impl RangeError {
    /// What the caller can do.
    pub fn fix(&self) -> String {
        match self {
            Self::NotATime { text, .. } if text.contains(' ') => {
                "write `+` as `%2B` in a URL, and `T` between date and time".to_owned()
            }
            Self::NotATime { .. } => {
                "write a time like `2026-01-31T12:00:00Z`, or a date like `2026-01-31`".to_owned()
            }
            Self::OutOfBounds { .. } => "choose a time within these bounds".to_owned(),
            Self::Reversed { .. } => "let `from` be earlier than `to`".to_owned(),
            Self::TooLong { rule, .. } => {
                format!("ask for at most {} {} at a time", rule.steps_max, rule.unit())
            }
        }
    }
}

impl Rule {
    fn unit(&self) -> &'static str {
        match self.step {
            Step::Minute => "minutes",
            Step::Hour => "hours",
            Step::Day => "days",
        }
    }
}
