//! The chart is upgraded to another operator and another data plane while events come in: old and new run side by side.

use anyhow::{Result, ensure};

use crate::harness::{Story, say, wait};
use crate::operator::install_charts;
use crate::traffic::Traffic;

const APP: &str = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: upgrade}\nspec: {}\n";
/// The other name that the images have in the test cluster: to Kubernetes it is another release.
const NEXT: &str = "ci";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_under_traffic_fails_no_request_and_loses_no_event() -> Result<()> {
    let story = Story::begin("upgrade").await?;
    story.apply(APP).await?;
    story.ready("upgrade").await?;
    story.unplanned().await?;
    let outcome = upgraded(&story).await;
    // Whatever came of it, the stories after this one begin with what they were given.
    tokio::task::spawn_blocking(|| install_charts(&[])).await??;
    outcome?;
    story.end().await
}

async fn upgraded(story: &Story) -> Result<()> {
    let ingest = story.service_address("mr-shared-ingest", 8080).await?;
    let key = story.secret("millrace-upgrade", "write-key").await?;
    let (before, operators) = (uids(story).await?, story.operator_pods().await?);
    let traffic = Traffic::start(&ingest, &key)?;
    wait("traffic to flow", async || Ok((traffic.accepted() > 50).then_some(()))).await?;
    let (operator, dataplane) = (format!("image.tag={NEXT}"), format!("dataplane.image.tag={NEXT}"));
    tokio::task::spawn_blocking(move || install_charts(&["--set", &operator, "--set", &dataplane])).await??;
    story.operator_other_than(&operators).await?;
    wait("every pod to be replaced", async || {
        let now = uids(story).await?;
        let is_new = now.iter().all(|pod| !before.contains(pod));
        Ok((is_new && now.len() == before.len()).then_some(()))
    })
    .await?;
    story.ready("upgrade").await?;
    for pod in story.list("Pod").await? {
        let image = &pod["spec"]["containers"][0]["image"];
        ensure!(image.as_str().is_some_and(|image| image.ends_with(&format!(":{NEXT}"))), "{image}");
    }
    let accepted = traffic.end().await?;
    story.counts("upgrade", accepted).await?;
    say(&format!(
        "upgrade of operator and data plane: {accepted} requests, 0 failed, {accepted} events counted"
    ));
    Ok(())
}

async fn uids(story: &Story) -> Result<Vec<String>> {
    Ok(story.pods().await?.into_iter().map(|(_, uid, _)| uid).collect())
}
