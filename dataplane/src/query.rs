//! A question and a [`Grant`] in, a statement with typed parameters out; rows in, the answer's figures out.
//! Pure, but for the [`Store`] at its edge. SQL is constant text: what a caller says only ever is a parameter.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use millrace_crds::config::{AppConfig, Permission};
use millrace_crds::names::AppId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::access::Grant;

pub mod events_over_time;
pub mod ledger;
pub mod range;
pub mod retention;
pub mod scripted;
pub mod stats;
#[cfg(test)]
mod tests;

/// One row of an answer: column name → value, as `FORMAT JSONEachRow` writes it.
pub type Row = Map<String, Value>;

/// Where statements are carried out.
///
/// Guarantees of an implementation: the parameters are sent as parameters, never pasted into the SQL; the rows
/// are complete or the call fails; nothing is written; dropping the future cancels the query.
#[async_trait]
pub trait Store: Send + Sync {
    /// Runs one SELECT and returns all rows.
    async fn rows(&self, statement: &Statement) -> Result<Vec<Row>, StoreError>;
}

/// Why the store gave no rows.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reached, or it broke off. The same statement may succeed later.
    #[error("the store did not answer")]
    Unavailable {
        /// What the client saw.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It answered, and refused: a missing table or right, a limit, a bug.
    #[error("the store refused the statement")]
    Refused {
        /// Its words.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// Whether the same statement may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Refused { .. } => false,
        }
    }
}

/// A SELECT over one App's database, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    sql: &'static str,
    params: BTreeMap<&'static str, Param>,
}

impl Statement {
    /// The text; every value stands in it as `{name:Type}`.
    pub fn sql(&self) -> &'static str {
        self.sql
    }

    /// The parameters by name, without the `param_` that the HTTP interface wants before it.
    pub fn params(&self) -> &BTreeMap<&'static str, Param> {
        &self.params
    }
}

/// The value of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Param {
    /// Name of a database, table or column: `{name:Identifier}`.
    Identifier(String),
    /// Any text: `{name:String}`.
    Text(String),
    /// A moment, whole seconds: `{name:DateTime('UTC')}`.
    Seconds(Timestamp),
    /// A calendar day: `{name:Date}`.
    Day(Date),
    /// A number: `{name:UInt32}`.
    Number(u32),
}

impl Param {
    /// The text that `param_<name>` carries: escaped as in ClickHouse's `TabSeparated` format.
    pub fn to_text(&self) -> String {
        match self {
            Self::Identifier(name) => name.clone(),
            Self::Text(text) => escape(text),
            Self::Seconds(at) => at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            Self::Day(day) => day.to_string(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// Control characters and the backslash are what the format reads as something else.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            '\0' => escaped.push_str("\\0"),
            '\u{1}'..='\u{1f}' | '\u{7f}' => {
                let _infallible = write!(escaped, "\\x{:02X}", u32::from(character));
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

/// What a question starts from: the right to ask, and the database of the App the right is for.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    grant: &'a Grant,
    database: &'a str,
}

impl<'a> Scope<'a> {
    /// Pairs a grant with the App it is for; another App is refused.
    pub fn new(grant: &'a Grant, app: &'a AppConfig) -> Result<Self, QueryError> {
        if *grant.app() == app.app {
            Ok(Self { grant, database: &app.storage.database })
        } else {
            Err(QueryError::OtherApp { granted: grant.app().clone(), used: app.app.clone() })
        }
    }

    /// A statement over the App's database, if the grant is the one the question needs.
    fn statement<const N: usize>(
        self,
        needed: Permission,
        sql: &'static str,
        params: [(&'static str, Param); N],
    ) -> Result<Statement, QueryError> {
        if self.grant.permission() != needed {
            return Err(QueryError::OtherPermission { granted: self.grant.permission(), needed });
        }
        let mut params = BTreeMap::from(params);
        params.insert("database", Param::Identifier(self.database.to_owned()));
        Ok(Statement { sql, params })
    }
}

/// Why there is no statement or no figures. All of these are bugs or a store that answers something else.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum QueryError {
    /// A grant for one App was used on another.
    #[error("a grant on `{granted}` was used on `{used}`")]
    OtherApp {
        /// Where it holds.
        granted: AppId,
        /// Where it was used.
        used: AppId,
    },
    /// A grant for one thing was used for another.
    #[error("a grant of {granted:?} was used where {needed:?} is needed")]
    OtherPermission {
        /// What it allows.
        granted: Permission,
        /// What the question needs.
        needed: Permission,
    },
    /// A row does not have the columns or values of the statement.
    #[error("the store answered a row of another shape: {reason}")]
    Shape {
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads a row as the statement's columns.
fn read<T: DeserializeOwned>(row: Row) -> Result<T, QueryError> {
    serde_json::from_value(Value::Object(row))
        .map_err(|error| QueryError::Shape { reason: error.to_string() })
}

/// An unsigned number, or its text: whether ClickHouse quotes 64-bit numbers is a setting.
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(u64),
        Text(String),
    }
    match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(number) => Ok(number),
        NumberOrText::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}
