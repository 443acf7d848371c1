//! An App that is to go in, its end out, in this order: Revisions withdrawn, pods let go of it (or a minute passed),
//! topics, database, Secret, finalizer. A step that fails is tried again and reported; it is left out only when a person
//! says so, or when nothing can help any more: the namespace ends, or the account for the back end is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use millrace_crds::app::Connections;
use millrace_crds::conditions::{Status, reason};
use millrace_crds::labels::{self, FINALIZER, SKIP_CLEANUP_ANNOTATION};
use millrace_crds::manifest::Secret;
use millrace_crds::names::TopicKind;

use super::gather::Gathered;
use super::objects::{self, Meta as _};
use super::place::holding;
use super::status::{self, Findings, Verdict};
use super::{observe, owner, plan, validate};
use crate::apply::{self, ApplyError};
use crate::backends::{BackendError, Connection};
use crate::cluster::{ClusterError, ObjectKey, Severity, Told};
use crate::context::{Context, Next, ReconcileError};
use crate::kind::Kind;
use crate::plan::{Plan, Presence, Step};

/// Longest wait for pods to let go of the App.
pub(crate) const WITHDRAWN_MAX: SignedDuration = SignedDuration::from_secs(60);
/// How long a step may fail before it is reported as stuck.
const STEP_MAX: SignedDuration = SignedDuration::from_secs(120);
/// When to look again while pods let go.
const PODS_AGAIN: Duration = Duration::from_secs(1);
/// When to try a failed step again.
const STEP_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Topics,
    Database,
    Secret,
}

impl What {
    const ALL: [Self; 3] = [Self::Topics, Self::Database, Self::Secret];

    fn in_words(self) -> &'static str {
        match self {
            Self::Topics => "topics",
            Self::Database => "database",
            Self::Secret => "Secret with keys",
        }
    }
}

/// How one step went.
enum Went {
    /// It is gone.
    Gone,
    /// It is not ours, or not to be removed; why.
    Left(String),
    /// It could not be removed; why.
    Failed(BackendError),
}

/// One round towards the end of an App.
pub(crate) async fn reconcile(
    context: &Context,
    gathered: &Gathered,
    now: Timestamp,
) -> Result<Next, ReconcileError> {
    let finalizers = gathered.object.metadata.finalizers.as_deref().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Next::OnChange);
    }
    // Read from the object as stored: an App that is not understood can still be deleted.
    if gathered.object.data["spec"]["deletionPolicy"] != "Delete" {
        return release(context, gathered).await;
    }
    let withdraw = gathered.revisions.iter().map(|revision| objects::delete_revision(&gathered.id, revision));
    apply::carry_out(context, &Plan { steps: withdraw.collect(), ..Plan::default() }).await?;
    let asked_at = gathered.object.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    if let Some(pod) =
        holding(gathered.id.name(), &gathered.pods).filter(|_| now.duration_since(asked_at) < WITHDRAWN_MAX)
    {
        let message = format!("deletion: pods let go of the App first; awaited: `{pod}`");
        say(context, gathered, Verdict::new(Status::False, reason::PROGRESSING, &message), now).await?;
        return Ok(Next::After(PODS_AGAIN));
    }
    let end = End { context, gathered, is_hopeless: is_hopeless(context, gathered).await };
    let mut deadline = asked_at + WITHDRAWN_MAX;
    for what in What::ALL {
        deadline += STEP_MAX;
        match end.remove(what).await? {
            Went::Gone => {}
            Went::Left(why) => end.tell(&format!("{} left behind: {why}", what.in_words())).await,
            Went::Failed(error) if end.is_skipped(now > deadline) => {
                end.tell(&format!("{} left behind: {}", what.in_words(), error.message)).await;
            }
            Went::Failed(error) => {
                say(context, gathered, failed(what, &error, now > deadline), now).await?;
                let waited = Duration::try_from(now.duration_since(asked_at) / 2).unwrap_or_default();
                return Ok(Next::After(waited.clamp(STEP_AGAIN.0, STEP_AGAIN.1)));
            }
        }
    }
    release(context, gathered).await
}

async fn release(context: &Context, gathered: &Gathered) -> Result<Next, ReconcileError> {
    let key = ObjectKey::new(Kind::App, gathered.id.namespace(), gathered.id.name());
    let steps = vec![Step::Finalize { key, finalizer: Presence::Absent }];
    apply::carry_out(context, &Plan { steps, ..Plan::default() }).await?;
    Ok(Next::OnChange)
}

/// Whether nobody can help any more: the namespace goes, and its Secrets with it.
async fn is_hopeless(context: &Context, gathered: &Gathered) -> bool {
    let key = ObjectKey::new(Kind::Namespace, "", gathered.id.namespace());
    // An operator that may not read Namespaces cannot know; then a person decides.
    context.cluster.get(&key).await.ok().flatten().is_some_and(|namespace| namespace.is_deleting())
}

fn failed(what: What, error: &BackendError, is_late: bool) -> Verdict {
    let message = format!(
        "deletion: cannot remove the {}: {}; it is tried again; the annotation {SKIP_CLEANUP_ANNOTATION} leaves it behind \
         and goes on",
        what.in_words(),
        error.message
    );
    // Past its deadline it needs a person, whatever the reason.
    let reason = if is_late { reason::REFUSED } else { reason::PROGRESSING };
    Verdict::new(Status::False, reason, &message)
}

async fn say(
    context: &Context,
    gathered: &Gathered,
    overall: Verdict,
    now: Timestamp,
) -> Result<(), ClusterError> {
    let endpoints = gathered.status.endpoints.clone();
    let findings = Findings { overall: Some(overall), endpoints, ..Findings::default() };
    let generation = gathered.object.metadata.generation;
    status::write(context, gathered, &status::status(&gathered.status, generation, findings, now)).await
}

struct End<'a> {
    context: &'a Context,
    gathered: &'a Gathered,
    is_hopeless: bool,
}

impl End<'_> {
    fn is_skipped(&self, is_late: bool) -> bool {
        let is_asked = self.gathered.object.annotation(SKIP_CLEANUP_ANNOTATION).is_some();
        is_asked
            || (is_late
                && (self.is_hopeless
                    || self.connection(What::Topics).is_err()
                    || self.connection(What::Database).is_err()))
    }

    async fn tell(&self, note: &str) {
        let told = Told {
            severity: Severity::Warning,
            reason: "CleanupSkipped",
            action: "Delete",
            note: note.to_owned(),
        };
        self.context.cluster.tell(&self.gathered.object, told).await;
    }

    async fn remove(&self, what: What) -> Result<Went, ReconcileError> {
        match what {
            What::Topics => self.remove_topics().await,
            What::Database => self.remove_database().await,
            What::Secret => self.remove_secret().await,
        }
    }

    async fn remove_topics(&self) -> Result<Went, ReconcileError> {
        let kafka = match self.connection(What::Topics) {
            Ok(kafka) => kafka,
            Err(error) => return Ok(Went::Failed(error)),
        };
        let (id, prefix) = (&self.gathered.id, &self.context.installation.prefix);
        let topics = self.context.backends.topics(kafka.as_ref());
        let claimed = observe::boxed("Kafka", kafka.as_ref(), topics.owner(id)).await;
        match claimed {
            Err(error) => return Ok(Went::Failed(error)),
            // The claim goes last, so without one there is nothing of ours.
            Ok(None) => return Ok(Went::Gone),
            Ok(Some(found)) if !plan::is_same_app(&found, &owner(self.context, self.gathered)) => {
                let (namespace, app, cluster) = (found.namespace, found.app, found.cluster);
                let words = format!("they belong to App `{namespace}/{app}` of cluster `{cluster}`");
                return Ok(Went::Left(words));
            }
            Ok(Some(_)) => {}
        }
        let names = TopicKind::ALL.into_iter().map(|kind| id.topic(prefix, kind)).collect();
        let steps = vec![Step::DeleteTopics { app: id.clone(), names }];
        self.carry_out(Plan { steps, kafka, ..Plan::default() }).await
    }

    async fn remove_database(&self) -> Result<Went, ReconcileError> {
        let clickhouse = match self.connection(What::Database) {
            Ok(clickhouse) => clickhouse,
            Err(error) => return Ok(Went::Failed(error)),
        };
        let database = self.gathered.id.database(&self.context.installation.prefix);
        let steps = vec![Step::DropDatabase { database, owner: owner(self.context, self.gathered) }];
        self.carry_out(Plan { steps, clickhouse, ..Plan::default() }).await
    }

    async fn remove_secret(&self) -> Result<Went, ReconcileError> {
        let name = labels::app_secret(&self.gathered.id);
        match &self.gathered.own_secret {
            None => Ok(Went::Gone),
            Some(secret) if !secret.is_ours => {
                Ok(Went::Left(format!("Secret `{name}` was not made by Millrace")))
            }
            Some(secret) => {
                let key = ObjectKey::new(Kind::Secret, self.gathered.id.namespace(), &name);
                let steps = vec![Step::Delete { key, uid: secret.uid.clone() }];
                self.carry_out(Plan { steps, ..Plan::default() }).await
            }
        }
    }

    async fn carry_out(&self, plan: Plan) -> Result<Went, ReconcileError> {
        match apply::carry_out(self.context, &plan).await {
            Ok(_) => Ok(Went::Gone),
            Err(ApplyError::Backend { source, .. }) if source.reason == reason::OWNED_BY_ANOTHER => {
                Ok(Went::Left(source.message))
            }
            Err(ApplyError::Backend { source, .. }) => Ok(Went::Failed(source)),
            Err(error @ ApplyError::Object { .. }) => Err(error.into()),
        }
    }

    /// The App's own back end, or `None` for the installation's. Its account may be gone before it.
    fn connection(&self, what: What) -> Result<Option<Connection>, BackendError> {
        let stored = self.gathered.object.data["spec"]["connections"].clone();
        let connections: Option<Connections> = serde_json::from_value(stored).unwrap_or_default();
        let (kafka, clickhouse) = connections.map(|c| (c.kafka, c.clickhouse)).unwrap_or_default();
        let named = match what {
            What::Topics => kafka,
            What::Database => clickhouse,
            What::Secret => None,
        };
        let Some(named) = named else { return Ok(None) };
        let secrets: &BTreeMap<String, Secret> = &self.gathered.secrets;
        validate::own_connection(secrets, &named).map(Some).ok_or_else(|| BackendError {
            reason: reason::SECRET_UNUSABLE,
            message: format!(
                "Secret `{}` with the account for `{}` is gone or not to be used; put it back",
                named.credentials_ref.name, named.endpoint
            ),
            retryable: true,
        })
    }
}
