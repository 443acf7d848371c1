//! A decompressed request body in, admitted events or reasons of refusal out, one answer per event.
//!
//! Pure: the clock's reading, the client's address and the source of random ids are arguments, and nothing is
//! read or written. What comes out is anonymised as the App rules; no later stage sees what the client sent.
//! The steps, in order: `shape` finds the events and their members in one scan (`json`, `text`,
//! `number`); `event` checks each member (`fields`, `moment`, `paths`), passes personal values through
//! `privacy` and `rewrite`, and decides the `identity` from what is left (`canonical`).

use std::net::IpAddr;

use jiff::Timestamp;
use uuid::Uuid;

use crate::config::App;
use crate::record::Event;

mod canonical;
mod event;
mod fields;
mod identity;
mod json;
mod moment;
mod number;
mod paths;
mod privacy;
mod rejection;
mod rewrite;
mod shape;
mod suggest;
mod text;

pub use privacy::{OpenError, hash_user_id, open_device_id, open_field, stored_anonymous_id, stored_user_id};
pub use rejection::{BodyRejection, Code, Rejection};

/// What is known about the request besides its body.
pub struct RequestContext<'a> {
    /// Our clock when the request came in.
    pub received_at: Timestamp,
    /// The address of the client, as far as the listener can tell.
    pub client_ip: Option<IpAddr>,
    /// The `User-Agent` header.
    pub user_agent: Option<&'a str>,
    /// Id of the request.
    pub trace_id: &'a str,
    /// Random ids, for events that have neither an id nor a timestamp of their own.
    pub ids: &'a mut dyn FnMut() -> Uuid,
}

/// An event that may be written.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Anonymised, with its final id and time.
    pub event: Event,
}

/// Decides on one event, or on each event of `{"batch": […], "sent_at"?}`, in order.
///
/// `body` is decompressed and capped by the caller; the work is linear in its length and the memory in that of
/// the largest allowed batch.
pub fn admit_body(
    app: &App,
    body: &[u8],
    context: &mut RequestContext<'_>,
) -> Result<Vec<Result<Admitted, Rejection>>, BodyRejection> {
    let text =
        std::str::from_utf8(body).map_err(|error| BodyRejection::NotUtf8 { offset: error.valid_up_to() })?;
    let events_max = usize::try_from(app.config.ingest.max_batch_events).unwrap_or(usize::MAX);
    let body = shape::read(text, events_max)?;
    let sent_at =
        body.sent_at.map(|value| moment::parse(value).ok_or(BodyRejection::InvalidSentAt)).transpose()?;
    let mut admission = event::Admission {
        anonymiser: privacy::Anonymiser::new(app),
        received_at: context.received_at.as_millisecond(),
        sent_at,
        client_ip: context.client_ip,
        user_agent: context.user_agent,
        trace_id: context.trace_id,
    };
    let decide = |sketch: Option<shape::Sketch<'_>>| match sketch {
        Some(sketch) => admission.admit(&sketch, context.ids),
        None => Err(rejection::Refusal::not_an_object()),
    };
    let decisions = body.events.into_iter().map(decide).enumerate();
    Ok(decisions
        .map(|(index, decision)| {
            decision.map(|event| Admitted { event }).map_err(|refusal| refusal.at(index))
        })
        .collect())
}

#[cfg(test)]
pub(crate) mod tests;
