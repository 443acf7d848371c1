//! What the Apps of a namespace share: it outlives all of them but the last, with which the cluster's own garbage
//! collector takes it, also while no operator runs.

use anyhow::{Context, Result, bail, ensure};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::harness::{Story, wait};

/// Kinds of what is shared: group, version, kind, plural.
const KINDS: [(&str, &str, &str, &str); 9] = [
    ("", "v1", "ServiceAccount", "serviceaccounts"),
    ("", "v1", "Service", "services"),
    ("", "v1", "Secret", "secrets"),
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
];
const ANCHOR: &str = "mr-shared";
const OF_SHARED: &str = "millrace.dev/data-plane=shared";

fn app(name: &str) -> String {
    format!("apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {{name: {name}}}\nspec: {{}}\n")
}

/// Everything shared in the namespace, as `Kind/name` with the names of its owners.
async fn shared(client: &Client, namespace: &str) -> Result<Vec<(String, Vec<String>)>> {
    let mut found = Vec::new();
    for (group, version, kind, plural) in KINDS {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        for object in api.list(&ListParams::default().labels(OF_SHARED)).await? {
            let owners = object.metadata.owner_references.unwrap_or_default();
            let name = object.metadata.name.unwrap_or_default();
            found.push((format!("{kind}/{name}"), owners.into_iter().map(|owner| owner.name).collect()));
        }
    }
    Ok(found)
}

/// Sets how many pods the operator has, and waits until it has them; tells how many it had.
async fn scale_operator(client: &Client, story: &Story, replicas: i64) -> Result<i64> {
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("apps", "v1", "Deployment"), "deployments");
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let chosen =
        ListParams::default().labels("app.kubernetes.io/name=millrace,app.kubernetes.io/component=operator");
    let found = all.list(&chosen).await?.items.into_iter().next().context("the operator's Deployment")?;
    let namespace = found.metadata.namespace.as_deref().unwrap_or_default();
    let name = found.metadata.name.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let patch = json!({"spec": {"replicas": replicas}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    wait(&format!("the operator to have {replicas} pods"), async || {
        let ready = story.operator_pods().await?.len();
        if i64::try_from(ready)? == replicas { Ok(Some(())) } else { bail!("{ready} are ready") }
    })
    .await?;
    Ok(found.data["spec"]["replicas"].as_i64().unwrap_or(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shared_goes_with_the_last_app_and_not_before() -> Result<()> {
    let story = Story::begin("shared").await?;
    let client = Client::try_default().await?;
    for name in ["one", "two"] {
        story.apply(&app(name)).await?;
    }
    for name in ["one", "two"] {
        story.ready(name).await?;
    }
    let all = shared(&client, &story.namespace).await?;
    ensure!(all.len() > 20, "only {all:?} is shared");
    for (object, owners) in &all {
        let expected: &[&str] =
            if object == &format!("ServiceAccount/{ANCHOR}") { &["one", "two"] } else { &[ANCHOR] };
        ensure!(owners == expected, "{object} is owned by {owners:?}");
    }

    let before = story.pods().await?;
    story.delete("App", "one").await?;
    wait("the anchor to name the other App alone", async || {
        let now = shared(&client, &story.namespace).await?;
        let anchor = now.into_iter().find(|(object, _)| object.ends_with(&format!("/{ANCHOR}")));
        let (_, owners) = anchor.context("the anchor")?;
        if owners == ["two"] { Ok(Some(())) } else { bail!("{owners:?}") }
    })
    .await?;
    story.ready("two").await?;
    ensure!(story.pods().await? == before, "the pods of the other App changed");
    ensure!(
        shared(&client, &story.namespace).await?.len() == all.len(),
        "something shared went with one App"
    );

    // Nobody plans where no operator runs.
    story.unplanned().await?;
    let had = scale_operator(&client, &story, 0).await?;
    let gone = async {
        story.api("App")?.delete("two", &DeleteParams::default()).await?;
        wait("the garbage collector to take everything shared", async || {
            let (left, pods) = (shared(&client, &story.namespace).await?, story.pods().await?);
            if left.is_empty() && pods.is_empty() { Ok(Some(())) } else { bail!("{left:?} {pods:?}") }
        })
        .await
    };
    let gone = gone.await;
    scale_operator(&client, &story, had).await?;
    gone?;
    ensure!(story.secret("millrace-two", "write-key").await?.len() > 10, "keys belong to the data and stay");
    story.end().await
}
