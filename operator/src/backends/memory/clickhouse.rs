//! A ClickHouse in memory: databases with their owners and tables. Tables are compared by the real diff; a statement takes
//! effect as the plan that made it meant.

use std::collections::BTreeMap;

use millrace_crds::conditions::reason;
use millrace_crds::schema::{
    self, Claim, Observed as ObservedSchema, ObservedTable, Owner, Schema, Statement,
};

use crate::backends::BackendError;

#[derive(Default)]
pub(super) struct ClickHouse {
    pub(super) databases: BTreeMap<String, Database>,
    /// What statements that were planned mean.
    meanings: BTreeMap<String, Meaning>,
}

#[derive(Default)]
pub(super) struct Database {
    pub(super) comment: String,
    pub(super) tables: BTreeMap<String, ObservedTable>,
}

#[derive(Clone)]
enum Meaning {
    Owned { database: String, comment: String },
    Table { database: String, name: String, becomes: Box<ObservedTable> },
}

impl ClickHouse {
    pub(super) fn plan(&mut self, desired: &Schema, owner: &Owner) -> Result<Vec<Statement>, BackendError> {
        let found = self.databases.get(&desired.database);
        let claim = schema::claim(&desired.database, found.map(|d| d.comment.as_str()), owner)
            .map_err(|taken| refused(reason::OWNED_BY_ANOTHER, taken.to_string()))?;
        let tables = found.map(|d| d.tables.clone()).unwrap_or_default();
        let observed = ObservedSchema { tables, months: vec![] };
        let changes = schema::diff(Some(&observed), desired)
            .map_err(|differs| refused(reason::INCOMPATIBLE, differs.to_string()))?;
        let claimed = match claim {
            Claim::Held => None,
            Claim::Create(statement) | Claim::Adopt(statement) => Some(statement),
        };
        if let Some(statement) = &claimed {
            let comment = serde_json::to_string(owner).expect("a struct of strings always serializes");
            let meaning = Meaning::Owned { database: desired.database.clone(), comment };
            self.meanings.insert(statement.text.clone(), meaning);
        }
        for statement in &changes {
            if let Some(becomes) = desired_object(desired, &statement.object, &observed) {
                let (database, name) = (desired.database.clone(), statement.object.clone());
                let meaning = Meaning::Table { database, name, becomes: Box::new(becomes) };
                self.meanings.insert(statement.text.clone(), meaning);
            }
        }
        Ok(claimed.into_iter().chain(changes).collect())
    }

    pub(super) fn carry_out(&mut self, statement: &Statement) -> Result<(), BackendError> {
        match self.meanings.get(&statement.text).cloned() {
            Some(Meaning::Owned { database, comment }) => {
                self.databases.entry(database).or_default().comment = comment;
                Ok(())
            }
            Some(Meaning::Table { database, name, becomes }) => match self.databases.get_mut(&database) {
                Some(database) => {
                    database.tables.insert(name, *becomes);
                    Ok(())
                }
                None => Err(refused(reason::REFUSED, format!("there is no database `{database}`"))),
            },
            None => Err(refused(reason::REFUSED, format!("nobody planned `{}`", statement.text))),
        }
    }

    pub(super) fn drop_database(&mut self, database: &str, owner: &Owner) -> Result<(), BackendError> {
        let Some(found) = self.databases.get(database) else { return Ok(()) };
        schema::claim(database, Some(&found.comment), owner)
            .map_err(|taken| refused(reason::OWNED_BY_ANOTHER, taken.to_string()))?;
        self.databases.remove(database);
        Ok(())
    }
}

fn refused(reason: &'static str, message: String) -> BackendError {
    BackendError { reason, message, retryable: false }
}

/// A table or view as it is seen once it is as desired. Columns that were there stay.
fn desired_object(desired: &Schema, name: &str, observed: &ObservedSchema) -> Option<ObservedTable> {
    if let Some(view) = desired.views.iter().find(|view| view.name == name) {
        return Some(ObservedTable {
            engine: "MaterializedView".to_owned(),
            as_select: view.select.clone(),
            create_table_query: format!(
                "CREATE MATERIALIZED VIEW v TO {}.{} AS",
                desired.database, view.target
            ),
            comment: desired.definition(view),
            ..ObservedTable::default()
        });
    }
    let table = desired.tables.iter().find(|table| table.name == name)?;
    let ttl = table.ttl.as_ref().map(|ttl| format!(" TTL {ttl}")).unwrap_or_default();
    let settings: Vec<_> = table.settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let mut columns = table.columns.clone();
    let there = observed.tables.get(name).map(|table| table.columns.as_slice()).unwrap_or_default();
    columns.extend(there.iter().filter(|known| table.columns.iter().all(|c| c.name != known.name)).cloned());
    Some(ObservedTable {
        engine: table.engine.clone(),
        engine_full: format!("{}{ttl} SETTINGS {}", table.engine, settings.join(", ")),
        partition_key: table.partition_by.clone(),
        sorting_key: table.order_by.clone(),
        columns,
        ..ObservedTable::default()
    })
}
