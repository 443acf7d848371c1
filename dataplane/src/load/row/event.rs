//! A processed record in, a row of `events` out.

use millrace_crds::config::{Events, PropertyType};
use millrace_crds::schema::{EventColumn, event_columns};

use super::{Position, moment};
use crate::load::cells::Cells;
use crate::load::json;
use crate::process::property::{Decimal, Properties, PropertyValue, parse_property};
use crate::record::ProcessedRecord;

/// The columns one configuration declares.
pub(super) struct Columns {
    columns: Vec<EventColumn>,
    has_properties: bool,
}

impl Columns {
    pub(super) fn new(events: &Events) -> Self {
        let columns = event_columns(events);
        let has_properties = columns.iter().any(|column| matches!(column, EventColumn::Property { .. }));
        Self { columns, has_properties }
    }

    pub(super) fn encode(
        &self,
        app: &str,
        record: &ProcessedRecord,
        position: Position,
        out: &mut impl Cells,
    ) {
        let properties = if self.has_properties {
            Properties::of(record.event.event_data.as_deref())
        } else {
            Properties::default()
        };
        for column in &self.columns {
            value(column, app, record, position, out);
            if let EventColumn::Property { name, kind } = column {
                property(name, *kind, &properties, out);
            }
        }
    }
}

fn value(
    column: &EventColumn,
    app: &str,
    record: &ProcessedRecord,
    position: Position,
    out: &mut impl Cells,
) {
    let ProcessedRecord { event, derived, .. } = record;
    let attribution = event.attribution.as_ref();
    let attributed = |part: fn(&crate::record::Attribution) -> &Option<String>| {
        attribution.and_then(|a| part(a).as_deref())
    };
    match column {
        EventColumn::Timestamp => moment(event.timestamp, out),
        EventColumn::AppId => out.text(app),
        EventColumn::EventType => out.text(&event.event_type),
        EventColumn::EventId => out.uuid(&event.event_id),
        EventColumn::UserId => text(event.user_id.as_deref(), out),
        EventColumn::UserKey => out.u64(derived.user_key),
        EventColumn::AnonymousId => text(event.anonymous_id.as_deref(), out),
        EventColumn::DeviceId => text(event.device_id.as_deref(), out),
        EventColumn::SessionId => text(event.session_id.as_deref(), out),
        EventColumn::Platform => out.text(&derived.platform),
        EventColumn::AppVersion => text(event.app_version.as_deref(), out),
        EventColumn::Campaign => text(attributed(|a| &a.campaign), out),
        EventColumn::Source => text(attributed(|a| &a.source), out),
        EventColumn::Medium => text(attributed(|a| &a.medium), out),
        EventColumn::Content => text(attributed(|a| &a.content), out),
        EventColumn::Term => text(attributed(|a| &a.term), out),
        EventColumn::Browser => out.text(&derived.browser),
        EventColumn::Os => out.text(&derived.os),
        EventColumn::DeviceType => out.text(&derived.device_type),
        EventColumn::Revenue => decimal(derived.revenue.as_deref().and_then(Decimal::parse), out),
        EventColumn::Currency => out.text(&derived.currency),
        EventColumn::IsConversion => out.u8(u8::from(derived.is_conversion)),
        EventColumn::EventData => {
            out.text(&json::storable(event.event_data.as_deref().map_or("{}", |data| data.get())));
        }
        EventColumn::Ip => text(event.ip.as_deref(), out),
        EventColumn::UserAgent => text(event.user_agent.as_deref(), out),
        EventColumn::ReceivedAt => moment(event.received_at, out),
        EventColumn::CreatedAt => moment(derived.created_at, out),
        EventColumn::TraceId => text(event.trace_id.as_deref(), out),
        EventColumn::LogEpoch => out.u32(position.epoch),
        EventColumn::LogPartition => out.u32(position.partition),
        EventColumn::LogOffset => out.u64(position.offset),
        // Written by the caller, who has split `event_data` once for all of them.
        EventColumn::Property { .. } => {}
    }
}

fn text(value: Option<&str>, out: &mut impl Cells) {
    out.text(value.unwrap_or_default());
}

fn decimal(value: Option<Decimal>, out: &mut impl Cells) {
    match value {
        Some(value) => {
            out.present();
            out.i128(value.scaled());
        }
        None => out.null(),
    }
}

/// By name whatever the event type: a property has one type over all events, and what was sent is kept.
fn property(name: &str, kind: PropertyType, properties: &Properties<'_>, out: &mut impl Cells) {
    let value = properties.get(name).and_then(|value| parse_property(kind, value).ok());
    let Some(value) = value else { return out.null() };
    out.present();
    match value {
        PropertyValue::String(value) => out.text(&value),
        PropertyValue::Integer(value) => out.i64(value),
        PropertyValue::Float(value) => out.f64(value),
        PropertyValue::Decimal(value) => out.i128(value.scaled()),
        PropertyValue::Boolean(value) => out.u8(u8::from(value)),
        PropertyValue::Timestamp(value) => moment(value, out),
    }
}

#[cfg(test)]
mod tests;
