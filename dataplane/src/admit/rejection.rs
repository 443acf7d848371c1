//! Every way in which a body or an event is refused: a stable code, and a sentence for the sender.
//! Sentences name fields, limits and settings, never a value: they end up in logs and other people's consoles.

use http::StatusCode;

use super::json::{DEPTH_MAX, Fault, KEY_BYTES_MAX, KEYS_MAX, Syntax};

/// One event that was refused. The others of its batch are not affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Place in the batch, from 0.
    pub index: usize,
    /// For programs and metrics.
    pub code: Code,
    /// For the person who wrote the sender.
    pub message: String,
}

/// Why an event was refused. The texts of [`Code::as_str`] are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// An element of the batch is not an object.
    NotAnObject,
    /// Larger than the App's `maxEventBytes`.
    EventTooLarge,
    /// The same key twice in one object.
    DuplicateKey,
    /// A key that is empty or too long, or too many of them.
    InvalidKey,
    /// Two keys that name the same path once dots are read as levels.
    CollidingKeys,
    /// A NUL character or half of a surrogate pair.
    InvalidCharacter,
    /// A number that the database could not keep as it is.
    NumberNotExact,
    /// A member that events do not have.
    UnknownField,
    /// A member that every event has.
    MissingField,
    /// A member of the wrong type, too long, or not of its form.
    InvalidField,
    /// Happened more than a day ahead of the server's clock.
    TimestampInFuture,
    /// Happened before 2000.
    TimestampTooOld,
    /// A consent category that the App requires was not granted.
    ConsentRequired,
    /// `ip` or `user_agent` where the App does not trust its senders with them.
    ForwardedClientNotTrusted,
}

impl Code {
    /// Every code, for documentation and metrics.
    pub const ALL: [Self; 14] = [
        Self::NotAnObject,
        Self::EventTooLarge,
        Self::DuplicateKey,
        Self::InvalidKey,
        Self::CollidingKeys,
        Self::InvalidCharacter,
        Self::NumberNotExact,
        Self::UnknownField,
        Self::MissingField,
        Self::InvalidField,
        Self::TimestampInFuture,
        Self::TimestampTooOld,
        Self::ConsentRequired,
        Self::ForwardedClientNotTrusted,
    ];

    /// The code in answers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAnObject => "not_an_object",
            Self::EventTooLarge => "event_too_large",
            Self::DuplicateKey => "duplicate_key",
            Self::InvalidKey => "invalid_key",
            Self::CollidingKeys => "colliding_keys",
            Self::InvalidCharacter => "invalid_character",
            Self::NumberNotExact => "number_not_exact",
            Self::UnknownField => "unknown_field",
            Self::MissingField => "missing_field",
            Self::InvalidField => "invalid_field",
            Self::TimestampInFuture => "timestamp_in_future",
            Self::TimestampTooOld => "timestamp_too_old",
            Self::ConsentRequired => "consent_required",
            Self::ForwardedClientNotTrusted => "forwarded_client_not_trusted",
        }
    }
}

/// A refusal before the event's place in the batch is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn not_an_object() -> Self {
        Self::new(Code::NotAnObject, "an element of `batch` must be an event object")
    }

    /// `name` as the sender may read it.
    pub(crate) fn unknown(name: &str) -> Self {
        Self::new(Code::UnknownField, format!("{name} is not a field of events; put it into `event_data`"))
    }

    pub(crate) fn at(self, index: usize) -> Rejection {
        Rejection { index, code: self.code, message: self.message }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::new(fault.code(), fault.message())
    }
}

impl Fault {
    fn code(self) -> Code {
        match self {
            Self::DuplicateKey => Code::DuplicateKey,
            Self::EmptyKey | Self::KeyTooLong | Self::TooManyKeys => Code::InvalidKey,
            Self::CollidingKeys => Code::CollidingKeys,
            Self::NulCharacter | Self::LoneSurrogate => Code::InvalidCharacter,
            Self::IntegerTooLarge
            | Self::NumberTooLarge
            | Self::NumberTooSmall
            | Self::TooManyDigits
            | Self::MixedNumbers => Code::NumberNotExact,
        }
    }

    fn message(self) -> String {
        match self {
            Self::DuplicateKey => "the same key stands twice in one object".to_owned(),
            Self::EmptyKey => "a key is empty; no query could name it".to_owned(),
            Self::KeyTooLong => format!("a key is longer than {KEY_BYTES_MAX} bytes"),
            Self::TooManyKeys => format!("more than {KEYS_MAX} keys in one event"),
            Self::CollidingKeys => {
                "two keys of `event_data` name the same path, because `.` in a key separates levels".to_owned()
            }
            Self::NulCharacter => "a string contains the NUL character".to_owned(),
            Self::LoneSurrogate => {
                "a string contains half of a surrogate pair, which is no character".to_owned()
            }
            Self::IntegerTooLarge => "an integer does not fit 64 bits; send it as text".to_owned(),
            Self::NumberTooLarge => "a number is larger than a 64-bit float holds; send it as text".to_owned(),
            Self::NumberTooSmall => "a number is closer to zero than a 64-bit float holds; send it as text".to_owned(),
            Self::TooManyDigits => {
                "a number has more than 17 significant digits, of which a 64-bit float would lose some; send it \
                 as text"
                    .to_owned()
            }
            Self::MixedNumbers => {
                "an array mixes fractions with integers beyond 2^53, which would be rounded; send them as text"
                    .to_owned()
            }
        }
    }
}

/// A body that was refused whole: nothing of it was admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyRejection {
    /// Not UTF-8.
    #[error("the body is not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// First byte that is not.
        offset: usize,
    },
    /// Not JSON.
    #[error("the body is not JSON at byte {offset}: {reason}")]
    NotJson {
        /// Where reading stopped.
        offset: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// Nested too deep.
    #[error("the body is nested deeper than {DEPTH_MAX} levels per event")]
    TooDeep,
    /// More events than the App allows in one request.
    #[error("the batch has more than {events_max} events; split it (`maxBatchEvents` of the App)")]
    TooManyEvents {
        /// The limit.
        events_max: usize,
    },
    /// Valid JSON, but neither an event nor a batch.
    #[error("the body must be an event object or `{{\"batch\": […]}}`")]
    NotAnObject,
    /// `batch` is something else than an array.
    #[error("`batch` must be an array of events")]
    BatchNotAnArray,
    /// A batch without events. Most likely a bug of the sender, and there is nothing that could be lost by
    /// saying so.
    #[error("`batch` has no events")]
    EmptyBatch,
    /// Something beside `batch` that would silently have no effect.
    #[error("{field} cannot stand beside `batch`; only `sent_at` can")]
    BesideBatch {
        /// The member, as named to the sender.
        field: String,
    },
    /// `sent_at` of a batch is not a moment.
    #[error("`sent_at` must be RFC 3339 text or whole milliseconds since 1970")]
    InvalidSentAt,
    /// The object around the batch has a fault of its own.
    #[error("the object around `batch` is refused: {reason}")]
    AroundBatch {
        /// The code an event would get for it.
        code: Code,
        /// What is wrong.
        reason: String,
    },
}

impl From<Fault> for BodyRejection {
    fn from(fault: Fault) -> Self {
        Self::AroundBatch { code: fault.code(), reason: fault.message() }
    }
}

impl BodyRejection {
    pub(crate) fn syntax(syntax: Syntax, offset: usize) -> Self {
        let reason = match syntax {
            Syntax::TooDeep => return Self::TooDeep,
            Syntax::End => "it ends in the middle of a value",
            Syntax::Unexpected => "unexpected character",
            Syntax::Control => "control character in a string; escape it",
            Syntax::Escape => "unknown escape in a string",
        };
        Self::NotJson { offset, reason }
    }

    /// 413 where a limit is passed, else 400.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooDeep | Self::TooManyEvents { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotUtf8 { .. }
            | Self::NotJson { .. }
            | Self::NotAnObject
            | Self::BatchNotAnArray
            | Self::EmptyBatch
            | Self::BesideBatch { .. }
            | Self::InvalidSentAt
            | Self::AroundBatch { .. } => StatusCode::BAD_REQUEST,
        }
    }

    /// The code in answers and metrics; part of the API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotUtf8 { .. } => "not_utf8",
            Self::NotJson { .. } => "not_json",
            Self::TooDeep => "too_deep",
            Self::TooManyEvents { .. } => "too_many_events",
            Self::NotAnObject => "not_an_object",
            Self::BatchNotAnArray => "batch_not_an_array",
            Self::EmptyBatch => "empty_batch",
            Self::BesideBatch { .. } => "unknown_field",
            Self::InvalidSentAt => "invalid_field",
            Self::AroundBatch { code, .. } => code.as_str(),
        }
    }
}
