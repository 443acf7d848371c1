//! What one App needs at ingest, prepared once per configuration: topic, counters, rate limit.
//! The bucket of a rate limit outlives a change of configuration that leaves its numbers as they are.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use millrace_crds::config::RateLimit;
use millrace_crds::names::{AppId, TopicKind};
use prometheus::IntCounter;

use crate::config::{App, Config};
use crate::ledger::book::Book;
use crate::ledger::keeper::Books;
use crate::metrics::Metrics;

/// All Apps that were seen, by id.
pub(super) struct Tenants {
    books: Arc<Books>,
    known: ArcSwap<HashMap<AppId, Arc<Tenant>>>,
}

/// One App as ingest uses it.
pub(super) struct Tenant {
    /// Its configuration and privacy keys.
    pub(super) app: Arc<App>,
    /// Its id as text.
    pub(super) label: String,
    /// Its part of the ledger.
    pub(super) book: Arc<Book>,
    /// Where its events go; `None` if the configuration names no such topic.
    pub(super) topic: Option<RawTopic>,
    accepted: IntCounter,
    limit: Option<Arc<Bucket>>,
}

/// The topic of raw events.
#[derive(Clone)]
pub(super) struct RawTopic {
    /// Full name.
    pub(super) name: Arc<str>,
    /// Number of partitions.
    pub(super) partitions: u32,
}

/// A token bucket and the numbers it was made from.
struct Bucket {
    numbers: RateLimit,
    cells: DefaultDirectRateLimiter,
}

impl Tenants {
    /// None was seen yet.
    pub(super) fn new(books: Arc<Books>) -> Self {
        Self { books, known: ArcSwap::default() }
    }

    /// The App as ingest uses it, made anew when its configuration changed.
    pub(super) fn of(&self, app: &Arc<App>, config: &Config, metrics: &Metrics) -> Arc<Tenant> {
        let id = &app.config.app;
        let known = self.known.load();
        let current = known.get(id);
        if let Some(tenant) = current.filter(|tenant| Arc::ptr_eq(&tenant.app, app)) {
            return Arc::clone(tenant);
        }
        let tenant = Arc::new(Tenant::new(app, current.map(Arc::as_ref), self.books.of(app), metrics));
        self.known.rcu(|known| {
            let still_served = known.iter().filter(|(id, _)| config.app(id).is_some());
            let mut next: HashMap<_, _> =
                still_served.map(|(id, tenant)| (id.clone(), Arc::clone(tenant))).collect();
            next.insert(id.clone(), Arc::clone(&tenant));
            next
        });
        tenant
    }
}

impl Tenant {
    fn new(app: &Arc<App>, before: Option<&Self>, book: Arc<Book>, metrics: &Metrics) -> Self {
        let label = app.config.app.to_string();
        let raw = app.config.topics.iter().find(|topic| topic.kind == TopicKind::EventsRaw);
        Self {
            app: Arc::clone(app),
            book,
            topic: raw
                .map(|topic| RawTopic { name: topic.name.as_str().into(), partitions: topic.partitions }),
            accepted: metrics.ingest_events.with_label_values(&[label.as_str(), "accepted"]),
            limit: app.config.ingest.rate_limit.map(|numbers| {
                before
                    .and_then(|before| before.limit.clone())
                    .filter(|bucket| bucket.numbers == numbers)
                    .unwrap_or_else(|| Arc::new(Bucket::new(numbers)))
            }),
            label,
        }
    }

    /// Counts events that are durable.
    pub(super) fn count_accepted(&self, events: usize) {
        self.accepted.inc_by(events as u64);
    }

    /// Charges a request for its first event, before its body is read: an App over its limit costs nothing more.
    pub(super) fn charge_request(&self) -> Result<(), RateError> {
        self.limit.as_ref().map_or(Ok(()), |bucket| bucket.take(1))
    }

    /// Charges the other events of a request, good and bad, once their number is known.
    pub(super) fn charge_rest(&self, events: usize) -> Result<(), RateError> {
        let Some(bucket) = &self.limit else { return Ok(()) };
        let burst = bucket.numbers.burst;
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        if events > burst {
            return Err(RateError::OverBurst { events, burst });
        }
        bucket.take(events.saturating_sub(1))
    }
}

impl Bucket {
    fn new(numbers: RateLimit) -> Self {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(numbers.events_per_second))
            .allow_burst(at_least_one(numbers.burst));
        Self { numbers, cells: RateLimiter::direct(quota) }
    }

    fn take(&self, events: u32) -> Result<(), RateError> {
        let Some(cells) = NonZeroU32::new(events) else { return Ok(()) };
        match self.cells.check_n(cells) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                Err(RateError::Spent { wait: not_until.wait_time_from(DefaultClock::default().now()) })
            }
            Err(_capacity) => Err(RateError::OverBurst { events, burst: self.numbers.burst }),
        }
    }
}

/// Why a request is over the App's rate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RateError {
    /// Now; not later.
    #[error("the App's rate limit is reached; retry after the time in `Retry-After`")]
    Spent {
        /// Until enough is free again.
        wait: Duration,
    },
    /// Always.
    #[error("{events} events at once are more than the App's burst of {burst}; send smaller batches")]
    OverBurst {
        /// In the request.
        events: u32,
        /// The App's limit.
        burst: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(events_per_second: u32, burst: u32) -> Bucket {
        Bucket::new(RateLimit { events_per_second, burst })
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_says_how_long_to_wait() {
        let bucket = bucket(1, 1000);
        assert_eq!(bucket.take(1000), Ok(()));
        let Err(RateError::Spent { wait }) = bucket.take(500) else { panic!("it was empty") };
        assert!(wait > Duration::from_secs(400) && wait <= Duration::from_secs(500), "{wait:?}");
        assert_eq!(bucket.take(0), Ok(()));
    }

    #[test]
    fn more_than_a_burst_never_fits() {
        assert_eq!(bucket(1000, 10).take(11), Err(RateError::OverBurst { events: 11, burst: 10 }));
    }
}
