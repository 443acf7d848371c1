//! `/api/apps…`: the Apps a caller may see, as they are configured. Never a key, a digest or a secret.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use millrace_crds::compile::revision_hash;
use millrace_crds::config::{AppConfig, OnUndeclared, PropertyType};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::guard::Caller;
use super::problem::Problem;
use super::request::AppName;

/// The operation [`list`].
pub struct List;

/// The Apps of a caller.
#[derive(Serialize, ToSchema)]
pub struct AppsAnswer {
    /// Sorted by id.
    apps: Vec<AppView>,
}

/// An App as it runs.
#[derive(Serialize, ToSchema)]
pub struct AppView {
    /// `<namespace>/<name>`.
    #[schema(example = "default/shop")]
    id: String,
    /// The namespace.
    #[schema(example = "default")]
    namespace: String,
    /// The name; what `?app=` takes where no other namespace has one of that name.
    #[schema(example = "shop")]
    name: String,
    /// Hash of the configuration in force.
    revision: String,
    /// Declared event types, each with the types of its properties.
    #[schema(value_type = BTreeMap<String, BTreeMap<String, String>>)]
    declared_events: BTreeMap<String, BTreeMap<String, PropertyType>>,
    /// What happens to an event type that is not declared: `Keep` or `DeadLetter`.
    #[schema(value_type = String, example = "Keep")]
    on_undeclared: OnUndeclared,
    /// Event types that count as a conversion.
    conversions: BTreeSet<String>,
    /// Age at which events are removed.
    #[schema(example = 63_072_000)]
    retention_seconds: u64,
    /// How many write keys it has.
    #[schema(example = 1)]
    write_keys: usize,
    /// How many Integrations it has.
    #[schema(example = 0)]
    integrations: usize,
}

impl AppView {
    fn new(config: &AppConfig) -> Self {
        let declared = config.events.declared.iter().map(|(name, event)| {
            let properties = event.properties.iter().map(|(name, property)| (name.clone(), property.kind));
            (name.clone(), properties.collect())
        });
        Self {
            id: config.app.to_string(),
            namespace: config.app.namespace().to_owned(),
            name: config.app.name().to_owned(),
            revision: revision_hash(config),
            declared_events: declared.collect(),
            on_undeclared: config.events.on_undeclared,
            conversions: config.events.conversions.clone(),
            retention_seconds: config.storage.retention_seconds,
            write_keys: config.ingest.write_keys.len(),
            integrations: config.integrations.len(),
        }
    }
}

/// The Apps this token has access to.
#[utoipa::path(
    get,
    impl_for = List,
    operation_id = "list_apps",
    path = "/api/apps",
    responses((status = 200, description = "The Apps.", body = AppsAnswer)),
)]
pub(super) async fn list(State(gateway): State<Shared>, caller: Caller) -> Json<AppsAnswer> {
    let config = gateway.config.load_full();
    Json(AppsAnswer { apps: caller.apps(&config).map(|(_, app)| AppView::new(&app.config)).collect() })
}

/// The operation [`get`].
pub struct Get;

/// One App.
#[utoipa::path(
    get,
    impl_for = Get,
    operation_id = "read_app",
    path = "/api/apps/{app}",
    params(("app" = String, Path, description = "Its name, or `<namespace>.<name>`.", example = "shop")),
    responses((status = 200, description = "The App.", body = AppView)),
)]
pub(super) async fn get(
    State(gateway): State<Shared>,
    caller: Caller,
    AppName(name): AppName,
) -> Result<Json<AppView>, Problem> {
    let config = gateway.config.load_full();
    let (_, app) = caller.app(&config, &name)?;
    Ok(Json(AppView::new(&app.config)))
}
