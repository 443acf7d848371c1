//! A request and its route's requirement in, a [`Caller`] or a refusal out. Runs before every handler.
//! What is not in the table as public needs a known token before it even learns that it does not exist.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use millrace_crds::config::Permission;

use super::Shared;
use super::problem::{Kind, Problem};
use super::route::{Requirement, permission_text};
use crate::access::{Grant, Principal, decide, holds};
use crate::config::{App, Config};
use crate::secret::Secret;

/// Most Apps listed when a name is ambiguous.
const CANDIDATES_MAX: usize = 20;

/// Who a bearer token stands for.
///
/// Guarantee of an implementation: how long it takes says nothing about how much of a token is right.
pub trait Tokens: Send + Sync {
    /// The principal of a token that was issued and is still good.
    fn principal(&self, token: &[u8]) -> Option<Principal>;
}

/// The one token there is before any account: the bootstrap admin's.
pub struct BootstrapToken(ArcSwapOption<Secret<String>>);

impl BootstrapToken {
    /// Accepts exactly this token. An empty one is never accepted.
    pub fn new(token: Secret<String>) -> Self {
        Self(ArcSwapOption::from_pointee(token))
    }

    /// Accepts nothing until a token is known.
    pub fn unknown() -> Self {
        Self(ArcSwapOption::empty())
    }

    /// Accepts this one from now on, and no other.
    pub fn replace(&self, token: Option<Secret<String>>) {
        self.0.store(token.map(Arc::new));
    }
}

impl Tokens for BootstrapToken {
    fn principal(&self, token: &[u8]) -> Option<Principal> {
        let is_it = self.0.load().as_ref().is_some_and(|known| known.matches(token));
        (!token.is_empty() && is_it).then_some(Principal::BootstrapAdmin)
    }
}

/// Who presents these headers. The refusal says which place was looked in, never what was found there.
pub fn authenticate(tokens: &dyn Tokens, headers: &HeaderMap) -> Result<Principal, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let refuse = |detail: &str, challenge: &'static str| {
        Problem::new(Kind::NotAuthenticated, detail)
            .fix("send `Authorization: Bearer <token>`; the bootstrap admin token was shown at the first start")
            .challenge(HeaderValue::from_static(challenge))
    };
    // RFC 6750: no error code when nothing was presented.
    let missing = |detail| refuse(detail, "Bearer realm=\"millrace\"");
    let invalid = |detail| refuse(detail, "Bearer realm=\"millrace\", error=\"invalid_token\"");
    let value = match (values.next(), values.next()) {
        (None, _) => return Err(missing("there is no `Authorization` header")),
        (Some(value), None) => value.as_bytes(),
        (Some(_), Some(_)) => return Err(invalid("there is more than one `Authorization` header")),
    };
    let (scheme, token) = value.split_at_checked("Bearer ".len()).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err(missing("the `Authorization` header is not of the scheme `Bearer`"));
    }
    tokens
        .principal(token.trim_ascii())
        .ok_or_else(|| invalid("the token in the `Authorization` header is not known"))
}

/// What stands before one route.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) gateway: Shared,
    pub(super) requirement: Requirement,
}

/// Lets a request through to its handler, as its route requires.
pub(super) async fn check(
    State(guard): State<Guard>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Guard { gateway, requirement } = guard;
    match requirement {
        Requirement::Public => {}
        Requirement::SignedIn => {
            authenticate(gateway.tokens.as_ref(), request.headers())?;
        }
        Requirement::Permission(permission) => {
            let principal = authenticate(gateway.tokens.as_ref(), request.headers())?;
            let caller = Caller::admit(principal, permission, &gateway.config.load())?;
            request.extensions_mut().insert(Arc::new(caller));
        }
    }
    Ok(next.run(request).await)
}

/// Answers a path that is not in the table: to who is known, that it is not there.
pub(super) async fn unknown_path(
    State(gateway): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    authenticate(gateway.tokens.as_ref(), request.headers())?;
    Err(Problem::new(Kind::UnknownPath, "this path is not served").fix("see `/docs` for those that are"))
}

/// Answers a method that is not in the table, likewise.
pub(super) async fn unknown_method(
    State(gateway): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    authenticate(gateway.tokens.as_ref(), request.headers())?;
    let detail = format!("this path does not take {}", request.method());
    Err(Problem::new(Kind::MethodNotAllowed, detail).fix("the header `Allow` names the methods it takes"))
}

/// Someone who holds the permission of the route that was asked for. Only [`check`] makes one, so a handler
/// that takes it has been authorised; on which Apps, it still has to ask.
#[derive(Clone)]
pub struct Caller {
    principal: Principal,
    permission: Permission,
}

impl Caller {
    fn admit(principal: Principal, permission: Permission, config: &Config) -> Result<Self, Problem> {
        let everywhere = matches!(principal, Principal::BootstrapAdmin);
        let somewhere = || config.access_rules().values().any(|rules| holds(rules, &principal, permission));
        if everywhere || somewhere() {
            return Ok(Self { principal, permission });
        }
        let permission = permission_text(permission);
        Err(Problem::new(Kind::NotPermitted, format!("this needs the permission `{permission}`"))
            .fix(format!("ask for a role with `{permission}` in a RolePolicy")))
    }

    /// The Apps the caller has the route's permission on, with the proof of it.
    pub fn apps<'c>(&self, config: &'c Config) -> impl Iterator<Item = (Grant, &'c Arc<App>)> {
        config.apps().iter().filter_map(|(id, app)| {
            let rules = config.access(id.namespace()).map(AsRef::as_ref);
            let grant = decide(rules, &self.principal, self.permission, id).grant()?;
            Some((grant, app))
        })
    }

    /// The App meant by `name` or `namespace.name`, if the caller may use it here.
    ///
    /// One that the caller may not use answers like one that does not exist.
    pub fn app<'c>(&self, config: &'c Config, asked: &str) -> Result<(Grant, &'c Arc<App>), Problem> {
        let mut meant: Vec<_> = self.apps(config).filter(|(grant, _)| is_meant(grant, asked)).collect();
        match (meant.pop(), meant.is_empty()) {
            (Some(found), true) => Ok(found),
            (None, _) => Err(Problem::new(
                Kind::UnknownApp,
                format!("this token has access to no App `{}`", shorten(asked)),
            )
            .fix("`GET /api/apps` lists the Apps it has access to")),
            (Some(last), false) => {
                meant.push(last);
                let names = meant.iter().map(|(grant, _)| dotted(grant)).take(CANDIDATES_MAX);
                let names = names.collect::<Vec<_>>().join("`, `");
                Err(Problem::new(Kind::AmbiguousApp, "more than one namespace has an App of this name")
                    .fix(format!("name one of `{names}`")))
            }
        }
    }
}

fn is_meant(grant: &Grant, asked: &str) -> bool {
    match asked.split_once('.') {
        Some((namespace, name)) => grant.app().namespace() == namespace && grant.app().name() == name,
        None => grant.app().name() == asked,
    }
}

/// An App as URLs name it where one process serves several namespaces.
fn dotted(grant: &Grant) -> String {
    format!("{}.{}", grant.app().namespace(), grant.app().name())
}

/// No App has a longer name, with its namespace.
fn shorten(asked: &str) -> String {
    asked.chars().take(104).collect()
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        match parts.extensions.get::<Arc<Self>>() {
            Some(caller) => Ok(Self::clone(caller)),
            None => Err(Problem::internal(NoCaller { path: parts.uri.path().to_owned() })),
        }
    }
}

/// A handler asks for a caller where the table requires none.
#[derive(Debug, thiserror::Error)]
#[error("the handler of `{path}` takes a caller, and its route requires no permission")]
struct NoCaller {
    path: String,
}
