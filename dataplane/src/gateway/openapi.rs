//! The table of routes in, the OpenAPI document out. Security and errors are added from the table, so that the
//! document cannot promise what the guard does not keep.

use std::collections::BTreeMap;

use bytes::Bytes;
use utoipa::ToSchema;
use utoipa::openapi::path::{Operation, PathItem, PathsBuilder};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ComponentsBuilder, ContentBuilder, HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder, Ref,
    RefOr, ResponseBuilder, Schema,
};

use super::problem::{Kind, MEDIA_TYPE, ProblemBody};
use super::route::{Requirement, Route, permission_text, table};
use super::{analytics, apps, dashboard, ledger, system};

/// Name of the security scheme.
const BEARER: &str = "bearer";
/// Where references to schemas point.
const PROBLEM_SCHEMA: &str = "#/components/schemas/Problem";

/// The document of everything in the table.
pub fn document() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Millrace gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Questions about the events of Apps. Errors are RFC 9457 problem details."));
    let mut paths = PathsBuilder::new();
    for route in table() {
        let path = route.path.clone();
        paths = paths.path(path, PathItem::new(to_http_method(&route), operation(route)));
    }
    OpenApiBuilder::new().info(info.build()).paths(paths.build()).components(Some(components())).build()
}

/// The document as it is served.
pub fn to_bytes(document: &OpenApi) -> Bytes {
    Bytes::from(serde_json::to_vec(document).expect("the document holds only text keys"))
}

/// All ways a route can fail, by status.
pub fn problems(route: &Route) -> BTreeMap<u16, Vec<Kind>> {
    let implied: &[Kind] = match route.requirement {
        Requirement::Public => &[Kind::BodyNotAllowed, Kind::UrlTooLong],
        Requirement::SignedIn => &[Kind::BodyNotAllowed, Kind::UrlTooLong, Kind::NotAuthenticated],
        Requirement::Permission(_) => {
            &[Kind::BodyNotAllowed, Kind::UrlTooLong, Kind::NotAuthenticated, Kind::NotPermitted]
        }
    };
    let mut by_status = BTreeMap::<u16, Vec<Kind>>::new();
    for kind in implied.iter().chain(route.problems) {
        by_status.entry(kind.status().as_u16()).or_default().push(*kind);
    }
    by_status
}

fn operation(route: Route) -> Operation {
    let problems = problems(&route);
    let Route { path, requirement, mut operation, .. } = route;
    operation.tags = Some(vec![tag(&path).to_owned()]);
    operation.security = match requirement {
        Requirement::Public => None,
        Requirement::SignedIn => Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]),
        Requirement::Permission(permission) => {
            Some(vec![SecurityRequirement::new(BEARER, [permission_text(permission)])])
        }
    };
    for (status, kinds) in problems {
        let titles: Vec<String> =
            kinds.iter().map(|kind| format!("{} (`{}`)", kind.title(), kind.code())).collect();
        let content = ContentBuilder::new().schema(Some(Ref::new(PROBLEM_SCHEMA))).build();
        let response = ResponseBuilder::new().description(titles.join("; ")).content(MEDIA_TYPE, content);
        operation.responses.responses.insert(status.to_string(), RefOr::T(response.build()));
    }
    operation
}

/// `/api/<tag>/…`; what lies outside belongs to the system.
fn tag(path: &str) -> &str {
    path.strip_prefix("/api/").and_then(|rest| rest.split('/').next()).unwrap_or("system")
}

fn to_http_method(route: &Route) -> HttpMethod {
    match route.method.as_str() {
        "GET" => HttpMethod::Get,
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "DELETE" => HttpMethod::Delete,
        "OPTIONS" => HttpMethod::Options,
        "HEAD" => HttpMethod::Head,
        "PATCH" => HttpMethod::Patch,
        other => unreachable!("no operation is declared with the method {other}"),
    }
}

fn components() -> Components {
    let mut schemas = Vec::new();
    add::<ProblemBody<'_>>(&mut schemas);
    add::<system::HealthAnswer>(&mut schemas);
    add::<dashboard::StatsAnswer>(&mut schemas);
    add::<analytics::EventsOverTimeAnswer>(&mut schemas);
    add::<analytics::RetentionAnswer>(&mut schemas);
    add::<apps::AppsAnswer>(&mut schemas);
    add::<ledger::LedgerAnswer>(&mut schemas);
    let token = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The bootstrap admin token. A route's scopes are the permissions it needs."));
    ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme(BEARER, SecurityScheme::Http(token.build()))
        .build()
}

/// A schema and all it refers to.
fn add<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}
