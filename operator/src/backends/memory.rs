//! Back ends in memory, for tests and benchmarks: the same verdicts as the real ones, failures on request, and a list of
//! every call.

mod clickhouse;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use millrace_crds::conditions::reason;
use millrace_crds::names::AppId;
use millrace_crds::resolved::Sensitive;
use millrace_crds::schema::{Owner, Schema, Statement};
use millrace_crds::state::PodState;
use millrace_crds::topics::{Change, Observed};

use self::clickhouse::{ClickHouse, Database};
use super::{BackendError, Backends, Connection, Durability, Pods, Tables, Topics};
use crate::cluster::memory::Moment;

/// Calls that are remembered; older ones are forgotten.
const CALLS_MAX: usize = 100_000;

/// Which back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// Every Kafka.
    Kafka,
    /// Every ClickHouse.
    ClickHouse,
    /// Every pod.
    Pods,
}

/// How a back end fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It does not answer.
    Unreachable,
    /// It answers, and does not let us.
    Refused,
}

/// One call of a back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Whether it changed something, or would have.
    pub effect: Effect,
    /// In words, such as `create topic millrace.default.shop.seen`.
    pub words: String,
}

/// What a call does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It asks.
    Reads,
    /// It changes.
    Writes,
    /// It would have changed, but the back end failed.
    Fails,
}

/// Kafka, ClickHouse and pods in memory. Clones share the same world.
#[derive(Clone, Default)]
pub struct Memory {
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    /// By endpoint; empty for the installation's own.
    kafkas: BTreeMap<String, Kafka>,
    clickhouses: BTreeMap<String, ClickHouse>,
    pods: BTreeMap<String, PodState>,
    failures: BTreeMap<Which, Failure>,
    durability: Option<Durability>,
    calls: Vec<Call>,
    crash: Option<Crash>,
}

/// The process ends at a change: this one and all after it fail, here and wherever `spread` takes it.
struct Crash {
    changes_left: usize,
    moment: Moment,
    spread: Box<dyn Fn() + Send>,
}

#[derive(Default)]
struct Kafka {
    topics: BTreeMap<String, Observed>,
    owners: BTreeMap<AppId, Owner>,
}

impl Memory {
    /// An empty world in which everything answers, with three copies of each topic.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a back end fail, or answer again.
    pub fn fail(&self, which: Which, failure: Option<Failure>) {
        let mut world = self.lock();
        match failure {
            Some(failure) => world.failures.insert(which, failure),
            None => world.failures.remove(&which),
        };
    }

    /// Sets how many copies topics have.
    pub fn set_durability(&self, durability: Durability) {
        self.lock().durability = Some(durability);
    }

    /// Puts a topic there that nobody here made.
    pub fn put_topic(&self, topic: Observed) {
        self.lock().kafka("").topics.insert(topic.name.clone(), topic);
    }

    /// Says who owns the topics of an App.
    pub fn put_owner(&self, app: &AppId, owner: Owner) {
        self.lock().kafka("").owners.insert(app.clone(), owner);
    }

    /// Puts an empty database with this comment there.
    pub fn put_database(&self, name: &str, comment: &str) {
        let database = Database { comment: comment.to_owned(), tables: BTreeMap::new() };
        self.lock().clickhouse("").databases.insert(name.to_owned(), database);
    }

    /// Crashes at the n-th change from now, counted from 1: before or after it happens. `spread` is called then, so that
    /// a test can end the rest of the process too.
    pub fn crash_at(&self, change: usize, moment: Moment, spread: impl Fn() + Send + 'static) {
        self.lock().crash = Some(Crash { changes_left: change, moment, spread: Box::new(spread) });
    }

    /// Ends the crash; one that has not come yet does not come any more. Whether it had come.
    pub fn restart(&self) -> bool {
        self.lock().crash.take().is_some_and(|crash| crash.changes_left == 0)
    }

    /// What a pod at an address answers.
    pub fn put_pod(&self, address: &str, state: PodState) {
        self.lock().pods.insert(address.to_owned(), state);
    }

    /// Topics of the installation's Kafka, by name.
    pub fn topics_there(&self) -> Vec<Observed> {
        self.lock().kafka("").topics.values().cloned().collect()
    }

    /// Who owns the topics of an App on the installation's Kafka.
    pub fn owner_of(&self, app: &AppId) -> Option<Owner> {
        self.lock().kafka("").owners.get(app).cloned()
    }

    /// Databases of the installation's ClickHouse with the names of their tables and views.
    pub fn databases_there(&self) -> BTreeMap<String, Vec<String>> {
        let mut world = self.lock();
        let databases = &world.clickhouse("").databases;
        databases.iter().map(|(name, d)| (name.clone(), d.tables.keys().cloned().collect())).collect()
    }

    /// Columns of a table of the installation's ClickHouse.
    pub fn columns_there(&self, database: &str, table: &str) -> Vec<String> {
        let mut world = self.lock();
        let table = world.clickhouse("").databases.get(database).and_then(|d| d.tables.get(table));
        table.map(|t| t.columns.iter().map(|c| c.name.clone()).collect()).unwrap_or_default()
    }

    /// Calls since the last time, in order.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.lock().calls)
    }

    /// Number of changes since calls were last taken.
    pub fn changes(&self) -> usize {
        self.lock().calls.iter().filter(|call| call.effect == Effect::Writes).count()
    }

    /// Changes since the last time, in words; forgets reads too.
    pub fn take_writes(&self) -> Vec<String> {
        let calls = self.take_calls().into_iter();
        calls.filter(|call| call.effect == Effect::Writes).map(|call| call.words).collect()
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no holder of this lock panics")
    }

    fn at(&self, own: Option<&Connection>) -> Place {
        let endpoint = own.map(|own| own.endpoint.clone()).unwrap_or_default();
        Place { memory: self.clone(), endpoint }
    }
}

impl World {
    fn kafka(&mut self, endpoint: &str) -> &mut Kafka {
        self.kafkas.entry(endpoint.to_owned()).or_default()
    }

    fn clickhouse(&mut self, endpoint: &str) -> &mut ClickHouse {
        self.clickhouses.entry(endpoint.to_owned()).or_default()
    }

    /// Whether a change still happens, by the crash that was ordered.
    fn survives(&mut self, effect: Effect) -> Result<After, BackendError> {
        let lost = BackendError {
            reason: reason::UNREACHABLE,
            message: "the process crashed here".to_owned(),
            retryable: true,
        };
        let Some(crash) = &mut self.crash else { return Ok(After::Answered) };
        if crash.changes_left == 0 {
            return Err(lost);
        }
        if effect != Effect::Writes {
            return Ok(After::Answered);
        }
        crash.changes_left -= 1;
        if crash.changes_left > 0 {
            return Ok(After::Answered);
        }
        (crash.spread)();
        match crash.moment {
            Moment::Before => Err(lost),
            Moment::After => Ok(After::Lost(lost)),
        }
    }

    fn called(&mut self, which: Which, effect: Effect, words: String) -> Result<(), BackendError> {
        if self.calls.len() == CALLS_MAX {
            self.calls.remove(0);
        }
        let is_lost = effect == Effect::Writes && self.failures.contains_key(&which);
        self.calls.push(Call { effect: if is_lost { Effect::Fails } else { effect }, words });
        let name = match which {
            Which::Kafka => "Kafka at `kafka.test:9092`",
            Which::ClickHouse => "ClickHouse at `http://clickhouse.test:8123`",
            Which::Pods => "the pod",
        };
        match self.failures.get(&which) {
            None => Ok(()),
            Some(Failure::Unreachable) => Err(BackendError {
                reason: reason::UNREACHABLE,
                message: format!("{name} does not answer; check that it runs and can be reached from here"),
                retryable: true,
            }),
            Some(Failure::Refused) => Err(BackendError {
                reason: reason::REFUSED,
                message: format!("{name} refuses us; check the account and its rights"),
                retryable: true,
            }),
        }
    }
}

/// What becomes of an answer.
enum After {
    Answered,
    Lost(BackendError),
}

/// A back end at an endpoint.
struct Place {
    memory: Memory,
    endpoint: String,
}

impl Place {
    fn ask<T>(
        &self,
        which: Which,
        words: String,
        ask: impl FnOnce(&mut World) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        self.call(which, Effect::Reads, words, ask)
    }

    fn change(
        &self,
        which: Which,
        words: String,
        change: impl FnOnce(&mut World) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        self.call(which, Effect::Writes, words, change)
    }

    fn call<T>(
        &self,
        which: Which,
        effect: Effect,
        words: String,
        call: impl FnOnce(&mut World) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let mut world = self.memory.lock();
        let at = if self.endpoint.is_empty() { String::new() } else { format!(" at {}", self.endpoint) };
        let after = world.survives(effect)?;
        world.called(which, effect, words + &at)?;
        let answer = call(&mut world)?;
        match after {
            After::Answered => Ok(answer),
            After::Lost(lost) => Err(lost),
        }
    }
}

impl Backends for Memory {
    fn topics(&self, own: Option<&Connection>) -> Arc<dyn Topics> {
        Arc::new(self.at(own))
    }

    fn tables(&self, own: Option<&Connection>) -> Arc<dyn Tables> {
        Arc::new(self.at(own))
    }
}

#[async_trait]
impl Topics for Place {
    async fn observe(&self, names: &[String]) -> Result<Vec<Observed>, BackendError> {
        self.ask(Which::Kafka, "observe topics".to_owned(), |world| {
            let topics = &world.kafka(&self.endpoint).topics;
            Ok(names.iter().filter_map(|name| topics.get(name).cloned()).collect())
        })
    }

    async fn owner(&self, app: &AppId) -> Result<Option<Owner>, BackendError> {
        self.ask(Which::Kafka, format!("owner of {app}"), |world| {
            Ok(world.kafka(&self.endpoint).owners.get(app).cloned())
        })
    }

    async fn claim(&self, app: &AppId, owner: &Owner) -> Result<(), BackendError> {
        self.change(Which::Kafka, format!("claim topics of {app}"), |world| {
            world.kafka(&self.endpoint).owners.insert(app.clone(), owner.clone());
            Ok(())
        })
    }

    async fn carry_out(&self, change: &Change) -> Result<(), BackendError> {
        let words = match change {
            Change::Create(topic) => format!("create topic {}", topic.name),
            Change::Grow { name, to, .. } => format!("grow topic {name} to {to}"),
            Change::SetRetention { name, .. } => format!("set retention of topic {name}"),
        };
        self.change(Which::Kafka, words, |world| {
            change_topics(&mut world.kafka(&self.endpoint).topics, change);
            Ok(())
        })
    }

    async fn delete(&self, app: &AppId, names: &[String]) -> Result<(), BackendError> {
        self.change(Which::Kafka, format!("delete topics of {app}"), |world| {
            let kafka = world.kafka(&self.endpoint);
            kafka.topics.retain(|name, _| !names.contains(name));
            kafka.owners.remove(app);
            Ok(())
        })
    }

    async fn durability(&self, _names: &[String]) -> Result<Durability, BackendError> {
        self.ask(Which::Kafka, "durability of topics".to_owned(), |world| {
            Ok(world.durability.unwrap_or(Durability { replication: 3, in_sync_min: 2 }))
        })
    }
}

fn change_topics(topics: &mut BTreeMap<String, Observed>, change: &Change) {
    match change {
        Change::Create(topic) => {
            topics.entry(topic.name.clone()).or_insert_with(|| Observed {
                name: topic.name.clone(),
                partitions: topic.partitions,
                retention_ms: topic.retention_ms,
                retention_bytes: topic.retention_bytes,
            });
        }
        Change::Grow { name, to, .. } => {
            if let Some(topic) = topics.get_mut(name) {
                topic.partitions = topic.partitions.max(*to);
            }
        }
        Change::SetRetention { name, retention_ms, retention_bytes } => {
            if let Some(topic) = topics.get_mut(name) {
                (topic.retention_ms, topic.retention_bytes) = (*retention_ms, *retention_bytes);
            }
        }
    }
}

#[async_trait]
impl Tables for Place {
    async fn plan(&self, desired: &Schema, owner: &Owner) -> Result<Vec<Statement>, BackendError> {
        self.ask(Which::ClickHouse, format!("plan database {}", desired.database), |world| {
            world.clickhouse(&self.endpoint).plan(desired, owner)
        })
    }

    async fn carry_out(&self, statement: &Statement) -> Result<(), BackendError> {
        let words = format!("change {}: {}", statement.object, first_words(&statement.text));
        self.change(Which::ClickHouse, words, |world| world.clickhouse(&self.endpoint).carry_out(statement))
    }

    async fn drop_database(&self, database: &str, owner: &Owner) -> Result<(), BackendError> {
        self.change(Which::ClickHouse, format!("drop database {database}"), |world| {
            world.clickhouse(&self.endpoint).drop_database(database, owner)
        })
    }
}

#[async_trait]
impl Pods for Memory {
    async fn state(&self, address: &str, _token: &Sensitive) -> Result<PodState, BackendError> {
        let mut world = self.lock();
        world.called(Which::Pods, Effect::Reads, format!("state of {address}"))?;
        world.pods.get(address).cloned().ok_or_else(|| BackendError {
            reason: reason::UNREACHABLE,
            message: format!("nothing answers at `{address}`"),
            retryable: true,
        })
    }
}

fn first_words(text: &str) -> String {
    text.split_whitespace().take(6).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use millrace_crds::config::{Events, OnUndeclared};
    use millrace_crds::schema;

    use super::*;

    fn owner(uid: &str) -> Owner {
        let text = |text: &str| text.to_owned();
        Owner { cluster: text("c"), namespace: text("default"), app: text("shop"), uid: text(uid) }
    }

    fn shop(retention_seconds: u64) -> Schema {
        let events = Events {
            on_undeclared: OnUndeclared::Keep,
            declared: BTreeMap::new(),
            revenue: None,
            conversions: Default::default(),
            dedupe_window_ms: 1,
        };
        schema::desired("millrace_default__shop", &events, retention_seconds)
    }

    #[tokio::test]
    async fn carrying_out_what_was_planned_leaves_nothing_to_plan() {
        let memory = Memory::new();
        let tables = memory.tables(None);
        for retention in [86_400, 2 * 86_400] {
            let planned = tables.plan(&shop(retention), &owner("1")).await.unwrap();
            assert!(!planned.is_empty());
            for statement in &planned {
                tables.carry_out(statement).await.unwrap();
            }
            assert_eq!(tables.plan(&shop(retention), &owner("1")).await.unwrap(), vec![]);
        }
        let stranger = Owner { cluster: "d".to_owned(), ..owner("1") };
        let taken = tables.plan(&shop(1), &stranger).await.unwrap_err();
        assert_eq!(taken.reason, reason::OWNED_BY_ANOTHER);
        assert!(tables.drop_database("millrace_default__shop", &stranger).await.is_err());
        tables.drop_database("millrace_default__shop", &owner("2")).await.unwrap();
        assert!(memory.databases_there().is_empty());
    }

    #[tokio::test]
    async fn fails_as_told_and_remembers_every_call() {
        let memory = Memory::new();
        let app = AppId::new("default", "shop").unwrap();
        memory.fail(Which::Kafka, Some(Failure::Unreachable));
        let failed = memory.topics(None).claim(&app, &owner("1")).await.unwrap_err();
        assert_eq!(failed.reason, reason::UNREACHABLE);
        memory.fail(Which::Kafka, None);
        memory.topics(None).claim(&app, &owner("1")).await.unwrap();
        let effects: Vec<Effect> = memory.take_calls().into_iter().map(|call| call.effect).collect();
        assert_eq!(effects, [Effect::Fails, Effect::Writes]);
        assert_eq!(memory.owner_of(&app), Some(owner("1")));
    }
}
