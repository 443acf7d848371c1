//! Pods of data planes in, what each runs and refuses out, into `Reports`; tells which data planes said something new.
//! Asks often while something is on its way, seldom otherwise, and never more than a few pods at once.

mod schedule;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use millrace_crds::conditions::reason;
use millrace_crds::labels;
use millrace_crds::pod::PORT_ADMIN;
use millrace_crds::resolved::Sensitive;
use millrace_crds::state::PodState;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::backends::{BackendError, Pods};
use crate::cluster::{Cluster, ClusterError, ObjectKey};
use crate::kind::Kind;
use crate::reports::{Fresh, Report, Reports};
use schedule::{Pace, Schedule, Target};

/// How often is looked whether a pod is due, where nothing calls for more.
const LOOK: Duration = Duration::from_millis(500);
/// The same right after a Revision was published: the shortest time between two questions to one pod, and about what a
/// pod needs to take a Revision up.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// Pods asked at the same time.
const AT_ONCE: usize = 32;
/// Longest wait for an answer, the token's reading included.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Age at which a token is read again: people may replace it.
const TOKEN_AGE_MAX: SignedDuration = SignedDuration::from_secs(60);

/// A data plane of which a pod said something new, or is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub data_plane: String,
    /// What is new.
    pub fresh: Fresh,
}

/// Asks pods.
pub struct Poller {
    cluster: Arc<dyn Cluster>,
    asker: Arc<Asker>,
    reports: Arc<Reports>,
    news: mpsc::UnboundedSender<News>,
    published: Arc<Notify>,
    schedule: Schedule,
}

/// What one question needs.
struct Asker {
    cluster: Arc<dyn Cluster>,
    pods: Arc<dyn Pods>,
    tokens: Mutex<BTreeMap<String, (Sensitive, Timestamp)>>,
}

type Answer = (Target, Result<PodState, BackendError>);

impl Poller {
    /// `news` gets a data plane whenever one of its pods says something else than before. It is unbounded because the
    /// reader only marks keys as due; there are at most as many pieces of news as answers. `published` is notified when a
    /// Revision comes or changes.
    pub fn new(
        cluster: Arc<dyn Cluster>,
        pods: Arc<dyn Pods>,
        reports: Arc<Reports>,
        news: mpsc::UnboundedSender<News>,
        published: Arc<Notify>,
    ) -> Self {
        let asker = Asker { cluster: Arc::clone(&cluster), pods, tokens: Mutex::default() };
        Self { cluster, asker: Arc::new(asker), reports, news, published, schedule: Schedule::default() }
    }

    /// Asks until told to stop. The stores behind the cluster must have been filled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut asking: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        let clock = Clock::start();
        let published = Arc::clone(&self.published);
        let mut look = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(look) => {
                    let free = AT_ONCE.saturating_sub(asking.len());
                    let now = clock.now();
                    match self.due(now, free).await {
                        Ok(due) => asking.extend(due.into_iter().map(|target| self.ask(target, now))),
                        Err(error) => warn!(%error, "cannot list pods; asked again"),
                    }
                    look = Instant::now() + match self.schedule.pace(now) {
                        Pace::Usual => LOOK,
                        Pace::Quick => LOOK_SOON,
                    };
                }
                // Many Revisions that come together are one reason.
                () = published.notified() => look = look.min(Instant::now() + LOOK_SOON),
                Some((target, said)) = asking.next(), if !asking.is_empty() => {
                    self.hear(&target, said, clock.now());
                }
            }
        }
    }

    /// The pods to ask now, those that wait longest first; from now on they count as being asked.
    async fn due(&mut self, now: Timestamp, most: usize) -> Result<Vec<Target>, ClusterError> {
        let ours = BTreeMap::from([(labels::MANAGED_BY, labels::MANAGER)]);
        let pods = self.cluster.list(Kind::Pod, None, &ours).await?;
        let revisions = self.cluster.list(Kind::Revision, None, &ours).await?;
        let targets: Vec<Target> = pods.iter().filter_map(|pod| Target::read(pod)).collect();
        let gone = self.schedule.look(targets, &revisions);
        self.reports.retain(|namespace, pod| self.schedule.knows(namespace, pod));
        for target in gone {
            self.tell(&target, Fresh::Anything);
        }
        Ok(self.schedule.due(&self.reports, now, most))
    }

    fn ask(&self, target: Target, now: Timestamp) -> BoxFuture<'static, Answer> {
        let asker = Arc::clone(&self.asker);
        Box::pin(async move {
            let said = tokio::time::timeout(ANSWER_MAX, asker.ask(&target, now)).await;
            let said = said.unwrap_or_else(|_| {
                let message = format!("no answer within {} s", ANSWER_MAX.as_secs());
                Err(BackendError { reason: reason::UNREACHABLE, message, retryable: true })
            });
            (target, said)
        })
    }

    fn hear(&mut self, target: &Target, said: Result<PodState, BackendError>, now: Timestamp) {
        if !self.schedule.heard(target, said.is_ok(), now) {
            // The pod went away while it was asked.
            return;
        }
        let report = Report { uid: target.uid.clone(), at: now, said: said.map_err(|error| error.message) };
        match self.reports.keep(&target.namespace, &target.pod, report) {
            Fresh::Nothing => {}
            fresh => self.tell(target, fresh),
        }
    }

    fn tell(&self, target: &Target, fresh: Fresh) {
        let news = News { namespace: target.namespace.clone(), data_plane: target.data_plane.clone(), fresh };
        // Nobody listens any more only while the operator ends.
        let _ = self.news.send(news);
    }
}

/// Time that only goes forward, whatever happens to the machine's clock: pauses are measured on it.
struct Clock {
    began: Timestamp,
    since: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { began: Timestamp::now(), since: Instant::now() }
    }

    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.since.elapsed()).unwrap_or(SignedDuration::MAX);
        self.began.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    }
}

impl Asker {
    async fn ask(&self, target: &Target, now: Timestamp) -> Result<PodState, BackendError> {
        let token = self.token(&target.namespace, now).await?;
        let host = if target.ip.contains(':') { format!("[{}]", target.ip) } else { target.ip.clone() };
        let said = self.pods.state(&format!("http://{host}:{PORT_ADMIN}/state"), &token).await;
        if said.as_ref().is_err_and(|error| error.reason == reason::REFUSED) {
            self.lock().remove(&target.namespace);
        }
        // An address is given to another pod soon after its own is gone.
        said.and_then(|state| match state.pod == target.pod {
            true => Ok(state),
            false => Err(BackendError {
                reason: reason::UNREACHABLE,
                message: format!("pod `{}` answers at the address of `{}`", state.pod, target.pod),
                retryable: true,
            }),
        })
    }

    async fn token(&self, namespace: &str, now: Timestamp) -> Result<Sensitive, BackendError> {
        let known = self.lock().get(namespace).cloned();
        if let Some((token, _)) = known.filter(|(_, read)| now.duration_since(*read) < TOKEN_AGE_MAX) {
            return Ok(token);
        }
        let key = ObjectKey::new(Kind::Secret, namespace, labels::ADMIN_SECRET);
        let unreadable = |why: String| BackendError {
            reason: reason::UNREACHABLE,
            message: format!("the token in Secret `{}` cannot be read: {why}", labels::ADMIN_SECRET),
            retryable: true,
        };
        let secret = self.cluster.get(&key).await.map_err(|error| unreadable(error.to_string()))?;
        let value = secret.and_then(|secret| secret.data.get("data")?.get(labels::STATE_TOKEN).cloned());
        // A `ByteString` is read from base64.
        let token = value.and_then(|value| serde_json::from_value::<k8s_openapi::ByteString>(value).ok());
        let token = token.and_then(|token| String::from_utf8(token.0).ok()).map(Sensitive::new);
        let token =
            token.ok_or_else(|| unreadable(format!("there is no text under `{}`", labels::STATE_TOKEN)))?;
        self.lock().insert(namespace.to_owned(), (token.clone(), now));
        Ok(token)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Sensitive, Timestamp)>> {
        self.tokens.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests;
