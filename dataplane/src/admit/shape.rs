//! The text of a body in, its events as spans out: which member of which event stands where.
//! Nothing is interpreted here and no value is copied; a batch is counted while it is read, so that one of a
//! million events is refused after the first too many.

use super::json::{Fault, Scanner, Syntax};
use super::rejection::BodyRejection;
use super::suggest;

/// A member of a native event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    EventType,
    EventId,
    UserId,
    AnonymousId,
    DeviceId,
    Timestamp,
    SentAt,
    SessionId,
    Platform,
    AppVersion,
    Attribution,
    EventData,
    Consent,
    Ip,
    UserAgent,
}

impl Field {
    const COUNT: usize = Self::ALL.len();
    const ALL: [Self; 15] = [
        Self::EventType,
        Self::EventId,
        Self::UserId,
        Self::AnonymousId,
        Self::DeviceId,
        Self::Timestamp,
        Self::SentAt,
        Self::SessionId,
        Self::Platform,
        Self::AppVersion,
        Self::Attribution,
        Self::EventData,
        Self::Consent,
        Self::Ip,
        Self::UserAgent,
    ];

    /// The key in the event.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EventType => "event_type",
            Self::EventId => "event_id",
            Self::UserId => "user_id",
            Self::AnonymousId => "anonymous_id",
            Self::DeviceId => "device_id",
            Self::Timestamp => "timestamp",
            Self::SentAt => "sent_at",
            Self::SessionId => "session_id",
            Self::Platform => "platform",
            Self::AppVersion => "app_version",
            Self::Attribution => "attribution",
            Self::EventData => "event_data",
            Self::Consent => "consent",
            Self::Ip => "ip",
            Self::UserAgent => "user_agent",
        }
    }

    /// A match instead of a search through [`Self::ALL`]: this runs once per member of every event.
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "event_type" => Self::EventType,
            "event_id" => Self::EventId,
            "user_id" => Self::UserId,
            "anonymous_id" => Self::AnonymousId,
            "device_id" => Self::DeviceId,
            "timestamp" => Self::Timestamp,
            "sent_at" => Self::SentAt,
            "session_id" => Self::SessionId,
            "platform" => Self::Platform,
            "app_version" => Self::AppVersion,
            "attribution" => Self::Attribution,
            "event_data" => Self::EventData,
            "consent" => Self::Consent,
            "ip" => Self::Ip,
            "user_agent" => Self::UserAgent,
            _ => return None,
        })
    }
}

/// One event as spans of the body.
#[derive(Debug)]
pub(crate) struct Sketch<'a> {
    /// The whole object, as sent.
    pub(crate) raw: &'a str,
    /// What is wrong with its JSON, if anything.
    pub(crate) fault: Option<Fault>,
    /// A key holds a dot (or what ClickHouse writes for one), so paths may collide.
    pub(crate) dotted: bool,
    /// The first member that no event has, described for the sender.
    pub(crate) unknown: Option<String>,
    members: [Option<&'a str>; Field::COUNT],
}

impl<'a> Sketch<'a> {
    /// The JSON text of a member. Null says as much as nothing, and many serialisers write it for nothing.
    pub(crate) fn get(&self, field: Field) -> Option<&'a str> {
        self.members[field as usize].filter(|value| *value != "null")
    }
}

/// A body: `{"batch": […], "sent_at"?}`, or one event.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    /// JSON text of the batch's `sent_at`.
    pub(crate) sent_at: Option<&'a str>,
    /// The events; none where an element of the batch is not an object.
    pub(crate) events: Vec<Option<Sketch<'a>>>,
}

/// Reads a body of at most `events_max` events.
pub(crate) fn read(text: &str, events_max: usize) -> Result<Body<'_>, BodyRejection> {
    let mut scanner = Scanner::new(text);
    read_body(&mut scanner, events_max).map_err(|stop| match stop {
        Stop::Rejected(rejection) => rejection,
        Stop::Syntax(syntax) => BodyRejection::syntax(syntax, scanner.position()),
    })
}

/// Why the scan of a body ends early.
enum Stop {
    Syntax(Syntax),
    Rejected(BodyRejection),
}

impl From<Syntax> for Stop {
    fn from(syntax: Syntax) -> Self {
        Self::Syntax(syntax)
    }
}

fn read_body<'a>(scanner: &mut Scanner<'a>, events_max: usize) -> Result<Body<'a>, Stop> {
    if scanner.peek_value() != Some(b'{') {
        scanner.value()?;
        scanner.end()?;
        return Err(Stop::Rejected(BodyRejection::NotAnObject));
    }
    let mut batch = None;
    let mut members = Members::default();
    let raw = scanner.object(|scanner, key| {
        if key == "batch" {
            return match batch.replace(read_batch(scanner, events_max)?) {
                Some(_) => Err(Stop::Rejected(Fault::DuplicateKey.into())),
                None => Ok(()),
            };
        }
        Ok(members.read(scanner, key)?)
    })?;
    scanner.end()?;
    let (fault, dotted) = scanner.take_faults();
    match batch {
        None => Ok(Body { sent_at: None, events: vec![Some(members.into_sketch(raw, fault, dotted))] }),
        Some(batch) => envelope(batch, &members, fault).map_err(Stop::Rejected),
    }
}

/// What stands between the brackets of `batch`, and the fault noted before it.
struct Batch<'a> {
    events: Vec<Option<Sketch<'a>>>,
    fault_before: Option<Fault>,
}

fn read_batch<'a>(scanner: &mut Scanner<'a>, events_max: usize) -> Result<Batch<'a>, Stop> {
    let (fault_before, _) = scanner.take_faults();
    if scanner.peek_value() != Some(b'[') {
        return Err(Stop::Rejected(BodyRejection::BatchNotAnArray));
    }
    let mut events = Vec::new();
    scanner.array(|scanner| {
        if events.len() == events_max {
            return Err(Stop::Rejected(BodyRejection::TooManyEvents { events_max }));
        }
        events.push(read_event(scanner)?);
        Ok(())
    })?;
    Ok(Batch { events, fault_before })
}

fn read_event<'a>(scanner: &mut Scanner<'a>) -> Result<Option<Sketch<'a>>, Syntax> {
    if scanner.peek_value() != Some(b'{') {
        scanner.value()?;
        scanner.take_faults();
        return Ok(None);
    }
    let mut members = Members::default();
    let raw = scanner.object(|scanner, key| members.read(scanner, key))?;
    let (fault, dotted) = scanner.take_faults();
    Ok(Some(members.into_sketch(raw, fault, dotted)))
}

fn envelope<'a>(
    batch: Batch<'a>,
    members: &Members<'a>,
    fault: Option<Fault>,
) -> Result<Body<'a>, BodyRejection> {
    if let Some(fault) = batch.fault_before.or(fault) {
        return Err(fault.into());
    }
    let stray = Field::ALL
        .into_iter()
        .find(|field| *field != Field::SentAt && members.known[*field as usize].is_some())
        .map(|field| format!("`{}`", field.name()));
    if let Some(field) = stray.or_else(|| members.unknown.clone()) {
        return Err(BodyRejection::BesideBatch { field });
    }
    if batch.events.is_empty() {
        return Err(BodyRejection::EmptyBatch);
    }
    let sent_at = members.known[Field::SentAt as usize].filter(|value| *value != "null");
    Ok(Body { sent_at, events: batch.events })
}

/// Members of an object that may be an event, while it is read.
#[derive(Default)]
struct Members<'a> {
    known: [Option<&'a str>; Field::COUNT],
    unknown: Option<String>,
}

impl<'a> Members<'a> {
    fn read(&mut self, scanner: &mut Scanner<'a>, key: &str) -> Result<(), Syntax> {
        let value = scanner.value()?;
        match Field::from_name(key) {
            Some(field) => self.known[field as usize] = Some(value),
            None => {
                let names = Field::ALL.map(Field::name);
                self.unknown.get_or_insert_with(|| suggest::describe_unknown("", key, &names));
            }
        }
        Ok(())
    }

    fn into_sketch(self, raw: &'a str, fault: Option<Fault>, dotted: bool) -> Sketch<'a> {
        Sketch { raw, fault, dotted, unknown: self.unknown, members: self.known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_by_its_name_and_at_its_index() {
        for (index, field) in Field::ALL.into_iter().enumerate() {
            assert_eq!(Field::from_name(field.name()), Some(field));
            assert_eq!(field as usize, index);
        }
        assert_eq!(Field::from_name("batch"), None);
    }

    #[test]
    fn a_batch_is_refused_at_the_first_event_too_many() {
        // The text breaks off right after it, so anything read further would be a syntax error.
        let rejection = read(r#"{"batch":[{},{},{}"#, 2).unwrap_err();
        assert_eq!(rejection, BodyRejection::TooManyEvents { events_max: 2 });
        assert_eq!(read(r#"{"batch":[{},{}]}"#, 2).unwrap().events.len(), 2);
    }

    #[test]
    fn members_are_carried_as_they_stand() {
        let text = r#" {"event\u005fdata" : { "a" : 1.50 } ,"user_id":null} "#;
        let [Some(sketch)] = &read(text, 1).unwrap().events[..] else { panic!("one event") };
        assert_eq!(sketch.get(Field::EventData), Some(r#"{ "a" : 1.50 }"#));
        assert_eq!(sketch.get(Field::UserId), None);
    }

    #[test]
    fn a_fault_stays_with_its_event() {
        let text = r#"{"batch":[{"a":1,"a":1},{"event_type":"x"},7,{"b":"\u0000"}]}"#;
        let events = read(text, 9).unwrap().events;
        let faults: Vec<_> = events.iter().map(|event| event.as_ref().map(|sketch| sketch.fault)).collect();
        assert_eq!(
            faults,
            [Some(Some(Fault::DuplicateKey)), Some(None), None, Some(Some(Fault::NulCharacter))]
        );
    }

    #[test]
    fn the_object_around_a_batch_is_checked_too() {
        for (text, expected) in [
            (r#"{"batch":[{}],"batch":[{}]}"#, Fault::DuplicateKey.into()),
            (r#"{"sent_at":1,"batch":[{}],"sent_at":1}"#, Fault::DuplicateKey.into()),
            (r#"{"sent_at":"\u0000","batch":[{}]}"#, Fault::NulCharacter.into()),
            (r#"{"batch":[{}],"sent_at":"\u0000"}"#, Fault::NulCharacter.into()),
            (r#"{"batch":[]}"#, BodyRejection::EmptyBatch),
            (r#"{"batch":{}}"#, BodyRejection::BatchNotAnArray),
            (r#"{"batch":null}"#, BodyRejection::BatchNotAnArray),
            (r#"{"batch":[{}],"user_id":"u"}"#, BodyRejection::BesideBatch { field: "`user_id`".to_owned() }),
            ("[]", BodyRejection::NotAnObject),
            (r#""text""#, BodyRejection::NotAnObject),
        ] {
            assert_eq!(read(text, 9).unwrap_err(), expected, "{text}");
        }
    }
}
