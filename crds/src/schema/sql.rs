//! Names and texts in, quoted SQL out. The only place where a statement is put together from parts.

use super::{Column, Schema, Table, View};

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
    let columns: Vec<String> = table.columns.iter().map(column).collect();
    let ttl = table.ttl.as_ref().map(|ttl| format!(" TTL {ttl}")).unwrap_or_default();
    format!(
        "CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = {} PARTITION BY {} ORDER BY ({}){ttl} SETTINGS {}",
        qualified(schema, &table.name),
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
        "CREATE MATERIALIZED VIEW IF NOT EXISTS {} TO {} DEFINER = CURRENT_USER SQL SECURITY DEFINER AS {}",
        qualified(schema, &view.name),
        qualified(schema, &view.target),
        view.select,
    )
}

pub(super) fn settings<'a>(settings: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let settings: Vec<String> = settings.map(|(name, value)| format!("{name} = {value}")).collect();
    settings.join(", ")
}
