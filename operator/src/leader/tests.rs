use std::sync::{Arc, Mutex};

use super::*;

/// The Lease in memory, and whether the server answers.
#[derive(Default)]
struct Memory {
    inner: Mutex<(Option<Lease>, u64)>,
    away: Mutex<bool>,
}

#[async_trait]
impl Leases for Memory {
    async fn read(&self) -> Result<Option<Lease>, LeaseError> {
        if *self.away.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        Ok(self.inner.lock().unwrap().0.clone())
    }

    async fn write(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let mut inner = self.inner.lock().unwrap();
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        if inner.0.as_ref().and_then(version) != version(lease) {
            return Err(LeaseError::Conflict);
        }
        inner.1 += 1;
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(inner.1.to_string());
        inner.0 = Some(lease.clone());
        Ok(lease)
    }
}

struct Replica {
    leading: watch::Receiver<bool>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn replica(leases: &Arc<Memory>, name: &'static str) -> Replica {
    let (sender, leading) = watch::channel(false);
    let (stop, leases) = (CancellationToken::new(), Arc::clone(leases));
    let stopped = stop.clone();
    let task = tokio::spawn(async move { lead(&*leases, name, &sender, stopped).await });
    Replica { leading, stop, task }
}

impl Replica {
    async fn waits_for(&mut self, leading: bool) -> Duration {
        let begun = Instant::now();
        self.leading.wait_for(|now| *now == leading).await.unwrap();
        begun.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_waits_however_long() {
    let leases = Arc::new(Memory::default());
    let mut a = replica(&leases, "a");
    a.waits_for(true).await;
    let b = replica(&leases, "b");
    sleep(Duration::from_secs(600)).await;
    assert!(*a.leading.borrow() && !*b.leading.borrow());
    let lease = leases.read().await.unwrap().unwrap().spec.unwrap();
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("a"), Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_stops_gives_the_lease_back_at_once() {
    let leases = Arc::new(Memory::default());
    let mut a = replica(&leases, "a");
    a.waits_for(true).await;
    let mut b = replica(&leases, "b");
    sleep(Duration::from_secs(60)).await;
    a.stop.cancel();
    a.task.await.unwrap();
    assert!(b.waits_for(true).await <= RETRY);
    let lease = leases.read().await.unwrap().unwrap().spec.unwrap();
    assert_eq!(lease.lease_transitions, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_is_followed_when_the_lease_has_run_out_and_not_before() {
    let leases = Arc::new(Memory::default());
    let mut a = replica(&leases, "a");
    a.waits_for(true).await;
    let mut b = replica(&leases, "b");
    sleep(Duration::from_secs(60)).await;
    a.task.abort();
    let waited = b.waits_for(true).await;
    assert!(waited >= DURATION - RENEW && waited <= DURATION + RETRY, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_before_another_may_begin() {
    let leases = Arc::new(Memory::default());
    let mut a = replica(&leases, "a");
    a.waits_for(true).await;
    sleep(Duration::from_secs(60)).await;
    *leases.away.lock().unwrap() = true;
    let stopped = a.waits_for(false).await;
    assert!(stopped <= RENEW_DEADLINE, "{stopped:?}");
    *leases.away.lock().unwrap() = false;
    a.waits_for(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_takes_no_lease_from_a_living_holder() {
    let mut seen = Seen::default();
    let at = |seconds: u64, instant: Instant| Moment {
        instant: instant + Duration::from_secs(seconds),
        time: Timestamp::from_second(4_000_000_000).unwrap(),
    };
    let begun = Instant::now();
    let mut lease = held(None, "other", Timestamp::from_second(1).unwrap());
    for renewal in 0..10 {
        lease.spec.as_mut().unwrap().renew_time = Some(MicroTime(Timestamp::from_second(renewal).unwrap()));
        let seconds = u64::try_from(renewal).unwrap() * 10;
        assert_eq!(seen.decide(Some(&lease), "me", at(seconds, begun)), Move::Wait);
    }
    assert_eq!(seen.decide(Some(&lease), "me", at(104, begun)), Move::Wait);
    assert!(matches!(seen.decide(Some(&lease), "me", at(105, begun)), Move::Write(_)));
}
