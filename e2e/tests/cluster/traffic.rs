//! Steady traffic from a sender that never repeats a request: every refusal and every cut connection counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Pause between two requests of one sender.
const PACE: Duration = Duration::from_millis(20);
/// Senders, each with connections of its own.
const SENDERS: usize = 4;

/// Running senders.
pub(crate) struct Traffic {
    stop: CancellationToken,
    accepted: Arc<AtomicU64>,
    failed: Arc<std::sync::Mutex<Vec<String>>>,
    senders: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts sending single events to an ingest address.
    pub(crate) fn start(ingest: &str, key: &str) -> Result<Self> {
        let traffic = Self {
            stop: CancellationToken::new(),
            accepted: Arc::default(),
            failed: Arc::default(),
            senders: Vec::new(),
        };
        let senders = (0..SENDERS).map(|_| traffic.sender(ingest, key)).collect::<Result<_>>()?;
        Ok(Self { senders, ..traffic })
    }

    fn sender(&self, ingest: &str, key: &str) -> Result<JoinHandle<()>> {
        let (url, key) = (format!("{ingest}/v1/events"), key.to_owned());
        let (stop, accepted, failed) =
            (self.stop.clone(), Arc::clone(&self.accepted), Arc::clone(&self.failed));
        let http = reqwest::Client::builder().timeout(Duration::from_secs(15)).build()?;
        Ok(tokio::spawn(async move {
            while !stop.is_cancelled() {
                let event =
                    json!({"event_id": uuid::Uuid::new_v4(), "event_type": "page_view", "user_id": "steady"});
                let failure = match http.post(&url).bearer_auth(&key).json(&event).send().await {
                    Ok(answer) if answer.status() == 200 => None,
                    Ok(answer) => {
                        Some(format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()))
                    }
                    Err(error) => Some(format!("{:#}", anyhow::Error::from(error))),
                };
                match failure {
                    None => {
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(failure) => failed.lock().expect("no sender panics with this lock").push(failure),
                }
                tokio::time::sleep(PACE).await;
            }
        }))
    }

    /// Accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Stops and gives the number accepted; any failure is an error.
    pub(crate) async fn end(self) -> Result<u64> {
        self.stop.cancel();
        for sender in self.senders {
            sender.await?;
        }
        let failed = self.failed.lock().expect("no sender panics with this lock").clone();
        ensure!(
            failed.is_empty(),
            "{} requests failed, first: {:?}",
            failed.len(),
            &failed[..failed.len().min(3)]
        );
        Ok(self.accepted.load(Ordering::Relaxed))
    }
}
