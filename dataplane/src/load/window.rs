//! What a table remembers of its inserts in, whether a repeated block would be known as one out. A block that came too
//! late would be stored twice, in silence; so a loader does not insert into a table that forgets too early.

use millrace_crds::schema::{self, DASHBOARD_STATS, Remembers, USER_RETENTION};
use serde::Deserialize;

use super::Loader;
use super::target::Target;
use crate::config::App;
use crate::store::{QueryLimits, Question, StoreError};

/// A table that forgets too early.
#[derive(Debug, thiserror::Error)]
#[error(
    "table `{table}` may forget an insert before it is repeated: {}; run `ALTER TABLE {database}.{table} MODIFY SETTING {}`",
    too_small.iter().map(|m| format!("`{}` is {} and has to be {}", m.setting, m.value, m.needed)).collect::<Vec<_>>().join(", "),
    too_small.iter().map(|m| format!("{} = {}", m.setting, m.needed)).collect::<Vec<_>>().join(", ")
)]
pub struct TooSmall {
    database: String,
    table: String,
    too_small: Vec<Remembers>,
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
    let mut too_small = schema::remembers(&found.engine_full, needed);
    too_small.retain(|memory| memory.value < memory.needed);
    if too_small.is_empty() {
        return Ok(());
    }
    Err(TooSmall { database: database.to_owned(), table: found.name, too_small })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_table_that_forgets_too_early_and_says_the_fix() {
        let found = |engine: &str, settings: &str| Found {
            name: "events".to_owned(),
            engine_full: format!("{engine} ORDER BY a SETTINGS {settings}index_granularity = 8192"),
        };
        let replicated = "ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')";
        for (engine, settings) in [
            ("MergeTree", "non_replicated_deduplication_window = 1800, "),
            (replicated, ""),
            (
                replicated,
                "replicated_deduplication_window = 1800, replicated_deduplication_window_seconds = 1800, ",
            ),
        ] {
            assert!(judge("d", found(engine, settings), 1_800).is_ok(), "{engine} {settings}");
        }
        for (engine, settings, why, fix) in [
            (
                "MergeTree",
                "non_replicated_deduplication_window = 1799, ",
                "`non_replicated_deduplication_window` is 1799 and has to be 1800",
                "non_replicated_deduplication_window = 1800",
            ),
            ("MergeTree", "", "is 0 and has to be 1800", "non_replicated_deduplication_window = 1800"),
            (
                replicated,
                "replicated_deduplication_window = 1799, ",
                "`replicated_deduplication_window` is 1799 and has to be 1800",
                "replicated_deduplication_window = 1800",
            ),
            (
                replicated,
                "replicated_deduplication_window = 100, replicated_deduplication_window_seconds = 60, ",
                "`replicated_deduplication_window_seconds` is 60 and has to be 1800",
                "replicated_deduplication_window = 1800, replicated_deduplication_window_seconds = 1800",
            ),
            (
                replicated,
                "non_replicated_deduplication_window = 90000, replicated_deduplication_window = 0, ",
                "`replicated_deduplication_window` is 0 and has to be 1800",
                "replicated_deduplication_window = 1800",
            ),
        ] {
            let text = judge("d", found(engine, settings), 1_800).unwrap_err().to_string();
            assert!(text.contains(why), "{text}");
            assert!(text.ends_with(&format!("`ALTER TABLE d.events MODIFY SETTING {fix}`")), "{text}");
        }
    }
}
