//! An App moves from the shared data plane to one of its own and back, with events on their way: other workers take up
//! where the ones before let go, and know what those had seen.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::{Story, batch, say, wait};

/// Events of one batch.
const EVENTS: usize = 300;
/// The data planes the App runs on, one after the other.
const PLANES: [(&str, &str); 3] = [(SHARED, "shared"), (DEDICATED, "moving"), (SHARED, "shared")];
const SHARED: &str = "placement: Shared";
/// Small: both data planes are on one node.
const DEDICATED: &str =
    "placement: Dedicated, ingest: {replicas: 1}, worker: {replicas: 1}, gateway: {replicas: 1}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_moves_loses_nothing_and_counts_no_repeat() -> Result<()> {
    let story = Story::begin("moved").await?;
    // Another App stays, so that the shared data plane does too.
    story.apply(&app("staying", SHARED)).await?;
    story.apply(&app("moving", SHARED)).await?;
    story.ready("staying").await?;
    let batches: Vec<Vec<Value>> = PLANES.iter().map(|_| batch(EVENTS)).collect();
    for (number, (dataplane, plane)) in PLANES.into_iter().enumerate() {
        if number > 0 {
            story.apply(&app("moving", dataplane)).await?;
        }
        story.ready("moving").await?;
        // Everything that other data planes took, once more; then what is new. The last batch is not waited for: the App
        // moves while its events are on their way.
        for batch in &batches[..=number] {
            let status = story.send_batch(plane, "moving", batch).await?;
            ensure!(status == 200, "{plane} answers {status}");
        }
    }
    let sent = batches.len() * (batches.len() + 1) / 2 * EVENTS;
    let expected = batches.len() * EVENTS;
    let sums = wait("every copy to be recognised", async || {
        let sums = sums(&story).await?;
        ensure!(sums.deduplicated == sent - expected && sums.stored == expected, "{sums:?}");
        ensure!(sums.verdicts.iter().all(|verdict| verdict == "balanced"), "{sums:?}");
        Ok(Some(sums))
    })
    .await?;
    ensure!(sums.acknowledged == sent, "{sums:?}");
    story.counts("moving", expected as u64).await?;
    say(&format!(
        "two moves: {sent} events sent, {expected} counted, {} copies recognised",
        sums.deduplicated
    ));
    story.end().await
}

fn app(name: &str, dataplane: &str) -> String {
    format!(
        "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {{name: {name}}}\nspec: {{dataplane: {{{dataplane}}}}}\n"
    )
}

/// What the ledger says of all minutes together.
#[derive(Debug)]
struct Sums {
    acknowledged: usize,
    deduplicated: usize,
    stored: usize,
    verdicts: Vec<String>,
}

async fn sums(story: &Story) -> Result<Sums> {
    let ledger = story.ask("/api/apps/moving/ledger").await?;
    let minutes = ledger["minutes"].as_array().context("minutes")?;
    let sum = |field: &str| -> Result<usize> {
        let counts = minutes.iter().map(|minute| minute[field].as_u64().context("a count"));
        Ok(usize::try_from(counts.sum::<Result<u64>>()?)?)
    };
    let verdict = |minute: &Value| minute["verdict"].as_str().unwrap_or_default().to_owned();
    Ok(Sums {
        acknowledged: sum("acknowledged")?,
        deduplicated: sum("deduplicated")?,
        stored: sum("stored")?,
        verdicts: minutes.iter().map(verdict).collect(),
    })
}
