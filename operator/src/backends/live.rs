//! The real back ends: the installation's, and those of Apps, each reached with its own account. Clients are kept from
//! round to round, because connecting costs more than asking.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use millrace_crds::names::AppId;
use millrace_crds::schema::Owner;
use millrace_crds::topics::{Change, Observed};

use super::clickhouse::ClickHouse;
use super::kafka::Kafka;
use super::{BackendError, Backends, Connection, Durability, Tables, Topics};
use crate::context::Accounts;
use crate::installation::Installation;

/// Back ends of Apps that clients are kept for, of each kind; the one that was made first goes first. A client of Kafka
/// has a few threads and sockets.
const OWN_MAX: usize = 32;

/// The real back ends.
pub struct Live {
    installation: Arc<Installation>,
    topics: Arc<dyn Topics>,
    tables: Arc<dyn Tables>,
    own_topics: Mutex<Vec<(Connection, Arc<dyn Topics>)>>,
    own_tables: Mutex<Vec<(Connection, Arc<dyn Tables>)>>,
}

impl Live {
    /// Those of this installation. Asks nothing yet; changed accounts take a new one.
    pub fn new(installation: Arc<Installation>, accounts: &Accounts) -> Self {
        let topics = topics_at(&installation.kafka.brokers, accounts.kafka_operator.as_ref(), &installation);
        let tables = ClickHouse::new(&installation.clickhouse.url, accounts.clickhouse_operator.as_ref());
        Self {
            installation,
            topics,
            tables: Arc::new(tables),
            own_topics: Mutex::default(),
            own_tables: Mutex::default(),
        }
    }
}

fn topics_at(
    brokers: &str,
    credentials: Option<&millrace_crds::resolved::Credentials>,
    installation: &Installation,
) -> Arc<dyn Topics> {
    match Kafka::new(brokers, credentials, &installation.kafka, &installation.prefix) {
        Ok(kafka) => Arc::new(kafka),
        Err(error) => Arc::new(Unusable(error)),
    }
}

impl Backends for Live {
    fn topics(&self, own: Option<&Connection>) -> Arc<dyn Topics> {
        let Some(own) = own else { return Arc::clone(&self.topics) };
        kept(&self.own_topics, own, || topics_at(&own.endpoint, Some(&own.credentials), &self.installation))
    }

    fn tables(&self, own: Option<&Connection>) -> Arc<dyn Tables> {
        let Some(own) = own else { return Arc::clone(&self.tables) };
        kept(&self.own_tables, own, || Arc::new(ClickHouse::new(&own.endpoint, Some(&own.credentials))))
    }
}

/// The client for this endpoint and account, made where there is none yet.
fn kept<T: ?Sized>(
    clients: &Mutex<Vec<(Connection, Arc<T>)>>,
    own: &Connection,
    make: impl FnOnce() -> Arc<T>,
) -> Arc<T> {
    let mut clients = clients.lock().expect("no holder of this lock panics");
    if let Some((_, known)) = clients.iter().find(|(connection, _)| connection == own) {
        return Arc::clone(known);
    }
    if clients.len() == OWN_MAX {
        clients.remove(0);
    }
    let made = make();
    clients.push((own.clone(), Arc::clone(&made)));
    made
}

/// A Kafka whose settings contradict themselves: every question is answered by what is wrong with them.
struct Unusable(BackendError);

#[async_trait]
impl Topics for Unusable {
    async fn observe(&self, _names: &[String]) -> Result<Vec<Observed>, BackendError> {
        Err(self.0.clone())
    }

    async fn owner(&self, _app: &AppId) -> Result<Option<Owner>, BackendError> {
        Err(self.0.clone())
    }

    async fn claim(&self, _app: &AppId, _owner: &Owner) -> Result<(), BackendError> {
        Err(self.0.clone())
    }

    async fn carry_out(&self, _change: &Change) -> Result<(), BackendError> {
        Err(self.0.clone())
    }

    async fn delete(&self, _app: &AppId, _names: &[String]) -> Result<(), BackendError> {
        Err(self.0.clone())
    }

    async fn durability(&self, _names: &[String]) -> Result<Durability, BackendError> {
        Err(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use millrace_crds::resolved::{Credentials, Sensitive};

    use super::*;

    #[test]
    fn clients_are_kept_by_endpoint_and_account_within_bounds() {
        let connection = |password: &str| Connection {
            endpoint: "a:1".to_owned(),
            credentials: Credentials {
                username: "u".to_owned(),
                password: Sensitive::new(password.to_owned()),
            },
        };
        let clients = Mutex::default();
        let of = |password: &str| kept(&clients, &connection(password), || Arc::from(password.to_owned()));
        let first: Arc<str> = of("first");
        assert!(Arc::ptr_eq(&first, &of("first")));
        assert!(!Arc::ptr_eq(&first, &of("changed")));
        (0..OWN_MAX).for_each(|number| drop(of(&number.to_string())));
        assert_eq!(clients.lock().unwrap().len(), OWN_MAX);
        assert!(!Arc::ptr_eq(&first, &of("first")), "the oldest went");
    }
}
