//! The gateway's statements, carried out by ClickHouse.

use async_trait::async_trait;

use super::error::UNKNOWN_TABLE;
use super::{ClickHouse, QueryLimits, Question, StoreError};
use crate::query::{self, Row, Statement};

/// ClickHouse's code for a database that is not there.
const UNKNOWN_DATABASE: u32 = 81;

#[async_trait]
impl query::Store for ClickHouse {
    async fn rows(&self, statement: &Statement) -> Result<Vec<Row>, query::StoreError> {
        let params: Vec<_> =
            statement.params().iter().map(|(name, value)| (*name, value.to_text())).collect();
        let question = Question { sql: statement.sql(), params: &params };
        Self::rows(self, question, QueryLimits::default()).await.map_err(|error| match error {
            // The tables of a new App come a moment after the App.
            StoreError::Refused { code: UNKNOWN_TABLE | UNKNOWN_DATABASE, .. } => {
                query::StoreError::Unavailable { source: Box::new(error) }
            }
            error if error.is_retryable() => query::StoreError::Unavailable { source: Box::new(error) },
            error => query::StoreError::Refused { source: Box::new(error) },
        })
    }
}
