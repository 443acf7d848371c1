//! HTTP questions in, JSON answers out, for who may ask them: one table of routes, denied unless it says otherwise.
//! Read [`route`] (the table), [`guard`] (who asks), then the handlers. Never writes; never shows an inside cause.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::Current;
use crate::metrics::Metrics;
use crate::query::{Row, Statement, Store, StoreError};

pub mod analytics;
pub mod apps;
pub mod dashboard;
mod docs;
pub mod guard;
pub mod ledger;
pub(crate) mod observe;
pub mod openapi;
pub mod problem;
mod request;
pub mod route;
pub mod system;

use problem::{Kind, Problem};

/// What the gateway works with.
pub struct GatewayState {
    /// The configuration in force.
    pub config: Current,
    /// Who answers the questions.
    pub store: Arc<dyn Store>,
    /// Who a token stands for.
    pub tokens: Arc<dyn guard::Tokens>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// How much may be asked.
    pub limits: Limits,
}

/// Bounds on questions to the store.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Questions at the store at the same time.
    pub queries_max: usize,
    /// Longest wait for one of these places.
    pub queue_timeout: Duration,
    /// Longest wait for the answer.
    pub query_timeout: Duration,
}

impl Default for Limits {
    /// A dashboard asks ten questions at once and its reader waits seconds, not minutes.
    fn default() -> Self {
        Self {
            queries_max: 16,
            queue_timeout: Duration::from_secs(5),
            query_timeout: Duration::from_secs(20),
        }
    }
}

/// What handlers share.
pub struct Gateway {
    config: Current,
    store: Arc<dyn Store>,
    tokens: Arc<dyn guard::Tokens>,
    metrics: Arc<Metrics>,
    limits: Limits,
    places: Semaphore,
    document: Bytes,
    docs: docs::Page,
}

/// The state of every handler.
pub type Shared = Arc<Gateway>;

/// The gateway as a service. Everything it serves stands in [`route::table`].
pub fn router(state: GatewayState) -> Router {
    let GatewayState { config, store, tokens, metrics, limits } = state;
    let document = openapi::document();
    let gateway = Arc::new(Gateway {
        config,
        store,
        tokens,
        metrics,
        limits,
        places: Semaphore::new(limits.queries_max),
        docs: docs::page(&document),
        document: openapi::to_bytes(&document),
    });
    let mut router = Router::new();
    for route in route::table() {
        let guard = guard::Guard { gateway: Arc::clone(&gateway), requirement: route.requirement };
        let guarded = route.handler.route_layer(from_fn_with_state(guard, guard::check));
        router = router.route(&route.path, guarded);
    }
    router
        .fallback(guard::unknown_path)
        .method_not_allowed_fallback(guard::unknown_method)
        .layer(from_fn(request::limit))
        .layer(from_fn_with_state(Arc::clone(&gateway), observe::observe))
        .with_state(gateway)
}

impl Gateway {
    /// Carries a statement to the store, within the limits.
    async fn ask(&self, statement: Statement) -> Result<Vec<Row>, Problem> {
        let Ok(place) = timeout(self.limits.queue_timeout, self.places.acquire()).await else {
            return Err(Problem::new(Kind::Overloaded, "too many questions wait for the store"));
        };
        let _place = place.expect("the semaphore is never closed");
        match timeout(self.limits.query_timeout, self.store.rows(&statement)).await {
            Ok(answer) => answer.map_err(Problem::from),
            Err(_) => Err(Problem::new(
                Kind::QueryTimedOut,
                format!("the store did not answer within {} ms", self.limits.query_timeout.as_millis()),
            )
            .fix("ask for a shorter range")),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_retryable() {
            Self::new(Kind::StoreUnavailable, "the store does not answer at the moment").cause(error)
        } else {
            Self::internal(error)
        }
    }
}
