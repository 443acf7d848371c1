//! The charts are removed and installed again: what teams wrote, what runs and what is stored stays as it is.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::{Story, wait};
use crate::operator::{install_charts, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_and_upgrading_the_operator_touches_neither_pods_nor_data() -> Result<()> {
    let story = Story::begin("chart").await?;
    story.apply("apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec: {deletionPolicy: Delete}\n").await?;
    story.ready("shop").await?;
    let before = story.pods().await?;

    run("helm", &["uninstall", "millrace", "-n", "millrace-system", "--wait"])?;
    run("helm", &["uninstall", "millrace-crds", "-n", "millrace-system", "--wait"])?;
    let ended = async {
        wait("the operator to go", async || Ok(story.operator_pods().await?.is_empty().then_some(())))
            .await?;
        // Without the operator, and after its definitions' chart is gone, events are taken and the App is there.
        story.get("App", "shop").await?;
        let (ingest, key) = (
            story.service_address("mr-shared-ingest", 8080).await?,
            story.secret("millrace-shop", "write-key").await?,
        );
        let event = json!({"event_id": uuid::Uuid::new_v4(), "event_type": "page_view", "user_id": "u"});
        let answer =
            story.http.post(format!("{ingest}/v1/events")).bearer_auth(&key).json(&event).send().await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        story.counts("shop", 1).await.map(drop)
    }
    .await;
    // Whatever came of it, the stories after this one need the operator.
    install_charts(&["--set", "replicas=2"])?;
    ended?;
    story.ready("shop").await?;
    wait("two operators", async || Ok((story.operator_pods().await?.len() == 2).then_some(()))).await?;
    // One of them leads, and only one works; a change is seen through in any case.
    story.patch("App", "shop", json!({"spec": {"ingest": {"maxBatchEvents": 7}}})).await?;
    story.ready("shop").await?;
    install_charts(&[])?;
    story.ready("shop").await?;
    ensure!(story.pods().await? == before, "pods of the data plane were replaced");
    story.counts("shop", 1).await?;
    story.end().await
}
