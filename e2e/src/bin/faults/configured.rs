//! One App of its own for each run, and how its processes learn of it: a folder for `standalone`; topics, tables,
//! Revisions and a Secret from an API server for the roles, as the operator would have made them. That server knows
//! just these two kinds: what is under test is the way of events; the stories on a cluster have the real one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use millrace_crds::compile::canonical;
use millrace_crds::config::{AppConfig, Format, Topic};
use millrace_crds::labels;
use millrace_crds::manifest::Source;
use millrace_crds::revision::{Revision, RevisionSpec};
use millrace_crds::schema::{self, Owner};
use millrace_crds::topics;
use millrace_dataplane::standalone::build;
use millrace_dataplane::standalone::keys::KeyRing;
use millrace_dataplane::store::ClickHouse;
use millrace_provision::clickhouse;
use millrace_provision::kafka::{Admin, Replication, Settings};
use serde_json::{Value, json};

use crate::api::Api;
use crate::plan::{Plan, Stage};
use crate::world::World;

/// The write key of every run's App.
pub(crate) const KEY: &str = "mrw_fault_suite_key";
const NAMESPACE: &str = "team";
const SECRET: &str = "millrace.shared.faults";

/// How the processes of a run are configured.
pub(crate) struct Configured {
    folder: PathBuf,
    app: String,
    roles: Option<Roles>,
}

/// What stands for the operator.
struct Roles {
    api: Api,
    admin: Admin,
    topics: Vec<Topic>,
    brokers: String,
    ring: KeyRing,
    sequence: i64,
}

impl Configured {
    pub(crate) async fn new(world: &World, plan: &Plan, folder: &Path) -> Result<Self> {
        let app = app_name(plan.seed);
        let mut configured = Self { folder: folder.to_owned(), app, roles: None };
        match plan.stage {
            Stage::Embedded => {
                std::fs::create_dir_all(folder.join("manifests"))?;
                configured.write("")?;
            }
            Stage::Roles => configured.roles = Some(Roles::new(world, &configured).await?),
        }
        Ok(configured)
    }

    /// What tells a process where its configuration comes from.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let Some(roles) = &self.roles else { return Vec::new() };
        let kubeconfig = self.folder.join("kubeconfig").display().to_string();
        let pairs = [
            ("KUBECONFIG", kubeconfig.as_str()),
            ("MILLRACE_NAMESPACE", NAMESPACE),
            ("MILLRACE_RESOLVED_SECRET", SECRET),
            ("MILLRACE_KAFKA_BROKERS", &roles.brokers),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// Brings another configuration into force.
    pub(crate) fn reload(&mut self) -> Result<()> {
        let more = "  events: {conversions: [purchase]}\n";
        let text = resources(&self.app, more);
        match &mut self.roles {
            None => self.write(more),
            Some(roles) => roles.publish(&text),
        }
    }

    /// As an editor does: a new file moved over the old one.
    fn write(&self, more: &str) -> Result<()> {
        let unfinished = self.folder.join("unfinished");
        std::fs::write(&unfinished, resources(&self.app, more))?;
        std::fs::rename(unfinished, self.folder.join("manifests/app.yaml"))?;
        Ok(())
    }

    /// Topics, each with its number of partitions.
    pub(crate) fn partitions(&self) -> Vec<(String, u32)> {
        let topics = self.roles.iter().flat_map(|roles| &roles.topics);
        topics.map(|topic| (topic.name.clone(), topic.partitions)).collect()
    }

    /// Takes the topics away.
    pub(crate) async fn end(self) -> Result<()> {
        let Some(roles) = &self.roles else { return Ok(()) };
        let names = roles.topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>();
        roles.admin.delete(&names).await.context("delete the topics of a run")
    }
}

/// The App of a run.
fn app_name(seed: u64) -> String {
    format!("r{seed}")
}

/// The database of a run.
pub(crate) fn database(seed: u64) -> String {
    format!("millrace_{NAMESPACE}__{}", app_name(seed))
}

fn resources(app: &str, more: &str) -> String {
    format!(
        "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {{name: {app}, namespace: {NAMESPACE}}}\nspec:\n  \
         ingest: {{writeKeys: [{{name: web, secretRef: {{name: keys, key: web}}}}]}}\n  \
         topics: {{raw: {{partitions: 2}}, processed: {{partitions: 2}}}}\n{more}---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: {NAMESPACE}, labels: \
         {{millrace.dev/app-use: \"true\"}}}}\nstringData: {{web: {KEY}}}\n"
    )
}

impl Roles {
    async fn new(world: &World, configured: &Configured) -> Result<Self> {
        let brokers = world.kafka()?.bootstrap().to_owned();
        let admin = Admin::lazy(&Settings::plain(brokers.as_str()))?;
        let api = Api::start().await;
        let mut ring = KeyRing::in_memory();
        let text = resources(&configured.app, "");
        let app = built(&text, &mut ring)?;
        let changes = topics::diff(&[], &app.topics).map_err(|refused| anyhow!("{refused:?}"))?;
        admin.carry_out(&changes, Replication { factor: 3, min_in_sync: 2 }).await?;
        let owner = Owner {
            cluster: "faults".to_owned(),
            namespace: NAMESPACE.to_owned(),
            app: configured.app.clone(),
            uid: configured.app.clone(),
        };
        let store = ClickHouse::new(millrace_dataplane::cluster::keep::endpoint(world.engine_url(), None));
        clickhouse::apply(&store.client(), &schema::of_app(&app), &owner).await?;
        api.put("Secret", secret(&app, &mut ring)?);
        std::fs::write(configured.folder.join("kubeconfig"), kubeconfig(&api).to_string())?;
        let topics = app.topics.clone();
        let mut roles = Self { api, admin, topics, brokers, ring, sequence: 0 };
        roles.publish(&text)?;
        Ok(roles)
    }

    /// Publishes the Revision of these resources.
    fn publish(&mut self, text: &str) -> Result<()> {
        self.sequence += 1;
        let app = built(text, &mut self.ring)?;
        let scope = app.app.name();
        let spec = RevisionSpec {
            sequence: self.sequence,
            format: Format::V1,
            rollout: Default::default(),
            schema_hash: Some(app.storage.schema_hash.clone()),
            config: canonical(&app),
        };
        let mut revision = Revision::new(&labels::revision(scope, self.sequence), spec);
        revision.metadata.namespace = Some(NAMESPACE.to_owned());
        let labels = [(labels::DATA_PLANE, labels::SHARED), (labels::SCOPE, scope)];
        revision.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        self.api.put("Revision", serde_json::to_value(revision)?);
        Ok(())
    }
}

fn built(text: &str, ring: &mut KeyRing) -> Result<AppConfig> {
    let source = Source { name: "faults.yaml".to_owned(), text: text.to_owned() };
    let mut built = build::build(&[source], ring)?;
    built.apps.pop().context("the resources hold an App")
}

/// The Secret with everything, for every role.
fn secret(app: &AppConfig, ring: &mut KeyRing) -> Result<Value> {
    let keys = ring.privacy_keys(&app.app)?;
    let (hash, encrypt) = (hex::encode(keys.hash.expose()), hex::encode(keys.encrypt.expose()));
    let resolved = json!({
        "pepper": hex::encode(ring.pepper().expose()),
        "privacy": { app.app.to_string(): { "epoch": keys.epoch, "hash": hash, "encrypt": encrypt } },
        "stateToken": "mrs_faults", "adminToken": "mra_faults",
    });
    let value = base64::engine::general_purpose::STANDARD.encode(resolved.to_string());
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": SECRET, "namespace": NAMESPACE },
        "data": { labels::RESOLVED: value },
    }))
}

fn kubeconfig(api: &Api) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "faults",
        "clusters": [{ "name": "faults", "cluster": { "server": format!("http://{}", api.addr) } }],
        "users": [{ "name": "faults", "user": {} }],
        "contexts": [{ "name": "faults", "context": { "cluster": "faults", "user": "faults", "namespace": NAMESPACE } }],
    })
}
