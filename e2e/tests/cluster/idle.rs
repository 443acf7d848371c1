//! A world that is as it should be costs no write, also when the operator starts anew and looks at everything again.

use anyhow::{Result, ensure};

use crate::audit::Mark;
use crate::harness::{Story, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_operator_looks_at_everything_and_writes_nothing() -> Result<()> {
    let story = Story::begin("idle").await?;
    for app in ["one", "two", "three"] {
        story
            .apply(&format!(
                "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {{name: {app}}}\nspec: {{}}\n"
            ))
            .await?;
    }
    for app in ["one", "two", "three"] {
        story.ready(app).await?;
        // Comes last, once a worker has compared the App's ledger.
        story.until(app, "LedgerBalanced", "True", "").await?;
    }
    let replaced = story.operator_pods().await?;
    let mark = Mark::now()?;
    story.restart_operator().await?;
    story.operator_other_than(&replaced).await?;
    // It has looked at an App when it has read its Secret; after the last one it would have written by the second look.
    let looks = |name: &str| -> Result<usize> {
        let requests = mark.requests()?;
        let secret = format!("millrace-{name}");
        Ok(requests
            .iter()
            .filter(|r| r.verb == "get" && r.namespace == story.namespace && r.name == secret)
            .count())
    };
    wait("a look at every App", async || {
        let all = [looks("one")?, looks("two")?, looks("three")?];
        Ok(all.iter().all(|&count| count >= 2).then_some(()))
    })
    .await?;
    let written: Vec<_> =
        mark.writes()?.into_iter().filter(|write| write.namespace == story.namespace).collect();
    ensure!(written.is_empty(), "nothing had changed, and this was written: {written:#?}");
    println!("a new operator read everything and wrote nothing");
    story.end().await
}
