//! What a story's namespace holds at a moment: its objects, its topics, its tables. Asked of the API server, of Kafka and of
//! the engine, and not of the operator.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
use millrace_operator::cluster::ObjectKey;
use millrace_operator::kind::Kind;
use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// Longest wait for an answer of a broker; one that is stopped refuses at once.
const ANSWER_MAX: Duration = Duration::from_secs(5);

pub(crate) type Objects = BTreeMap<ObjectKey, DynamicObject>;

/// Everything of a namespace that the operator may write. Back ends that do not answer hold nothing that can be compared.
pub(crate) struct World {
    pub(crate) objects: Objects,
    pub(crate) topics: Option<Topics>,
    pub(crate) tables: Option<Tables>,
}

/// Topics, and who owns those of which App.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topics {
    pub(crate) topics: BTreeMap<String, Topic>,
    pub(crate) owners: BTreeMap<String, String>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) partitions: u32,
    pub(crate) retention_ms: u64,
    pub(crate) retention_bytes: Option<u64>,
}

/// Comments of databases, and definitions of `database.table`.
pub(crate) type Tables = BTreeMap<String, String>;

impl World {
    /// As it is now.
    pub(crate) async fn look(client: &Client, http: &reqwest::Client, namespace: &str) -> Result<Self> {
        let house = ClickHouse::new(http)?;
        Ok(Self {
            objects: objects(client, namespace).await?,
            topics: topics(namespace).await.ok(),
            tables: house.tables(&database_prefix("millrace", namespace)).await.ok(),
        })
    }
}

/// What databases of a namespace begin with.
pub(crate) fn database_prefix(first: &str, namespace: &str) -> String {
    format!("{first}_{}__", namespace.replace('-', "_"))
}

/// Every object of the kinds that the operator, or a team, writes.
pub(crate) async fn objects(client: &Client, namespace: &str) -> Result<Objects> {
    let kinds = Kind::ALL.into_iter().filter(|kind| ![Kind::Pod, Kind::Namespace].contains(kind));
    let lists = kinds.map(async |kind| {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
        match api.list(&ListParams::default()).await {
            Ok(found) => Ok(found.items.into_iter().map(|object| keyed(kind, namespace, object)).collect()),
            // The definition of HTTPRoute comes with a Gateway.
            Err(kube::Error::Api(status)) if status.code == 404 && kind == Kind::HttpRoute => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    });
    Ok(try_join_all(lists).await?.into_iter().flatten().collect())
}

/// Objects of a list carry no kind.
fn keyed(kind: Kind, namespace: &str, mut object: DynamicObject) -> (ObjectKey, DynamicObject) {
    let resource = kind.resource();
    object.types = Some(kube::core::TypeMeta { api_version: resource.api_version, kind: resource.kind });
    (ObjectKey::new(kind, namespace, object.metadata.name.as_deref().unwrap_or_default()), object)
}

async fn topics(namespace: &str) -> Result<Topics> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", setting("CLUSTER_KAFKA")?);
    config.set("group.id", "stories").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    let owner_prefix = format!("{namespace}/");
    let reader = config.clone();
    let prefix = format!("millrace.{namespace}.");
    let (partitions, owners) = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = reader.create()?;
        let metadata = consumer.fetch_metadata(None, ANSWER_MAX)?;
        let all: BTreeMap<String, usize> = metadata
            .topics()
            .iter()
            .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
            .collect();
        let owners = if all.contains_key("millrace.owners") { owners(&consumer)? } else { BTreeMap::new() };
        anyhow::Ok((all, owners))
    })
    .await??;
    let ours: BTreeMap<String, usize> =
        partitions.into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let named: Vec<_> = ours.keys().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX));
    let described =
        if ours.is_empty() { Vec::new() } else { admin.describe_configs(&named, &options).await? };
    let mut topics = BTreeMap::new();
    for described in described {
        let described = described.map_err(|code| anyhow::anyhow!("settings of a topic: {code}"))?;
        let number = |setting: &str| {
            described.get(setting).and_then(|entry| entry.value.as_ref()?.parse::<i64>().ok())
        };
        let OwnedResourceSpecifier::Topic(name) = &described.specifier else {
            bail!("asked for topics only")
        };
        let topic = Topic {
            partitions: u32::try_from(ours[name])?,
            retention_ms: number("retention.ms")
                .and_then(|ms| u64::try_from(ms).ok())
                .context("a retention")?,
            retention_bytes: number("retention.bytes").and_then(|bytes| u64::try_from(bytes).ok()),
        };
        topics.insert(name.clone(), topic);
    }
    let owners = owners.into_iter().filter(|(app, _)| app.starts_with(&owner_prefix)).collect();
    Ok(Topics { topics, owners })
}

/// The last record of every App in the topic of owners.
fn owners(consumer: &BaseConsumer) -> Result<BTreeMap<String, String>> {
    let mut from_start = TopicPartitionList::new();
    from_start.add_partition_offset("millrace.owners", 0, Offset::Beginning)?;
    consumer.assign(&from_start)?;
    let mut owners = BTreeMap::new();
    loop {
        match consumer.poll(ANSWER_MAX) {
            Some(Ok(record)) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let key = record.key().map(text).unwrap_or_default();
                match record.payload().map(text) {
                    Some(owner) => owners.insert(key, owner),
                    None => owners.remove(&key),
                };
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(owners),
            Some(Err(error)) => return Err(error.into()),
            None => bail!("the topic of owners has no end"),
        }
    }
}

/// The engine, as its operator.
pub(crate) struct ClickHouse {
    http: reqwest::Client,
    url: String,
    password: String,
}

impl ClickHouse {
    pub(crate) fn new(http: &reqwest::Client) -> Result<Self> {
        let password = std::fs::read_to_string(setting("CLUSTER_CLICKHOUSE_OPERATOR_PASSWORD_FILE")?)?;
        Ok(Self { http: http.clone(), url: setting("CLUSTER_CLICKHOUSE_URL")?, password })
    }

    pub(crate) async fn run(&self, statement: &str) -> Result<String> {
        let request = self.http.post(&self.url).basic_auth("operator", Some(self.password.trim()));
        let answer = request.body(statement.to_owned()).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{statement}: {text}");
        Ok(text)
    }

    /// Everything in databases whose name begins so; names are given without that.
    pub(crate) async fn tables(&self, prefix: &str) -> Result<Tables> {
        let databases =
            format!("SELECT name, comment FROM system.databases WHERE startsWith(name, '{prefix}')");
        let tables = format!(
            "SELECT concat(database, '.', name), create_table_query FROM system.tables WHERE startsWith(database, '{prefix}')"
        );
        let mut found = Tables::new();
        for query in [databases, tables] {
            for line in self.run(&format!("{query} FORMAT JSONCompactEachRow")).await?.lines() {
                let (name, said): (String, String) = serde_json::from_str(line)?;
                let name = name.strip_prefix(prefix).unwrap_or(&name).to_owned();
                found.insert(name, said.replace(prefix, ""));
            }
        }
        Ok(found)
    }

    /// Removes every database whose name begins so.
    pub(crate) async fn drop_all(&self, prefix: &str) -> Result<()> {
        for name in self.tables(prefix).await?.into_keys().filter(|name| !name.contains('.')) {
            self.run(&format!("DROP DATABASE `{prefix}{name}`")).await?;
        }
        Ok(())
    }
}

/// What `e2e/cluster/run` tells about the back ends.
pub(crate) fn setting(name: &str) -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "`e2e/cluster/run` tells where things are")]
    std::env::var(name).with_context(|| format!("`{name}` is not set; run this by `e2e/cluster/run`"))
}
