//! The ClickHouse objects an App needs, as values: meaning of the events in, tables and views out.
//! What is observed is compared with them by [`diff`]; nothing here talks to a server.

mod columns;
mod diff;
mod owner;
mod rollups;
mod side_by_side;
mod sql;

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::config::{AppConfig, Events, Topic};
use crate::names::TopicKind;

pub use columns::{EventColumn, event_columns};
pub use diff::{Difference, Incompatible, Observed, ObservedTable, Pace, Statement, diff, rebuild};
pub use owner::{Claim, Owner, Taken, claim};
pub use rollups::is_needed as rebuild_is_needed;
pub use sql::{identifier, literal};

/// The table of events.
pub const EVENTS: &str = "events";
/// Hourly figures; filled by [`DASHBOARD_STATS_MV`].
pub const DASHBOARD_STATS: &str = "dashboard_stats";
/// The view that fills [`DASHBOARD_STATS`].
pub const DASHBOARD_STATS_MV: &str = "dashboard_stats_mv";
/// Days on which a user was seen; filled by [`USER_RETENTION_MV`].
pub const USER_RETENTION: &str = "user_retention";
/// The view that fills [`USER_RETENTION`].
pub const USER_RETENTION_MV: &str = "user_retention_mv";
/// Events that could not be processed, and that they were taken up again.
pub const DEAD_LETTERS: &str = "dead_letters";
/// What was counted where, by minute of acceptance: what says that nothing was lost.
pub const LEDGER: &str = "ledger";

/// Up to which offsets `events` had rows when the rollups were last made anew from it.
pub const ROLLUPS_REBUILT: &str = "rollups_rebuilt";

/// Oldest ClickHouse that keeps the promises of the load protocol: since 26.2 a deduplicated insert is
/// deduplicated in dependent views by default, and one setting governs both kinds of insert.
pub const SERVER_VERSION_MIN: (u32, u32) = (26, 2);

/// Longest retention that becomes a TTL. TTL times are DateTime, which ends in 2106; a longer retention would
/// wrap and remove rows at once, so it is taken as "for ever" and no TTL is set.
pub const TTL_SECONDS_MAX: u64 = 50 * 365 * 86_400;

/// How many inserts a table remembers at least, per part written. A block is repeated before anything else of its log
/// partition, so the window only has to outlast what the other partitions insert meanwhile: with six of them at
/// one insert a second, 20,000 is 55 minutes of one partition standing still. An entry costs about 200 bytes.
pub const DEDUPLICATION_WINDOW: u32 = 20_000;

/// How long after its first attempt a block may be repeated while other partitions go on: longer than a pod takes to
/// come back, or its partition to find another owner.
const REPEAT_HORIZON_SECONDS: u32 = 30 * 60;

/// Inserts of a topic's partitions within the horizon, at one a second each: what a window must hold.
pub fn repeat_horizon_inserts(partitions: u32) -> u32 {
    partitions.saturating_mul(REPEAT_HORIZON_SECONDS)
}

/// A setting that says for how long a table knows a repeated insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembers {
    /// The setting.
    pub setting: &'static str,
    /// Its value: inserts, or seconds.
    pub value: u32,
    /// The least that a repeat needs, where so many inserts may come in between.
    pub needed: u32,
}

/// What a table's `engine_full` states of its memory, beside what is needed; where it states nothing, the server's
/// default. Replicated tables forget by number and by age, and heed the setting of plain ones as little as those heed
/// theirs.
pub fn remembers(engine_full: &str, inserts_needed: u32) -> Vec<Remembers> {
    let (_, settings) = engine_full.rsplit_once(" SETTINGS ").unwrap_or_default();
    let value = |name: &str, default: u32| {
        let mut stated = settings.split(", ").filter_map(|setting| setting.split_once(" = "));
        stated.find(|(setting, _)| *setting == name).map_or(default, |(_, value)| value.parse().unwrap_or(0))
    };
    let of = |setting, default, needed| Remembers { setting, value: value(setting, default), needed };
    // `SharedMergeTree` of ClickHouse's cloud is replicated by another name.
    if engine_full.starts_with("Replicated") || engine_full.starts_with("Shared") {
        vec![
            of("replicated_deduplication_window", 10_000, inserts_needed),
            of("replicated_deduplication_window_seconds", 3_600, REPEAT_HORIZON_SECONDS),
        ]
    } else {
        vec![of(WINDOW_SETTING, 0, inserts_needed)]
    }
}

/// Most JSON paths of `event_data` that become columns of their own inside a part; the rest share one.
/// Declared properties have real columns, so this is for the long tail.
pub const EVENT_DATA_PATHS_MAX: u32 = 256;

/// The desired objects of one App.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Schema {
    /// The App's database (`names::AppId::database`).
    pub database: String,
    /// Tables, in the order they are made.
    pub tables: Vec<Table>,
    /// Views, made after the tables.
    pub views: Vec<View>,
}

/// A table. Every text is spelled as ClickHouse prints it back, so that it can be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Its name within the database.
    pub name: String,
    /// Columns, in the order they are made.
    pub columns: Vec<Column>,
    /// `MergeTree` or `AggregatingMergeTree`.
    pub engine: String,
    /// Partition expression.
    pub partition_by: String,
    /// Sorting expressions, comma separated.
    pub order_by: String,
    /// Expression after which rows are removed.
    pub ttl: Option<String>,
    /// Settings that are stated; others keep their defaults.
    pub settings: BTreeMap<String, String>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// `CODEC(…)`; absent means the server's default.
    pub codec: Option<String>,
}

/// A materialized view: every block inserted into the table it reads is transformed and put into `target`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// Its name within the database.
    pub name: String,
    /// The table it fills.
    pub target: String,
    /// What it selects.
    pub select: String,
}

impl Schema {
    /// With windows of the tables that outlast what so many partitions insert.
    pub fn sized_for(mut self, topics: &[Topic]) -> Self {
        for table in &mut self.tables {
            let topic = topics.iter().find(|topic| topic.kind == filled_from(&table.name));
            let needed = repeat_horizon_inserts(topic.map_or(1, |topic| topic.partitions));
            let window = needed.max(DEDUPLICATION_WINDOW);
            table.settings.insert(WINDOW_SETTING.to_owned(), window.to_string());
        }
        self
    }

    /// Whether a table is filled by a view, so that it can be made anew from `events`.
    pub fn is_rollup(&self, table: &str) -> bool {
        self.views.iter().any(|view| view.target == table)
    }

    /// What a rollup was made from, in short; kept as the comment of its view. A server that prints the definition in
    /// other words than it was given is not asked for the same again and again.
    pub fn definition(&self, view: &View) -> String {
        let shape = self.tables.iter().find(|table| table.name == view.target).map(|table| {
            let columns: Vec<_> = table.columns.iter().map(|column| (&column.name, &column.kind)).collect();
            (columns, &table.engine, &table.partition_by, &table.order_by)
        });
        let canonical =
            serde_json::to_vec(&(view, shape)).expect("strings, lists and tuples always serialize");
        let digest = hex::encode(Sha256::digest(canonical));
        format!("millrace rollup {}", &digest[..16])
    }

    /// SHA-256 over the canonical JSON, in hex. What loaders write into their intents.
    pub fn hash(&self) -> String {
        let canonical =
            serde_json::to_vec(self).expect("strings, lists and string-keyed maps always serialize");
        hex::encode(Sha256::digest(canonical))
    }
}

/// The desired objects of a compiled App.
pub fn of_app(app: &AppConfig) -> Schema {
    desired(&app.storage.database, &app.events, app.storage.retention_seconds).sized_for(&app.topics)
}

/// The desired objects: the same for every App but for the columns of its declared properties and its retention.
/// Revenue and conversions are decided when an event is processed and carried in its row, so no view depends on
/// what an App declares, and a changed declaration never changes a view.
pub fn desired(database: &str, events: &Events, retention_seconds: u64) -> Schema {
    let tables = vec![
        events_table(events, retention_seconds),
        dashboard_stats_table(retention_seconds),
        user_retention_table(retention_seconds),
        dead_letters_table(retention_seconds),
        ledger_table(retention_seconds),
        rollups_rebuilt_table(retention_seconds),
    ];
    let views = vec![dashboard_stats_view(database), user_retention_view(database)];
    Schema { database: database.to_owned(), tables, views }
}

/// The topic whose records end in a table, by way of a view or not.
fn filled_from(table: &str) -> TopicKind {
    match table {
        DEAD_LETTERS => TopicKind::DeadLetters,
        LEDGER => TopicKind::Ledger,
        _ => TopicKind::EventsProcessed,
    }
}

fn events_table(events: &Events, retention_seconds: u64) -> Table {
    Table {
        name: EVENTS.to_owned(),
        columns: event_columns(events).iter().map(EventColumn::column).collect(),
        engine: "MergeTree".to_owned(),
        partition_by: "toYYYYMM(timestamp)".to_owned(),
        order_by: "event_type, toDate(timestamp), user_key, timestamp".to_owned(),
        ttl: ttl("timestamp", retention_seconds),
        settings: settings(),
    }
}

fn dashboard_stats_table(retention_seconds: u64) -> Table {
    Table {
        name: DASHBOARD_STATS.to_owned(),
        columns: columns(&[
            ("hour", "DateTime('UTC')"),
            ("currency", "LowCardinality(String)"),
            ("events", "SimpleAggregateFunction(sum, UInt64)"),
            ("users", "AggregateFunction(uniq, UInt64)"),
            ("revenue", "SimpleAggregateFunction(sum, Decimal(38, 9))"),
            ("conversions", "SimpleAggregateFunction(sum, UInt64)"),
            ("converted_users", "AggregateFunction(uniq, UInt64)"),
        ]),
        engine: "AggregatingMergeTree".to_owned(),
        partition_by: "toYYYYMM(hour)".to_owned(),
        order_by: "hour, currency".to_owned(),
        ttl: ttl("hour", retention_seconds),
        settings: settings(),
    }
}

fn dashboard_stats_view(database: &str) -> View {
    let select = "SELECT toStartOfHour(timestamp) AS hour, currency, count() AS events, \
                  uniqState(user_key) AS users, sum(ifNull(revenue, toDecimal128(0, 9))) AS revenue, \
                  countIf(is_conversion) AS conversions, \
                  uniqStateIf(user_key, is_conversion) AS converted_users FROM ";
    View {
        name: DASHBOARD_STATS_MV.to_owned(),
        target: DASHBOARD_STATS.to_owned(),
        select: format!("{select}{}.{EVENTS} GROUP BY hour, currency", identifier(database)),
    }
}

fn user_retention_table(retention_seconds: u64) -> Table {
    Table {
        name: USER_RETENTION.to_owned(),
        columns: columns(&[
            ("user_key", "UInt64"),
            ("day", "Date"),
            ("first_seen", "SimpleAggregateFunction(min, DateTime64(3, 'UTC'))"),
        ]),
        engine: "AggregatingMergeTree".to_owned(),
        partition_by: "toYYYYMM(day)".to_owned(),
        order_by: "user_key, day".to_owned(),
        ttl: ttl("day", retention_seconds),
        settings: settings(),
    }
}

fn user_retention_view(database: &str) -> View {
    View {
        name: USER_RETENTION_MV.to_owned(),
        target: USER_RETENTION.to_owned(),
        select: format!(
            "SELECT user_key, toDate(timestamp) AS day, min(timestamp) AS first_seen FROM {}.{EVENTS} \
             GROUP BY user_key, day",
            identifier(database)
        ),
    }
}

/// One row per record of the topic: the letter, or the mark that it was replayed (`entry`). Times of what cannot be
/// read are 1970.
fn dead_letters_table(retention_seconds: u64) -> Table {
    Table {
        name: DEAD_LETTERS.to_owned(),
        columns: columns(&[
            ("dead_lettered_at", "DateTime64(3, 'UTC')"),
            ("app_id", "LowCardinality(String)"),
            ("entry", "LowCardinality(String)"),
            ("reason", "LowCardinality(String)"),
            ("detail", "String"),
            ("event_id", "Nullable(UUID)"),
            ("event_type", "LowCardinality(String)"),
            ("received_at", "DateTime64(3, 'UTC')"),
            ("minute", "DateTime('UTC')"),
            ("replay", "UInt32"),
            ("raw_partition", "UInt32"),
            ("raw_offset", "UInt64"),
            ("record", "String"),
            ("bytes", "String"),
            ("log_epoch", "UInt32"),
            ("log_partition", "UInt32"),
            ("log_offset", "UInt64"),
        ]),
        engine: "MergeTree".to_owned(),
        partition_by: "toYYYYMM(dead_lettered_at)".to_owned(),
        order_by: "reason, dead_lettered_at".to_owned(),
        ttl: ttl("dead_lettered_at", retention_seconds),
        settings: settings(),
    }
}

/// One row per record of the topic. Counts and sums are added up when they are read; sums wrap.
fn ledger_table(retention_seconds: u64) -> Table {
    Table {
        name: LEDGER.to_owned(),
        columns: columns(&[
            ("minute", "DateTime('UTC')"),
            ("instance", "LowCardinality(String)"),
            ("kind", "LowCardinality(String)"),
            ("reason", "LowCardinality(String)"),
            ("count", "Int64"),
            ("sum", "UInt64"),
            ("recorded_at", "DateTime64(3, 'UTC')"),
            ("log_epoch", "UInt32"),
            ("log_partition", "UInt32"),
            ("log_offset", "UInt64"),
        ]),
        engine: "MergeTree".to_owned(),
        partition_by: "toYYYYMM(minute)".to_owned(),
        order_by: "minute, kind, reason, instance".to_owned(),
        ttl: ttl("minute", retention_seconds),
        settings: settings(),
    }
}

/// Rows of a month up to `log_offset` were in `events` when the rollups were made anew, so the rollups have them: a block
/// that is repeated afterwards must not bring them once more. The rows of a block that are of one month are stored
/// together or not at all, so one offset per epoch, partition and month says it exactly.
fn rollups_rebuilt_table(retention_seconds: u64) -> Table {
    Table {
        name: ROLLUPS_REBUILT.to_owned(),
        columns: columns(&[
            ("rebuilt_at", "DateTime64(3, 'UTC')"),
            ("log_epoch", "UInt32"),
            ("log_partition", "UInt32"),
            ("month", "UInt32"),
            ("log_offset", "UInt64"),
        ]),
        engine: "MergeTree".to_owned(),
        partition_by: "toYYYYMM(rebuilt_at)".to_owned(),
        order_by: "log_epoch, log_partition, month".to_owned(),
        ttl: ttl("rebuilt_at", retention_seconds),
        settings: settings(),
    }
}

fn columns(pairs: &[(&str, &str)]) -> Vec<Column> {
    let column =
        |&(name, kind): &(&str, &str)| Column { name: name.to_owned(), kind: kind.to_owned(), codec: None };
    pairs.iter().map(column).collect()
}

fn ttl(time: &str, retention_seconds: u64) -> Option<String> {
    (retention_seconds <= TTL_SECONDS_MAX)
        .then(|| format!("toDateTime({time}) + toIntervalSecond({retention_seconds})"))
}

const WINDOW_SETTING: &str = "non_replicated_deduplication_window";

/// On every table, view targets too: without its own window a target would count a repeated block twice. An
/// insert is answered only after fsync of the part and of its directory, because the answer lets the log forget.
fn settings() -> BTreeMap<String, String> {
    [
        (WINDOW_SETTING, DEDUPLICATION_WINDOW.to_string()),
        ("fsync_after_insert", "1".to_owned()),
        ("fsync_part_directory", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests;
