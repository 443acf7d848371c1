//! Pods of the data plane asked for their state, over plain HTTP inside the cluster: a token says who asks, and what is
//! answered is no secret. Needs a way to the pods' addresses, which an operator inside the cluster has.

use std::error::Error as _;
use std::time::Duration;

use async_trait::async_trait;
use millrace_crds::conditions::reason;
use millrace_crds::resolved::Sensitive;
use millrace_crds::state::PodState;
use reqwest::StatusCode;

use super::{BackendError, Pods};

/// Longest wait for a pod: it answers from memory, or not at all.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Longest answer in bytes: a thousand Apps with a long refusal each stay far below.
const BYTES_MAX: usize = 4 << 20;

/// Asks pods directly.
#[derive(Clone, Debug)]
pub struct HttpPods {
    client: reqwest::Client,
}

impl HttpPods {
    /// A client that follows no redirect and asks no proxy: an answer comes from the pod or from nobody.
    pub fn new() -> Result<Self, BackendError> {
        // Fails only when a provider is there already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(ANSWER_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| unreachable("the client", &error))?;
        Ok(Self { client })
    }

    async fn ask(&self, address: &str, token: &Sensitive) -> Result<PodState, BackendError> {
        let request = self.client.get(address).bearer_auth(token.expose());
        let mut answer = request.send().await.map_err(|error| unreachable(address, &error))?;
        let status = answer.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let message =
                format!("`{address}` does not know the token ({status}); it may not have read it yet");
            return Err(BackendError { reason: reason::REFUSED, message, retryable: true });
        }
        if !status.is_success() {
            let message = format!("`{address}` answers {status}");
            return Err(BackendError { reason: reason::UNREACHABLE, message, retryable: true });
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(address, &error))? {
            body.extend_from_slice(&chunk);
            if body.len() > BYTES_MAX {
                let message = format!("`{address}` answers more than {BYTES_MAX} bytes");
                return Err(BackendError { reason: reason::REFUSED, message, retryable: false });
            }
        }
        serde_json::from_slice(&body).map_err(|error| BackendError {
            reason: reason::REFUSED,
            message: format!("`{address}` answers what is no state: {error}"),
            retryable: true,
        })
    }
}

#[async_trait]
impl Pods for HttpPods {
    async fn state(&self, address: &str, token: &Sensitive) -> Result<PodState, BackendError> {
        self.ask(address, token).await
    }
}

/// The whole chain in one line: the outermost words alone do not say what happened.
fn unreachable(address: &str, error: &reqwest::Error) -> BackendError {
    let mut words = Vec::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words.push(inner.to_string());
        cause = inner.source();
    }
    let why = words.last().cloned().unwrap_or_else(|| "no answer in time".to_owned());
    let message = format!("`{address}` cannot be reached: {why}");
    BackendError { reason: reason::UNREACHABLE, message, retryable: true }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::get;

    use super::*;

    async fn serve(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/state")
    }

    #[tokio::test]
    async fn a_pod_is_believed_only_when_it_knows_the_token_and_speaks_our_words() {
        let state =
            r#"{"pod":"a","role":"ingest","version":"0.1.0","formatMax":"v1","ready":true,"newer":1}"#;
        let answer = move |headers: HeaderMap| async move {
            let known = headers.get("authorization").is_some_and(|value| value == "Bearer right");
            if known { (StatusCode::OK, state) } else { (StatusCode::UNAUTHORIZED, "") }
        };
        let address = serve(Router::new().route("/state", get(answer))).await;
        let pods = HttpPods::new().unwrap();
        let ask = async |token: &str| pods.state(&address, &Sensitive::new(token.to_owned())).await;
        assert_eq!(ask("right").await.unwrap().pod, "a");
        let error = ask("wr0ng").await.unwrap_err();
        assert_eq!(error.reason, reason::REFUSED);
        assert!(!error.message.contains("wr0ng"), "{error}");

        let address = serve(Router::new().route("/state", get(async || "hello"))).await;
        let error = pods.state(&address, &Sensitive::new(String::new())).await.unwrap_err();
        assert!(error.message.contains("no state"), "{error}");
    }

    #[tokio::test]
    async fn a_pod_that_does_not_listen_is_told_from_one_that_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/state", listener.local_addr().unwrap());
        drop(listener);
        let error =
            HttpPods::new().unwrap().state(&address, &Sensitive::new(String::new())).await.unwrap_err();
        assert_eq!(error.reason, reason::UNREACHABLE);
        assert!(error.message.contains("refused"), "{error}");
    }
}
