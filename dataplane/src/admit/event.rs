//! One event as spans in, the event as it will be written out, or the first reason to refuse it.
//! Personal values pass the anonymiser here, before the identity is decided: nothing later sees the originals.

use std::borrow::Cow;
use std::net::IpAddr;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::canonical::canonical;
use super::fields::{self, Length, Place};
use super::identity;
use super::json::Fault;
use super::moment::{self, AHEAD_MS_MAX, OLDEST_MS};
use super::paths;
use super::privacy::Anonymiser;
use super::rejection::{Code, Refusal};
use super::rewrite;
use super::shape::{Field, Sketch};
use crate::record::{Attribution, Consent, Event};

/// Characters of an event type, an id, a session, a version: identifiers, not prose.
const NAME: Length = Length::Required(200);
/// Characters of descriptive texts that may be empty.
const LABEL: Length = Length::UpTo(200);
/// Characters of a campaign parameter: search terms and ad texts are longer than names.
const CAMPAIGN: Length = Length::UpTo(500);
/// Characters of a user agent, or bytes of one in the header; the longest in the field, of in-app browsers, stay
/// below half of it.
const USER_AGENT_MAX: usize = 1000;
/// Characters of an IPv6 address with an embedded IPv4 one.
const IP: Length = Length::Required(45);
/// Consent categories; frameworks define about a dozen.
const CONSENT_CATEGORIES_MAX: usize = 50;

const ATTRIBUTION: [Place; 5] = [
    Place { prefix: "attribution.", name: "campaign" },
    Place { prefix: "attribution.", name: "source" },
    Place { prefix: "attribution.", name: "medium" },
    Place { prefix: "attribution.", name: "content" },
    Place { prefix: "attribution.", name: "term" },
];
const CONSENT: [Place; 3] = [
    Place { prefix: "consent.", name: "categories" },
    Place { prefix: "consent.", name: "version" },
    Place { prefix: "consent.", name: "timestamp" },
];

/// What holds for every event of a request.
pub(crate) struct Admission<'a> {
    pub(crate) anonymiser: Anonymiser<'a>,
    pub(crate) received_at: i64,
    /// The client's clock at sending, where the batch says it.
    pub(crate) sent_at: Option<i64>,
    pub(crate) client_ip: Option<IpAddr>,
    pub(crate) user_agent: Option<&'a str>,
    pub(crate) trace_id: &'a str,
}

impl Admission<'_> {
    /// Decides on one event. `random_id` is asked only where the event offers no identity of its own.
    pub(crate) fn admit(
        &mut self,
        sketch: &Sketch<'_>,
        random_id: &mut dyn FnMut() -> Uuid,
    ) -> Result<Event, Refusal> {
        self.check(sketch)?;
        let event_type = required(sketch, Field::EventType)?;
        let consent = self.consent(sketch)?;
        let mut event = Event {
            event_id: Uuid::nil(),
            event_type: event_type.into_owned(),
            timestamp: self.timestamp(sketch)?,
            received_at: self.received_at,
            user_id: optional(sketch, Field::UserId, NAME)?.map(|id| self.anonymiser.user_id(&id)),
            anonymous_id: optional(sketch, Field::AnonymousId, NAME)?
                .map(|id| self.anonymiser.anonymous_id(&id)),
            device_id: optional(sketch, Field::DeviceId, NAME)?.map(|id| self.anonymiser.device_id(&id)),
            session_id: optional(sketch, Field::SessionId, LABEL)?.map(Cow::into_owned),
            platform: optional(sketch, Field::Platform, LABEL)?.map(|platform| platform.to_lowercase()),
            app_version: optional(sketch, Field::AppVersion, LABEL)?.map(Cow::into_owned),
            attribution: sketch.get(Field::Attribution).map(attribution).transpose()?,
            consent,
            ip: self.ip(sketch)?,
            user_agent: self.user_agent(sketch)?,
            trace_id: Some(self.trace_id.to_owned()).filter(|id| !id.is_empty()),
            event_data: self.event_data(sketch)?,
        };
        if event.user_id.is_none() && event.anonymous_id.is_none() && event.device_id.is_none() {
            let message = "one of `user_id`, `anonymous_id`, `device_id` is required";
            return Err(Refusal::new(Code::MissingField, message));
        }
        event.event_id = self.event_id(sketch, &event, random_id)?;
        Ok(event)
    }

    /// What is wrong with the object as such.
    fn check(&self, sketch: &Sketch<'_>) -> Result<(), Refusal> {
        let ingest = &self.anonymiser.app().config.ingest;
        if sketch.raw.len() as u64 > ingest.max_event_bytes {
            let message = format!(
                "the event is larger than {} bytes (`maxEventBytes` of the App)",
                ingest.max_event_bytes
            );
            return Err(Refusal::new(Code::EventTooLarge, message));
        }
        if let Some(fault) = sketch.fault {
            return Err(fault.into());
        }
        if let Some(name) = &sketch.unknown {
            return Err(Refusal::unknown(name));
        }
        let forwarded = [Field::Ip, Field::UserAgent].into_iter().find(|field| sketch.get(*field).is_some());
        match forwarded {
            Some(field) if !ingest.trust_forwarded_client => Err(Refusal::new(
                Code::ForwardedClientNotTrusted,
                format!("`{}` needs `spec.ingest.trustForwardedClient: true` in the App", field.name()),
            )),
            _ => Ok(()),
        }
    }

    fn consent(&self, sketch: &Sketch<'_>) -> Result<Option<Consent>, Refusal> {
        let consent = sketch.get(Field::Consent).map(consent).transpose()?;
        let granted = consent.as_ref().map_or(&[][..], |consent| &consent.categories);
        let required = &self.anonymiser.app().config.privacy.required_consent;
        match required.iter().find(|category| !granted.contains(category)) {
            Some(category) => Err(Refusal::new(
                Code::ConsentRequired,
                format!("`consent.categories` does not grant `{category}`, which the App requires"),
            )),
            None => Ok(consent),
        }
    }

    /// When it happened, by our clock.
    fn timestamp(&self, sketch: &Sketch<'_>) -> Result<i64, Refusal> {
        let sent_at = match sketch.get(Field::SentAt) {
            Some(value) => Some(fields::moment(value, Field::SentAt.into())?),
            None => self.sent_at,
        };
        let Some(value) = sketch.get(Field::Timestamp) else { return Ok(self.received_at) };
        let timestamp = fields::moment(value, Field::Timestamp.into())?;
        let timestamp =
            sent_at.map_or(timestamp, |sent_at| moment::correct_skew(timestamp, sent_at, self.received_at));
        if timestamp > self.received_at + AHEAD_MS_MAX {
            let message =
                "`timestamp` is more than 24 hours ahead of the server; send `sent_at` to correct the clock";
            return Err(Refusal::new(Code::TimestampInFuture, message));
        }
        if timestamp < OLDEST_MS {
            let message = "`timestamp` is before 2000-01-01; numbers are milliseconds, not seconds";
            return Err(Refusal::new(Code::TimestampTooOld, message));
        }
        Ok(timestamp)
    }

    /// The end user's address: the sender's word where it is trusted, else the connection's.
    fn ip(&self, sketch: &Sketch<'_>) -> Result<Option<String>, Refusal> {
        let ip = match optional(sketch, Field::Ip, IP)? {
            None => self.client_ip,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| Refusal::new(Code::InvalidField, "`ip` must be an IPv4 or IPv6 address"))?,
            ),
        };
        Ok(ip.and_then(|ip| self.anonymiser.ip(ip)))
    }

    /// As [`Self::ip`]. An overlong header is cut: it is not data the sender chose to send.
    fn user_agent(&self, sketch: &Sketch<'_>) -> Result<Option<String>, Refusal> {
        let sent = optional(sketch, Field::UserAgent, Length::UpTo(USER_AGENT_MAX))?;
        Ok(sent.map(Cow::into_owned).or_else(|| {
            self.user_agent.map(|header| header[..header.floor_char_boundary(USER_AGENT_MAX)].to_owned())
        }))
    }

    fn event_data(&mut self, sketch: &Sketch<'_>) -> Result<Option<Box<RawValue>>, Refusal> {
        let Some(value) = sketch.get(Field::EventData) else { return Ok(None) };
        if !value.starts_with('{') {
            return Err(Refusal::new(Code::InvalidField, "`event_data` must be an object"));
        }
        if sketch.dotted && paths::collide(value) {
            return Err(Fault::CollidingKeys.into());
        }
        let value = rewrite::event_data(value, &mut self.anonymiser).into_owned();
        let value = RawValue::from_string(value);
        value.map(Some).map_err(|_| Refusal::new(Code::InvalidField, "`event_data` must be JSON"))
    }

    fn event_id(
        &self,
        sketch: &Sketch<'_>,
        event: &Event,
        random_id: &mut dyn FnMut() -> Uuid,
    ) -> Result<Uuid, Refusal> {
        let app = &self.anonymiser.app().config.app;
        if let Some(client_id) = optional(sketch, Field::EventId, NAME)? {
            return match identity::from_client_id(app, &client_id) {
                // What a sender writes that never sets its ids; all its events would be one.
                uuid if uuid.is_nil() || uuid.is_max() => {
                    Err(Refusal::new(Code::InvalidField, "`event_id` must not be the nil or the max UUID"))
                }
                uuid => Ok(uuid),
            };
        }
        Ok(match sketch.get(Field::Timestamp) {
            Some(timestamp) => identity::from_content(app, &content(event, timestamp)),
            None => random_id(),
        })
    }
}

/// What makes an event without id itself, in the order that identity depends on. What may change between two
/// attempts to send it is left out: address, user agent, `sent_at`, consent.
fn content<'e>(event: &'e Event, timestamp: &'e str) -> Vec<Option<Cow<'e, str>>> {
    let attribution = event.attribution.as_ref();
    let campaign = |part: fn(&Attribution) -> &Option<String>| attribution.and_then(|it| part(it).as_deref());
    let timestamp = super::text::string_of(timestamp).unwrap_or(Cow::Borrowed(timestamp));
    let texts = [
        event.user_id.as_deref(),
        event.anonymous_id.as_deref(),
        event.device_id.as_deref(),
        Some(event.event_type.as_str()),
        event.session_id.as_deref(),
        event.platform.as_deref(),
        event.app_version.as_deref(),
        campaign(|it| &it.campaign),
        campaign(|it| &it.source),
        campaign(|it| &it.medium),
        campaign(|it| &it.content),
        campaign(|it| &it.term),
    ];
    let payload = event.event_data.as_ref().map(|data| Cow::Owned(canonical(data.get())));
    texts.into_iter().map(|text| text.map(Cow::Borrowed)).chain([Some(timestamp), payload]).collect()
}

fn attribution(value: &str) -> Result<Attribution, Refusal> {
    let members = fields::members(value, Field::Attribution.into(), ATTRIBUTION)?;
    let text = |index: usize| {
        let text = members[index].map(|value| fields::text(value, ATTRIBUTION[index], CAMPAIGN));
        text.transpose().map(|text| text.map(Cow::into_owned))
    };
    Ok(Attribution {
        campaign: text(0)?,
        source: text(1)?,
        medium: text(2)?,
        content: text(3)?,
        term: text(4)?,
    })
}

fn consent(value: &str) -> Result<Consent, Refusal> {
    let [categories, version, timestamp] = fields::members(value, Field::Consent.into(), CONSENT)?;
    let categories = categories.ok_or_else(|| {
        Refusal::new(Code::MissingField, format!("{} is required in `consent`", CONSENT[0]))
    })?;
    let categories = fields::elements(categories, CONSENT[0], CONSENT_CATEGORIES_MAX)?
        .into_iter()
        .map(|category| fields::text(category, CONSENT[0], NAME).map(Cow::into_owned));
    Ok(Consent {
        categories: categories.collect::<Result<_, _>>()?,
        version: version
            .map(|version| fields::text(version, CONSENT[1], LABEL).map(Cow::into_owned))
            .transpose()?,
        timestamp: timestamp.map(|timestamp| fields::moment(timestamp, CONSENT[2])).transpose()?,
    })
}

fn required<'a>(sketch: &Sketch<'a>, field: Field) -> Result<Cow<'a, str>, Refusal> {
    optional(sketch, field, NAME)?
        .ok_or_else(|| Refusal::new(Code::MissingField, format!("`{}` is required", field.name())))
}

fn optional<'a>(sketch: &Sketch<'a>, field: Field, length: Length) -> Result<Option<Cow<'a, str>>, Refusal> {
    sketch.get(field).map(|value| fields::text(value, field.into(), length)).transpose()
}
