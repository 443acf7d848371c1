//! What goes and what stays when an App is deleted.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use serde_json::json;

use crate::audit::Mark;
use crate::harness::{Story, say, wait};
use crate::world::World;

const DELETE: &str =
    "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec: {deletionPolicy: Delete}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_one_app_leaves_the_others_pods_alone() -> Result<()> {
    let story = Story::begin("two").await?;
    for app in ["one", "two"] {
        story
            .apply(&format!(
                "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {{name: {app}}}\nspec: {{}}\n"
            ))
            .await?;
    }
    for app in ["one", "two"] {
        story.ready(app).await?;
    }
    let before = story.pods().await?;
    story.delete("App", "one").await?;
    wait("its Revisions to go", async || {
        let revisions = story.list("Revision").await?;
        Ok((!revisions.iter().any(|r| r["metadata"]["labels"]["millrace.dev/scope"] == "one")).then_some(()))
    })
    .await?;
    story.ready("two").await?;
    ensure!(story.pods().await? == before, "the pods of the other App changed");
    // Its keys belong to its data, which stays: an App of the same name takes both up again.
    let key = story.secret("millrace-one", "write-key").await?;
    story.apply("apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: one}\nspec: {}\n").await?;
    story.ready("one").await?;
    ensure!(story.secret("millrace-one", "write-key").await? == key, "the key was replaced");
    story.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_delete_removes_topics_tables_and_keys() -> Result<()> {
    let story = Story::begin("gone").await?;
    story.apply(DELETE).await?;
    story.ready("shop").await?;
    let key = story.secret("millrace-shop", "write-key").await?;
    story.delete("App", "shop").await?;
    gone(&story).await?;
    // A new one of that name begins with nothing.
    story.apply(DELETE).await?;
    story.ready("shop").await?;
    ensure!(story.secret("millrace-shop", "write-key").await? != key, "the old key came back");
    story.counts("shop", 0).await?;
    story.end().await
}

/// Waits until the App is gone, and its keys with it.
async fn gone(story: &Story) -> Result<()> {
    wait("the App to go", async || Ok(story.api("App")?.get_opt("shop").await?.is_none().then_some(())))
        .await?;
    ensure!(story.api("Secret")?.get_opt("millrace-shop").await?.is_none(), "the keys are still there");
    Ok(())
}

/// Topics and databases that are left, once both back ends answer.
async fn left(story: &Story) -> Result<(usize, usize)> {
    let world = World::look(&story.client, &story.http, &story.namespace).await?;
    let (topics, tables) =
        (world.topics.context("Kafka answers")?, world.tables.context("the engine answers")?);
    Ok((topics.topics.len() + topics.owners.len(), tables.len()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_goes_takes_topics_and_tables_with_it() -> Result<()> {
    let story = Story::begin("ending").await?;
    story.apply(DELETE).await?;
    story.ready("shop").await?;
    let (topics, tables) = left(&story).await?;
    ensure!(topics > 5 && tables > 5, "{topics} topics and {tables} tables");
    story.unplanned().await?;
    // Its Secrets may go before the App does, and nothing can be made in it any more.
    story.api("Namespace")?.delete(&story.namespace, &DeleteParams::default()).await?;
    wait("the namespace to go", async || {
        Ok(story.api("Namespace")?.get_opt(&story.namespace).await?.is_none().then_some(()))
    })
    .await?;
    let behind = left(&story).await?;
    ensure!(behind == (0, 0), "{} topics and {} tables were left behind", behind.0, behind.1);
    println!("a namespace that ended took {topics} topics and {tables} tables with it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_a_deletion_waits_and_says_so_once_until_a_person_lets_it_go() -> Result<()> {
    let story = Story::begin("stuck").await?;
    story.apply(DELETE).await?;
    story.ready("shop").await?;
    story.without("kafka", async || stuck(&story).await).await?;
    let (topics, tables) = wait("Kafka", async || left(&story).await.map(Some)).await?;
    ensure!(tables == 0, "{tables} tables were left behind");
    ensure!(topics > 5, "what was let go was removed after all: {topics} topics are left");
    story.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_clickhouse_a_deletion_waits_and_goes_on_by_itself() -> Result<()> {
    let story = Story::begin("waits").await?;
    story.apply(DELETE).await?;
    story.ready("shop").await?;
    let said = story.without("engine", async || {
        story.delete("App", "shop").await?;
        story.says("shop", "cannot remove the database").await
    });
    said.await?;
    gone(&story).await?;
    let behind = left(&story).await?;
    ensure!(behind == (0, 0), "{} topics and {} tables were left behind", behind.0, behind.1);
    story.end().await
}

async fn stuck(story: &Story) -> Result<()> {
    let mark = Mark::now()?;
    story.delete("App", "shop").await?;
    let said = story.says("shop", "cannot remove the topics").await?;
    ensure!(said.status == "False" && said.message.contains("millrace.dev/skip-cleanup"), "{said:?}");
    // Several rounds, and still it is told once.
    wait("more rounds", async || {
        let looks = mark.requests()?.into_iter().filter(|request| {
            request.verb == "get" && request.namespace == story.namespace && request.name == "millrace-shop"
        });
        Ok((looks.count() >= 4).then_some(()))
    })
    .await?;
    let mut told: BTreeMap<(String, String), u64> = BTreeMap::new();
    for event in story.list("Event").await?.iter().filter(|event| event["regarding"]["kind"] == "App") {
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let times = event["series"]["count"].as_u64().unwrap_or(1);
        *told.entry((text("reason"), text("note"))).or_default() += times;
    }
    ensure!(!told.is_empty(), "no Event was told");
    let repeated: Vec<_> = told.iter().filter(|(_, times)| **times > 1).collect();
    ensure!(repeated.is_empty(), "told in every round: {repeated:#?}");
    story
        .patch("App", "shop", json!({"metadata": {"annotations": {"millrace.dev/skip-cleanup": "true"}}}))
        .await?;
    gone(story).await?;
    let events = story.list("Event").await?;
    let skipped: Vec<_> = events.iter().filter(|event| event["reason"] == "CleanupSkipped").collect();
    ensure!(skipped.len() == 1, "left behind is told by {} Events", skipped.len());
    say(&format!(
        "a deletion without Kafka: {} Events in 4 rounds, none twice; let go by annotation",
        told.len()
    ));
    Ok(())
}
