//! The API server in, what is there out: Revisions of the namespace and one Secret, by name. Never stops: what cannot
//! be reached is tried again, and meanwhile what was seen last stands.

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
use tokio::sync::watch;
use tower::util::MapResponseLayer;

use super::choose::Offers;
use super::offer::{self, Offer, Place};
use super::secrets::{Secrets, SecretsError};
use crate::freshness::Freshness;
use crate::telemetry;

/// What was seen so far.
#[derive(Clone, Default)]
pub struct World {
    /// Revisions for this place; `None` before the first complete list.
    pub offers: Option<Offers>,
    /// The resolved Secret, as the last one that could be read.
    pub secrets: Option<Secrets>,
}

/// What is watched, and for whom.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Whose Revisions.
    pub place: Place,
    /// Name of the resolved Secret.
    pub secret: String,
    /// Whose Secret it is.
    pub role: Role,
    /// How the watch keeps in touch.
    pub touch: Touch,
}

/// How the watch keeps in touch with the API server.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    /// How long one request to watch lasts, in seconds: an answer to the next one proves that the server is there.
    pub watch_s: u32,
    /// From an answer of the server until everything it had to tell counts as known.
    pub settle: Duration,
}

impl Default for Touch {
    /// Twice within the minute after which a configuration counts as out of date.
    fn default() -> Self {
        Self { watch_s: 25, settle: Duration::from_secs(1) }
    }
}

/// Clients of the API server: one per watch, so that an answer to the other one does not count.
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

/// Watches until it is dropped.
pub async fn follow(clients: Clients, watched: Watched, world: watch::Sender<World>) {
    tokio::join!(
        follow_revisions(&clients.revisions, &watched, &world),
        follow_secret(&clients.secret, &watched, &world)
    );
}

async fn follow_revisions(client: &Client, watched: &Watched, world: &watch::Sender<World>) {
    let kind = ApiResource::erase::<Revision>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &watched.place.namespace, &kind);
    let config = watcher::Config::default().timeout(watched.touch.watch_s);
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut listed = Offers::new();
    let mut trouble = Trouble::new("Revisions");
    while let Some(event) = events.next().await {
        match trouble.note(event) {
            None => {}
            Some(Event::Init) => listed.clear(),
            Some(Event::InitApply(object)) => take(&object, watched, &mut listed),
            Some(Event::InitDone) => {
                let offers = std::mem::take(&mut listed);
                world.send_modify(|world| world.offers = Some(offers));
            }
            Some(Event::Apply(object)) => world.send_modify(|world| {
                take(&object, watched, world.offers.get_or_insert_default());
            }),
            Some(Event::Delete(object)) => world.send_modify(|world| {
                let offers = world.offers.get_or_insert_default();
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

async fn follow_secret(client: &Client, watched: &Watched, world: &watch::Sender<World>) {
    let api: Api<Secret> = Api::namespaced(client.clone(), &watched.place.namespace);
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={}", watched.secret))
        .timeout(watched.touch.watch_s);
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut trouble = Trouble::new("the resolved Secret");
    while let Some(event) = events.next().await {
        match trouble.note(event) {
            None | Some(Event::Init | Event::InitDone) => {}
            Some(Event::InitApply(object) | Event::Apply(object)) => match parse(&object, watched.role) {
                Ok(secrets) => world.send_modify(|world| world.secrets = Some(secrets)),
                Err(error) => {
                    let secret = &watched.secret;
                    tracing::error!(secret, "{error}; what was read before stays in use");
                }
            },
            Some(Event::Delete(_)) => {
                let secret = &watched.secret;
                tracing::warn!(secret, "the resolved Secret is gone; what was read before stays in use");
            }
        }
    }
}

fn parse(object: &Secret, role: Role) -> Result<Secrets, SecretsError> {
    let value = object.data.as_ref().and_then(|data: &BTreeMap<_, _>| data.get(RESOLVED));
    Secrets::parse(&value.ok_or(SecretsError::NoKey)?.0, role)
}

/// Says once when a watch begins to fail, and once when it works again.
struct Trouble {
    what: &'static str,
    lasts: bool,
}

impl Trouble {
    fn new(what: &'static str) -> Self {
        Self { what, lasts: false }
    }

    fn note<T>(&mut self, event: Result<T, watcher::Error>) -> Option<T> {
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
