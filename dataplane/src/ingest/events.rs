//! `POST /v1/events`: who sends, read, decide, append, answer. Each step may end the request.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use hyper::body::Incoming;
use millrace_crds::config::Dialect;
use tracing::error;

use super::accept::{Server, Worker};
use super::answer::{self, Answer, Problem};
use super::append::{self, Destination};
use super::body::{self, ReadMax, Reservation};
use super::coding;
use super::decide::{self, DecideError, Job, Outcome, Sender};
use super::key::{self, KeyError};
use super::origin;
use super::route::Asked;
use super::tenant::Tenant;
use crate::failpoint;

/// Longest user agent that is kept: it is copied into every event of the request.
const USER_AGENT_BYTES_MAX: usize = 512;
/// App in the metrics of requests whose App is not known.
const UNKNOWN_APP: &str = "unknown";

/// Answers a request with events.
pub(super) async fn receive(worker: &Arc<Worker>, asked: &Asked, request: Request<Incoming>) -> Answer {
    let (head, mut body) = request.into_parts();
    let origin = head.headers.get(header::ORIGIN).map(copied);
    let (version, may_linger) = (head.version, lingers(&head));
    let (tenant, readable_by, taken) = match enter(&worker.server, &head.headers) {
        Entry::Open(tenant) => {
            let taken = take_in(worker, asked, &tenant, head, &mut body).await;
            (Some(tenant), origin, taken)
        }
        Entry::WrongOrigin(tenant) => (Some(tenant), None, Err(wrong_origin())),
        Entry::NoKey(error) => (None, origin, Err(error.into())),
    };
    let refused = taken.is_err();
    let mut answer = counted(&worker.server, asked, tenant, taken);
    let late = answer.response.status() == StatusCode::REQUEST_TIMEOUT;
    let headers = answer.response.headers_mut();
    origin::expose(headers, readable_by);
    if late && version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if refused && !late && may_linger {
        body::linger(body);
    }
    answer
}

/// Whether the request gets past its headers.
enum Entry {
    /// To this App.
    Open(Arc<Tenant>),
    /// The key is good, but not for the page that uses it. That page must not read the answer either.
    WrongOrigin(Arc<Tenant>),
    /// No App is known.
    NoKey(KeyError),
}

fn enter(server: &Server, headers: &HeaderMap) -> Entry {
    let presented = match key::presented(headers) {
        Ok(presented) => presented,
        Err(error) => return Entry::NoKey(error),
    };
    let config = server.ingest.config.load();
    let Some(key) = config.write_key(presented.key.expose()) else {
        let place = presented.place;
        // A client that is told 401 throws its events away; so it is told only what is surely true.
        let is_known = server.ingest.freshness.is_fresh();
        return Entry::NoKey(if is_known {
            KeyError::Unknown { place }
        } else {
            KeyError::Unverified { place }
        });
    };
    let tenant = server.tenants.of(&key.app, &config, &server.ingest.metrics);
    let listed = key.app.config.ingest.write_keys.get(&key.name);
    if listed.is_some_and(|key| origin::is_allowed(&key.allowed_origins, headers)) {
        Entry::Open(tenant)
    } else {
        Entry::WrongOrigin(tenant)
    }
}

/// Takes in the events of one request; `Ok` means that those called accepted are durable.
async fn take_in(
    worker: &Arc<Worker>,
    asked: &Asked,
    tenant: &Tenant,
    head: Parts,
    body: &mut Incoming,
) -> Result<Vec<Outcome>, Problem> {
    let server = &worker.server;
    let app = &tenant.app;
    if !app.config.ingest.dialects.contains(&Dialect::Native) {
        return Err(dialect_off());
    }
    let topic = tenant.topic.clone().ok_or_else(|| no_topic(tenant))?;
    let coding = coding::named(&head.headers)?;
    let user_agent = user_agent(&head.headers);
    // Its values are parts of what the connection read last, 64 KiB that would stay until the log has answered.
    drop(head);
    tenant.charge_request()?;
    let mut held = Reservation::new(&server.bodies);
    let max = ReadMax { bytes: decide::bytes_max(app), time: server.limits.body_max };
    let body = body::read(body, max, &mut held).await?;
    let entry = tenant.book.enter(failpoint::now());
    let job = Job {
        app: Arc::clone(app),
        coding: coding::of_body(coding, &body),
        body,
        sender: Sender {
            received_at: entry.at(),
            client: asked.client,
            user_agent,
            request_id: asked.id.clone(),
        },
        destination: Destination { topic, instance: server.ingest.instance.clone() },
        held,
    };
    let decided = decide::run(worker, job).await.map_err(|error| tell_bug(error, asked))?;
    server.ingest.metrics.ingest_body_bytes.with_label_values::<&str>(&[]).observe(decided.body_bytes as f64);
    tenant.charge_rest(decided.outcomes.len())?;
    Ok(append::append(server, decided, entry).await?)
}

/// A header's value with memory of its own.
fn copied(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

fn user_agent(headers: &HeaderMap) -> Option<String> {
    let text = std::str::from_utf8(headers.get(header::USER_AGENT)?.as_bytes()).ok()?;
    Some(text[..text.floor_char_boundary(USER_AGENT_BYTES_MAX)].to_owned())
}

/// Whether the rest of a refused body is still taken in. HTTP/2 ends a stream without harm to the answer, and a
/// client that waits to be told to go on sends nothing.
fn lingers(head: &Parts) -> bool {
    head.version < Version::HTTP_2 && !head.headers.contains_key(header::EXPECT)
}

fn counted(
    server: &Server,
    asked: &Asked,
    app: Option<Arc<Tenant>>,
    taken: Result<Vec<Outcome>, Problem>,
) -> Answer {
    let events = &server.ingest.metrics.ingest_events;
    let label = app.as_ref().map_or(UNKNOWN_APP, |tenant| tenant.label.as_str());
    let (response, accepted, rejected) = match taken {
        Ok(outcomes) => {
            let mut rejected = 0;
            for outcome in &outcomes {
                if let Outcome::Rejected { code, .. } = outcome {
                    events.with_label_values(&[label, *code]).inc();
                    rejected += 1;
                }
            }
            (answer::results(&outcomes, &asked.id), outcomes.len() - rejected, rejected)
        }
        Err(problem) => {
            // How many events it held nobody knows; it counts as one.
            events.with_label_values(&[label, problem.code()]).inc();
            (problem.into_response(&asked.id), 0, 0)
        }
    };
    if let Some(tenant) = &app {
        tenant.count_accepted(accepted);
    }
    Answer { response, app, accepted, rejected }
}

fn tell_bug(failure: DecideError, asked: &Asked) -> Problem {
    if matches!(failure, DecideError::Panicked) {
        error!(request.id = asked.id, "{failure}; this is a bug, the panic's own message stands above");
    }
    failure.into()
}

fn wrong_origin() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "origin_not_allowed",
        "the write key does not allow this `Origin`; add it to the key's `allowedOrigins`",
    )
}

fn dialect_off() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "dialect_not_accepted",
        "the App does not take native events; add `native` to its `ingest.dialects`",
    )
}

fn no_topic(tenant: &Tenant) -> Problem {
    error!(app = tenant.label, "the App's configuration names no topic for raw events");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the App's configuration is incomplete")
}
