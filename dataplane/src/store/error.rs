//! What the client says in, what a caller needs to know out: may it be repeated, did it perhaps happen.

use clickhouse::error::Error as ClientError;

/// ClickHouse's code for a table that is not there.
pub(super) const UNKNOWN_TABLE: u32 = 60;
const QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING: u32 = 216;
const MEMORY_LIMIT_EXCEEDED: u32 = 241;
/// Our tables have no constraint but the fence behind which rollups are made anew (`crds::schema::rollups`).
const VIOLATED_CONSTRAINT: u32 = 469;

/// Codes after which the same request may succeed: limits of memory, time, parts or connections; a server that
/// is starting, stopping or read-only for now; a broken connection to a replica or to Keeper.
const PASSING: &[u32] = &[
    3,                                     // UNEXPECTED_END_OF_FILE: a body cut short
    159,                                   // TIMEOUT_EXCEEDED
    164,                                   // READONLY
    202,                                   // TOO_MANY_SIMULTANEOUS_QUERIES
    203,                                   // NO_FREE_CONNECTION
    209,                                   // SOCKET_TIMEOUT
    210,                                   // NETWORK_ERROR
    QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING, // an earlier attempt of the same insert has not ended
    236,                                   // ABORTED: shutting down
    MEMORY_LIMIT_EXCEEDED,
    242, // TABLE_IS_READ_ONLY
    243, // NOT_ENOUGH_SPACE
    252, // TOO_MANY_PARTS
    319, // UNKNOWN_STATUS_OF_INSERT
    394, // QUERY_WAS_CANCELLED
    999, // KEEPER_EXCEPTION
];

/// Why ClickHouse gave no answer. Texts name no credentials and, for inserts, no data.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reached, or the connection broke: the request may or may not have been carried out.
    #[error("ClickHouse was not reached or broke off")]
    Unreachable {
        /// What the client saw.
        source: ClientError,
    },
    /// No answer in time: the request may or may not have been carried out.
    #[error("ClickHouse did not answer in time")]
    TimedOut,
    /// An exception of the server.
    #[error("ClickHouse refused with code {code} {reason}")]
    Refused {
        /// `DB::Exception` code; 0 when the answer names none.
        code: u32,
        /// Its words; for an insert only the name of the code, because the words may quote rows.
        reason: String,
    },
    /// An answer that cannot be read: another version, a proxy.
    #[error("the answer of ClickHouse cannot be read")]
    Answer {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a failure means for who repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Nobody knows whether it happened. Repeat under the same token.
    Ambiguous,
    /// Refused for now. Repeat later.
    Overloaded,
    /// Refused before anything was looked at, until the rollups are made anew. Repeat later.
    Paused,
    /// Refused until somebody changes something. Repeat slowly; a person must look.
    Permanent,
}

impl Failure {
    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::Overloaded => "overloaded",
            Self::Paused => "paused",
            Self::Permanent => "permanent",
        }
    }
}

impl StoreError {
    /// What the failure means for who repeats.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Unreachable { .. } | Self::TimedOut => Failure::Ambiguous,
            Self::Refused { code: VIOLATED_CONSTRAINT, .. } => Failure::Paused,
            Self::Refused { code, .. } if PASSING.contains(code) => Failure::Overloaded,
            Self::Refused { .. } | Self::Answer { .. } => Failure::Permanent,
        }
    }

    /// Whether the request needs more memory than there is: a smaller one may succeed.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Refused { code: MEMORY_LIMIT_EXCEEDED, .. })
    }

    /// Whether there is no such table: it comes with a newer operator.
    pub fn is_unknown_table(&self) -> bool {
        matches!(self, Self::Refused { code: UNKNOWN_TABLE, .. })
    }

    /// Whether a statement of the same id has not ended.
    pub(super) fn is_still_running(&self) -> bool {
        matches!(self, Self::Refused { code: QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING, .. })
    }

    /// Whether the same request may succeed later without a change of anything.
    pub fn is_retryable(&self) -> bool {
        self.failure() != Failure::Permanent
    }

    pub(super) fn from_client(error: ClientError) -> Self {
        match error {
            ClientError::Network(_) => Self::Unreachable { source: error },
            ClientError::TimedOut => Self::TimedOut,
            ClientError::BadResponse(text) => refused(&text),
            other => Self::Answer { source: Box::new(other) },
        }
    }

    /// As [`Self::from_client`], without words that may quote rows.
    pub(super) fn from_insert(error: ClientError) -> Self {
        match Self::from_client(error) {
            Self::Refused { code, reason } => Self::Refused { code, reason: code_name(&reason).to_owned() },
            Self::Answer { .. } => {
                Self::Refused { code: 0, reason: "with an answer that is none".to_owned() }
            }
            error @ (Self::Unreachable { .. } | Self::TimedOut) => error,
        }
    }
}

/// Longest part of a server's words that is kept.
const REASON_CHARS_MAX: usize = 500;

/// `Code: 241. DB::Exception: … (MEMORY_LIMIT_EXCEEDED) (version …)`.
fn refused(text: &str) -> StoreError {
    let code = text
        .strip_prefix("Code: ")
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0);
    let name = code_name(text);
    let mut reason: String = text.chars().take(REASON_CHARS_MAX).collect();
    if reason.len() < text.len() {
        reason.push_str(&format!("… ({name})"));
    }
    StoreError::Refused { code, reason }
}

/// The last words in parentheses that look like the name of a code; empty when there are none.
fn code_name(text: &str) -> &str {
    let is_name = |word: &&str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    text.split(['(', ')']).rfind(is_name).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(text: &str) -> ClientError {
        ClientError::BadResponse(text.to_owned())
    }

    #[test]
    fn tells_what_may_be_repeated() {
        let timeout =
            "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED) (version 26.5.1.1)";
        for (error, failure) in [
            (bad(timeout), Failure::Overloaded),
            (bad("Code: 252. DB::Exception: Too many parts. (TOO_MANY_PARTS)"), Failure::Overloaded),
            (
                bad("Code: 469. DB::Exception: Constraint `a` is violated. (VIOLATED_CONSTRAINT)"),
                Failure::Paused,
            ),
            (bad("Code: 60. DB::Exception: Unknown table. (UNKNOWN_TABLE)"), Failure::Permanent),
            (bad("Code: 516. DB::Exception: no. (AUTHENTICATION_FAILED)"), Failure::Permanent),
            (bad("502 Bad Gateway"), Failure::Permanent),
            (ClientError::Network("connection reset".into()), Failure::Ambiguous),
            (ClientError::TimedOut, Failure::Ambiguous),
        ] {
            let text = error.to_string();
            assert_eq!(StoreError::from_client(error).failure(), failure, "{text}");
        }
    }

    #[test]
    fn a_failed_insert_is_told_without_the_rows() {
        let text = "Code: 117. DB::Exception: Cannot parse JSON object here: {\"email\":\"ada@example.com\"}: \
                    (at row 1) (INCORRECT_DATA) (version 26.5.1.1)";
        let error = StoreError::from_insert(bad(text));
        assert_eq!(error.to_string(), "ClickHouse refused with code 117 INCORRECT_DATA");
        let StoreError::Refused { reason, .. } = StoreError::from_client(bad(text)) else { panic!() };
        assert!(reason.contains("INCORRECT_DATA"));
    }

    #[test]
    fn keeps_a_long_reason_short() {
        let text = format!("Code: 62. DB::Exception: {} (SYNTAX_ERROR)", "é".repeat(10_000));
        let StoreError::Refused { code, reason } = StoreError::from_client(bad(&text)) else { panic!() };
        assert_eq!(code, 62);
        assert!(reason.chars().count() < 600 && reason.ends_with("(SYNTAX_ERROR)"));
    }
}
