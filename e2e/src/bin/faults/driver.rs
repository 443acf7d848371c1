//! Clients: events with ids of their own in, what was sent and what was acknowledged out. They retry as SDKs do, the
//! same events until they are answered, and now and then once more in another order.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::plan::Load;

/// A request that is not answered for so long failed for good: longer than any fault lasts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Between two attempts. Real SDKs wait for seconds, as `Retry-After` says; a run has to fit into seconds.
const RETRY_MS: std::ops::Range<u64> = 20..150;

/// What the clients know.
#[derive(Default)]
pub(crate) struct Books {
    pub(crate) acknowledged: BTreeSet<Uuid>,
    pub(crate) sent: BTreeSet<Uuid>,
}

/// All clients of a run.
pub(crate) struct Driver {
    http: reqwest::Client,
    url: String,
    key: String,
    books: Mutex<Books>,
    answered: AtomicU64,
}

impl Driver {
    pub(crate) fn new(url: String, key: &str) -> Result<Arc<Self>> {
        let http = reqwest::Client::builder().timeout(ANSWER_MAX).build()?;
        let (books, answered) = (Mutex::default(), AtomicU64::new(0));
        Ok(Arc::new(Self { http, url, key: key.to_owned(), books, answered }))
    }

    /// Requests that were acknowledged so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// What is known now.
    pub(crate) fn books<T>(&self, look: impl FnOnce(&mut Books) -> T) -> T {
        look(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends everything; returns when all of it is acknowledged.
    pub(crate) async fn run(self: Arc<Self>, seed: u64, load: Load) -> Result<()> {
        let senders = (0..load.senders).map(|sender| {
            let random = SmallRng::seed_from_u64(seed ^ ((sender + 1) << 40));
            tokio::spawn(Arc::clone(&self).client(load, random))
        });
        for sender in senders.collect::<Vec<_>>() {
            sender.await??;
        }
        Ok(())
    }

    async fn client(self: Arc<Self>, load: Load, mut random: SmallRng) -> Result<()> {
        let mut again = Vec::new();
        for _ in 0..load.requests {
            let ids = (0..load.batch).map(|_| new_id(&mut random)).collect::<Vec<_>>();
            self.deliver(&ids, &mut random).await?;
            if random.random_range(0..100) < load.again_percent {
                again.push(ids);
            }
        }
        again.shuffle(&mut random);
        for mut ids in again {
            ids.shuffle(&mut random);
            self.deliver(&ids, &mut random).await?;
        }
        Ok(())
    }

    /// Delivers events that come after all others; once they are stored, everything before them is.
    pub(crate) async fn close(&self, seed: u64, count: usize) -> Result<Vec<Uuid>> {
        let mut random = SmallRng::seed_from_u64(!seed);
        let ids = (0..count).map(|_| new_id(&mut random)).collect::<Vec<_>>();
        self.deliver(&ids, &mut random).await?;
        Ok(ids)
    }

    async fn deliver(&self, ids: &[Uuid], random: &mut SmallRng) -> Result<()> {
        self.books(|books| books.sent.extend(ids));
        let body = json!({ "batch": ids.iter().map(|id| event(*id)).collect::<Vec<_>>() });
        let begun = Instant::now();
        let mut last = String::from("no answer");
        while begun.elapsed() < PATIENCE {
            match self.send(&body).await {
                Ok(accepted) if accepted.len() == ids.len() => {
                    self.books(|books| books.acknowledged.extend(accepted));
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Ok(accepted) => bail!("{} of {} events were refused", ids.len() - accepted.len(), ids.len()),
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(RETRY_MS))).await;
        }
        bail!("a request was not acknowledged within {} s; last: {last}", PATIENCE.as_secs())
    }

    async fn send(&self, body: &Value) -> Result<Vec<Uuid>, String> {
        let request = self.http.post(format!("{}/v1/events", self.url)).bearer_auth(&self.key).json(body);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("{status}: {answer}"));
        }
        let results = answer["results"].as_array().cloned().unwrap_or_default();
        let accepted = results.iter().filter(|result| result["status"] == "accepted");
        Ok(accepted.filter_map(|result| result["event_id"].as_str()?.parse().ok()).collect())
    }
}

fn new_id(random: &mut SmallRng) -> Uuid {
    uuid::Builder::from_random_bytes(random.random()).into_uuid()
}

fn event(id: Uuid) -> Value {
    let user = format!("user-{}", id.as_u128() % 97);
    json!({ "event_id": id, "event_type": "page_view", "user_id": user, "event_data": { "path": "/" } })
}
