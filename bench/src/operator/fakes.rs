//! Kafka and ClickHouse that do at once what they are told, and pods that run the newest Revision of everything in their
//! data plane. They live in the operator's process, so they keep next to nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kube::core::DynamicObject;
use millrace_crds::compile;
use millrace_crds::conditions::reason;
use millrace_crds::labels;
use millrace_crds::names::AppId;
use millrace_crds::resolved::{Role, Sensitive};
use millrace_crds::schema::{self, Owner, Schema, Statement};
use millrace_crds::state::{PodState, RunningRevision, ScopeState};
use millrace_crds::topics::{Change, Observed};
use millrace_operator::backends::{BackendError, Backends, Connection, Durability, Pods, Tables, Topics};
use millrace_operator::cluster::Cluster;
use millrace_operator::kind::Kind;

/// Kafka and ClickHouse.
#[derive(Clone, Default)]
pub(crate) struct Both {
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    owners: HashMap<AppId, Owner>,
    topics: HashMap<String, Observed>,
    /// Statements that are still to come, by database.
    missing: HashMap<String, usize>,
    /// Database of every statement that was planned and not carried out.
    planned: HashMap<String, String>,
}

impl Both {
    fn with<T>(&self, then: impl FnOnce(&mut World) -> T) -> T {
        then(&mut self.world.lock().expect("no holder of this lock panics"))
    }
}

impl Backends for Both {
    fn topics(&self, _own: Option<&Connection>) -> Arc<dyn Topics> {
        Arc::new(self.clone())
    }

    fn tables(&self, _own: Option<&Connection>) -> Arc<dyn Tables> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl Topics for Both {
    async fn observe(&self, names: &[String]) -> Result<Vec<Observed>, BackendError> {
        Ok(self.with(|world| names.iter().filter_map(|name| world.topics.get(name).cloned()).collect()))
    }

    async fn owner(&self, app: &AppId) -> Result<Option<Owner>, BackendError> {
        Ok(self.with(|world| world.owners.get(app).cloned()))
    }

    async fn claim(&self, app: &AppId, owner: &Owner) -> Result<(), BackendError> {
        self.with(|world| world.owners.insert(app.clone(), owner.clone()));
        Ok(())
    }

    async fn carry_out(&self, change: &Change) -> Result<(), BackendError> {
        if let Change::Create(topic) = change {
            let made = Observed {
                name: topic.name.clone(),
                partitions: topic.partitions,
                retention_ms: topic.retention_ms,
                retention_bytes: topic.retention_bytes,
            };
            self.with(|world| world.topics.insert(made.name.clone(), made));
        }
        Ok(())
    }

    async fn delete(&self, app: &AppId, names: &[String]) -> Result<(), BackendError> {
        self.with(|world| {
            world.owners.remove(app);
            world.topics.retain(|name, _| !names.contains(name));
        });
        Ok(())
    }

    async fn durability(&self, _names: &[String]) -> Result<Durability, BackendError> {
        Ok(Durability { replication: 3, in_sync_min: 2 })
    }
}

#[async_trait]
impl Tables for Both {
    async fn plan(&self, desired: &Schema, _owner: &Owner) -> Result<Vec<Statement>, BackendError> {
        if self.with(|world| world.missing.get(&desired.database) == Some(&0)) {
            return Ok(Vec::new());
        }
        let statements = schema::diff(None, desired).map_err(|refused| BackendError {
            reason: reason::INCOMPATIBLE,
            message: refused.to_string(),
            retryable: false,
        })?;
        self.with(|world| {
            world.missing.insert(desired.database.clone(), statements.len());
            let planned = statements.iter().map(|one| (one.text.clone(), desired.database.clone()));
            world.planned.extend(planned);
        });
        Ok(statements)
    }

    async fn carry_out(&self, statement: &Statement) -> Result<(), BackendError> {
        self.with(|world| {
            let database = world.planned.remove(&statement.text);
            if let Some(missing) = database.and_then(|database| world.missing.get_mut(&database)) {
                *missing = missing.saturating_sub(1);
            }
        });
        Ok(())
    }

    async fn drop_database(&self, database: &str, _owner: &Owner) -> Result<(), BackendError> {
        self.with(|world| world.missing.remove(database));
        Ok(())
    }
}

/// Pods. What they are is read from the stores of the operator, so that they hold nothing themselves.
pub(crate) struct Obedient {
    /// Where Pods and Revisions are read.
    pub(crate) cluster: Arc<dyn Cluster>,
}

#[async_trait]
impl Pods for Obedient {
    async fn state(&self, address: &str, _token: &Sensitive) -> Result<PodState, BackendError> {
        let no_pod = || BackendError {
            reason: reason::UNREACHABLE,
            message: format!("no pod has the address `{address}`"),
            retryable: true,
        };
        let is_there = |pod: &&Arc<DynamicObject>| {
            let ip = pod.data["status"]["podIP"].as_str().unwrap_or_default();
            !ip.is_empty() && address.starts_with(&format!("http://[{ip}]:"))
        };
        let pods = self.list(Kind::Pod, None).await?;
        let pod = pods.iter().find(is_there).ok_or_else(no_pod)?;
        let role = Role::ALL.into_iter().find(|role| role.as_str() == label(pod, labels::COMPONENT));
        let revisions = self.list(Kind::Revision, pod.metadata.namespace.as_deref()).await?;
        Ok(PodState {
            spill: None,
            pod: pod.metadata.name.clone().unwrap_or_default(),
            role: role.ok_or_else(no_pod)?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            format_max: millrace_crds::config::Format::V1,
            ready: true,
            scopes: newest(&revisions, label(pod, labels::DATA_PLANE)),
            ledger: Default::default(),
        })
    }
}

impl Obedient {
    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<DynamicObject>>, BackendError> {
        self.cluster.list(kind, namespace, &BTreeMap::new()).await.map_err(|error| BackendError {
            reason: reason::UNREACHABLE,
            message: error.to_string(),
            retryable: true,
        })
    }
}

fn label<'a>(object: &'a DynamicObject, name: &str) -> &'a str {
    object.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map_or("", String::as_str)
}

/// The newest Revision of every scope that this data plane runs.
fn newest(revisions: &[Arc<DynamicObject>], data_plane: &str) -> BTreeMap<String, ScopeState> {
    let mut found: BTreeMap<&str, (i64, &str)> = BTreeMap::new();
    for revision in revisions {
        let scope = label(revision, labels::SCOPE);
        if scope != labels::SCOPE_ACCESS && label(revision, labels::DATA_PLANE) != data_plane {
            continue;
        }
        let sequence = revision.data["spec"]["sequence"].as_i64().unwrap_or_default();
        let config = revision.data["spec"]["config"].as_str().unwrap_or_default();
        let known = found.entry(scope).or_insert((sequence, config));
        if known.0 < sequence {
            *known = (sequence, config);
        }
    }
    let runs = |(sequence, config): (i64, &str)| ScopeState {
        running: Some(RunningRevision { sequence, hash: compile::hash(config) }),
        refused: None,
    };
    found.into_iter().map(|(scope, revision)| (scope.to_owned(), runs(revision))).collect()
}
