//! What is wrong is said in a condition with a fix, and heals by itself when the cause is gone.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::{Story, wait};

const APP: &str = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: NAME}\nspec: SPEC\n";

fn app(name: &str, spec: &str) -> String {
    APP.replace("NAME", name).replace("SPEC", spec)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_secret_is_named_and_its_arrival_heals_the_app() -> Result<()> {
    let story = Story::begin("secret").await?;
    let spec = "{ingest: {writeKeys: [{name: web, secretRef: {name: keys, key: web}}]}}";
    story.apply(&app("shop", spec)).await?;
    let said = story.until("shop", "Accepted", "False", "SecretUnusable").await?;
    ensure!(
        said.message.contains("`keys`") && said.message.contains("millrace.dev/app-use"),
        "{}",
        said.message
    );
    let ready = story.condition("App", "shop", "Ready").await?;
    ensure!(ready.is_some_and(|ready| ready.status == "False"), "Ready in spite of it");
    story
        .apply("apiVersion: v1\nkind: Secret\nmetadata: {name: keys, labels: {millrace.dev/app-use: \"true\"}}\nstringData: {web: mrw_a_key_of_the_story}\n")
        .await?;
    story.ready("shop").await?;
    story.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_shrink_are_refused_and_the_app_goes_on() -> Result<()> {
    let story = Story::begin("shrink").await?;
    story.apply(&app("shop", "{topics: {raw: {partitions: 4}}}")).await?;
    story.ready("shop").await?;
    story.apply(&app("shop", "{topics: {raw: {partitions: 2}}}")).await?;
    let said = story.until("shop", "TopicsReady", "False", "Incompatible").await?;
    ensure!(said.message.contains("cannot shrink to 2; set at least 4"), "{}", said.message);
    story.apply(&app("shop", "{topics: {raw: {partitions: 8}}}")).await?;
    story.ready("shop").await?;
    story.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_of_the_definition_forbids_is_refused_at_the_door() -> Result<()> {
    let story = Story::begin("rules").await?;
    for (name, spec, fragment) in [
        ("access", "{}", "reserved"),
        ("shop", "{dataplane: {ingest: {replicas: 2}}}", "needs `placement: Dedicated`"),
        (
            "shop",
            "{connections: {kafka: {endpoint: \"k:9092\", credentialsRef: {name: k}}}}",
            "needs `dataplane.placement: Dedicated`",
        ),
    ] {
        let refused = story.apply(&app(name, spec)).await.expect_err("it was taken");
        ensure!(format!("{refused:#}").contains(fragment), "{refused:#}");
    }
    story.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_the_app_says_so_and_recovers_without_touch() -> Result<()> {
    let story = Story::begin("kafka").await?;
    let said = story.without("kafka", async || {
        story.apply(&app("shop", "{}")).await?;
        story.until("shop", "TopicsReady", "False", "Unreachable").await
    });
    ensure!(said.await?.message.contains("9092"), "the endpoint is not named");
    story.ready("shop").await?;
    story.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_clickhouse_the_app_says_so_and_recovers_without_touch() -> Result<()> {
    let story = Story::begin("house").await?;
    let said = story.without("engine", async || {
        story.apply(&app("shop", "{}")).await?;
        story.until("shop", "SchemaReady", "False", "Unreachable").await
    });
    ensure!(said.await?.message.contains("8123"), "the endpoint is not named");
    story.ready("shop").await?;
    story.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hand_changed_is_repaired_and_what_is_not_ours_is_left() -> Result<()> {
    let story = Story::begin("hand").await?;
    story.apply(&app("shop", "{}")).await?;
    story.ready("shop").await?;
    let meddled = json!({"metadata": {"labels": {"team": "ours"}}, "spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}});
    story.patch("Deployment", "mr-shared-gateway", meddled).await?;
    wait("the repair", async || {
        let found = story.get("Deployment", "mr-shared-gateway").await?;
        Ok((found["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 45).then_some(()))
    })
    .await?;
    let found = story.get("Deployment", "mr-shared-gateway").await?;
    ensure!(found["metadata"]["labels"]["team"] == "ours", "a stranger's label was removed");
    story.end().await
}
