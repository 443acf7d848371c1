//! The API server in, what is there out: Revisions of the namespace, which are watched, and one Secret, which is read by
//! its name. Never stops: what cannot be reached is tried again, and meanwhile what was seen last stands.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject};
use kube::client::{ClientBuilder, DynBody};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use millrace_crds::labels::RESOLVED;
use millrace_crds::resolved::Role;
use millrace_crds::revision::Revision;
use tokio::sync::{Notify, watch};
use tower::util::MapResponseLayer;

use super::choose::Offers;
use super::offer::{self, Offer, Place};
use super::secrets::{Secrets, SecretsError};
use crate::freshness::Freshness;
use crate::telemetry;

/// Longest wait for the Secret in one question.
const SECRET_MAX: Duration = Duration::from_secs(10);
/// First pause before the Secret is read again; each one after it is twice as long.
const SECRET_PAUSE: Duration = Duration::from_millis(250);

/// What was seen so far.
#[derive(Clone, Default)]
pub struct World {
    /// Revisions for this place; `None` before the first complete list.
    pub offers: Option<Offers>,
    /// The resolved Secret, as the last one that could be read.
    pub secrets: Option<Secrets>,
}

/// What is followed, and for whom.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Whose Revisions.
    pub place: Place,
    /// Name of the resolved Secret.
    pub secret: String,
    /// Whose Secret it is.
    pub role: Role,
    /// How it keeps in touch.
    pub touch: Touch,
}

/// How to keep in touch with the API server.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    /// How long one request to watch lasts, in seconds: an answer to the next one proves that the server is there.
    pub watch_s: u32,
    /// From an answer of the server until everything it had to tell counts as known.
    pub settle: Duration,
    /// When to read the Secret again if no Revision came that may need it.
    pub secret_again: Duration,
}

impl Default for Touch {
    /// Each twice within the minute: after it a configuration counts as out of date, and before it a changed Secret is to
    /// be in use.
    fn default() -> Self {
        Self { watch_s: 25, settle: Duration::from_secs(1), secret_again: Duration::from_secs(20) }
    }
}

/// Clients of the API server: the Secret has one of its own, so that an answer about it does not count.
pub struct Clients {
    /// For Revisions.
    pub revisions: Client,
    /// For the Secret.
    pub secret: Client,
}

impl Clients {
    /// `freshness` hears of every answer to a question for Revisions.
    pub fn new(config: kube::Config, freshness: &Freshness, touch: Touch) -> Result<Self, kube::Error> {
        let freshness = freshness.clone();
        let note = move |response: http::Response<Box<DynBody>>| {
            if response.status().is_success() {
                let freshness = freshness.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(touch.settle).await;
                    freshness.heard();
                });
            }
            response
        };
        let builder = ClientBuilder::try_from(config.clone())?;
        let revisions = builder.with_layer(&MapResponseLayer::new(note)).build();
        Ok(Self { revisions, secret: Client::try_from(config)? })
    }
}

/// Follows until it is dropped.
pub async fn follow(clients: Clients, watched: Watched, world: watch::Sender<World>) {
    let changed = Notify::new();
    tokio::join!(
        follow_revisions(&clients.revisions, &watched, &changed, &world),
        follow_secret(&clients.secret, &watched, &changed, &world)
    );
}

async fn follow_revisions(
    client: &Client,
    watched: &Watched,
    changed: &Notify,
    world: &watch::Sender<World>,
) {
    let kind = ApiResource::erase::<Revision>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &watched.place.namespace, &kind);
    let config = watcher::Config::default().timeout(watched.touch.watch_s);
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut listed = Offers::new();
    let mut trouble = Trouble::new("Revisions");
    let change = |change: &mut dyn FnMut(&mut Offers)| {
        world.send_modify(|world| change(world.offers.get_or_insert_default()));
        changed.notify_one();
    };
    while let Some(event) = events.next().await {
        match trouble.note(event) {
            None => {}
            Some(Event::Init) => listed.clear(),
            Some(Event::InitApply(object)) => take(&object, watched, &mut listed),
            Some(Event::InitDone) => change(&mut |offers| *offers = std::mem::take(&mut listed)),
            Some(Event::Apply(object)) => change(&mut |offers| take(&object, watched, offers)),
            Some(Event::Delete(object)) => change(&mut |offers| {
                offers.remove(object.metadata.name.as_deref().unwrap_or_default());
            }),
        }
    }
}

/// Puts a Revision among the others, or takes it out if it is not for us any more.
fn take(object: &DynamicObject, watched: &Watched, offers: &mut Offers) {
    let name = object.metadata.name.clone().unwrap_or_default();
    match offer::read(object, &watched.place) {
        Ok(Some(offer)) => {
            offers.insert(name, Arc::<Offer>::new(offer));
        }
        Ok(None) => {
            offers.remove(&name);
        }
        Err(error) => {
            offers.remove(&name);
            tracing::error!(revision = name, error = telemetry::chain(&error), "a Revision is passed over");
        }
    }
}

/// Reads the Secret again and again: `get` is the one verb that RBAC grants for a name however the request is put, and
/// what the operator grants to a pod it has to hold itself, for all Secrets. A Revision comes at about the time of the
/// keys it needs, so the pauses begin anew, short, with every change of Revisions.
async fn follow_secret(client: &Client, watched: &Watched, revisions: &Notify, world: &watch::Sender<World>) {
    let api: Api<Secret> = Api::namespaced(client.clone(), &watched.place.namespace);
    let mut trouble = Trouble::new("the resolved Secret");
    let (mut known, mut pause) = (None, SECRET_PAUSE);
    loop {
        let answer = tokio::time::timeout(SECRET_MAX, api.get(&watched.secret)).await;
        let late = |_elapsed| Err(kube::Error::Service("no answer in time".into()));
        if let Some(object) = trouble.note(answer.unwrap_or_else(late))
            && (known.is_none() || known != object.metadata.resource_version)
        {
            known.clone_from(&object.metadata.resource_version);
            take_secret(&object, watched, world);
        }
        pause = match tokio::time::timeout(pause, revisions.notified()).await {
            Ok(()) => SECRET_PAUSE,
            Err(_elapsed) => (pause * 2).min(watched.touch.secret_again),
        };
    }
}

fn take_secret(object: &Secret, watched: &Watched, world: &watch::Sender<World>) {
    match parse(object, watched.role) {
        Ok(secrets) => world.send_modify(|world| world.secrets = Some(secrets)),
        Err(error) => {
            let secret = &watched.secret;
            tracing::error!(secret, "{error}; what was read before stays in use");
        }
    }
}

fn parse(object: &Secret, role: Role) -> Result<Secrets, SecretsError> {
    let value = object.data.as_ref().and_then(|data: &BTreeMap<_, _>| data.get(RESOLVED));
    Secrets::parse(&value.ok_or(SecretsError::NoKey)?.0, role)
}

/// Says once when questions begin to fail, and once when it works again.
struct Trouble {
    what: &'static str,
    lasts: bool,
}

impl Trouble {
    fn new(what: &'static str) -> Self {
        Self { what, lasts: false }
    }

    fn note<T, E: std::error::Error + 'static>(&mut self, event: Result<T, E>) -> Option<T> {
        match event {
            Ok(event) => {
                if std::mem::take(&mut self.lasts) {
                    tracing::info!("the API server tells of {} again", self.what);
                }
                Some(event)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.lasts, true) {
                    let error = telemetry::chain(&error);
                    tracing::warn!(
                        error,
                        "the API server does not tell of {}; the last known stays",
                        self.what
                    );
                }
                None
            }
        }
    }
}
