//! A batch in, what the server said about each of its events out. Sends as an SDK does: the same bytes again until
//! there is an answer, so an event whose answer was lost is a duplicate and not a second event.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use uuid::Uuid;

use super::retry::{self, Step};
use super::traffic::Batch;
use crate::secret::Secret;

/// Path of the native dialect.
const EVENTS_PATH: &str = "/v1/events";
/// Longest wait for a connection, and for an answer: above the slowest group commit, below a person's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The URL is none, or not of http or https.
    #[error("`{url}` is not an ingest URL; write one like http://127.0.0.1:8080")]
    Url {
        /// What was given.
        url: String,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be set up")]
    Client {
        /// Why.
        source: reqwest::Error,
    },
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// One answer per event, in order.
    Answered(Vec<Answer>),
    /// There is no use in sending more.
    Stop {
        /// For the person who started it.
        reason: String,
    },
}

/// What the server said about one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted(Uuid),
    Refused { code: String, message: String },
}

/// Sends batches to one URL with one key.
pub(super) struct Sender {
    client: Client,
    url: Url,
    key: Secret<String>,
}

impl Sender {
    /// Makes the client. Certificates are verified by what the platform trusts.
    pub(super) fn new(url: &str, key: Secret<String>) -> Result<Self, GenerateError> {
        // Another part of the process may have installed the same provider before; either is ring.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT).build();
        Ok(Self {
            client: client.map_err(|source| GenerateError::Client { source })?,
            url: events_url(url).ok_or_else(|| GenerateError::Url { url: url.to_owned() })?,
            key,
        })
    }

    /// Sends until there is an answer, or no sense in going on.
    pub(super) async fn send(&self, batch: Batch) -> (Batch, Outcome) {
        let body = batch.body();
        let mut attempt = 0;
        let outcome = loop {
            attempt += 1;
            let response = self.post(&batch, &body).await;
            let status = response.as_ref().ok().map(|response| response.status().as_u16());
            match retry::next_step(status, retry_after(&response), attempt) {
                Step::Read => break read(response, batch.events.len()).await,
                Step::Wait(wait) => tokio::time::sleep(wait).await,
                Step::Stop => break Outcome::Stop { reason: reason(response, attempt).await },
            }
        };
        (batch, outcome)
    }

    async fn post(&self, batch: &Batch, body: &str) -> Result<Response, reqwest::Error> {
        self.client
            .post(self.url.clone())
            .bearer_auth(self.key.expose())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, batch.user_agent)
            .body(body.to_owned())
            .send()
            .await
    }
}

/// The URL events go to.
fn events_url(text: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    if matches!(url.path(), "" | "/") {
        url.set_path(EVENTS_PATH);
    }
    Some(url)
}

fn retry_after(response: &Result<Response, reqwest::Error>) -> Option<&str> {
    response.as_ref().ok()?.headers().get(RETRY_AFTER)?.to_str().ok()
}

/// A page of results, or a problem that concerns the whole request.
#[derive(Deserialize)]
struct Page {
    results: Option<Vec<Line>>,
    code: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    event_id: Option<Uuid>,
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    #[serde(default)]
    message: String,
}

async fn read(response: Result<Response, reqwest::Error>, events: usize) -> Outcome {
    let page = match response {
        Ok(response) => response.json::<Page>().await,
        Err(error) => Err(error),
    };
    match page {
        Ok(page) => answers(page, events),
        Err(error) => Outcome::Stop { reason: format!("the answer could not be read: {}", chain(&error)) },
    }
}

fn answers(page: Page, events: usize) -> Outcome {
    let answers: Option<Vec<Answer>> = match page {
        Page { results: Some(lines), .. } => lines.into_iter().map(answer).collect(),
        Page { code: Some(code), detail, .. } => {
            let message = detail.unwrap_or_default();
            Some(vec![Answer::Refused { code, message }; events])
        }
        Page { .. } => None,
    };
    match answers {
        Some(answers) if answers.len() == events => Outcome::Answered(answers),
        Some(_) | None => {
            Outcome::Stop { reason: "the answer does not say what became of each event".to_owned() }
        }
    }
}

fn answer(line: Line) -> Option<Answer> {
    match line {
        Line { event_id: Some(id), error: None } => Some(Answer::Accepted(id)),
        Line { error: Some(Problem { code, message }), .. } => Some(Answer::Refused { code, message }),
        Line { .. } => None,
    }
}

/// Why nothing more is sent.
async fn reason(response: Result<Response, reqwest::Error>, attempts: u32) -> String {
    match response {
        Err(error) => format!("no answer after {attempts} attempts: {}", chain(&error)),
        Ok(response) => {
            let status = response.status();
            let detail = response.json::<Page>().await.ok().and_then(|page| page.detail).unwrap_or_default();
            format!("answered {status} after {attempts} attempts: {detail}")
        }
    }
}

/// The error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_path_means_the_native_endpoint() {
        for (text, expected) in [
            ("http://localhost:8080", Some("http://localhost:8080/v1/events")),
            ("https://in.example/", Some("https://in.example/v1/events")),
            ("https://in.example/collect?x=1", Some("https://in.example/collect?x=1")),
            ("ftp://in.example", None),
            ("localhost:8080", None),
            ("", None),
        ] {
            assert_eq!(events_url(text).map(String::from).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn every_event_needs_an_answer_of_its_own() {
        let outcome = |page: &str, events| answers(serde_json::from_str(page).unwrap(), events);
        let refused = |code: &str| Answer::Refused { code: code.to_owned(), message: String::new() };
        let id = Uuid::from_u128(5);
        let page = format!(r#"{{"results":[{{"index":0,"event_id":"{id}"}},{{"error":{{"code":"c"}}}}]}}"#);
        assert_eq!(outcome(&page, 2), Outcome::Answered(vec![Answer::Accepted(id), refused("c")]));
        assert_eq!(outcome(r#"{"code":"not_json"}"#, 1), Outcome::Answered(vec![refused("not_json")]));
        for (page, events) in
            [(page.as_str(), 3), ("{}", 1), (r#"{"results":[{}]}"#, 1), (r#"{"results":[]}"#, 1)]
        {
            assert!(matches!(outcome(page, events), Outcome::Stop { .. }), "{page}");
        }
    }
}
