//! A rollup that is not as wanted in, the statements that make every rollup anew from `events` while events flow out.
//! Pure: what they do is seen in the database alone, so whoever comes next after a crash does it again from the start.
//!
//! While a fence stands, a constraint on `events` that no row satisfies, every insert is refused; loaders of any build
//! repeat it later. Behind it the rollups are counted anew into tables of their own, which then change places with the
//! old ones: readers see the old figures until then. All rollups are made at once, so that what [`super::ROLLUPS_REBUILT`]
//! says is true of each. An attempt has a number, in the name of its fence and of its tables: one that was overtaken by
//! the next finds its tables gone, and cannot take the other's fence away.

use super::diff::{Observed, Pace, Statement, rollup_differs};
use super::sql::{self, Months, identifier, qualified};
use super::{EVENTS, ROLLUPS_REBUILT, Schema, Table, View};

/// Begin of the name of the constraint that refuses every row. Whoever adds one of that name by hand has the rollups
/// made anew.
const FENCE: &str = "millrace_paused";

/// Between the name of a rollup's table and the number of an attempt.
const ASIDE: &str = "_rebuild_";

/// Whether the rollups have to be made anew: one is not as wanted, or is missing though there are events, or an earlier
/// attempt has not come to its end. One that was made as wanted and is there in other words is not.
pub fn is_needed(observed: &Observed, desired: &Schema) -> bool {
    let Some(events) = observed.tables.get(EVENTS) else { return false };
    let is_missing = |name: &str| !observed.tables.contains_key(name);
    let needs = |view: &View| {
        if is_missing(&view.name) || is_missing(&view.target) {
            return events.rows.is_some_and(|rows| rows > 0);
        }
        let made_from = observed.tables.get(&view.name).map(|found| found.comment.as_str());
        made_from != Some(desired.definition(view).as_str()) && rollup_differs(observed, desired, view)
    };
    !fences(observed).is_empty() || desired.views.iter().any(needs)
}

/// Makes every rollup anew.
pub(super) fn statements(observed: &Observed, desired: &Schema) -> Vec<Statement> {
    let attempt = attempt(observed, desired);
    let fence = format!("{FENCE}_{attempt}");
    let events = qualified(desired, EVENTS);
    let alter = |change: String| Statement::quick(EVENTS, format!("ALTER TABLE {events} {change}"));
    let drop_fence = |name: &str| alter(format!("DROP CONSTRAINT IF EXISTS {}", identifier(name)));
    let rollups: Vec<Rollup<'_>> =
        desired.views.iter().filter_map(|view| Rollup::new(desired, view, attempt)).collect();

    let mut statements = vec![alter(format!("ADD CONSTRAINT IF NOT EXISTS {} CHECK 0", identifier(&fence)))];
    // The new one stands before an old one goes.
    statements.extend(fences(observed).iter().map(|name| drop_fence(name)));
    // An insert that began before the fence goes on behind it.
    statements.push(Statement {
        object: EVENTS.to_owned(),
        text: sql::inserts_underway(desired),
        pace: Pace::UntilZero,
    });
    statements.extend(leftovers(observed, desired));
    statements.extend(rollups.iter().flat_map(|rollup| rollup.count_anew(desired, &observed.months)));
    statements.push(Statement {
        object: ROLLUPS_REBUILT.to_owned(),
        text: sql::note_rebuilt(desired),
        pace: Pace::Long,
    });
    statements.extend(rollups.iter().flat_map(|rollup| rollup.replace(desired)));
    statements.push(drop_fence(&fence));
    statements.extend(rollups.iter().map(|rollup| drop_table(desired, &rollup.target.name, &rollup.aside)));
    statements
}

/// Throws away what earlier attempts left.
pub(super) fn leftovers(observed: &Observed, desired: &Schema) -> Vec<Statement> {
    let is_left = |name: &&String| aside_of(desired, name).is_some();
    let left = observed.tables.keys().filter(is_left);
    left.map(|name| drop_table(desired, aside_of(desired, name).map_or(name, |(target, _)| target), name))
        .collect()
}

/// A rollup, and the name of the table in which it is counted anew.
struct Rollup<'a> {
    view: &'a View,
    target: &'a Table,
    aside: String,
}

impl<'a> Rollup<'a> {
    fn new(desired: &'a Schema, view: &'a View, attempt: u32) -> Option<Self> {
        let target = desired.tables.iter().find(|table| table.name == view.target)?;
        Some(Self { view, target, aside: format!("{}{ASIDE}{attempt}", target.name) })
    }

    /// Month by month, so that no statement needs more memory or time than one month does. The last one takes the months
    /// that came between the look at them and the fence.
    fn count_anew(&self, desired: &Schema, months: &[u32]) -> Vec<Statement> {
        let Self { view, target, aside } = self;
        let create = sql::create_table_named(desired, target, aside);
        let fill = |months| Statement {
            object: target.name.clone(),
            text: sql::fill(desired, view, target, aside, months),
            pace: Pace::Long,
        };
        let each = months.iter().map(|month| fill(Months::One(*month)));
        let rest = std::iter::once(fill(Months::Others(months)));
        std::iter::once(Statement::quick(&target.name, create)).chain(each).chain(rest).collect()
    }

    /// The view goes first and comes back last, so that it fills the table that bears the name.
    fn replace(&self, desired: &Schema) -> [Statement; 3] {
        let Self { view, target, aside } = self;
        let (old, new) = (qualified(desired, &target.name), qualified(desired, aside));
        let drop = format!("DROP VIEW IF EXISTS {}", qualified(desired, &view.name));
        [
            Statement::quick(&view.name, drop),
            Statement::quick(&target.name, format!("EXCHANGE TABLES {old} AND {new}")),
            Statement::quick(&view.name, sql::create_view(desired, view)),
        ]
    }
}

/// However large it is: everything in it is in `events`.
fn drop_table(desired: &Schema, object: &str, name: &str) -> Statement {
    let table = qualified(desired, name);
    Statement::quick(object, format!("DROP TABLE IF EXISTS {table} SETTINGS max_table_size_to_drop = 0"))
}

/// Names of the fences that stand.
fn fences(observed: &Observed) -> Vec<&str> {
    let definition = observed.tables.get(EVENTS).map(|table| table.create_table_query.as_str());
    let names = definition.unwrap_or_default().split("CONSTRAINT ").skip(1);
    let names = names.filter_map(|rest| rest.split(' ').next()).map(|name| name.trim_matches('`'));
    names.filter(|name| name.starts_with(FENCE)).collect()
}

/// The rollup's table that a table stands in for, and in which attempt.
fn aside_of<'a>(desired: &'a Schema, name: &str) -> Option<(&'a str, u32)> {
    desired.views.iter().find_map(|view| {
        let number = name.strip_prefix(view.target.as_str())?.strip_prefix(ASIDE)?;
        Some((view.target.as_str(), number.parse().ok()?))
    })
}

/// One more than any attempt of which something is left.
fn attempt(observed: &Observed, desired: &Schema) -> u32 {
    let fences = fences(observed);
    let of_fences = fences.iter().filter_map(|name| name.rsplit('_').next()?.parse::<u32>().ok());
    let of_tables = observed.tables.keys().filter_map(|name| aside_of(desired, name).map(|(_, n)| n));
    of_fences.chain(of_tables).max().unwrap_or(0).saturating_add(1)
}

#[cfg(test)]
mod tests;
