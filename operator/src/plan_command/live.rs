//! Arguments in, a plan of the real world out: reaches the API server, the back ends and the pods, and only reads them.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use kube::core::DynamicObject;
use millrace_crds::labels::{ADMIN_SECRET, MANAGED_BY, MANAGER, STATE_TOKEN};
use millrace_crds::pod::PORT_ADMIN;
use millrace_crds::resolved::Sensitive;

use super::files::Files;
use super::{PlanArgs, PlanError, Planned, Wanted, World, plan};
use crate::accounts::{read_accounts, read_settings};
use crate::backends::live::Live;
use crate::backends::pods::HttpPods;
use crate::backends::{Backends, Pods};
use crate::cluster::direct::ReadOnly;
use crate::cluster::{Cluster, ClusterError, ObjectKey, live};
use crate::installation::Installation;
use crate::kind::Kind;
use crate::metrics::Metrics;
use crate::reports::{Report, Reports};

/// Pods asked at the same time: from outside the cluster none answers, and each is waited for.
const PODS_AT_ONCE: usize = 64;

/// Makes the plan that these arguments ask for.
pub async fn look(args: &PlanArgs, random: fn(&mut [u8])) -> Result<Planned, PlanError> {
    // Fails only when a provider is there already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let progress = Progress::start();
    let installation = Arc::new(read_settings(&args.settings)?);
    let accounts = Arc::new(read_accounts(&args.credentials)?);
    let client = live::connect().await.map_err(|source| PlanError::Connect { source: source.into() })?;
    let namespace = args.namespace.as_deref().unwrap_or_else(|| client.default_namespace()).to_owned();
    let files = match args.files.as_slice() {
        [] => None,
        paths => Some(Files::read(paths, &namespace)?),
    };
    let cluster: Arc<dyn Cluster> = Arc::new(ReadOnly::new(client));
    let world = World {
        cluster_id: cluster_id(&*cluster, installation.cluster_id.as_deref()).await?,
        backends: Arc::new(Live::new(Arc::clone(&installation), &accounts)) as Arc<dyn Backends>,
        reports: Arc::new(reports(&*cluster, &looked_at(args, &installation)).await?),
        metrics: Arc::new(Metrics::new().map_err(|source| PlanError::Metrics { source })?),
        operator_namespace: args.operator_namespace.clone(),
        cluster,
        installation,
        accounts,
        random,
    };
    let wanted = match &files {
        Some(files) if args.delete => Wanted::Deletion(files),
        Some(files) => Wanted::Files(files),
        None => Wanted::Drift(args.namespace.as_deref()),
    };
    plan(&world, &wanted, &|words| progress.say(words), Timestamp::now()).await
}

async fn cluster_id(cluster: &dyn Cluster, set: Option<&str>) -> Result<String, PlanError> {
    if let Some(id) = set {
        return Ok(id.to_owned());
    }
    let key = ObjectKey::new(Kind::Namespace, "", "kube-system");
    let found = cluster.get(&key).await?;
    found.and_then(|namespace| namespace.metadata.uid.clone()).ok_or(PlanError::ClusterId)
}

/// Namespaces whose pods are asked: where rights end at namespaces, nothing is asked of all.
fn looked_at(args: &PlanArgs, installation: &Installation) -> Vec<Option<String>> {
    match (&args.namespace, installation.namespaces.as_slice()) {
        (Some(namespace), _) => vec![Some(namespace.clone())],
        (None, []) => vec![None],
        (None, served) => served.iter().cloned().map(Some).collect(),
    }
}

/// What pods say of themselves, as far as they can be reached from here: it decides which Revisions are still needed.
async fn reports(cluster: &dyn Cluster, namespaces: &[Option<String>]) -> Result<Reports, PlanError> {
    let reports = Reports::default();
    let Ok(asker) = HttpPods::new() else { return Ok(reports) };
    let ours = BTreeMap::from([(MANAGED_BY, MANAGER)]);
    let mut tokens = BTreeMap::new();
    let mut asked = Vec::new();
    let mut pods = Vec::new();
    for namespace in namespaces {
        pods.extend(cluster.list(Kind::Pod, namespace.as_deref(), &ours).await?);
    }
    for pod in pods {
        let of = pod.metadata.namespace.clone().unwrap_or_default();
        if !tokens.contains_key(&of) {
            tokens.insert(of.clone(), state_token(cluster, &of).await?);
        }
        if let (Some(Some(token)), Some(address)) = (tokens.get(&of).cloned(), address(&pod)) {
            asked.push((pod, address, token));
        }
    }
    let answers = futures::stream::iter(asked)
        .map(async |(pod, address, token): (Arc<DynamicObject>, String, Sensitive)| {
            (pod, asker.state(&address, &token).await)
        })
        .buffer_unordered(PODS_AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    for (pod, said) in answers {
        let of = |field: &Option<String>| field.clone().unwrap_or_default();
        // Who cannot be reached from here has not said that he cannot serve.
        if let Ok(said) = said {
            let report = Report { uid: of(&pod.metadata.uid), at: Timestamp::now(), said: Ok(said) };
            reports.keep(&of(&pod.metadata.namespace), &of(&pod.metadata.name), report);
        }
    }
    Ok(reports)
}

fn address(pod: &DynamicObject) -> Option<String> {
    let ip = pod.data["status"]["podIP"].as_str()?;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    Some(format!("http://{host}:{PORT_ADMIN}/state"))
}

async fn state_token(cluster: &dyn Cluster, namespace: &str) -> Result<Option<Sensitive>, ClusterError> {
    let secret = cluster.get(&ObjectKey::new(Kind::Secret, namespace, ADMIN_SECRET)).await?;
    let value = secret.and_then(|secret| secret.data.get("data")?.get(STATE_TOKEN).cloned());
    let bytes = value.and_then(|value| serde_json::from_value::<ByteString>(value).ok());
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes.0).ok()).map(Sensitive::new))
}

/// One line on a terminal that says what is being looked at; nothing elsewhere.
struct Progress {
    shown: bool,
}

impl Progress {
    fn start() -> Self {
        Self { shown: std::io::stderr().is_terminal() }
    }

    fn say(&self, words: &str) {
        if self.shown {
            // Nothing depends on it.
            let _ = write!(std::io::stderr(), "\r\u{1b}[2K{words}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.say("");
    }
}
