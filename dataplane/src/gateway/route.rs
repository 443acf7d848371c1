//! The table of everything the gateway serves. From it come the router, the OpenAPI document and the access
//! table; a route without a requirement cannot be written down.

use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use millrace_crds::config::Permission::{self, AnalyticsRead, AppsRead, DashboardRead};
use utoipa::openapi::HttpMethod;
use utoipa::openapi::path::Operation;

use super::problem::Kind;
use super::{Shared, analytics, apps, dashboard, ledger, system};

/// What a caller must bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing.
    Public,
    /// A known token.
    SignedIn,
    /// A known token, and this permission; on which Apps is decided when one is named.
    Permission(Permission),
}

impl Requirement {
    /// As it is written in the access table and the OpenAPI document.
    pub fn text(self) -> String {
        match self {
            Self::Public => "public".to_owned(),
            Self::SignedIn => "signed in".to_owned(),
            Self::Permission(permission) => permission_text(permission),
        }
    }
}

/// A permission as resources write it, e.g. `dashboard:read`.
pub fn permission_text(permission: Permission) -> String {
    match serde_json::to_value(permission) {
        Ok(serde_json::Value::String(text)) => text,
        other => unreachable!("a permission serialises as text, not {other:?}"),
    }
}

/// One thing the gateway serves.
pub struct Route {
    /// The method; a GET also answers HEAD.
    pub method: Method,
    /// The path, with `{parameters}`.
    pub path: String,
    /// What a caller must bring.
    pub requirement: Requirement,
    /// How it can fail besides what its requirement and the limits on requests imply.
    pub problems: &'static [Kind],
    /// Its part of the OpenAPI document.
    pub operation: Operation,
    /// What answers.
    pub handler: MethodRouter<Shared>,
}

/// Ways to fail where an App is named.
const APP: &[Kind] = &[Kind::InvalidParameter, Kind::AmbiguousApp, Kind::UnknownApp];
/// Ways to fail where the store is asked about an App.
const QUESTION: &[Kind] = &[
    Kind::InvalidParameter,
    Kind::AmbiguousApp,
    Kind::UnknownApp,
    Kind::Internal,
    Kind::StoreUnavailable,
    Kind::Overloaded,
    Kind::QueryTimedOut,
];

/// Everything the gateway serves.
pub fn table() -> Vec<Route> {
    let public = Requirement::Public;
    let needs = Requirement::Permission;
    vec![
        route(system::Health, public, &[], system::health),
        route(system::Document, public, &[], system::document),
        route(system::Docs, public, &[], system::docs),
        route(dashboard::Stats, needs(DashboardRead), QUESTION, dashboard::stats),
        route(analytics::EventsOverTime, needs(AnalyticsRead), QUESTION, analytics::events_over_time),
        route(analytics::Retention, needs(AnalyticsRead), QUESTION, analytics::retention),
        route(apps::List, needs(AppsRead), &[], apps::list),
        route(apps::Get, needs(AppsRead), APP, apps::get),
        route(ledger::Read, needs(AppsRead), QUESTION, ledger::read),
    ]
}

/// Who needs what, as a text table with a line per route: the committed `dataplane/tests/access.txt`.
pub fn access_table() -> String {
    let line = |method: &str, path: &str, requirement: &str| format!("{method:<8}{path:<34}{requirement}\n");
    let mut text = line("method", "path", "requirement");
    for route in table() {
        text += &line(route.method.as_str(), &route.path, &route.requirement.text());
    }
    text
}

/// Method, path and documentation come from the operation, so that they cannot differ from what is served.
fn route<O, H, T>(_: O, requirement: Requirement, problems: &'static [Kind], handler: H) -> Route
where
    O: utoipa::Path,
    H: Handler<T, Shared>,
    T: 'static,
{
    let method = match O::methods().as_slice() {
        [method] => to_method(method),
        others => unreachable!("an operation has one method, `{}` has {}", O::path(), others.len()),
    };
    let filter = MethodFilter::try_from(method.clone()).expect("the document's methods are all routable");
    let handler = on(filter, handler);
    Route { method, path: O::path(), requirement, problems, operation: O::operation(), handler }
}

fn to_method(method: &HttpMethod) -> Method {
    match method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
        HttpMethod::Delete => Method::DELETE,
        HttpMethod::Options => Method::OPTIONS,
        HttpMethod::Head => Method::HEAD,
        HttpMethod::Patch => Method::PATCH,
        HttpMethod::Trace => Method::TRACE,
    }
}
