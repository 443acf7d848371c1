//! A namespace for one story: applies resources, waits for conditions, asks Services, and leaves nothing behind.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::operator::OPERATOR_NAMESPACE;
use crate::plan::Intent;
use crate::planned::{Plans, is_planned};

/// Longest wait for anything that only takes time: image start, elections, back-off.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);
/// Pause between two looks while waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Whose fields the tests write, as a team's `kubectl` would.
const MANAGER: &str = "story";

/// A namespace and the clients of one story.
pub(crate) struct Story {
    /// Its namespace.
    pub(crate) namespace: String,
    pub(crate) client: Client,
    /// For Services; every request has a time limit.
    pub(crate) http: reqwest::Client,
    plans: Plans,
    begun: Instant,
}

impl Story {
    /// Makes the namespace, which enforces restricted pod security.
    pub(crate) async fn begin(name: &str) -> Result<Self> {
        // Another story of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            Client::try_default().await.context("no cluster: run `make cluster`, or set KUBECONFIG")?;
        make_room(&client).await?;
        Self::make(client, name).await
    }

    /// A story of its own beside this one, in another namespace.
    pub(crate) async fn beside(&self, name: &str) -> Result<Self> {
        Self::make(self.client.clone(), name).await
    }

    async fn make(client: Client, name: &str) -> Result<Self> {
        let namespace = format!("story-{name}-{}", &uuid::Uuid::new_v4().simple().to_string()[..6]);
        let http = reqwest::Client::builder().timeout(Duration::from_secs(15)).build()?;
        let plans = Plans::new(client.clone(), http.clone(), &namespace, OPERATOR_NAMESPACE);
        let story = Self { client, namespace: namespace.clone(), http, plans, begun: Instant::now() };
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}});
        story.apply_value(object).await?;
        Ok(story)
    }

    /// Everything that happened was planned; deletes the namespace and waits until it is gone.
    pub(crate) async fn end(self) -> Result<()> {
        self.plans.end().await?;
        self.end_unplanned().await
    }

    /// Deletes the namespace with whatever is in it, and waits until it is gone.
    pub(crate) async fn end_unplanned(self) -> Result<()> {
        let told = self.begun.elapsed().as_secs_f64();
        let namespaces: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource("Namespace")?);
        namespaces.delete(&self.namespace, &DeleteParams::default()).await?;
        // How pods drain is told elsewhere; nobody sends to these any more.
        let at_once = DeleteParams::default().grace_period(1);
        self.api("Pod")?.delete_collection(&at_once, &ListParams::default()).await?;
        wait("the namespace to go", async || {
            Ok(namespaces.get_opt(&self.namespace).await?.is_none().then_some(()))
        })
        .await?;
        let took = self.begun.elapsed().as_secs_f64();
        say(&format!("{} took {told:.1} s, and {:.1} s to go", self.namespace, took - told));
        Ok(())
    }

    /// Applies every document of a YAML text into the namespace, as `kubectl apply --server-side` does, after all of it
    /// was planned.
    pub(crate) async fn apply(&self, yaml: &str) -> Result<()> {
        let mut objects = Vec::new();
        for document in yaml.split("\n---\n") {
            let mut object: Value = serde_saphyr::from_str(document).context("the story's own YAML")?;
            ensure!(object["kind"].as_str().is_some_and(is_planned), "plan does not know: {object}");
            object["metadata"]["namespace"] = json!(self.namespace);
            objects.push(object);
        }
        let text = objects.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
        let apply = async || {
            for object in objects {
                self.apply_value(object).await?;
            }
            Ok(())
        };
        self.plans.change(&text, Intent::Apply, apply).await
    }

    /// Applies one object that no plan speaks of: of another kind, or where the operator does not serve.
    pub(crate) async fn apply_unplanned(&self, yaml: &str) -> Result<()> {
        self.plans.unplanned().await?;
        self.apply_value(serde_saphyr::from_str(yaml).context("the story's own YAML")?).await
    }

    /// What happens from here to the next plan is nobody's plan.
    pub(crate) async fn unplanned(&self) -> Result<()> {
        self.plans.unplanned().await
    }

    /// Applies every file of an example.
    pub(crate) async fn apply_example(&self, name: &str) -> Result<()> {
        let folder = root().join("manifests/examples").join(name);
        let mut files: Vec<_> =
            std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.sort();
        let texts: Vec<String> = files.iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?;
        self.apply(&texts.join("\n---\n")).await
    }

    async fn apply_value(&self, mut object: Value) -> Result<()> {
        let kind = object["kind"].as_str().context("an object has a kind")?.to_owned();
        let name = object["metadata"]["name"].as_str().context("an object has a name")?.to_owned();
        if kind != "Namespace" {
            object["metadata"]["namespace"] = json!(self.namespace);
        }
        let parameters = PatchParams::apply(MANAGER).force().validation_strict();
        self.api(&kind)?.patch(&name, &parameters, &Patch::Apply(&object)).await?;
        Ok(())
    }

    /// Objects of a kind in the namespace.
    pub(crate) fn api(&self, kind: &str) -> Result<Api<DynamicObject>> {
        let resource = resource(kind)?;
        Ok(match kind {
            "Namespace" => Api::all_with(self.client.clone(), &resource),
            _ => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
        })
    }

    /// One object.
    pub(crate) async fn get(&self, kind: &str, name: &str) -> Result<Value> {
        Ok(serde_json::to_value(self.api(kind)?.get(name).await?)?)
    }

    /// Every object of a kind in the namespace.
    pub(crate) async fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let found = self.api(kind)?.list(&ListParams::default()).await?;
        found.items.into_iter().map(|object| Ok(serde_json::to_value(object)?)).collect()
    }

    /// Deletes an object, after that was planned; it may still be on its way out.
    pub(crate) async fn delete(&self, kind: &str, name: &str) -> Result<()> {
        let api = self.api(kind)?;
        let delete = async || {
            api.delete(name, &DeleteParams::default()).await?;
            Ok(())
        };
        if !is_planned(kind) {
            self.plans.unplanned().await?;
            return delete().await;
        }
        let text = as_written(&self.get(kind, name).await?);
        self.plans.change(&text, Intent::Delete, delete).await
    }

    /// Merges into an object, as a person with `kubectl patch` would, after that was planned where it is one of a team's
    /// own. Gives when it was written.
    pub(crate) async fn patch(&self, kind: &str, name: &str, patch: Value) -> Result<Instant> {
        let api = self.api(kind)?;
        let merge = async |parameters: PatchParams| {
            let begun = Instant::now();
            Ok((begun, api.patch(name, &parameters, &Patch::Merge(&patch)).await?))
        };
        if !is_planned(kind) {
            self.plans.unplanned().await?;
            return merge(PatchParams::default()).await.map(|(begun, _)| begun);
        }
        let (_, patched) = merge(PatchParams::default().dry_run()).await?;
        let text = as_written(&serde_json::to_value(patched)?);
        let patch = async || merge(PatchParams::default()).await.map(|(begun, _)| begun);
        self.plans.change(&text, Intent::Apply, patch).await
    }

    /// What happens while a back end of the test cluster does not run; it is started again whatever came of it.
    pub(crate) async fn without<T>(
        &self,
        back_end: &str,
        happens: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        self.back_end(back_end, "stop").await?;
        let outcome = happens().await;
        self.back_end(back_end, "start").await?;
        outcome
    }

    /// Starts or stops a back end. What the operator does then was in no plan.
    async fn back_end(&self, name: &str, action: &str) -> Result<()> {
        self.plans.unplanned().await?;
        let status = Command::new(root().join("e2e/cluster/service")).args([name, action]).status()?;
        ensure!(status.success(), "`e2e/cluster/service {name} {action}` ended with {status}");
        Ok(())
    }

    /// The condition of an object, once it has one that speaks of its newest generation.
    pub(crate) async fn condition(
        &self,
        kind: &str,
        name: &str,
        condition: &str,
    ) -> Result<Option<Condition>> {
        let object = self.get(kind, name).await?;
        let generation = &object["metadata"]["generation"];
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|found| found["type"] == condition);
        Ok(found.filter(|found| &found["observedGeneration"] == generation).map(|found| Condition {
            status: found["status"].as_str().unwrap_or_default().to_owned(),
            reason: found["reason"].as_str().unwrap_or_default().to_owned(),
            message: found["message"].as_str().unwrap_or_default().to_owned(),
        }))
    }

    /// Waits until an App's condition is as described.
    pub(crate) async fn until(
        &self,
        app: &str,
        condition: &str,
        status: &str,
        reason: &str,
    ) -> Result<Condition> {
        let what = format!("{condition}={status} ({reason}) of App {app}");
        wait(&what, async || {
            let found = self.condition("App", app, condition).await?;
            match found {
                Some(found) if found.status == status && (reason.is_empty() || found.reason == reason) => {
                    Ok(Some(found))
                }
                found => bail!("{found:?}; status {}", self.get("App", app).await?["status"]),
            }
        })
        .await
    }

    /// Waits until the condition Ready of an App says a text.
    pub(crate) async fn says(&self, app: &str, text: &str) -> Result<Condition> {
        wait(&format!("App {app} to say `{text}`"), async || {
            let found = self.condition("App", app, "Ready").await?.context("a condition")?;
            ensure!(found.message.contains(text), "{found:?}");
            Ok(Some(found))
        })
        .await
    }

    /// Waits until an App is Ready.
    pub(crate) async fn ready(&self, app: &str) -> Result<()> {
        self.until(app, "Ready", "True", "").await.map(drop)
    }

    /// Address of a Service, as a pod would reach it by name, once this node leads there: kube-proxy follows the pods'
    /// readiness in its own time, and refuses connections until then.
    pub(crate) async fn service_address(&self, name: &str, port: u16) -> Result<String> {
        let service = self.get("Service", name).await?;
        let address = service["spec"]["clusterIP"].as_str().context("the Service has an address")?;
        wait(&format!("the way to Service {name}"), async || {
            Ok(tokio::net::TcpStream::connect((address, port)).await.ok())
        })
        .await?;
        Ok(format!("http://{address}:{port}"))
    }

    /// A value of a Secret.
    pub(crate) async fn secret(&self, name: &str, key: &str) -> Result<String> {
        let secret = self.get("Secret", name).await?;
        let value = secret["data"][key].as_str().with_context(|| format!("Secret {name} has no {key}"))?;
        Ok(String::from_utf8(STANDARD.decode(value)?)?)
    }

    /// Sends new events to the shared ingest.
    pub(crate) async fn send(&self, app: &str, events: usize) -> Result<u16> {
        self.send_batch("shared", app, &batch(events)).await
    }

    /// Sends events to the ingest of a data plane with an App's generated key, and gives the answer's status.
    pub(crate) async fn send_batch(&self, plane: &str, app: &str, batch: &[Value]) -> Result<u16> {
        let ingest = self.service_address(&format!("mr-{plane}-ingest"), 8080).await?;
        let key = self.secret(&format!("millrace-{app}"), "write-key").await?;
        let request = self.http.post(format!("{ingest}/v1/events")).bearer_auth(key);
        Ok(request.json(&json!({"batch": batch})).send().await?.status().as_u16())
    }

    /// Asks the shared gateway as the bootstrap admin.
    pub(crate) async fn ask(&self, path: &str) -> Result<Value> {
        let (base, token) = (
            self.service_address("mr-shared-gateway", 8081).await?,
            self.secret("millrace.admin", "token").await?,
        );
        let answer = self.http.get(format!("{base}{path}")).bearer_auth(token).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until the gateway counts this many events of an App.
    pub(crate) async fn counts(&self, app: &str, events: u64) -> Result<Value> {
        wait(&format!("{events} events of {app}"), async || {
            let stats = self.ask(&format!("/api/dashboard/stats?app={app}")).await?;
            let counted = stats["total_events"].as_u64().unwrap_or(0);
            ensure!(counted <= events, "{counted} events are counted, and only {events} were sent");
            if counted == events { Ok(Some(stats)) } else { bail!("{counted} are counted") }
        })
        .await
    }

    /// Pods of the namespace: name, UID and restarts of every container.
    pub(crate) async fn pods(&self) -> Result<Vec<(String, String, u64)>> {
        let mut pods = Vec::new();
        for pod in self.list("Pod").await? {
            let restarts = pod["status"]["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|status| status["restartCount"].as_u64())
                .sum();
            let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
            pods.push((text("name"), text("uid"), restarts));
        }
        pods.sort();
        Ok(pods)
    }
}

/// So many new events.
pub(crate) fn batch(events: usize) -> Vec<Value> {
    let event = || json!({"event_id": uuid::Uuid::new_v4(), "event_type": "page_view", "user_id": "u"});
    (0..events).map(|_| event()).collect()
}

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A figure of a story, beside its result.
#[expect(clippy::print_stdout, reason = "the output of a test program is where its figures are looked for")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// Looks again and again until there is an answer; the last failure is told.
pub(crate) async fn wait<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = String::from("not yet");
    while Instant::now() < deadline {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => last = format!("{error:#}"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    bail!("waited {} s for {what}; last: {last}", PATIENCE.as_secs())
}

/// A story that failed has left its namespace for whoever wants to look, until the next begins and needs the room.
/// Volumes of stories that have ended can be claimed again.
async fn make_room(client: &Client) -> Result<()> {
    let namespaces: Api<DynamicObject> = Api::all_with(client.clone(), &resource("Namespace")?);
    let left = async || -> Result<Vec<String>> {
        let found = namespaces.list(&ListParams::default()).await?.items;
        Ok(found
            .into_iter()
            .filter_map(|n| n.metadata.name)
            .filter(|name| name.starts_with("story-"))
            .collect())
    };
    for name in left().await? {
        let _ = namespaces.delete(&name, &DeleteParams::default()).await;
    }
    wait("stories before this one to go", async || Ok(left().await?.is_empty().then_some(()))).await?;
    let output = Command::new(root().join("e2e/cluster/reset-volumes")).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// An object as a person would have it in a file.
fn as_written(object: &Value) -> String {
    let metadata = &object["metadata"];
    let mut written = json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": {"name": metadata["name"]}});
    for field in ["labels", "annotations"] {
        if !metadata[field].is_null() {
            written["metadata"][field] = metadata[field].clone();
        }
    }
    for field in ["spec", "data", "type"] {
        if !object[field].is_null() {
            written[field] = object[field].clone();
        }
    }
    written.to_string()
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn resource(kind: &str) -> Result<ApiResource> {
    let (group, version, plural) = match kind {
        "App" => ("millrace.dev", "v1alpha1", "apps"),
        "Integration" => ("millrace.dev", "v1alpha1", "integrations"),
        "RolePolicy" => ("millrace.dev", "v1alpha1", "rolepolicies"),
        "Revision" => ("millrace.dev", "v1alpha1", "revisions"),
        "Namespace" => ("", "v1", "namespaces"),
        "Secret" => ("", "v1", "secrets"),
        "Service" => ("", "v1", "services"),
        "Pod" => ("", "v1", "pods"),
        "PersistentVolumeClaim" => ("", "v1", "persistentvolumeclaims"),
        "Event" => ("events.k8s.io", "v1", "events"),
        "Deployment" => ("apps", "v1", "deployments"),
        "StatefulSet" => ("apps", "v1", "statefulsets"),
        "Ingress" => ("networking.k8s.io", "v1", "ingresses"),
        "HTTPRoute" => ("gateway.networking.k8s.io", "v1", "httproutes"),
        other => bail!("the harness does not know {other}"),
    };
    Ok(ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural))
}
