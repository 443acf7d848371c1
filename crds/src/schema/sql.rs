//! Names and texts in, quoted SQL out. The only place where a statement is put together from parts.

use super::{Column, EVENTS, ROLLUPS_REBUILT, Schema, Table, View};

/// A name as an identifier: in backticks, with what would end them escaped.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text as a string literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// `` `database`.`object` ``.
pub(super) fn qualified(schema: &Schema, object: &str) -> String {
    format!("{}.{}", identifier(&schema.database), identifier(object))
}

/// A column as it stands in CREATE or ADD COLUMN.
pub(super) fn column(column: &Column) -> String {
    let codec = column.codec.as_ref().map(|codec| format!(" {codec}")).unwrap_or_default();
    format!("{} {}{codec}", identifier(&column.name), column.kind)
}

pub(super) fn create_table(schema: &Schema, table: &Table) -> String {
    create_table_named(schema, table, &table.name)
}

/// The same table under another name.
pub(super) fn create_table_named(schema: &Schema, table: &Table, name: &str) -> String {
    let columns: Vec<String> = table.columns.iter().map(column).collect();
    let ttl = table.ttl.as_ref().map(|ttl| format!(" TTL {ttl}")).unwrap_or_default();
    format!(
        "CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = {} PARTITION BY {} ORDER BY ({}){ttl} SETTINGS {}",
        qualified(schema, name),
        columns.join(", "),
        table.engine,
        table.partition_by,
        table.order_by,
        settings(table.settings.iter()),
    )
}

/// The view runs with the rights of who made it, so a loader needs no rights on the target.
pub(super) fn create_view(schema: &Schema, view: &View) -> String {
    format!(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS {} TO {} DEFINER = CURRENT_USER SQL SECURITY DEFINER AS {} \
         COMMENT {}",
        qualified(schema, &view.name),
        qualified(schema, &view.target),
        view.select,
        literal(&schema.definition(view)),
    )
}

/// Which rows of `events` a statement is about.
#[derive(Clone, Copy)]
pub(super) enum Months<'a> {
    /// Those of one month, `YYYYMM`.
    One(u32),
    /// Those of no month of these.
    Others(&'a [u32]),
}

impl Months<'_> {
    fn condition(self) -> String {
        match self {
            Self::One(month) => format!("WHERE toYYYYMM(timestamp) = {month} "),
            Self::Others([]) => String::new(),
            Self::Others(months) => {
                let months: Vec<String> = months.iter().map(u32::to_string).collect();
                format!("WHERE toYYYYMM(timestamp) NOT IN ({}) ", months.join(", "))
            }
        }
    }
}

/// What a view would have put into its target of some months, into `table`, which has the target's columns. Not
/// deduplicated: the table is new and is thrown away if this does not end. Groups that need more than 1 GiB go to disk.
pub(super) fn fill(schema: &Schema, view: &View, target: &Table, table: &str, months: Months<'_>) -> String {
    let columns: Vec<String> = target.columns.iter().map(|column| identifier(&column.name)).collect();
    let columns = columns.join(", ");
    // Every view of ours ends with its groups.
    let (from, groups) = view.select.rsplit_once("GROUP BY ").unwrap_or((&view.select, ""));
    let groups = if groups.is_empty() { String::new() } else { format!("GROUP BY {groups}") };
    format!(
        "INSERT INTO {} ({columns}) SELECT {columns} FROM ({from}{}{groups}) SETTINGS insert_deduplicate = 0, \
         deduplicate_insert_select = 'disable', max_partitions_per_insert_block = 0, \
         max_bytes_before_external_group_by = 1073741824",
        qualified(schema, table),
        months.condition(),
    )
}

/// Notes up to which offset `events` has rows, per epoch, partition and month.
pub(super) fn note_rebuilt(schema: &Schema) -> String {
    format!(
        "INSERT INTO {} (`rebuilt_at`, `log_epoch`, `log_partition`, `month`, `log_offset`) \
         SELECT now64(3, 'UTC'), log_epoch, log_partition, toYYYYMM(timestamp), max(log_offset) FROM {} \
         GROUP BY log_epoch, log_partition, toYYYYMM(timestamp)",
        qualified(schema, ROLLUPS_REBUILT),
        qualified(schema, EVENTS),
    )
}

/// How many inserts into `events` have been running for as long as this has been asked. Servers and proxies may put a
/// comment before the words.
pub(super) fn inserts_underway(schema: &Schema) -> String {
    let words = format!("insert into {}.{EVENTS}", schema.database);
    format!(
        "SELECT count() FROM system.processes WHERE query_kind = 'Insert' AND elapsed >= {{waited:Float64}} \
         AND position(lower(replaceAll(query, '`', '')), {}) > 0",
        literal(&words.to_lowercase()),
    )
}

pub(super) fn settings<'a>(settings: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let settings: Vec<String> = settings.map(|(name, value)| format!("{name} = {value}")).collect();
    settings.join(", ")
}
