//! Ways in from outside: what the operator makes of them is taken by the real schemas, and goes when it is not wanted any
//! more. No controller acts on them here.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::harness::{Story, say, wait};
use crate::operator::{install_charts, run};
use crate::world::setting;

const APP: &str = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec: {}\n";
const EXPOSED: [&str; 12] = [
    "--set",
    "expose.httpRoute.gatewayName=edge",
    "--set",
    "expose.httpRoute.gatewayNamespace=gateways",
    "--set",
    "expose.httpRoute.ingestHost=events.{namespace}.example.com",
    "--set",
    "expose.httpRoute.gatewayHost=api.{namespace}.example.com",
    "--set",
    "expose.ingress.ingestHost=in.{namespace}.example.com",
    "--set",
    "expose.ingress.gatewayHost=ask.{namespace}.example.com",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_exposed_by_route_and_ingress_and_no_longer_when_that_is_switched_off() -> Result<()> {
    let story = Story::begin("expose").await?;
    let definition = setting("CLUSTER_GATEWAY_API")?;
    run("kubectl", &["apply", "--server-side", "-f", &definition])?;
    wait("HTTPRoutes to be served", async || story.list("HTTPRoute").await.map(Some)).await?;
    let replaced = story.operator_pods().await?;
    install_charts(&EXPOSED)?;
    let outcome = exposed(&story, &replaced).await;
    story.unplanned().await?;
    install_charts(&[])?;
    outcome?;
    wait("routes and Ingresses to go", async || {
        let left = story.list("HTTPRoute").await?.len() + story.list("Ingress").await?.len();
        Ok((left == 0).then_some(()))
    })
    .await?;
    story.ready("shop").await?;
    story.end().await?;
    run("kubectl", &["delete", "-f", &definition]).map(drop)
}

async fn exposed(story: &Story, replaced: &[String]) -> Result<()> {
    story.operator_other_than(replaced).await?;
    story.apply(APP).await?;
    story.ready("shop").await?;
    let namespace = &story.namespace;
    for (role, route_host, ingress_host) in [("ingest", "events", "in"), ("gateway", "api", "ask")] {
        let name = format!("mr-shared-{role}");
        let route = story.get("HTTPRoute", &name).await?;
        ensure!(route["spec"]["hostnames"][0] == format!("{route_host}.{namespace}.example.com"), "{route}");
        ensure!(route["spec"]["parentRefs"][0]["namespace"] == "gateways", "{route}");
        let port: &Value = &route["spec"]["rules"][0]["backendRefs"][0]["port"];
        let service = story.get("Service", &name).await?;
        ensure!(
            service["spec"]["ports"].as_array().is_some_and(|ports| ports.iter().any(|p| &p["port"] == port)),
            "{route}"
        );
        let ingress = story.get("Ingress", &name).await?;
        ensure!(
            ingress["spec"]["rules"][0]["host"] == format!("{ingress_host}.{namespace}.example.com"),
            "{ingress}"
        );
    }
    say("2 HTTPRoutes and 2 Ingresses were taken by the API server");
    Ok(())
}
