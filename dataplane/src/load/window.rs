//! What a table remembers of its inserts in, whether a repeated block would be known as one out. A block that came too
//! late would be stored twice, in silence; so a loader does not insert into a table that forgets too early.

use millrace_crds::schema::{self, DASHBOARD_STATS, USER_RETENTION};
use serde::Deserialize;

use super::Loader;
use super::target::Target;
use crate::config::App;
use crate::store::{QueryLimits, Question, StoreError};

/// A table that forgets too early.
#[derive(Debug, thiserror::Error)]
#[error(
    "table `{table}` remembers {remembers} inserts and a repeat may come after {needed}; run \
     `ALTER TABLE {database}.{table} MODIFY SETTING non_replicated_deduplication_window = {needed}`"
)]
pub struct TooSmall {
    database: String,
    table: String,
    remembers: u32,
    needed: u32,
}

/// Tables that a target fills, views' targets included: each remembers for itself.
fn filled(target: Target) -> Vec<&'static str> {
    match target {
        Target::Events => vec![target.table(), DASHBOARD_STATS, USER_RETENTION],
        Target::DeadLetters | Target::Ledger => vec![target.table()],
    }
}

#[derive(Deserialize)]
struct Found {
    name: String,
    engine_full: String,
}

/// Looks at every table that is there; one that is not refuses its inserts by itself.
pub(super) async fn check(loader: &Loader, app: &App) -> Result<Result<(), TooSmall>, StoreError> {
    let names = filled(loader.target);
    let sql = "SELECT name, engine_full FROM system.tables \
               WHERE database = {db:String} AND has({names:Array(String)}, name) ORDER BY name";
    let database = &app.config.storage.database;
    let params = [("db", database.clone()), ("names", format!("['{}']", names.join("','")))];
    let found: Vec<Found> =
        loader.store.rows(Question { sql, params: &params }, QueryLimits::default()).await?;
    let topic = app.config.topics.iter().find(|topic| topic.kind == loader.target.topic());
    let needed = schema::repeat_horizon_inserts(topic.map_or(1, |topic| topic.partitions));
    Ok(found.into_iter().try_for_each(|table| judge(database, table, needed)))
}

fn judge(database: &str, found: Found, needed: u32) -> Result<(), TooSmall> {
    let remembers = schema::deduplication_window(&found.engine_full);
    if remembers >= needed {
        return Ok(());
    }
    Err(TooSmall { database: database.to_owned(), table: found.name, remembers, needed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_table_that_forgets_too_early_and_says_the_fix() {
        let found = |window: &str| Found {
            name: "events".to_owned(),
            engine_full: format!("MergeTree ORDER BY a SETTINGS {window}index_granularity = 8192"),
        };
        assert!(judge("d", found("non_replicated_deduplication_window = 1800, "), 1_800).is_ok());
        for (setting, remembers) in [("non_replicated_deduplication_window = 1799, ", 1_799), ("", 0)] {
            let text = judge("d", found(setting), 1_800).unwrap_err().to_string();
            assert!(text.contains(&format!("remembers {remembers} inserts")), "{text}");
            assert!(
                text.contains(
                    "ALTER TABLE d.events MODIFY SETTING non_replicated_deduplication_window = 1800"
                ),
                "{text}"
            );
        }
    }
}
