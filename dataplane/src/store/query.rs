//! A question with its parameters and limits in, rows out. Never writes: `readonly` is set on every question.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{ClickHouse, StoreError};

/// Time beyond `max_execution_time` in which an answer may still arrive.
const GRACE: Duration = Duration::from_secs(2);

/// A SELECT, its values as `{name:Type}` in it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The text.
    pub sql: &'a str,
    /// Values by name, without `param_`, escaped as in ClickHouse's `TabSeparated` format.
    pub params: &'a [(&'a str, String)],
}

/// What one question may cost.
#[derive(Clone, Copy, Debug)]
pub struct QueryLimits {
    /// Longest run, in whole seconds; then ClickHouse gives up.
    pub execution_time_max: Duration,
    /// Most rows of an answer; more is an error.
    pub result_rows_max: u64,
    /// Most bytes of an answer, uncompressed; more is an error.
    pub result_bytes_max: u64,
}

impl Default for QueryLimits {
    /// For a person who waits in front of a screen.
    fn default() -> Self {
        Self {
            execution_time_max: Duration::from_secs(30),
            result_rows_max: 100_000,
            result_bytes_max: 64 << 20,
        }
    }
}

impl ClickHouse {
    /// Whether no statement of that id runs any more: one of the same id is refused until then.
    pub async fn has_ended(&self, query_id: &str) -> Result<bool, StoreError> {
        match self.ended(query_id).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_still_running() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same, where one that runs is an error like that of its repeat.
    pub async fn ended(&self, query_id: &str) -> Result<(), StoreError> {
        let asked = self.client().query_raw("SELECT 1").with_setting("query_id", query_id).execute().await;
        asked.map_err(StoreError::from_client)
    }

    /// All rows of an answer, as the columns' names and values say (`FORMAT JSONEachRow`; 64-bit integers are
    /// numbers, decimals are text). Dropping the future closes the connection, which cancels the query.
    pub async fn rows<T: DeserializeOwned>(
        &self,
        question: Question<'_>,
        limits: QueryLimits,
    ) -> Result<Vec<T>, StoreError> {
        let mut query = self.client().query_raw(question.sql);
        for (name, value) in limits.settings() {
            query = query.with_setting(name, value);
        }
        for (name, value) in question.params {
            query = query.with_setting(format!("param_{name}"), value.clone());
        }
        let answer = async {
            let mut bytes = query.fetch_bytes("JSONEachRow")?;
            bytes.collect().await
        };
        let bytes = match tokio::time::timeout(limits.execution_time_max + GRACE, answer).await {
            Ok(answered) => answered.map_err(StoreError::from_client)?,
            Err(_elapsed) => return Err(StoreError::TimedOut),
        };
        serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|source| StoreError::Answer { source: Box::new(source) })
    }
}

impl QueryLimits {
    fn settings(&self) -> [(&'static str, String); 9] {
        [
            ("readonly", "1".to_owned()),
            ("max_execution_time", self.execution_time_max.as_secs().max(1).to_string()),
            ("max_result_rows", self.result_rows_max.to_string()),
            ("max_result_bytes", self.result_bytes_max.to_string()),
            ("result_overflow_mode", "throw".to_owned()),
            ("output_format_json_quote_64bit_integers", "0".to_owned()),
            ("output_format_json_quote_decimals", "1".to_owned()),
            // Keys of `event_data` come back with their dots, as they were stored.
            ("json_type_escape_dots_in_keys", "1".to_owned()),
            // An exception is answered as one, not in the middle of the rows.
            ("wait_end_of_query", "1".to_owned()),
        ]
    }
}
