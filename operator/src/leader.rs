//! A Lease in, whether this process may write out. All replicas watch, so that the next holder begins at once; only the
//! holder works, and one that cannot renew in time stops before another may begin.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Name of the Lease, in the operator's namespace.
pub const LEASE: &str = "millrace-operator";
/// A holder that was not heard of for so long has lost the Lease.
const DURATION: Duration = Duration::from_secs(15);
/// The holder renews this often: a third, so that two attempts may fail.
const RENEW: Duration = Duration::from_secs(5);
/// A holder that could not renew for so long stops its work: well before another may begin.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Whoever does not hold it, or could not renew, tries again after this time.
const RETRY: Duration = Duration::from_secs(2);

/// Where the Lease is kept.
#[async_trait]
pub trait Leases: Send + Sync {
    /// The Lease as it is.
    async fn read(&self) -> Result<Option<Lease>, LeaseError>;

    /// Makes it, or replaces the one of its resourceVersion.
    async fn write(&self, lease: &Lease) -> Result<Lease, LeaseError>;
}

/// Why the Lease was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another was faster.
    #[error("another replica wrote the Lease first")]
    Conflict,
    /// It could not be asked, or does not let us.
    #[error(
        "the API server does not let us at Lease `{LEASE}`; see that the operator may get, create and update it"
    )]
    Refused {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The Lease in the API server.
pub struct LiveLeases {
    api: Api<Lease>,
}

impl LiveLeases {
    /// In this namespace.
    pub fn new(client: kube::Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }
}

#[async_trait]
impl Leases for LiveLeases {
    async fn read(&self) -> Result<Option<Lease>, LeaseError> {
        self.api.get_opt(LEASE).await.map_err(refused)
    }

    async fn write(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let parameters = PostParams::default();
        let written = if lease.metadata.resource_version.is_some() {
            self.api.replace(LEASE, &parameters, lease).await
        } else {
            self.api.create(&parameters, lease).await
        };
        written.map_err(refused)
    }
}

fn refused(error: kube::Error) -> LeaseError {
    match error {
        kube::Error::Api(status) if status.code == 409 => LeaseError::Conflict,
        error => LeaseError::Refused { source: Box::new(error) },
    }
}

/// What the last look at the Lease showed, by this process's own clock: clocks of replicas may differ.
#[derive(Debug, Default)]
struct Seen {
    spec: Option<LeaseSpec>,
    since: Option<Instant>,
}

/// What to do with the Lease.
#[derive(Clone, Debug, PartialEq)]
enum Move {
    /// It is ours, or may be taken: write this.
    Write(Box<Lease>),
    /// Another holds it.
    Wait,
}

impl Seen {
    /// Decides by what is there now.
    fn decide(&mut self, found: Option<&Lease>, me: &str, at: Moment) -> Move {
        let spec = found.and_then(|lease| lease.spec.as_ref());
        if self.spec.as_ref() != spec || self.since.is_none() {
            self.spec = spec.cloned();
            self.since = Some(at.instant);
        }
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
        let duration = seconds.map_or(DURATION, Duration::from_secs);
        let heard = self.since.map_or(Duration::ZERO, |since| at.instant.duration_since(since));
        if holder == me || holder.is_empty() || heard >= duration {
            Move::Write(Box::new(held(found, me, at.time)))
        } else {
            Move::Wait
        }
    }
}

/// Now, by both clocks.
#[derive(Clone, Copy)]
struct Moment {
    instant: Instant,
    time: Timestamp,
}

impl Moment {
    fn now() -> Self {
        Self { instant: Instant::now(), time: Timestamp::now() }
    }
}

/// The Lease, held by this process.
fn held(found: Option<&Lease>, me: &str, now: Timestamp) -> Lease {
    let before = found.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let is_mine = before.holder_identity.as_deref() == Some(me);
    let transitions = before.lease_transitions.unwrap_or(0);
    let seconds = i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX);
    Lease {
        metadata: ObjectMeta {
            name: Some(LEASE.to_owned()),
            resource_version: found.and_then(|lease| lease.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(me.to_owned()),
            lease_duration_seconds: Some(seconds),
            acquire_time: if is_mine { before.acquire_time } else { Some(MicroTime(now)) },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions + i32::from(found.is_some() && !is_mine)),
            ..LeaseSpec::default()
        }),
    }
}

/// Tries to hold the Lease until told to stop, and says through `leading` whether it does. At the end the Lease is given
/// back, so that another need not wait for it to run out: stop the work first.
pub async fn lead(leases: &dyn Leases, me: &str, leading: &watch::Sender<bool>, stop: CancellationToken) {
    let mut seen = Seen::default();
    let mut renewed: Option<Instant> = None;
    loop {
        // Taken before the request: what the server got later counts from earlier.
        let begun = Instant::now();
        let left = renewed
            .map_or(RENEW_DEADLINE, |renewed| (renewed + RENEW_DEADLINE).saturating_duration_since(begun));
        let is_held = match timeout(left, attempt(leases, &mut seen, me)).await {
            Ok(Ok(is_held)) => {
                renewed = is_held.then_some(begun);
                is_held
            }
            Ok(Err(error)) => {
                warn!(error = %error, "cannot get or renew the Lease");
                false
            }
            Err(_) => false,
        };
        let may_work = renewed.is_some_and(|renewed| renewed.elapsed() < RENEW_DEADLINE);
        if leading.send_if_modified(|before| std::mem::replace(before, may_work) != may_work) {
            info!(leader = may_work, "leadership changed");
        }
        if !may_work {
            renewed = None;
        }
        let pause = if is_held { RENEW } else { pause_of(renewed) };
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
    }
    leading.send_replace(false);
    if renewed.is_some() {
        release(leases, me).await;
    }
}

/// Time to the next attempt: no later than the deadline, so that work stops on time.
fn pause_of(renewed: Option<Instant>) -> Duration {
    let left = renewed.map(|renewed| (renewed + RENEW_DEADLINE).saturating_duration_since(Instant::now()));
    left.map_or(RETRY, |left| left.min(RETRY))
}

async fn attempt(leases: &dyn Leases, seen: &mut Seen, me: &str) -> Result<bool, LeaseError> {
    let found = leases.read().await?;
    match seen.decide(found.as_ref(), me, Moment::now()) {
        Move::Wait => Ok(false),
        Move::Write(lease) => match leases.write(&lease).await {
            Ok(written) => {
                *seen = Seen { spec: written.spec, since: Some(Instant::now()) };
                Ok(true)
            }
            Err(LeaseError::Conflict) => Ok(false),
            Err(error) => Err(error),
        },
    }
}

async fn release(leases: &dyn Leases, me: &str) {
    let given_back = async {
        let Some(mut lease) = leases.read().await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(me))
        else {
            return Ok(());
        };
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        leases.write(&lease).await.map(|_| ())
    };
    match timeout(RETRY, given_back).await {
        Ok(Ok(())) => info!("gave the Lease back"),
        Ok(Err(error)) => warn!(error = %error, "cannot give the Lease back; it runs out by itself"),
        Err(_) => warn!("no time to give the Lease back; it runs out by itself"),
    }
}

#[cfg(test)]
mod tests;
