//! What a loader writes down before it inserts: a range of offsets and what must come out of it, as one line of
//! text in the group's committed metadata; and the token that makes a repeated insert the same insert.
//! Pure.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// First part of the text; another version is not ours to read.
const VERSION: &str = "v1";

/// How a range becomes parts: one insert for the whole range, split by ClickHouse into calendar months (UTC) of
/// `timestamp`. The number changes with the rule, because deduplication is per month: rows that moved to another
/// month between two inserts of one token would be stored twice.
pub const SPLIT_RULE: u32 = 1;

/// The epoch of rows and tokens until a block is planned anew, or the topic is another one of the same name.
pub const FIRST_EPOCH: u32 = 1;

/// Offsets from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First offset.
    pub start: u64,
    /// First offset behind it.
    pub end: u64,
}

/// What is about to be inserted. Committed together with the range's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// First offset behind the block.
    pub end: u64,
    /// Rows of the block.
    pub rows: u64,
    /// Wrapping sum of `record::event_hash` over its rows.
    pub id_sum: u64,
    /// Schema it was planned under; for a person, since a repeat is encoded under the schema in force.
    pub schema_hash: String,
    /// [`SPLIT_RULE`] it was planned under.
    pub split_rule: u32,
    /// Epoch of its rows.
    pub epoch: u32,
}

/// What the group's text says at its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    /// Nothing is begun; the next block is of this epoch.
    Standing {
        /// Epoch of the partition.
        epoch: u32,
    },
    /// This block was begun.
    Begun(Intent),
}

/// The text of a position at which nothing is begun: empty in the first epoch, else `v1;<epoch>`.
pub fn standing(epoch: u32) -> String {
    if epoch == FIRST_EPOCH { String::new() } else { format!("{VERSION};{epoch}") }
}

impl FromStr for Noted {
    type Err = NotAnIntent;

    /// Reads exactly what [`standing`] and [`Intent`] write.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::Standing { epoch: FIRST_EPOCH });
        }
        match text.split(';').collect::<Vec<_>>().as_slice() {
            [VERSION, epoch] => epoch
                .parse()
                .ok()
                .filter(|&epoch| standing(epoch) == text)
                .map(|epoch| Self::Standing { epoch })
                .ok_or_else(|| NotAnIntent { text: text.to_owned() }),
            _ => text.parse().map(Self::Begun),
        }
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { end, rows, id_sum, schema_hash, split_rule, epoch } = self;
        write!(f, "{VERSION};{end};{rows};{id_sum};{schema_hash};{split_rule};{epoch}")
    }
}

/// The metadata is not an intent of a version this build knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an intent; a newer loader may have written it")]
pub struct NotAnIntent {
    /// What stands there.
    pub text: String,
}

impl FromStr for Intent {
    type Err = NotAnIntent;

    /// Reads exactly what [`fmt::Display`] writes: a text that reads differently when written again is refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(';').collect();
        let intent = match parts.as_slice() {
            [VERSION, end, rows, id_sum, schema_hash, split_rule, epoch] => {
                parse(end, rows, id_sum, (*schema_hash).to_owned(), split_rule, epoch)
            }
            _ => None,
        };
        intent
            .filter(|intent| intent.to_string() == text)
            .ok_or_else(|| NotAnIntent { text: text.to_owned() })
    }
}

#[expect(clippy::too_many_arguments, reason = "the fields of one line of text, in its order")]
fn parse(
    end: &str,
    rows: &str,
    id_sum: &str,
    schema_hash: String,
    split_rule: &str,
    epoch: &str,
) -> Option<Intent> {
    Some(Intent {
        end: end.parse().ok()?,
        rows: rows.parse().ok()?,
        id_sum: id_sum.parse().ok()?,
        schema_hash,
        split_rule: split_rule.parse().ok()?,
        epoch: epoch.parse().ok()?,
    })
}

/// The token of a block: `<topic id>:<epoch>:<partition>:<start>-<end>`. The topic's id and the epoch keep apart
/// what has the same offsets but is not the same block.
pub fn token(topic: Uuid, epoch: u32, partition: u32, range: Range) -> String {
    format!("{topic}:{epoch}:{partition}:{}-{}", range.start, range.end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn is_written_as_documented() {
        let intent = Intent {
            end: 120,
            rows: 20,
            id_sum: u64::MAX,
            schema_hash: "ab12".to_owned(),
            split_rule: SPLIT_RULE,
            epoch: 3,
        };
        assert_eq!(intent.to_string(), "v1;120;20;18446744073709551615;ab12;1;3");
        assert_eq!(intent.to_string().parse(), Ok(intent));
        let token = token(Uuid::nil(), 3, 1, Range { start: 100, end: 120 });
        assert_eq!(token, "00000000-0000-0000-0000-000000000000:3:1:100-120");
    }

    #[test]
    fn refuses_what_it_would_not_write() {
        for text in [
            "",
            "v1",
            "v2;120;20;7;ab;1;1",
            "v1;120;20;7;ab;1",
            "v1;120;20;7;ab;1;1;",
            "v1;0120;20;7;ab;1;1",
            "v1;+120;20;7;ab;1;1",
            "v1; 120;20;7;ab;1;1",
            "v1;-1;20;7;ab;1;1",
            "v1;120;20;18446744073709551616;ab;1;1",
            "v1;120;20;7;ab;1;4294967296",
            "v1;120;20;7;a;b;1;1",
        ] {
            assert!(text.parse::<Intent>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_position_without_an_intent_tells_its_epoch() {
        assert_eq!("".parse(), Ok(Noted::Standing { epoch: FIRST_EPOCH }));
        assert_eq!(standing(FIRST_EPOCH), "");
        assert_eq!(standing(2).parse(), Ok(Noted::Standing { epoch: 2 }));
        for text in ["v1;1", "v1;02", "v1;", "v2;2", "v1;4294967296", "v1;2;"] {
            assert!(text.parse::<Noted>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_written_or_refused(text in "(v1)?[;0-9a-f]{0,40}|.{0,40}") {
            if let Ok(intent) = text.parse::<Intent>() {
                prop_assert_eq!(intent.to_string(), text);
            }
        }
    }
}
