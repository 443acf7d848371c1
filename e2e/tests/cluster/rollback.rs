//! Back to an older configuration by one command, and a configuration that no pod can run.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::audit::Mark;
use crate::harness::{Story, wait};

const APP: &str = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: back}\nspec: {ingest: {maxBatchEvents: LIMIT}}\n";

fn app(limit: u32) -> String {
    APP.replace("LIMIT", &limit.to_string())
}

/// Sequence of the Revision that all pods run.
async fn in_force(story: &Story, sequence: i64) -> Result<()> {
    wait(&format!("Revision {sequence} in every pod"), async || {
        let revision = story.get("App", "back").await?["status"]["revision"].clone();
        ensure!(revision["sequence"] == sequence && revision["applied"] == revision["total"], "{revision}");
        Ok(Some(()))
    })
    .await
}

/// The operator has looked at the App this often since.
async fn looks(story: &Story, mark: &Mark, count: usize) -> Result<()> {
    wait("the operator to look again", async || {
        let looks = mark.requests()?.into_iter().filter(|request| {
            request.verb == "get" && request.namespace == story.namespace && request.name == "millrace-back"
        });
        Ok((looks.count() >= count).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_outlives_changes_and_a_restart_until_it_is_resumed() -> Result<()> {
    let story = Story::begin("back").await?;
    story.apply(&app(10)).await?;
    story.ready("back").await?;
    story.apply(&app(50)).await?;
    in_force(&story, 2).await?;
    ensure!(story.send("back", 20).await? == 200, "20 events are not taken where 50 are allowed");

    story.unplanned().await?;
    let said: Value =
        serde_json::from_str(&story.operator_command(&["rollback", "back", "--output", "json"])?)?;
    ensure!(said["sequence"] == 3 && said["from"] == 1, "{said}");
    in_force(&story, 3).await?;
    story.until("back", "Accepted", "True", "Held").await?;
    ensure!(story.send("back", 20).await? == 413, "the old limit is not in force");

    // A change of the App, and an operator that knows nothing of the rollback, publish nothing over it.
    story.apply(&app(60)).await?;
    story.until("back", "Accepted", "True", "Held").await?;
    let replaced = story.operator_pods().await?;
    let mark = Mark::now()?;
    story.restart_operator().await?;
    story.operator_other_than(&replaced).await?;
    looks(&story, &mark, 2).await?;
    in_force(&story, 3).await?;
    ensure!(story.send("back", 20).await? == 413, "the old limit is no longer in force");

    story.unplanned().await?;
    story.operator_command(&["rollback", "back", "--resume"])?;
    in_force(&story, 4).await?;
    ensure!(story.send("back", 60).await? == 200, "what the App says now is not in force");
    let again = story.operator_command(&["rollback", "back", "--resume"]).expect_err("it was resumed twice");
    ensure!(format!("{again:#}").contains("is not held; there is nothing to resume"), "{again:#}");
    story.ready("back").await?;
    println!("rollback: 4 Revisions, held through a change and a restart, resumed");
    story.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_pods_refuse_is_reported_in_their_words_and_the_last_good_one_stays() -> Result<()> {
    let story = Story::begin("refused").await?;
    story.apply(&app(10)).await?;
    story.ready("back").await?;
    let good = story.get("Revision", "back-1").await?;
    // The operator writes no such thing, so a hand does; held, because the operator would at once publish the right one.
    story.unplanned().await?;
    story
        .patch("App", "back", json!({"metadata": {"annotations": {"millrace.dev/hold-revision": "2"}}}))
        .await?;
    let mut config: Value =
        serde_json::from_str(good["spec"]["config"].as_str().context("a configuration")?)?;
    config["no_such_setting"] = json!(true);
    let mut spec = good["spec"].clone();
    spec["sequence"] = json!(2);
    spec["config"] = json!(config.to_string());
    let metadata = json!({"name": "back-2", "labels": good["metadata"]["labels"]});
    let bad = json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Revision", "metadata": metadata, "spec": spec});
    story.apply_unplanned(&bad.to_string()).await?;

    let said = story.until("back", "DataplaneReady", "False", "RevisionRefused").await?;
    ensure!(said.message.contains("no_such_setting"), "not the pod's words: {}", said.message);
    let ready = story.condition("App", "back", "Ready").await?;
    ensure!(ready.is_some_and(|ready| ready.status == "False"), "Ready in spite of it");
    ensure!(story.send("back", 10).await? == 200, "the last good Revision is not in force");
    ensure!(story.send("back", 11).await? == 413, "the last good Revision is not in force");

    story.operator_command(&["rollback", "back", "--resume"])?;
    in_force(&story, 3).await?;
    story.ready("back").await?;
    story.counts("back", 10).await?;
    println!("a refused Revision is told as: {}", said.message);
    story.end().await
}
