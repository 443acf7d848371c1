//! Events that must be refused, one kind of mistake each. A valid event in, its broken form out.

use std::fmt;

use serde_json::{Value, json};

/// A mistake a sender makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    NoEventType,
    NobodyDidIt,
    InTheFuture,
    BeforeTime,
    UnknownField,
    DataNotAnObject,
    TwiceTheSameKey,
    NulCharacter,
    HugeNumber,
    /// Cut off: the request as a whole is no JSON, so it travels alone.
    CutOff,
}

impl Mistake {
    pub(super) const ALL: [Self; 10] = [
        Self::NoEventType,
        Self::NobodyDidIt,
        Self::InTheFuture,
        Self::BeforeTime,
        Self::UnknownField,
        Self::DataNotAnObject,
        Self::TwiceTheSameKey,
        Self::NulCharacter,
        Self::HugeNumber,
        Self::CutOff,
    ];

    /// Whether the rest of the request survives it.
    pub(super) fn leaves_the_body_readable(self) -> bool {
        self != Self::CutOff
    }

    /// The event with the mistake in it.
    pub(super) fn make(self, mut event: Value) -> String {
        let ids = ["user_id", "anonymous_id", "device_id"];
        match self {
            Self::NoEventType => event["event_type"] = Value::Null,
            Self::NobodyDidIt => ids.into_iter().for_each(|id| event[id] = Value::Null),
            Self::InTheFuture => event["timestamp"] = json!("2199-01-01T00:00:00Z"),
            Self::BeforeTime => event["timestamp"] = json!(1_000_000_000),
            Self::UnknownField => event["evnet_data"] = json!({}),
            Self::DataNotAnObject => event["event_data"] = json!([1, 2]),
            Self::NulCharacter => event["event_data"] = json!({"search": "shoes\0"}),
            Self::TwiceTheSameKey => {
                return event.to_string().replacen('{', r#"{"event_type":"page_view","#, 1);
            }
            Self::HugeNumber => {
                event["event_data"] = json!({"price": "HUGE"});
                return event.to_string().replacen(r#""HUGE""#, "1e999", 1);
            }
            Self::CutOff => {
                let mut text = event.to_string();
                text.truncate(text.len() - 1);
                return text;
            }
        }
        event.to_string()
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEventType => "no event type",
            Self::NobodyDidIt => "no id of a person or device",
            Self::InTheFuture => "a timestamp in the future",
            Self::BeforeTime => "a timestamp in seconds",
            Self::UnknownField => "an unknown field",
            Self::DataNotAnObject => "event data that is no object",
            Self::TwiceTheSameKey => "the same key twice",
            Self::NulCharacter => "a NUL character",
            Self::HugeNumber => "a number beyond all floats",
            Self::CutOff => "its end cut off",
        })
    }
}
