//! Back ends read through, changes kept here: what reconciles would do to Kafka and ClickHouse, without doing it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use millrace_crds::names::AppId;
use millrace_crds::schema::{Owner, Schema, Statement};
use millrace_crds::topics::{Change, Observed};

use super::{BackendError, Backends, Connection, Durability, Tables, Topics};

/// A change of a back end that was recorded and not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Where: an App's own endpoint, or the installation's when absent.
    pub endpoint: Option<String>,
    /// What.
    pub step: BackendStep,
}

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendStep {
    /// Write down who owns an App's topics.
    Claim(AppId, Owner),
    /// Make or change a topic.
    Topic(Change),
    /// Remove topics of an App.
    DeleteTopics(AppId, Vec<String>),
    /// Make or change a table.
    Statement(Statement),
    /// Remove a database.
    DropDatabase(String),
}

/// Back ends with changes laid over them.
pub struct Recording {
    base: Arc<dyn Backends>,
    /// What new topics are made with.
    durability: Durability,
    steps: Arc<Mutex<Vec<Recorded>>>,
}

impl Recording {
    /// Nothing recorded yet.
    pub fn new(base: Arc<dyn Backends>, durability: Durability) -> Self {
        Self { base, durability, steps: Arc::default() }
    }

    /// Everything that would be done, in its order.
    pub fn steps(&self) -> Vec<Recorded> {
        self.steps.lock().expect("no holder of this lock panics").clone()
    }

    fn at<T: ?Sized>(&self, base: Arc<T>, own: Option<&Connection>) -> At<T> {
        let endpoint = own.map(|own| own.endpoint.clone());
        At { base, endpoint, durability: self.durability, steps: Arc::clone(&self.steps) }
    }
}

impl Backends for Recording {
    fn topics(&self, own: Option<&Connection>) -> Arc<dyn Topics> {
        Arc::new(self.at(self.base.topics(own), own))
    }

    fn tables(&self, own: Option<&Connection>) -> Arc<dyn Tables> {
        Arc::new(self.at(self.base.tables(own), own))
    }
}

/// One back end.
struct At<T: ?Sized> {
    base: Arc<T>,
    endpoint: Option<String>,
    durability: Durability,
    steps: Arc<Mutex<Vec<Recorded>>>,
}

impl<T: ?Sized> At<T> {
    fn lock(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.steps.lock().expect("no holder of this lock panics")
    }

    fn record(&self, step: BackendStep) {
        self.lock().push(Recorded { endpoint: self.endpoint.clone(), step });
    }

    /// What was recorded of this back end.
    fn recorded(&self) -> Vec<BackendStep> {
        let steps = self.lock();
        let here = steps.iter().filter(|recorded| recorded.endpoint == self.endpoint);
        here.map(|recorded| recorded.step.clone()).collect()
    }
}

#[async_trait]
impl Topics for At<dyn Topics> {
    async fn observe(&self, names: &[String]) -> Result<Vec<Observed>, BackendError> {
        let found = self.base.observe(names).await?;
        let mut topics: BTreeMap<String, Observed> =
            found.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        for step in self.recorded() {
            match step {
                BackendStep::Topic(change) => lay(&mut topics, change),
                BackendStep::DeleteTopics(_, gone) => topics.retain(|name, _| !gone.contains(name)),
                BackendStep::Claim(..) | BackendStep::Statement(_) | BackendStep::DropDatabase(_) => {}
            }
        }
        Ok(topics.into_values().filter(|topic| names.contains(&topic.name)).collect())
    }

    async fn owner(&self, app: &AppId) -> Result<Option<Owner>, BackendError> {
        let last = self.recorded().into_iter().rev().find_map(|step| match step {
            BackendStep::Claim(of, owner) if of == *app => Some(Some(owner)),
            BackendStep::DeleteTopics(of, _) if of == *app => Some(None),
            BackendStep::Claim(..)
            | BackendStep::DeleteTopics(..)
            | BackendStep::Topic(_)
            | BackendStep::Statement(_)
            | BackendStep::DropDatabase(_) => None,
        });
        match last {
            Some(owner) => Ok(owner),
            None => self.base.owner(app).await,
        }
    }

    async fn claim(&self, app: &AppId, owner: &Owner) -> Result<(), BackendError> {
        self.record(BackendStep::Claim(app.clone(), owner.clone()));
        Ok(())
    }

    async fn carry_out(&self, change: &Change) -> Result<(), BackendError> {
        self.record(BackendStep::Topic(change.clone()));
        Ok(())
    }

    /// The names may be of topics that were never made; those that are there are recorded.
    async fn delete(&self, app: &AppId, names: &[String]) -> Result<(), BackendError> {
        let there = self.observe(names).await?.into_iter().map(|topic| topic.name);
        self.record(BackendStep::DeleteTopics(app.clone(), there.collect()));
        Ok(())
    }

    async fn durability(&self, names: &[String]) -> Result<Durability, BackendError> {
        let planned: BTreeSet<String> = self.recorded().into_iter().filter_map(created).collect();
        let there: Vec<String> = names.iter().filter(|name| !planned.contains(*name)).cloned().collect();
        if there.is_empty() {
            return Ok(self.durability);
        }
        let found = self.base.durability(&there).await?;
        Ok(if there.len() == names.len() {
            found
        } else {
            Durability {
                replication: found.replication.min(self.durability.replication),
                in_sync_min: found.in_sync_min.min(self.durability.in_sync_min),
            }
        })
    }
}

fn created(step: BackendStep) -> Option<String> {
    match step {
        BackendStep::Topic(Change::Create(topic)) => Some(topic.name),
        BackendStep::Topic(Change::Grow { .. } | Change::SetRetention { .. })
        | BackendStep::Claim(..)
        | BackendStep::DeleteTopics(..)
        | BackendStep::Statement(_)
        | BackendStep::DropDatabase(_) => None,
    }
}

fn lay(topics: &mut BTreeMap<String, Observed>, change: Change) {
    match change {
        Change::Create(topic) => {
            topics.entry(topic.name.clone()).or_insert(Observed {
                name: topic.name,
                partitions: topic.partitions,
                retention_ms: topic.retention_ms,
                retention_bytes: topic.retention_bytes,
            });
        }
        Change::Grow { name, to, .. } => {
            if let Some(topic) = topics.get_mut(&name) {
                topic.partitions = to;
            }
        }
        Change::SetRetention { name, retention_ms, retention_bytes } => {
            if let Some(topic) = topics.get_mut(&name) {
                (topic.retention_ms, topic.retention_bytes) = (retention_ms, retention_bytes);
            }
        }
    }
}

#[async_trait]
impl Tables for At<dyn Tables> {
    /// What was recorded counts as done, so only what is still missing comes back.
    async fn plan(&self, desired: &Schema, owner: &Owner) -> Result<Vec<Statement>, BackendError> {
        let recorded = self.recorded();
        let done = |statement: &Statement| recorded.contains(&BackendStep::Statement(statement.clone()));
        let mut statements = self.base.plan(desired, owner).await?;
        statements.retain(|statement| !done(statement));
        Ok(statements)
    }

    async fn carry_out(&self, statement: &Statement) -> Result<(), BackendError> {
        self.record(BackendStep::Statement(statement.clone()));
        Ok(())
    }

    /// Recorded where it is there and this owner's; asked as for a schema with nothing in it.
    async fn drop_database(&self, database: &str, owner: &Owner) -> Result<(), BackendError> {
        let nothing = Schema { database: database.to_owned(), tables: Vec::new(), views: Vec::new() };
        let is_missing = |statement: &Statement| statement.text.starts_with("CREATE DATABASE");
        if !self.base.plan(&nothing, owner).await?.iter().any(is_missing) {
            self.record(BackendStep::DropDatabase(database.to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use millrace_crds::compile::Installation;
    use millrace_crds::config::{Events, OnUndeclared, Topic};
    use millrace_crds::{app, schema, topics};

    use super::*;
    use crate::backends::memory::Memory;

    fn owner() -> Owner {
        let text = |text: &str| text.to_owned();
        Owner { cluster: text("c"), namespace: text("default"), app: text("shop"), uid: text("1") }
    }

    fn shop_topics(id: &AppId) -> Vec<Topic> {
        topics::desired(id, &app::TopicsSpec::default(), 1, &Installation::cluster())
    }

    #[tokio::test]
    async fn topics_are_as_if_they_had_been_made() {
        let memory = Memory::new();
        let durability = Durability { replication: 3, in_sync_min: 2 };
        let recording = Recording::new(Arc::new(memory.clone()), durability);
        let id = AppId::new("default", "shop").unwrap();
        let wanted = shop_topics(&id);
        let names: Vec<String> = wanted.iter().map(|topic| topic.name.clone()).collect();
        let kafka = recording.topics(None);
        assert_eq!(kafka.owner(&id).await.unwrap(), None);
        kafka.claim(&id, &owner()).await.unwrap();
        assert_eq!(kafka.owner(&id).await.unwrap(), Some(owner()));
        for change in topics::diff(&kafka.observe(&names).await.unwrap(), &wanted).unwrap() {
            kafka.carry_out(&change).await.unwrap();
        }
        let observed = kafka.observe(&names).await.unwrap();
        assert_eq!(topics::diff(&observed, &wanted).unwrap(), vec![]);
        assert_eq!(kafka.durability(&names).await.unwrap(), durability);
        assert_eq!(recording.steps().len(), 1 + names.len());
        kafka.delete(&id, &names).await.unwrap();
        assert!(kafka.observe(&names).await.unwrap().is_empty());
        assert_eq!(kafka.owner(&id).await.unwrap(), None);
        assert_eq!(memory.take_writes(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn statements_that_are_recorded_are_not_planned_again() {
        let memory = Memory::new();
        let durability = Durability { replication: 3, in_sync_min: 2 };
        let recording = Recording::new(Arc::new(memory.clone()), durability);
        let events = Events {
            on_undeclared: OnUndeclared::Keep,
            declared: BTreeMap::new(),
            revenue: None,
            conversions: BTreeSet::new(),
            dedupe_window_ms: 1,
        };
        let desired = schema::desired("millrace_default__shop", &events, 86_400);
        let tables = recording.tables(None);
        let planned = tables.plan(&desired, &owner()).await.unwrap();
        assert!(planned.len() > 3);
        for statement in &planned {
            tables.carry_out(statement).await.unwrap();
        }
        assert_eq!(tables.plan(&desired, &owner()).await.unwrap(), vec![]);
        assert_eq!(recording.steps().len(), planned.len());
        assert!(memory.databases_there().is_empty());
    }
}
