//! An App moves from the shared data plane to one of its own and back, with events on their way: other workers take up
//! where the ones before let go, and know what those had seen.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::{Story, say, wait};

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
    let batches: Vec<Vec<Value>> = PLANES.iter().map(|_| batch()).collect();
    for (number, (dataplane, plane)) in PLANES.into_iter().enumerate() {
        if number > 0 {
            story.apply(&app("moving", dataplane)).await?;
        }
        story.ready("moving").await?;
        let asked = Asked { story: &story, plane };
        // Everything that other data planes took, once more; then what is new. The last batch is not waited for: the App
        // moves while its events are on their way.
        for batch in &batches[..=number] {
            asked.send(batch).await?;
        }
    }
    let sent = batches.len() * (batches.len() + 1) / 2 * EVENTS;
    let expected = batches.len() * EVENTS;
    let asked = Asked { story: &story, plane: "shared" };
    let sums = wait("every copy to be recognised", async || {
        let sums = asked.sums().await?;
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

fn batch() -> Vec<Value> {
    let event = || json!({"event_id": uuid::Uuid::new_v4(), "event_type": "page_view", "user_id": "u"});
    (0..EVENTS).map(|_| event()).collect()
}

/// What the ledger says of all minutes together.
#[derive(Debug)]
struct Sums {
    acknowledged: usize,
    deduplicated: usize,
    stored: usize,
    verdicts: Vec<String>,
}

/// A data plane of the story.
struct Asked<'a> {
    story: &'a Story,
    plane: &'a str,
}

impl Asked<'_> {
    async fn send(&self, batch: &[Value]) -> Result<()> {
        let ingest = self.story.service_address(&format!("mr-{}-ingest", self.plane), 8080).await?;
        let key = self.story.secret("millrace-moving", "write-key").await?;
        let request = self.story.http.post(format!("{ingest}/v1/events")).bearer_auth(key);
        let answer = request.json(&json!({"batch": batch})).send().await?;
        ensure!(answer.status() == 200, "{}: {}", answer.status(), answer.text().await?);
        Ok(())
    }

    async fn sums(&self) -> Result<Sums> {
        let ledger = self.story.ask("/api/apps/moving/ledger").await?;
        let minutes = ledger["minutes"].as_array().context("minutes")?;
        let sum = |field: &str| -> Result<usize> {
            let counts = minutes.iter().map(|minute| minute[field].as_u64().context("a count"));
            Ok(usize::try_from(counts.sum::<Result<u64>>()?)?)
        };
        Ok(Sums {
            acknowledged: sum("acknowledged")?,
            deduplicated: sum("deduplicated")?,
            stored: sum("stored")?,
            verdicts: minutes
                .iter()
                .map(|minute| minute["verdict"].as_str().unwrap_or_default().to_owned())
                .collect(),
        })
    }
}
