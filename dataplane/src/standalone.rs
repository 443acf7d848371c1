//! A folder of resources in, all roles in one process out: ingest, worker and gateway, with ClickHouse as a supervised
//! child or as a server elsewhere. Puts parts together and takes them apart; decides nothing itself.
//!
//! Start: everything that can be wrong is found out before anything runs (data directory, resources, ports, engine
//! library), then the log, ingest, and last what needs ClickHouse. Stop: the other way round, ingest first.

pub mod announce;
pub mod build;
pub mod data_dir;
pub mod keys;
mod parts;
mod reload;
pub mod sources;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::secret::Secret;
use crate::settings::Standalone;
use announce::{Endpoints, Greeting};
use data_dir::DataDir;
use keys::{KeyRing, Made};
use parts::{Listeners, Parts};
use sources::Origin;

pub use parts::StandaloneError;

/// Runs until `stop` is cancelled.
pub async fn run(settings: Standalone, stop: CancellationToken) -> Result<(), StandaloneError> {
    let running = start(settings).await?;
    running.greet();
    let broken = running.parts.broken.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = broken.cancelled() => {}
    }
    tracing::info!("stopping: requests in flight are answered first");
    running.stop().await;
    if broken.is_cancelled() { Err(StandaloneError::Broken) } else { Ok(()) }
}

/// A started standalone process.
pub struct Running {
    /// Where it listens.
    pub endpoints: Endpoints,
    /// The bootstrap admin token.
    pub admin_token: Secret<String>,
    greeting: String,
    parts: Parts,
    data: DataDir,
}

/// Starts everything; events are accepted when it returns.
pub async fn start(settings: Standalone) -> Result<Running, StandaloneError> {
    let origin = Origin::parse(&settings.dir);
    let sources = origin.read().map_err(|source| StandaloneError::Sources { source })?;
    let data = DataDir::open(&settings.data_dir).map_err(|source| StandaloneError::DataDir { source })?;
    let keys_failed = |source| StandaloneError::Keys { source };
    let mut keys = KeyRing::open(&data.keys()).map_err(keys_failed)?;
    let built = build::build(&sources, &mut keys).map_err(|source| StandaloneError::Resources { source })?;
    let (admin_token, made) = keys::admin_token(&data.admin_token()).map_err(keys_failed)?;
    let generated = keys.generated(&built.generated).map_err(keys_failed)?;
    let apps = built.apps.iter().map(|app| app.app.clone()).collect();

    let listeners = Listeners::bind(&settings)?;
    let parts = Parts::start(parts::Plan {
        settings: &settings,
        data: &data,
        origin,
        keys,
        built,
        admin_token: admin_token.clone(),
        listeners,
        current: Arc::new(ArcSwap::from_pointee(Config::empty())),
    })
    .await?;

    let endpoints = parts.endpoints.clone();
    let greeting = Greeting {
        endpoints: &endpoints,
        data_dir: data.root(),
        apps,
        new_admin_token: (made == Made::Now).then_some(&admin_token),
        generated_keys: &generated,
    }
    .text();
    endpoints.write(&data.endpoints()).map_err(|source| StandaloneError::Endpoints { source })?;
    Ok(Running { endpoints, admin_token, greeting, parts, data })
}

impl Running {
    /// Tells a person where everything is.
    pub fn greet(&self) {
        // A closed standard output is no reason to stop serving.
        let _ = writeln!(std::io::stdout(), "{}", self.greeting);
    }

    /// Where data and keys are kept.
    pub fn data_dir(&self) -> &Path {
        self.data.root()
    }

    /// Stops in order: no new requests, then the workers, then the log and ClickHouse.
    pub async fn stop(self) {
        self.parts.stop().await;
    }
}
