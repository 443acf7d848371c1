//! From `kubectl apply` to an answer: the smallest App, and the shop with all its resources, side by side.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::Story;

/// Events of one batch.
const EVENTS: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_app_takes_events_and_answers_questions() -> Result<()> {
    let story = Story::begin("first").await?;
    story.apply_example("minimal").await?;
    story.apply_example("shop").await?;
    let apps: Vec<String> = names(&story.list("App").await?);
    for app in &apps {
        story.ready(app).await?;
        let object = story.get("App", app).await?;
        let status = &object["status"];
        ensure!(status["revision"]["applied"] == status["revision"]["total"], "{status}");
        ensure!(status["observedGeneration"] == object["metadata"]["generation"], "{status}");
        let ingest = status["endpoints"]["ingest"].as_str().context("an endpoint is told")?;
        ensure!(ingest.contains("mr-shared-ingest"), "{ingest}");
    }
    // A generated key, and one that the team brought.
    let smallest = apps.iter().find(|app| *app != "shop").context("the minimal example has an App")?;
    let generated = story.secret(&format!("millrace-{smallest}"), "write-key").await?;
    let brought = story.secret("shop-keys", "server").await?;
    let ingest = story.service_address("mr-shared-ingest", 8080).await?;
    for (app, key) in [(smallest.as_str(), generated), ("shop", brought)] {
        let batch: Vec<Value> = (0..EVENTS)
            .map(|n| json!({"event_id": uuid::Uuid::new_v4(), "event_type": "page_view", "user_id": format!("u{}", n % 10)}))
            .collect();
        // Sent twice: what a client repeats is counted once.
        for _ in 0..2 {
            let answer = story
                .http
                .post(format!("{ingest}/v1/events"))
                .bearer_auth(&key)
                .json(&json!({"batch": batch}))
                .send()
                .await?;
            ensure!(answer.status() == 200, "{}", answer.text().await?);
        }
        let stats = story.counts(app, EVENTS).await?;
        ensure!(stats["active_users"] == 10, "{stats}");
    }
    let stranger = story
        .http
        .post(format!("{ingest}/v1/events"))
        .bearer_auth("mrw_not_a_key_of_ours")
        .json(&json!({}))
        .send()
        .await?;
    ensure!(stranger.status() == 401, "{}", stranger.status());
    secrets_stay_apart(&story).await?;
    story.end().await
}

/// Each role's Secret holds what it needs and nothing else, and no Revision holds a key.
async fn secrets_stay_apart(story: &Story) -> Result<()> {
    let key = story.secret("shop-keys", "server").await?;
    for revision in story.list("Revision").await? {
        ensure!(!revision.to_string().contains(&key), "a key is in {}", revision["metadata"]["name"]);
    }
    let token = story.secret("millrace.admin", "token").await?;
    for (role, holds) in [("ingest", false), ("worker", false), ("gateway", true)] {
        let resolved = story.secret(&format!("millrace.shared.{role}"), "resolved.json").await?;
        ensure!(resolved.contains(&token) == holds, "the admin token and {role}");
        ensure!(resolved.contains("\"pepper\"") == (role == "ingest"), "the pepper and {role}");
    }
    Ok(())
}

fn names(objects: &[Value]) -> Vec<String> {
    objects.iter().filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned)).collect()
}
