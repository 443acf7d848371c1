//! A desired schema in, a database that has it out: observe, diff, carry out. Decides nothing itself.
//! Safe to repeat: every statement says `IF NOT EXISTS` or sets a value, and a second run finds nothing to do. What was
//! broken off in the middle is planned again from what is there.

use std::collections::BTreeMap;
use std::time::Duration;

use clickhouse::{Client, Row};
use millrace_crds::schema::{
    self, Claim, Column, Incompatible, Observed, ObservedTable, Owner, Pace, SERVER_VERSION_MIN, Schema,
    Statement, Taken,
};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for ClickHouse to answer a question, or to make or change one table.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest run of a statement that reads stored events: one month of an App. What takes longer is stuck.
const LONG_MAX: Duration = Duration::from_secs(3_600);
/// Longest wait for inserts to end: longer than a loader waits for one.
const UNDERWAY_MAX: Duration = Duration::from_secs(180);
/// Pause between two looks at them.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The statements carried out, in order; empty when everything was as desired.
    pub statements: Vec<Statement>,
}

/// Why a schema was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// A question to ClickHouse failed.
    #[error("cannot ask ClickHouse for {what}")]
    Observe {
        /// What was asked.
        what: &'static str,
        /// Why.
        source: clickhouse::error::Error,
    },
    /// No answer in time.
    #[error("ClickHouse did not answer within {} s", within.as_secs())]
    TooSlow {
        /// How long it had.
        within: Duration,
    },
    /// Inserts that began before the fence do not end.
    #[error(
        "inserts into `{object}` have been running for {} s; look at `system.processes`, and stop them with KILL QUERY",
        UNDERWAY_MAX.as_secs()
    )]
    Underway {
        /// The table.
        object: String,
    },
    /// The server is too old, or says something that is no version.
    #[error("ClickHouse is version `{found}`; Millrace needs {}.{} or newer", wanted.0, wanted.1)]
    Version {
        /// What it says.
        found: String,
        /// The oldest that will do.
        wanted: (u32, u32),
    },
    /// The database belongs to somebody else.
    #[error("the App's database is taken")]
    Taken {
        /// Both owners.
        source: Taken,
    },
    /// The App asks for something that would reinterpret stored data.
    #[error("the App's tables cannot be changed in place")]
    Incompatible {
        /// Both definitions.
        source: Box<Incompatible>,
    },
    /// A statement failed.
    #[error("cannot carry out `{}` on `{}`", statement.text, statement.object)]
    Statement {
        /// The statement and its object.
        statement: Statement,
        /// Why.
        source: clickhouse::error::Error,
    },
}

impl ProvisionError {
    /// Whether the same call may succeed later without a change of the App or the server.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Observe { .. } | Self::Statement { .. } | Self::TooSlow { .. } | Self::Underway { .. } => {
                true
            }
            Self::Version { .. } | Self::Taken { .. } | Self::Incompatible { .. } => false,
        }
    }
}

/// Brings the App's database to the desired schema: [`plan`], then [`carry_out`].
pub async fn apply(client: &Client, desired: &Schema, owner: &Owner) -> Result<Outcome, ProvisionError> {
    let statements = plan(client, desired, owner).await?;
    carry_out(client, &statements).await?;
    Ok(Outcome { statements })
}

/// What would bring the App's database to the desired schema; changes nothing. Order: the database first (nothing
/// can be in it before), then tables, then the views that read them.
pub async fn plan(
    client: &Client,
    desired: &Schema,
    owner: &Owner,
) -> Result<Vec<Statement>, ProvisionError> {
    let asked = ask(client, desired, owner, Rollups::AsNeeded);
    timeout(ANSWER_MAX, asked).await.map_err(|_| ProvisionError::TooSlow { within: ANSWER_MAX })?
}

/// The same, and every rollup is made anew from the stored events.
pub async fn plan_rebuild(
    client: &Client,
    desired: &Schema,
    owner: &Owner,
) -> Result<Vec<Statement>, ProvisionError> {
    let asked = ask(client, desired, owner, Rollups::Anew);
    timeout(ANSWER_MAX, asked).await.map_err(|_| ProvisionError::TooSlow { within: ANSWER_MAX })?
}

#[derive(Clone, Copy)]
enum Rollups {
    AsNeeded,
    Anew,
}

async fn ask(
    client: &Client,
    desired: &Schema,
    owner: &Owner,
    rollups: Rollups,
) -> Result<Vec<Statement>, ProvisionError> {
    check_version(client).await?;
    let comment = database_comment(client, &desired.database).await?;
    let claim = schema::claim(&desired.database, comment.as_deref(), owner)
        .map_err(|source| ProvisionError::Taken { source })?;
    let mut observed = observe(client, &desired.database).await?;
    let planned = match rollups {
        Rollups::AsNeeded if !schema::rebuild_is_needed(&observed, desired) => {
            schema::diff(Some(&observed), desired)
        }
        Rollups::AsNeeded | Rollups::Anew => {
            observed.months = months(client, &desired.database).await?;
            schema::rebuild(&observed, desired)
        }
    };
    let changes = planned.map_err(|source| ProvisionError::Incompatible { source: Box::new(source) })?;
    let claimed = match claim {
        Claim::Held => None,
        Claim::Create(statement) | Claim::Adopt(statement) => Some(statement),
    };
    Ok(claimed.into_iter().chain(changes).collect())
}

/// Carries out what was planned, in order; each statement may be repeated.
pub async fn carry_out(client: &Client, statements: &[Statement]) -> Result<(), ProvisionError> {
    for statement in statements {
        let carried_out = async {
            match statement.pace {
                Pace::Quick | Pace::Long => execute(client, statement).await,
                Pace::UntilZero => until_zero(client, statement).await,
            }
        };
        timeout(longest(statement.pace), carried_out).await.map_err(|_| too_slow(statement))??;
    }
    Ok(())
}

fn longest(pace: Pace) -> Duration {
    match pace {
        Pace::Quick => ANSWER_MAX,
        Pace::Long => LONG_MAX,
        Pace::UntilZero => UNDERWAY_MAX,
    }
}

fn too_slow(statement: &Statement) -> ProvisionError {
    match statement.pace {
        Pace::Quick | Pace::Long => ProvisionError::TooSlow { within: longest(statement.pace) },
        Pace::UntilZero => ProvisionError::Underway { object: statement.object.clone() },
    }
}

async fn until_zero(client: &Client, statement: &Statement) -> Result<(), ProvisionError> {
    let since = Instant::now();
    loop {
        let asked = client.query_raw(&statement.text).param("waited", since.elapsed().as_secs_f64());
        let left: u64 = asked
            .fetch_one()
            .await
            .map_err(|source| ProvisionError::Statement { statement: statement.clone(), source })?;
        if left == 0 {
            return Ok(());
        }
        sleep(LOOK_PAUSE).await;
    }
}

/// Removes the App's database with everything in it, if this owner holds it; one that is gone is no error. Without
/// `SYNC`: the files of an Atomic database go minutes later, and nobody waits for them.
pub async fn drop_database(client: &Client, database: &str, owner: &Owner) -> Result<(), ProvisionError> {
    timeout(ANSWER_MAX, drop_owned(client, database, owner))
        .await
        .map_err(|_| ProvisionError::TooSlow { within: ANSWER_MAX })?
}

async fn drop_owned(client: &Client, database: &str, owner: &Owner) -> Result<(), ProvisionError> {
    let Some(comment) = database_comment(client, database).await? else { return Ok(()) };
    schema::claim(database, Some(&comment), owner).map_err(|source| ProvisionError::Taken { source })?;
    let text = format!("DROP DATABASE IF EXISTS {}", schema::identifier(database));
    execute(client, &Statement { object: database.to_owned(), text, pace: Pace::Quick }).await
}

/// Refuses a server older than [`SERVER_VERSION_MIN`].
pub async fn check_version(client: &Client) -> Result<(), ProvisionError> {
    let asked: Result<String, _> = client.query_raw("SELECT version()").fetch_one().await;
    let found = asked.map_err(|source| ProvisionError::Observe { what: "its version", source })?;
    match major_minor(&found) {
        Some(version) if version >= SERVER_VERSION_MIN => Ok(()),
        Some(_) | None => Err(ProvisionError::Version { found, wanted: SERVER_VERSION_MIN }),
    }
}

/// The tables and views of a database as they are; empty when it is not there.
pub async fn observe(client: &Client, database: &str) -> Result<Observed, ProvisionError> {
    let observed = |what| move |source| ProvisionError::Observe { what, source };
    let tables: Vec<TableRow> = client
        .query_raw(TABLES)
        .param("database", database)
        .fetch_all()
        .await
        .map_err(observed("the App's tables"))?;
    let columns: Vec<ColumnRow> = client
        .query_raw(COLUMNS)
        .param("database", database)
        .fetch_all()
        .await
        .map_err(observed("the App's columns"))?;
    let mut observed: BTreeMap<String, ObservedTable> = tables.into_iter().map(TableRow::observed).collect();
    for column in columns {
        if let Some(table) = observed.get_mut(&column.table) {
            table.columns.push(column.observed());
        }
    }
    Ok(Observed { tables: observed, months: Vec::new() })
}

/// Months of which there are stored events.
async fn months(client: &Client, database: &str) -> Result<Vec<u32>, ProvisionError> {
    client
        .query_raw(MONTHS)
        .param("database", database)
        .param("table", schema::EVENTS)
        .fetch_all()
        .await
        .map_err(|source| ProvisionError::Observe { what: "the months of the App's events", source })
}

async fn database_comment(client: &Client, database: &str) -> Result<Option<String>, ProvisionError> {
    client
        .query_raw("SELECT comment FROM system.databases WHERE name = {database:String}")
        .param("database", database)
        .fetch_optional()
        .await
        .map_err(|source| ProvisionError::Observe { what: "the App's database", source })
}

async fn execute(client: &Client, statement: &Statement) -> Result<(), ProvisionError> {
    tracing::info!(object = %statement.object, statement = %statement.text, "changing the ClickHouse schema");
    client
        .query_raw(&statement.text)
        .execute()
        .await
        .map_err(|source| ProvisionError::Statement { statement: statement.clone(), source })
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

const TABLES: &str = "\
SELECT name, engine, engine_full, partition_key, sorting_key, as_select, create_table_query, comment, total_rows \
FROM system.tables WHERE database = {database:String} ORDER BY name";

const COLUMNS: &str = "\
SELECT table, name, type AS kind, compression_codec AS codec \
FROM system.columns WHERE database = {database:String} ORDER BY table, position";

const MONTHS: &str = "\
SELECT DISTINCT toUInt32(partition) AS month FROM system.parts \
WHERE database = {database:String} AND table = {table:String} AND active ORDER BY month";

#[derive(Row, Deserialize)]
struct TableRow {
    name: String,
    engine: String,
    engine_full: String,
    partition_key: String,
    sorting_key: String,
    as_select: String,
    create_table_query: String,
    comment: String,
    total_rows: Option<u64>,
}

impl TableRow {
    fn observed(self) -> (String, ObservedTable) {
        let table = ObservedTable {
            engine: self.engine,
            engine_full: self.engine_full,
            partition_key: self.partition_key,
            sorting_key: self.sorting_key,
            as_select: self.as_select,
            create_table_query: self.create_table_query,
            comment: self.comment,
            rows: self.total_rows,
            columns: Vec::new(),
        };
        (self.name, table)
    }
}

#[derive(Row, Deserialize)]
struct ColumnRow {
    table: String,
    name: String,
    kind: String,
    codec: String,
}

impl ColumnRow {
    fn observed(self) -> Column {
        let codec = (!self.codec.is_empty()).then_some(self.codec);
        Column { name: self.name, kind: self.kind, codec }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_of_servers_and_of_the_engine() {
        for (text, expected) in [
            ("26.5.1.1", Some((26, 5))),
            ("25.12.3.21-stable", Some((25, 12))),
            ("26", None),
            ("", None),
            ("x.y", None),
        ] {
            assert_eq!(major_minor(text), expected, "{text}");
        }
    }
}
