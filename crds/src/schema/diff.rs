//! What is observed and what is desired in, statements that lead from one to the other out.
//! Tables are only added to and changed in place; what would lose or reinterpret data is refused with both definitions.
//! A column whose property left the App stays, with its data. Rollups hold nothing that `events` does not: one that
//! differs is made anew ([`rollups`]).

use std::collections::BTreeMap;
use std::fmt;

use super::rollups;
use super::side_by_side::{self, Line};
use super::sql::{self, identifier, qualified};
use super::{Column, Schema, Table, View};

/// One statement, and the object it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Database, or object within it.
    pub object: String,
    /// The SQL.
    pub text: String,
    /// How it is carried out.
    pub pace: Pace,
}

/// How a statement is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Answered within seconds.
    Quick,
    /// Reads stored events: takes as long as there are many.
    Long,
    /// A question, asked until it answers 0. Its parameter `waited` is how many seconds it has been asked for.
    UntilZero,
}

/// A database as it is. Texts are ClickHouse's own (`system.tables`, `system.columns`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Tables and views by name.
    pub tables: BTreeMap<String, ObservedTable>,
    /// Months (`YYYYMM`) of which `events` has rows; only looked at where [`rollups::is_needed`].
    pub months: Vec<u32>,
}

/// A table or view as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedTable {
    /// `engine`.
    pub engine: String,
    /// `engine_full`: where TTL and settings are found.
    pub engine_full: String,
    /// `partition_key`.
    pub partition_key: String,
    /// `sorting_key`.
    pub sorting_key: String,
    /// `as_select`; empty for a table.
    pub as_select: String,
    /// `create_table_query`: where the target of a view and the constraints of a table are found.
    pub create_table_query: String,
    /// `comment`: which definition a view was made from.
    pub comment: String,
    /// `total_rows`; absent for a view.
    pub rows: Option<u64>,
    /// Columns, in their order.
    pub columns: Vec<Column>,
}

/// Objects that cannot be brought to the desired definition in place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Incompatible {
    /// The database.
    pub database: String,
    /// One per object, in the schema's order.
    pub differences: Vec<Difference>,
}

/// One object that differs, with both definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Table or view.
    pub object: String,
    /// What exactly cannot be changed, e.g. ``column `p_revenue` ``.
    pub conflicts: Vec<String>,
    /// Both definitions, line by line.
    pub lines: Vec<Line>,
}

/// What is to be done. Empty when everything is as desired; `None` means that the database is empty or not there.
pub fn diff(observed: Option<&Observed>, desired: &Schema) -> Result<Vec<Statement>, Incompatible> {
    let empty = Observed::default();
    let observed = observed.unwrap_or(&empty);
    if rollups::is_needed(observed, desired) {
        return rebuild(observed, desired);
    }
    let (mut statements, mut differences) = of_tables(observed, desired, |_| true);
    for view in &desired.views {
        match observed.tables.get(&view.name) {
            None => statements.push(Statement::quick(&view.name, sql::create_view(desired, view))),
            Some(found) => differences.extend(view_difference(desired, found, view)),
        }
    }
    statements.extend(rollups::leftovers(observed, desired));
    refuse(desired, differences)?;
    Ok(statements)
}

/// The same, and every rollup is made anew from `events`, whether it differs or not.
pub fn rebuild(observed: &Observed, desired: &Schema) -> Result<Vec<Statement>, Incompatible> {
    // What is there of a rollup's table is replaced, not altered.
    let is_kept =
        |table: &Table| !desired.is_rollup(&table.name) || !observed.tables.contains_key(&table.name);
    let (mut statements, differences) = of_tables(observed, desired, is_kept);
    refuse(desired, differences)?;
    statements.extend(rollups::statements(observed, desired));
    Ok(statements)
}

fn refuse(desired: &Schema, differences: Vec<Difference>) -> Result<(), Incompatible> {
    if differences.is_empty() {
        return Ok(());
    }
    Err(Incompatible { database: desired.database.clone(), differences })
}

fn of_tables(
    observed: &Observed,
    desired: &Schema,
    is_meant: impl Fn(&Table) -> bool,
) -> (Vec<Statement>, Vec<Difference>) {
    let mut statements = Vec::new();
    let mut differences = Vec::new();
    for table in desired.tables.iter().filter(|table| is_meant(table)) {
        match observed.tables.get(&table.name) {
            None => statements.push(Statement::quick(&table.name, sql::create_table(desired, table))),
            Some(found) => match table_conflicts(found, table) {
                conflicts if conflicts.is_empty() => statements.extend(table_changes(desired, found, table)),
                conflicts => differences.push(table_difference(found, table, conflicts)),
            },
        }
    }
    (statements, differences)
}

/// Whether what is there of a rollup is not what is wanted: its view, or the table that the view fills.
pub(super) fn rollup_differs(observed: &Observed, desired: &Schema, view: &View) -> bool {
    let there = |name: &str| observed.tables.get(name);
    let table = desired.tables.iter().find(|table| table.name == view.target);
    let table_differs = table
        .zip(there(&view.target))
        .is_some_and(|(table, found)| !table_conflicts(found, table).is_empty());
    table_differs || there(&view.name).is_some_and(|found| view_difference(desired, found, view).is_some())
}

impl Statement {
    pub(super) fn quick(object: &str, text: String) -> Self {
        Self { object: object.to_owned(), text, pace: Pace::Quick }
    }
}

fn table_conflicts(found: &ObservedTable, table: &Table) -> Vec<String> {
    let mut conflicts = Vec::new();
    for (what, found, wanted) in [
        ("ENGINE", &found.engine, &table.engine),
        ("PARTITION BY", &found.partition_key, &table.partition_by),
        ("ORDER BY", &found.sorting_key, &table.order_by),
    ] {
        if plain(found) != plain(wanted) {
            conflicts.push(what.to_owned());
        }
    }
    for column in &table.columns {
        if found.column(&column.name).is_some_and(|there| plain(&there.kind) != plain(&column.kind)) {
            conflicts.push(format!("column {}", identifier(&column.name)));
        }
    }
    conflicts
}

fn table_changes(schema: &Schema, found: &ObservedTable, table: &Table) -> Vec<Statement> {
    let mut changes = column_changes(found, table);
    changes.extend(ttl_change(found, table));
    changes.extend(setting_change(found, table));
    let alter = |change: String| {
        let text = format!("ALTER TABLE {} {change}", qualified(schema, &table.name));
        Statement::quick(&table.name, text)
    };
    changes.into_iter().map(alter).collect()
}

fn column_changes(found: &ObservedTable, table: &Table) -> Vec<String> {
    let mut changes = Vec::new();
    let mut after: Option<&Column> = None;
    for column in &table.columns {
        let place = after.map_or("FIRST".to_owned(), |c| format!("AFTER {}", identifier(&c.name)));
        let name = identifier(&column.name);
        match found.column(&column.name) {
            None => changes.push(format!("ADD COLUMN IF NOT EXISTS {} {place}", sql::column(column))),
            Some(there) => match (&there.codec, &column.codec) {
                (there, wanted) if there.as_deref().map(plain) == wanted.as_deref().map(plain) => {}
                (_, Some(_)) => changes.push(format!("MODIFY COLUMN {}", sql::column(column))),
                (_, None) => changes.push(format!("MODIFY COLUMN {name} REMOVE CODEC")),
            },
        }
        after = Some(column);
    }
    changes
}

fn ttl_change(found: &ObservedTable, table: &Table) -> Option<String> {
    let there = found.ttl();
    if there.map(plain) == table.ttl.as_deref().map(plain) {
        return None;
    }
    match &table.ttl {
        Some(ttl) => Some(format!("MODIFY TTL {ttl}")),
        None => Some("REMOVE TTL".to_owned()),
    }
}

fn setting_change(found: &ObservedTable, table: &Table) -> Option<String> {
    let there = found.settings();
    let changed = |(name, value): &(&String, &String)| there.get(name.as_str()) != Some(&value.as_str());
    let changes = sql::settings(table.settings.iter().filter(changed));
    (!changes.is_empty()).then(|| format!("MODIFY SETTING {changes}"))
}

fn table_difference(found: &ObservedTable, table: &Table, conflicts: Vec<String>) -> Difference {
    let column = |c: &Column| (format!("column {}", identifier(&c.name)), sql::column(c));
    let mut there: Vec<(String, String)> = found.columns.iter().map(column).collect();
    let mut wanted: Vec<(String, String)> = table.columns.iter().map(column).collect();
    for (what, found, desired) in [
        ("ENGINE", found.engine.as_str(), table.engine.as_str()),
        ("PARTITION BY", &found.partition_key, &table.partition_by),
        ("ORDER BY", &found.sorting_key, &table.order_by),
        ("TTL", found.ttl().unwrap_or_default(), table.ttl.as_deref().unwrap_or_default()),
    ] {
        there.push((what.to_owned(), format!("{what} {found}")));
        wanted.push((what.to_owned(), format!("{what} {desired}")));
    }
    let lines = side_by_side::align(&there, &wanted, &conflicts);
    Difference { object: table.name.clone(), conflicts, lines }
}

fn view_difference(schema: &Schema, found: &ObservedTable, view: &View) -> Option<Difference> {
    let target = qualified(schema, &view.target);
    let there = view_lines(&found.engine, found.target().unwrap_or_default(), &found.as_select);
    let wanted = view_lines("MaterializedView", &plain(&target), &plain(&view.select));
    let conflicts: Vec<String> = wanted
        .iter()
        .filter(|line| !there.contains(line))
        .chain(there.iter().filter(|line| !wanted.contains(line)))
        .map(|(key, _)| key.clone())
        .collect();
    if conflicts.is_empty() {
        return None;
    }
    let lines = side_by_side::align(&there, &wanted, &conflicts);
    Some(Difference { object: view.name.clone(), conflicts, lines })
}

/// A view as lines that can be compared: one per selected expression.
fn view_lines(engine: &str, target: &str, select: &str) -> Vec<(String, String)> {
    let mut lines = vec![
        ("ENGINE".to_owned(), format!("ENGINE {engine}")),
        ("TO".to_owned(), format!("TO {}", plain(target))),
    ];
    let select = plain(select).replace(" FROM ", "\nFROM ").replace(" GROUP BY ", "\nGROUP BY ");
    let parts = select.lines().flat_map(|line| line.split_inclusive(", "));
    lines.extend(parts.enumerate().map(|(i, part)| (format!("part {}", i + 1), part.trim_end().to_owned())));
    lines
}

impl ObservedTable {
    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    fn ttl(&self) -> Option<&str> {
        let (_, rest) = self.engine_full.split_once(" TTL ")?;
        Some(rest.split_once(" SETTINGS ").map_or(rest, |(ttl, _)| ttl))
    }

    fn settings(&self) -> BTreeMap<&str, &str> {
        let (_, settings) = self.engine_full.rsplit_once(" SETTINGS ").unwrap_or_default();
        settings.split(", ").filter_map(|setting| setting.split_once(" = ")).collect()
    }

    fn target(&self) -> Option<&str> {
        let (_, rest) = self.create_table_query.split_once(" TO ")?;
        rest.split(' ').next()
    }
}

/// Without what differs between spellings of the same: backticks, line breaks, runs of spaces, and the spaces
/// around `=` that `system.columns` leaves out.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('`', "").replace(" = ", "=")
}

impl fmt::Display for Incompatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let objects: Vec<String> = self
            .differences
            .iter()
            .map(|d| format!("{}.{}", identifier(&self.database), identifier(&d.object)))
            .collect();
        writeln!(f, "{} cannot be changed in place:", objects.join(", "))?;
        for difference in &self.differences {
            writeln!(
                f,
                "\n{} differs in: {}",
                identifier(&difference.object),
                difference.conflicts.join(", ")
            )?;
            side_by_side::write(f, &difference.lines)?;
        }
        write!(
            f,
            "\nput the declaration back, or give a property of another type another name; a rollup that somebody \
             changed by hand is made anew by `millrace-dataplane rollups rebuild`; a database nobody needs may be \
             dropped and is then made anew"
        )
    }
}
