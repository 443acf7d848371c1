//! Keys that need a look in, one at a time out: a key waits once however often it is woken, is never worked on twice at
//! once, comes back when it asked to, and waits longer after every error.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use millrace_crds::names::AppId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::context::Next;
use crate::metrics::Metrics;

/// Wait after the first error; doubles with every further one.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest wait after an error: a back end that comes back is noticed within it.
const BACKOFF_MAX: Duration = Duration::from_secs(120);
/// A key that fails is not woken sooner than this after its last try: a change may well mend it, a storm of them
/// should not make it spin.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// A namespace waits this long for more of the same: a chart brings many Apps at once.
const GATHER: Duration = Duration::from_millis(50);

/// What is reconciled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// One App.
    App(AppId),
    /// What is shared in a namespace.
    Namespace(String),
}

impl Key {
    /// As in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::App(_) => "app",
            Self::Namespace(_) => "namespace",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app) => write!(f, "App {app}"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
        }
    }
}

/// How a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Done(Next),
    /// With an error: it is tried again.
    Failed,
}

/// The queue. Its own lock is held for look-ups only.
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
    metrics: Arc<Metrics>,
    random: fn(&mut [u8]),
}

#[derive(Default)]
struct Inner {
    /// When each key is due, and the same by time.
    due: HashMap<Key, Instant>,
    order: BTreeSet<(Instant, Key)>,
    running: HashMap<Key, Running>,
    failures: HashMap<Key, Failures>,
    /// Last time a look ended, or there was nothing to look at.
    beat: Option<Instant>,
}

/// A look under way.
#[derive(Clone, Copy, Debug)]
struct Running {
    since: Instant,
    /// When it was woken while it ran, and is due again.
    again: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Queue {
    /// An empty queue; `random` fills bytes for the jitter.
    pub fn new(metrics: Arc<Metrics>, random: fn(&mut [u8])) -> Self {
        Self { inner: Mutex::new(Inner::default()), changed: Notify::new(), metrics, random }
    }

    /// This key needs a look now.
    pub fn wake(&self, key: Key) {
        let delay = match key {
            Key::App(_) => Duration::ZERO,
            Key::Namespace(_) => GATHER,
        };
        self.wake_after(key, delay);
    }

    /// This key needs a look after this time, or sooner if it waits already.
    pub fn wake_after(&self, key: Key, delay: Duration) {
        let mut inner = self.lock();
        let mut due = Instant::now() + delay;
        if let Some(failures) = inner.failures.get(&key) {
            due = due.max(failures.last + FAILED_PAUSE);
        }
        match inner.running.get_mut(&key) {
            Some(running) => running.again = Some(running.again.map_or(due, |again| again.min(due))),
            None => inner.set_due(key, due),
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Waits until a key is due and takes it. It stays taken until [`Queue::done`].
    pub async fn next(&self) -> Key {
        loop {
            let changed = self.changed.notified();
            let first = self.take_due();
            match first {
                First::Due(key) => return key,
                First::At(due) => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(due) => {}
                    }
                }
                First::None => changed.await,
            }
        }
    }

    /// A key was looked at; it may be taken again.
    pub fn done(&self, key: Key, outcome: Outcome) {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.beat = Some(now);
        let again = inner.running.remove(&key).and_then(|running| running.again);
        let wanted = match outcome {
            Outcome::Done(next) => {
                inner.failures.remove(&key);
                match next {
                    Next::OnChange => None,
                    Next::After(delay) => Some(now + delay),
                }
            }
            Outcome::Failed => {
                let failures = inner.failures.entry(key.clone()).or_insert(Failures { count: 0, last: now });
                *failures = Failures { count: failures.count.saturating_add(1), last: now };
                self.metrics.queue_retries.inc();
                Some(now + backoff(failures.count, self.jitter()))
            }
        };
        // A wake during a look that failed still keeps its distance.
        let again = match outcome {
            Outcome::Done(_) => again,
            Outcome::Failed => again.map(|again| again.max(now + FAILED_PAUSE)),
        };
        if let Some(due) = wanted.into_iter().chain(again).min() {
            inner.set_due(key, due);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Forgets a key that stands for nothing any more, its errors included.
    pub fn forget(&self, key: &Key) {
        let mut inner = self.lock();
        inner.unset(key);
        inner.failures.remove(key);
    }

    /// Work begins: what waited until now does not count as stuck.
    pub fn begin(&self) {
        self.lock().beat = Some(Instant::now());
    }

    /// Whether nothing is due and nothing runs; what waits for a time does not count.
    pub fn is_idle(&self) -> bool {
        let inner = self.lock();
        let now = Instant::now();
        inner.running.is_empty() && inner.order.first().is_none_or(|(due, _)| *due > now)
    }

    /// How long nothing has moved although something was due: what `/livez` judges.
    pub fn stuck_for(&self) -> Duration {
        let inner = self.lock();
        let now = Instant::now();
        let oldest = inner.order.first().map(|(due, _)| *due).filter(|due| *due <= now);
        let running = inner.running.values().map(|running| running.since).min();
        let waiting = oldest.into_iter().chain(running).min();
        let since = waiting.map(|waiting| inner.beat.map_or(waiting, |beat| waiting.max(beat)));
        since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// Brings the gauges up to date.
    pub fn measure(&self) {
        let inner = self.lock();
        let now = Instant::now();
        let depth = inner.due.values().filter(|due| **due <= now).count();
        self.metrics.queue_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
        let oldest =
            inner.order.first().map_or(Duration::ZERO, |(due, _)| now.saturating_duration_since(*due));
        self.metrics.queue_oldest_seconds.set(oldest.as_secs_f64());
    }

    fn take_due(&self) -> First {
        let mut inner = self.lock();
        let now = Instant::now();
        let Some((due, key)) = inner.order.first().cloned() else {
            inner.beat = Some(now);
            return First::None;
        };
        if due > now {
            return First::At(due);
        }
        inner.unset(&key);
        inner.running.insert(key.clone(), Running { since: now, again: None });
        First::Due(key)
    }

    /// A share in [0, 1).
    fn jitter(&self) -> f64 {
        let mut bytes = [0; 4];
        (self.random)(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

impl Inner {
    /// Due at this time, or sooner if it was.
    fn set_due(&mut self, key: Key, due: Instant) {
        let known = self.due.get(&key).copied();
        if known.is_none_or(|known| due < known) {
            self.unset(&key);
            self.order.insert((due, key.clone()));
            self.due.insert(key, due);
        }
    }

    fn unset(&mut self, key: &Key) {
        if let Some(due) = self.due.remove(key) {
            self.order.remove(&(due, key.clone()));
        }
    }
}

enum First {
    Due(Key),
    At(Instant),
    None,
}

/// Wait after so many errors in a row: doubling, and up to a fifth longer by chance, so that Apps that failed together
/// do not come back together.
fn backoff(failures: u32, jitter: f64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(BACKOFF_MAX).mul_f64(1.0 + jitter / 5.0)
}

#[cfg(test)]
mod tests;
