//! The columns of `events`, as one list: the schema makes them and the loader fills them, in the same order.

use std::collections::BTreeMap;

use super::{Column, EVENT_DATA_PATHS_MAX};
use crate::config::{Events, PropertyType};

/// A column of `events`. Who encodes a row matches on it, so a new column cannot be forgotten there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventColumn {
    /// When it happened.
    Timestamp,
    /// `<namespace>/<name>`.
    AppId,
    /// What happened.
    EventType,
    /// Identity.
    EventId,
    /// Empty when absent, like every text below.
    UserId,
    /// Hash of the first id present.
    UserKey,
    /// Anonymous id.
    AnonymousId,
    /// Device id.
    DeviceId,
    /// Session.
    SessionId,
    /// Platform, from the client or its user agent.
    Platform,
    /// Version of the client's app.
    AppVersion,
    /// Attribution.
    Campaign,
    /// Attribution.
    Source,
    /// Attribution.
    Medium,
    /// Attribution.
    Content,
    /// Attribution.
    Term,
    /// Browser or app family.
    Browser,
    /// Operating system.
    Os,
    /// Kind of device.
    DeviceType,
    /// Revenue; NULL when there is none.
    Revenue,
    /// ISO 4217 code; empty without revenue.
    Currency,
    /// Whether the event type is a conversion.
    IsConversion,
    /// Everything else the client sent.
    EventData,
    /// Client address.
    Ip,
    /// Client software.
    UserAgent,
    /// When ingest took it in.
    ReceivedAt,
    /// When it was processed.
    CreatedAt,
    /// Request that brought it.
    TraceId,
    /// Position in `events-processed`: epoch.
    LogEpoch,
    /// Position in `events-processed`: partition.
    LogPartition,
    /// Position in `events-processed`: offset.
    LogOffset,
    /// A declared property: `p_<name>`; NULL when absent or a misfit.
    Property {
        /// Key in `event_data`.
        name: String,
        /// Its type.
        kind: PropertyType,
    },
}

/// The columns of `events` for what is declared: the fixed ones, then one per property, by name.
pub fn event_columns(events: &Events) -> Vec<EventColumn> {
    let properties: BTreeMap<&String, PropertyType> = events
        .declared
        .values()
        .flat_map(|event| &event.properties)
        .map(|(name, property)| (name, property.kind))
        .collect();
    let properties =
        properties.into_iter().map(|(name, kind)| EventColumn::Property { name: name.clone(), kind });
    FIXED.iter().cloned().chain(properties).collect()
}

const FIXED: [EventColumn; 31] = [
    EventColumn::Timestamp,
    EventColumn::AppId,
    EventColumn::EventType,
    EventColumn::EventId,
    EventColumn::UserId,
    EventColumn::UserKey,
    EventColumn::AnonymousId,
    EventColumn::DeviceId,
    EventColumn::SessionId,
    EventColumn::Platform,
    EventColumn::AppVersion,
    EventColumn::Campaign,
    EventColumn::Source,
    EventColumn::Medium,
    EventColumn::Content,
    EventColumn::Term,
    EventColumn::Browser,
    EventColumn::Os,
    EventColumn::DeviceType,
    EventColumn::Revenue,
    EventColumn::Currency,
    EventColumn::IsConversion,
    EventColumn::EventData,
    EventColumn::Ip,
    EventColumn::UserAgent,
    EventColumn::ReceivedAt,
    EventColumn::CreatedAt,
    EventColumn::TraceId,
    EventColumn::LogEpoch,
    EventColumn::LogPartition,
    EventColumn::LogOffset,
];

const TEXT: &str = "String";
const FEW_TEXTS: &str = "LowCardinality(String)";
const MOMENT: &str = "DateTime64(3, 'UTC')";
/// Times come nearly in order: the second difference is small.
const MOMENT_CODEC: Option<&str> = Some("CODEC(DoubleDelta, ZSTD(1))");
const OFFSET_CODEC: Option<&str> = Some("CODEC(Delta(8), ZSTD(1))");
const TEXT_CODEC: Option<&str> = Some("CODEC(ZSTD(1))");

impl EventColumn {
    /// Name, type and codec.
    pub fn column(&self) -> Column {
        let (name, kind, codec) = match self {
            Self::Property { name, kind } => return property_column(name, *kind),
            Self::EventData => return event_data_column(),
            Self::Timestamp => ("timestamp", MOMENT, MOMENT_CODEC),
            Self::AppId => ("app_id", FEW_TEXTS, None),
            Self::EventType => ("event_type", FEW_TEXTS, None),
            Self::EventId => ("event_id", "UUID", None),
            Self::UserId => ("user_id", TEXT, TEXT_CODEC),
            Self::UserKey => ("user_key", "UInt64", None),
            Self::AnonymousId => ("anonymous_id", TEXT, TEXT_CODEC),
            Self::DeviceId => ("device_id", TEXT, TEXT_CODEC),
            Self::SessionId => ("session_id", TEXT, TEXT_CODEC),
            Self::Platform => ("platform", FEW_TEXTS, None),
            Self::AppVersion => ("app_version", FEW_TEXTS, None),
            Self::Campaign => ("campaign", FEW_TEXTS, None),
            Self::Source => ("source", FEW_TEXTS, None),
            Self::Medium => ("medium", FEW_TEXTS, None),
            Self::Content => ("content", TEXT, TEXT_CODEC),
            Self::Term => ("term", TEXT, TEXT_CODEC),
            Self::Browser => ("browser", FEW_TEXTS, None),
            Self::Os => ("os", FEW_TEXTS, None),
            Self::DeviceType => ("device_type", FEW_TEXTS, None),
            Self::Revenue => ("revenue", "Nullable(Decimal(38, 9))", None),
            Self::Currency => ("currency", FEW_TEXTS, None),
            Self::IsConversion => ("is_conversion", "Bool", None),
            Self::Ip => ("ip", TEXT, TEXT_CODEC),
            Self::UserAgent => ("user_agent", TEXT, TEXT_CODEC),
            Self::ReceivedAt => ("received_at", MOMENT, MOMENT_CODEC),
            Self::CreatedAt => ("created_at", MOMENT, MOMENT_CODEC),
            Self::TraceId => ("trace_id", TEXT, TEXT_CODEC),
            Self::LogEpoch => ("log_epoch", "UInt32", None),
            Self::LogPartition => ("log_partition", "UInt32", None),
            Self::LogOffset => ("log_offset", "UInt64", OFFSET_CODEC),
        };
        Column { name: name.to_owned(), kind: kind.to_owned(), codec: codec.map(str::to_owned) }
    }
}

fn event_data_column() -> Column {
    let kind = format!("JSON(max_dynamic_paths={EVENT_DATA_PATHS_MAX})");
    Column { name: "event_data".to_owned(), kind, codec: None }
}

fn property_column(name: &str, kind: PropertyType) -> Column {
    let kind = match kind {
        PropertyType::String => "String",
        PropertyType::Integer => "Int64",
        PropertyType::Float => "Float64",
        PropertyType::Decimal => "Decimal(38, 9)",
        PropertyType::Boolean => "Bool",
        PropertyType::Timestamp => MOMENT,
    };
    Column { name: format!("p_{name}"), kind: format!("Nullable({kind})"), codec: None }
}
