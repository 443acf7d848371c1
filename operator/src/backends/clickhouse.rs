//! One ClickHouse behind [`Tables`]: `provision` does the work, here its failures become the words of a condition.

use std::error::Error;

use async_trait::async_trait;
use clickhouse::error::Error as ClientError;
use millrace_crds::conditions::reason;
use millrace_crds::resolved::Credentials;
use millrace_crds::schema::{Owner, Schema, Statement};
use millrace_provision::clickhouse::{self as provision, ProvisionError};

use super::{BackendError, Tables};

/// Longest quotation of the server's words in a message.
const WORDS_CHARS_MAX: usize = 1_000;

/// A ClickHouse, reached under one account.
pub struct ClickHouse {
    client: clickhouse::Client,
    url: String,
}

impl ClickHouse {
    /// Asks nothing yet, so this succeeds while ClickHouse is away.
    pub fn new(url: &str, credentials: Option<&Credentials>) -> Self {
        let client = clickhouse::Client::default()
            .with_url(url)
            .with_product_info("millrace-operator", env!("CARGO_PKG_VERSION"));
        let client = match credentials {
            Some(Credentials { username, password }) => {
                client.with_user(username).with_password(password.expose())
            }
            None => client,
        };
        Self { client, url: url.to_owned() }
    }

    fn failed(&self, error: &ProvisionError) -> BackendError {
        let (reason, message) = match error {
            ProvisionError::Observe { source, .. } | ProvisionError::Statement { source, .. } => {
                self.client_failed(error, source)
            }
            ProvisionError::TooSlow { .. } => (reason::UNREACHABLE, self.unreachable(&error.to_string())),
            ProvisionError::Underway { .. } => (reason::REFUSED, error.to_string()),
            ProvisionError::Version { .. } => {
                (reason::REFUSED, format!("{error} (at `{}`); upgrade the server", self.url))
            }
            ProvisionError::Taken { source } => (reason::OWNED_BY_ANOTHER, source.to_string()),
            ProvisionError::Incompatible { source } => (reason::INCOMPATIBLE, source.to_string()),
        };
        BackendError { reason, message, retryable: error.is_retryable() }
    }

    fn client_failed(&self, error: &ProvisionError, source: &ClientError) -> (&'static str, String) {
        match source {
            ClientError::Network(cause) => (reason::UNREACHABLE, self.unreachable(&chain(&**cause))),
            ClientError::TimedOut => (reason::UNREACHABLE, self.unreachable("timed out")),
            // The server's own errors have a code; what has none comes from something in between.
            ClientError::BadResponse(words) if !words.contains("Code:") => {
                (reason::UNREACHABLE, self.unreachable(words))
            }
            // The client's errors are open-ended; all others are answers, or bugs of ours.
            other => {
                let words = cut(&other.to_string());
                let message = format!(
                    "ClickHouse at `{}` refuses: {error}: {words}; check the operator's account and its rights",
                    self.url
                );
                (reason::REFUSED, message)
            }
        }
    }

    fn unreachable(&self, words: &str) -> String {
        let words = cut(words);
        format!(
            "ClickHouse at `{}` does not answer ({words}); check that it runs and can be reached",
            self.url
        )
    }
}

/// An error with its causes, each told once.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        cause = error.source();
    }
    words
}

fn cut(words: &str) -> String {
    words.chars().take(WORDS_CHARS_MAX).collect()
}

#[async_trait]
impl Tables for ClickHouse {
    async fn plan(&self, desired: &Schema, owner: &Owner) -> Result<Vec<Statement>, BackendError> {
        provision::plan(&self.client, desired, owner).await.map_err(|error| self.failed(&error))
    }

    async fn carry_out(&self, statement: &Statement) -> Result<(), BackendError> {
        let one = std::slice::from_ref(statement);
        provision::carry_out(&self.client, one).await.map_err(|error| self.failed(&error))
    }

    async fn drop_database(&self, database: &str, owner: &Owner) -> Result<(), BackendError> {
        provision::drop_database(&self.client, database, owner).await.map_err(|error| self.failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use millrace_crds::resolved::Sensitive;

    use super::*;

    #[tokio::test]
    async fn a_server_that_is_away_is_named_with_the_fix_and_without_credentials() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let account =
            Credentials { username: "op".to_owned(), password: Sensitive::new("hunter2".to_owned()) };
        let url = format!("http://127.0.0.1:{port}");
        let tables = ClickHouse::new(&url, Some(&account));
        let owner = |text: &str| text.to_owned();
        let owner = Owner { cluster: owner("c"), namespace: owner("n"), app: owner("a"), uid: owner("u") };
        let failed = tables.drop_database("x", &owner).await.unwrap_err();
        assert_eq!(failed.reason, reason::UNREACHABLE);
        assert!(failed.retryable && failed.message.contains(&format!("`{url}` does not answer")), "{failed}");
        assert!(failed.message.contains("refused") && !failed.message.contains("hunter2"), "{failed}");
    }

    #[tokio::test]
    async fn what_the_server_refuses_is_said_in_its_words() {
        let router = axum::Router::new().fallback(|| async {
            let words = "Code: 516. DB::Exception: op: Authentication failed: password is incorrect";
            (axum::http::StatusCode::FORBIDDEN, words)
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async { axum::serve(listener, router).await });
        let schema = Schema { database: "x".to_owned(), tables: vec![], views: vec![] };
        let text = |text: &str| text.to_owned();
        let owner = Owner { cluster: text("c"), namespace: text("n"), app: text("a"), uid: text("u") };
        let failed = ClickHouse::new(&url, None).plan(&schema, &owner).await.unwrap_err();
        server.abort();
        assert_eq!(failed.reason, reason::REFUSED);
        assert!(
            failed.message.contains("Authentication failed") && failed.message.contains(&url),
            "{failed}"
        );
    }
}
