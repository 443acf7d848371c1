//! Every rule of the definitions, put to the real API server: what it refuses and the words it says.

#[path = "../../../crds/tests/corpus/mod.rs"]
mod corpus;

use anyhow::{Result, ensure};
use kube::ResourceExt as _;
use kube::api::{DynamicObject, PostParams};
use serde_json::json;

use crate::harness::Story;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_gives_the_verdicts_of_our_corpus() -> Result<()> {
    let story = Story::begin("corpus").await?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let (mut taken, mut refused) = (0, 0);
    for (kind, name, spec, expected) in corpus::corpus() {
        let object = json!({"apiVersion": "millrace.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        let object: DynamicObject = serde_json::from_value(object)?;
        match story.api(kind)?.create(&dry_run, &object).await {
            Ok(stored) => {
                ensure!(expected.is_empty(), "{kind} {name} {spec} was taken, not refused for `{expected}`");
                // kstatus takes an object without a status for finished: ours is born with one that says it is not.
                let observed = &stored.data["status"]["observedGeneration"];
                ensure!(*observed == -1, "{} is born with {observed}", stored.name_any());
                taken += 1;
            }
            Err(kube::Error::Api(status)) => {
                ensure!(!expected.is_empty(), "{kind} {name} {spec} was refused: {}", status.message);
                ensure!(status.message.contains(expected), "`{expected}` is not in: {}", status.message);
                refused += 1;
            }
            Err(other) => return Err(other.into()),
        }
    }
    println!("the API server took {taken} and refused {refused} objects as expected");
    ensure!(taken > 5 && refused > 20, "{taken} and {refused}");
    story.end().await
}
