//! An operator that may look after one namespace only, with the rights that the chart gives it: serves that one, asks for
//! nothing more, and touches nothing else. It takes the place of the one for all namespaces, which would serve both.

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::DynamicObject;

use crate::audit::Mark;
use crate::harness::{Story, resource, say};
use crate::operator::install_charts;
use crate::world::objects;

const APP: &str = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec: {}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_of_one_namespace_serves_it_and_touches_nothing_else() -> Result<()> {
    let story = Story::begin("inside").await?;
    let outside = story.beside("outside").await?;
    // As the operator for all namespaces names this cluster: what was claimed stays ours.
    let namespaces: Api<DynamicObject> = Api::all_with(story.client.clone(), &resource("Namespace")?);
    let cluster = namespaces.get("kube-system").await?.metadata.uid.context("a UID")?;
    let replaced = story.operator_pods().await?;
    let mark = Mark::now()?;
    install_charts(&[
        "--set",
        &format!("namespaces={{{}}}", story.namespace),
        "--set",
        &format!("clusterId={cluster}"),
    ])?;
    let outcome = served(&story, &outside, &replaced, &mark).await;
    // Two processors hold the pods of one namespace at a time.
    let ended = match outcome {
        Ok(()) => story.end().await,
        failed => failed,
    };
    // Whatever came of it, the stories after this one need the operator for all namespaces.
    install_charts(&[])?;
    ended?;
    outside.ready("shop").await?;
    outside.end_unplanned().await
}

async fn served(story: &Story, outside: &Story, replaced: &[String], mark: &Mark) -> Result<()> {
    let pods = story.operator_other_than(replaced).await?;
    outside.apply_unplanned(APP).await?;
    story.apply(APP).await?;
    story.ready("shop").await?;
    ensure!(story.send("shop", 10).await? == 200, "events are not taken");
    story.counts("shop", 10).await?;

    let there = objects(&outside.client, &outside.namespace).await?;
    let made: Vec<_> = there.keys().filter(|key| key.name != "shop" && key.name != "default").collect();
    ensure!(made.is_empty(), "something was made outside: {made:?}");
    let app = outside.get("App", "shop").await?;
    ensure!(app["status"]["observedGeneration"] == -1, "the App outside was judged: {}", app["status"]);
    let requests = mark.answered_to(&pods)?;
    let asked = requests.len();
    let refused: Vec<_> = requests.iter().filter(|request| request.code == 403).collect();
    ensure!(refused.is_empty(), "the operator asks for what it may not have: {refused:#?}");
    let strays: Vec<_> = requests
        .iter()
        .filter(|request| {
            ![story.namespace.as_str(), "millrace-system"].contains(&request.namespace.as_str())
        })
        .collect();
    ensure!(strays.is_empty(), "the operator asked elsewhere: {strays:#?}");
    ensure!(asked > 50, "only {asked} requests were recorded");
    say(&format!("an operator of one namespace: {asked} requests, none refused, none elsewhere"));
    Ok(())
}
