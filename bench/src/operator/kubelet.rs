//! Deployments and StatefulSets in, Pods that are ready out: the controllers, the scheduler and the nodes that the API
//! server of a measurement does not have. The pods run nothing; `fakes` speaks for them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use millrace_crds::labels;
use millrace_operator::kind::Kind;
use serde_json::{Value, json};

/// Makes the pods of every workload of this kind, for ever.
pub(crate) async fn run(client: Client, kind: Kind) -> Result<()> {
    let config = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
    let workloads: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
    let events = watcher(workloads, config).default_backoff().applied_objects();
    let client = &client;
    let mut made: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut events = std::pin::pin!(events);
    while let Some(workload) = events.try_next().await.context("watch workloads")? {
        let namespace = workload.metadata.namespace.clone().unwrap_or_default();
        let name = workload.metadata.name.clone().unwrap_or_default();
        let wanted = workload.data["spec"]["replicas"].as_u64().unwrap_or(1);
        let made = made.entry((namespace.clone(), name.clone())).or_default();
        for number in *made..wanted {
            let pod = format!("{name}-{number}");
            make(client, &namespace, &pod, &pod_of(&workload)).await?;
        }
        *made = wanted.max(*made);
    }
    Ok(())
}

/// The template as a pod; what would be a claim is a folder.
fn pod_of(workload: &DynamicObject) -> Value {
    let spec = &workload.data["spec"];
    let mut pod = spec["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["spec"]["nodeName"] = "nowhere".into();
    let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    let claims = spec["volumeClaimTemplates"].as_array().into_iter().flatten();
    volumes.extend(claims.map(|claim| json!({"name": claim["metadata"]["name"], "emptyDir": {}})));
    pod["spec"]["volumes"] = volumes.into();
    pod
}

async fn make(client: &Client, namespace: &str, name: &str, pod: &Value) -> Result<()> {
    let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &Kind::Pod.resource());
    let mut pod: DynamicObject = serde_json::from_value(pod.clone())?;
    pod.metadata.name = Some(name.to_owned());
    let created = pods.create(&PostParams::default(), &pod).await;
    let created = created.with_context(|| format!("create pod `{namespace}/{name}`"))?;
    let status = json!({"status": {
        "phase": "Running", "podIP": address(created.metadata.uid.as_deref().unwrap_or_default()),
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": Timestamp::now()}],
    }});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

/// An address of the range that is kept for documentation, by the pod's UID: IPv6 has room for no two to meet.
fn address(uid: &str) -> String {
    let digits: Vec<char> = uid.chars().filter(char::is_ascii_hexdigit).take(24).collect();
    let groups: Vec<String> = digits.chunks(4).map(|group| group.iter().collect()).collect();
    let text = format!("2001:db8:{}", groups.join(":"));
    text.parse::<std::net::Ipv6Addr>().map_or(text, |address| address.to_string())
}
