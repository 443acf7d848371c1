//! A valid App in, what its back ends hold out. Both are asked at once and time-boxed; one that fails is a finding of its
//! own and hides nothing of the other.

use std::future::Future;
use std::time::Duration;

use millrace_crds::conditions::reason;
use millrace_crds::names::AppId;
use millrace_crds::schema::{self, Owner, Statement};
use millrace_crds::topics::Observed;
use tokio::time::timeout;

use super::validate::Valid;
use crate::backends::{BackendError, Connection, Durability};
use crate::context::Context;

/// Longest wait for everything one back end is asked in a row. Longer than the clients' own limits, which say more.
const ANSWERS_MAX: Duration = Duration::from_secs(30);

/// What the back ends hold.
pub(crate) struct BackendsSeen {
    /// On Kafka.
    pub(crate) topics: Result<TopicsSeen, BackendError>,
    /// What would bring ClickHouse to the desired schema.
    pub(crate) tables: Result<Vec<Statement>, BackendError>,
}

/// An App's topics.
pub(crate) struct TopicsSeen {
    /// Who claimed them.
    pub(crate) owner: Option<Owner>,
    /// Those that exist.
    pub(crate) found: Vec<Observed>,
}

/// Asks both.
pub(crate) async fn observe(context: &Context, id: &AppId, owner: &Owner, valid: &Valid) -> BackendsSeen {
    let names = topic_names(valid);
    let topics = context.backends.topics(valid.kafka.as_ref());
    let tables = context.backends.tables(valid.clickhouse.as_ref());
    let desired = schema::of_app(&valid.config);
    let ask_topics =
        async { Ok(TopicsSeen { owner: topics.owner(id).await?, found: topics.observe(&names).await? }) };
    let (topics, tables) = tokio::join!(
        boxed("Kafka", valid.kafka.as_ref(), ask_topics),
        boxed("ClickHouse", valid.clickhouse.as_ref(), tables.plan(&desired, owner)),
    );
    BackendsSeen { topics, tables }
}

/// How many copies there are of what is acknowledged.
pub(crate) async fn durability(context: &Context, valid: &Valid) -> Result<Durability, BackendError> {
    let names = topic_names(valid);
    let topics = context.backends.topics(valid.kafka.as_ref());
    boxed("Kafka", valid.kafka.as_ref(), topics.durability(&names)).await
}

fn topic_names(valid: &Valid) -> Vec<String> {
    valid.config.topics.iter().map(|topic| topic.name.clone()).collect()
}

/// The same within [`ANSWERS_MAX`].
pub(crate) async fn boxed<T>(
    what: &str,
    own: Option<&Connection>,
    asked: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let too_late = |_| BackendError {
        reason: reason::UNREACHABLE,
        message: format!(
            "{what}{} did not answer within {} s; check that it runs and can be reached from the operator",
            own.map(|own| format!(" at `{}`", own.endpoint)).unwrap_or_default(),
            ANSWERS_MAX.as_secs()
        ),
        retryable: true,
    };
    timeout(ANSWERS_MAX, asked).await.map_err(too_late)?
}
