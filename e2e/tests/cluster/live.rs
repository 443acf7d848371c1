//! Changes under steady traffic: a live setting reaches every pod without a restart, a rolling restart loses nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::harness::{Story, wait};
use crate::traffic::Traffic;

const SHOP: &str = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: live}\nspec: {}\n";
/// Goal for a live setting to be in force in every pod.
const LIVE_MAX: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_setting_reaches_every_pod_and_no_request_fails() -> Result<()> {
    let story = Story::begin("live").await?;
    story.apply(SHOP).await?;
    story.ready("live").await?;
    let (ingest, key) = (
        story.service_address("mr-shared-ingest", 8080).await?,
        story.secret("millrace-live", "write-key").await?,
    );
    let before = story.pods().await?;
    let traffic = Traffic::start(&ingest, &key)?;
    wait("traffic to flow", async || Ok((traffic.accepted() > 50).then_some(()))).await?;

    let mut slowest = Duration::ZERO;
    for percent in 1..=5 {
        let sequence = story.get("App", "live").await?["status"]["revision"]["sequence"]
            .as_i64()
            .context("a Revision")?;
        let begun = story
            .patch("App", "live", json!({"spec": {"ingest": {"maxBatchEvents": 500 + percent}}}))
            .await?;
        wait("the change to be in force everywhere", async || {
            let status = story.get("App", "live").await?["status"].clone();
            let revision = &status["revision"];
            let newer =
                revision["sequence"].as_i64() > Some(sequence) && revision["applied"] == revision["total"];
            let ready = status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Ready" && c["status"] == "True");
            Ok((newer && ready).then_some(()))
        })
        .await?;
        slowest = slowest.max(begun.elapsed());
    }
    println!(
        "a live setting ran in every pod after {} ms at most (goal {} ms)",
        slowest.as_millis(),
        LIVE_MAX.as_millis()
    );
    ensure!(story.pods().await? == before, "a pod was restarted for a live setting");
    let accepted = traffic.end().await?;
    story.counts("live", accepted).await?;
    story.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_ingest_fails_no_request_and_loses_no_event() -> Result<()> {
    let story = Story::begin("roll").await?;
    story.apply(&SHOP.replace("live", "roll")).await?;
    story.ready("roll").await?;
    let (ingest, key) = (
        story.service_address("mr-shared-ingest", 8080).await?,
        story.secret("millrace-roll", "write-key").await?,
    );
    let traffic = Traffic::start(&ingest, &key)?;
    wait("traffic to flow", async || Ok((traffic.accepted() > 50).then_some(()))).await?;

    let pods = |all: Vec<(String, String, u64)>| {
        let names = all.into_iter().map(|(name, ..)| name);
        names.filter(|name| name.starts_with("mr-shared-ingest")).collect::<Vec<_>>()
    };
    let before = pods(story.pods().await?);
    // What `kubectl rollout restart` writes.
    let stamp = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-11-22T00:00:00Z"}}}}});
    story.patch("Deployment", "mr-shared-ingest", stamp).await?;
    wait("every ingest pod to be replaced", async || {
        let now = pods(story.pods().await?);
        let status = story.get("Deployment", "mr-shared-ingest").await?["status"].clone();
        let settled =
            status["readyReplicas"] == status["replicas"] && status["updatedReplicas"] == status["replicas"];
        Ok((settled && now.len() == before.len() && now.iter().all(|pod| !before.contains(pod)))
            .then_some(()))
    })
    .await?;
    let accepted = traffic.end().await?;
    println!("rolling restart of ingest: {accepted} requests, 0 failed");
    story.counts("roll", accepted).await?;
    story.end().await
}
