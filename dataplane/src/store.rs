//! ClickHouse over HTTP: questions with parameters in, rows out; a block of encoded rows in, an answer out.
//! A thin layer over the official client. What is asked and what is stored is decided elsewhere.

mod answer;
mod error;
mod insert;
mod query;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::secret::Secret;

pub use error::{Failure, StoreError};
pub use insert::{Format, Insert};
pub use query::{QueryLimits, Question};

/// Where ClickHouse is, and as whom to speak to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `http://host:port`, without credentials.
    pub url: String,
    /// User name.
    pub user: String,
    /// Password, where the user has one.
    pub password: Option<Secret<String>>,
}

/// A ClickHouse server or the engine. Cheap to clone; connections are shared, and so is a change of the account.
#[derive(Clone)]
pub struct ClickHouse {
    client: Arc<ArcSwap<clickhouse::Client>>,
    url: String,
}

impl ClickHouse {
    /// Connects on first use, so this succeeds while ClickHouse is away.
    pub fn new(endpoint: Endpoint) -> Self {
        let url = endpoint.url.clone();
        Self { client: Arc::new(ArcSwap::from_pointee(client(endpoint))), url }
    }

    /// Speaks to `endpoint` from the next statement on, in every clone. What is underway ends as it began.
    pub fn replace(&self, endpoint: Endpoint) {
        self.client.store(Arc::new(client(endpoint)));
    }

    /// The official client, for `millrace-provision`.
    pub fn client(&self) -> Arc<clickhouse::Client> {
        self.client.load_full()
    }

    /// Answers with the server's version when it takes questions.
    pub async fn health(&self) -> Result<String, StoreError> {
        let asked = self.client().query_raw("SELECT version()").fetch_one();
        asked.await.map_err(StoreError::from_client)
    }
}

fn client(endpoint: Endpoint) -> clickhouse::Client {
    let Endpoint { url, user, password } = endpoint;
    let client = clickhouse::Client::default()
        .with_url(&url)
        .with_compression(compression(&url))
        .with_user(user)
        .with_product_info("millrace", env!("CARGO_PKG_VERSION"));
    match password {
        Some(password) => client.with_password(password.expose()),
        None => client,
    }
}

/// On the same machine the bytes cost less than packing them.
fn compression(url: &str) -> clickhouse::Compression {
    let local = ["://127.", "://localhost", "://[::1]"].iter().any(|host| url.contains(host));
    if local { clickhouse::Compression::None } else { clickhouse::Compression::Lz4 }
}

impl fmt::Debug for ClickHouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouse").field("url", &self.url).finish_non_exhaustive()
    }
}
