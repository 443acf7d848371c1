//! What is wrong with the spec of an App, beyond its schema.

use std::collections::BTreeMap;

use super::{check_duration, origin};
use crate::app::{
    AppSpec, Autoscaling, Connections, DataplaneSpec, EventsSpec, IngestSpec, Placement, PrivacySpec,
    TopicsSpec, WriteKeySpec,
};
use crate::config::{FieldAction, OnUndeclared, PropertyType};
use crate::problem::{Path, Report};
use crate::quantity::Duration;

/// Smaller segments would be rotated all the time.
const RETENTION_BYTES_MIN: u64 = 1 << 20;

pub(super) fn check(spec: &AppSpec, report: &mut Report) {
    let root = Path::root("spec");
    check_ingest(&spec.ingest, &root.field("ingest"), report);
    check_events(&spec.events, &root.field("events"), report);
    check_dedupe_window(spec, &root.field("events").field("dedupeWindow"), report);
    check_privacy(spec, &root.field("privacy").field("fields"), report);
    let retention = root.field("storage").field("retention");
    check_duration(spec.storage.retention, Duration::days(1), Duration::days(3650), &retention, report);
    check_topics(&spec.topics, &root.field("topics"), report);
    check_dataplane(&spec.dataplane, &root.field("dataplane"), report);
    if let Some(connections) = &spec.connections {
        check_connections(connections, spec.dataplane.placement, &root.field("connections"), report);
    }
}

fn check_ingest(ingest: &IngestSpec, path: &Path, report: &mut Report) {
    for (index, key) in ingest.write_keys.iter().enumerate() {
        check_origins(key, &path.field("writeKeys").index(index).field("allowedOrigins"), report);
    }
    if let (Some(event), Some(body)) = (ingest.max_event_bytes, ingest.max_body_bytes)
        && event > body
    {
        let message = format!("{event} exceeds `maxBodyBytes`, {body}: an event travels in a body");
        report.add(&path.field("maxEventBytes"), message, "lower it, or raise `maxBodyBytes`");
    }
    let burst = ingest.rate_limit.and_then(|limit| limit.burst);
    if let (Some(batch), Some(burst)) = (ingest.max_batch_events, burst)
        && batch > burst
    {
        let message = format!("{batch} exceeds `rateLimit.burst`, {burst}: a full batch could never pass");
        report.add(&path.field("maxBatchEvents"), message, "lower it, or raise `rateLimit.burst`");
    }
}

fn check_origins(key: &WriteKeySpec, path: &Path, report: &mut Report) {
    for (index, origin) in key.allowed_origins.iter().enumerate() {
        if let Some((message, fix)) = origin::fault(origin) {
            report.add(&path.index(index), message, fix);
        }
        if key.allowed_origins[..index].contains(origin) {
            report.add(&path.index(index), format!("origin `{origin}` is here twice"), "remove one");
        }
    }
}

fn check_events(events: &EventsSpec, path: &Path, report: &mut Report) {
    let types = check_property_types(events, &path.field("declared"), report);
    if let Some(revenue) = &events.revenue {
        let at = path.field("revenue");
        let amounts = [PropertyType::Decimal, PropertyType::Integer, PropertyType::Float];
        let checked = RevenueProperty { events, types: &types, allowed: &amounts, wanted: "Decimal" };
        checked.check(&revenue.property, &at.field("property"), report);
        if let Some(currency) = &revenue.currency_property {
            let checked = RevenueProperty { allowed: &[PropertyType::String], wanted: "String", ..checked };
            checked.check(currency, &at.field("currencyProperty"), report);
        }
    }
    if events.on_undeclared == OnUndeclared::DeadLetter {
        for (index, name) in events.conversions.iter().enumerate() {
            if !events.declared.iter().any(|event| event.name == *name) {
                let message =
                    format!("`{name}` is not declared, and `onUndeclared: DeadLetter` sets it aside");
                let fix = "declare it in `events.declared`, or remove it here";
                report.add(&path.field("conversions").index(index), message, fix);
            }
        }
    }
}

type Types<'a> = BTreeMap<&'a str, (PropertyType, &'a str)>;

/// One column per property name, hence one type over all events. Gives the types for later checks.
fn check_property_types<'a>(events: &'a EventsSpec, path: &Path, report: &mut Report) -> Types<'a> {
    let mut types = Types::new();
    for (event_index, event) in events.declared.iter().enumerate() {
        for (index, property) in event.properties.iter().enumerate() {
            let (first, in_event) = *types.entry(&property.name).or_insert((property.kind, &event.name));
            if first != property.kind {
                let at = path.index(event_index).field("properties").index(index).field("type");
                let message = format!(
                    "`{}` is {:?} here and {first:?} in `{in_event}`, but has one column",
                    property.name, property.kind
                );
                report.add(&at, message, "give it the same type in both, or another name in one");
            }
        }
    }
    types
}

#[derive(Clone, Copy)]
struct RevenueProperty<'a> {
    events: &'a EventsSpec,
    types: &'a Types<'a>,
    allowed: &'a [PropertyType],
    wanted: &'static str,
}

impl RevenueProperty<'_> {
    fn check(&self, name: &str, path: &Path, report: &mut Report) {
        match self.types.get(name) {
            Some((kind, _)) if self.allowed.contains(kind) => {}
            Some((kind, event)) => {
                let message = format!("`{name}` is declared as {kind:?} in `{event}`");
                report.add(path, message, format!("declare it as {}", self.wanted));
            }
            // Undeclared events may carry it, unless they are set aside.
            None if self.events.on_undeclared == OnUndeclared::Keep => {}
            None => {
                let message = format!("no declared event has a property `{name}`");
                report.add(path, message, "declare it, or correct the name");
            }
        }
    }
}

fn check_dedupe_window(spec: &AppSpec, path: &Path, report: &mut Report) {
    let window = spec.events.dedupe_window;
    check_duration(window, Duration::minutes(1), Duration::days(30), path, report);
    if let Some(retention) = spec.topics.raw.retention
        && window.as_ms() > retention.as_ms()
    {
        let message = format!("`{window}` exceeds the raw topic's retention, `{retention}`");
        report.add(path, message, "shorten it, or lengthen `topics.raw.retention`");
    }
}

fn check_privacy(spec: &AppSpec, path: &Path, report: &mut Report) {
    let PrivacySpec { fields, .. } = &spec.privacy;
    for (index, rule) in fields.iter().enumerate() {
        let outer = fields.iter().find(|other| {
            rule.path.strip_prefix(other.path.as_str()).is_some_and(|below| below.starts_with('.'))
        });
        if let Some(outer) = outer {
            let message = format!("`{}` lies below `{}`, which has a rule of its own", rule.path, outer.path);
            report.add(&path.index(index).field("path"), message, "keep one of the two");
        }
        let Some(name) = rule.path.strip_prefix("event_data.") else { continue };
        let declared = spec.events.declared.iter().flat_map(|event| &event.properties);
        for property in declared.filter(|property| property.name == name) {
            let at = path.index(index).field("action");
            match rule.action {
                FieldAction::Drop if property.required => {
                    let message = format!("`{name}` is removed here but required by a declared event");
                    report.add(&at, message, "make the property optional, or choose another action");
                }
                FieldAction::Hash | FieldAction::Truncate | FieldAction::Encrypt
                    if property.kind != PropertyType::String =>
                {
                    let message = format!("gives text, but `{name}` is declared as {:?}", property.kind);
                    report.add(&at, message, "declare the property as String");
                }
                FieldAction::Hash | FieldAction::Truncate | FieldAction::Encrypt | FieldAction::Drop => {}
            }
        }
    }
}

fn check_topics(topics: &TopicsSpec, path: &Path, report: &mut Report) {
    for (name, topic) in [("raw", topics.raw), ("processed", topics.processed), ("alerts", topics.alerts)] {
        let at = path.field(name);
        if let Some(retention) = topic.retention {
            let (least, most) = (Duration::minutes(1), Duration::days(365));
            check_duration(retention, least, most, &at.field("retention"), report);
        }
        if let Some(size) = topic.retention_bytes
            && size.as_bytes() < RETENTION_BYTES_MIN
        {
            report.add(&at.field("retentionBytes"), format!("`{size}` is below 1Mi"), "raise it");
        }
    }
}

fn check_dataplane(dataplane: &DataplaneSpec, path: &Path, report: &mut Report) {
    let sized = [
        ("ingest", dataplane.ingest.is_some()),
        ("worker", dataplane.worker.is_some()),
        ("gateway", dataplane.gateway.is_some()),
    ];
    for (name, _) in sized.iter().filter(|(_, given)| *given && dataplane.placement == Placement::Shared) {
        let message =
            format!("`{name}` needs `placement: Dedicated`: shared sizes are set by the installation");
        report.add(&path.field(name), message, format!("set `placement: Dedicated`, or remove `{name}`"));
    }
    if let Some(ingest) = &dataplane.ingest {
        let at = path.field("ingest");
        check_autoscaling(ingest.replicas, ingest.autoscaling, &at, report);
        if ingest.spill.is_some() && ingest.autoscaling.is_some() {
            let message = "cannot go with `spill`: a pod may only go when its spill is empty";
            report.add(&at.field("autoscaling"), message, "use `replicas`, or remove `spill`");
        }
    }
    if let Some(gateway) = &dataplane.gateway {
        check_autoscaling(gateway.replicas, gateway.autoscaling, &path.field("gateway"), report);
    }
}

fn check_autoscaling(replicas: Option<u32>, scaling: Option<Autoscaling>, path: &Path, report: &mut Report) {
    let Some(scaling) = scaling else { return };
    if replicas.is_some() {
        report.add(&path.field("replicas"), "is given together with `autoscaling`", "remove one");
    }
    if scaling.min_replicas > scaling.max_replicas {
        let at = path.field("autoscaling").field("minReplicas");
        let message = format!("{} exceeds `maxReplicas`, {}", scaling.min_replicas, scaling.max_replicas);
        report.add(&at, message, "lower it, or raise `maxReplicas`");
    }
}

fn check_connections(connections: &Connections, placement: Placement, path: &Path, report: &mut Report) {
    if placement == Placement::Shared {
        let message = "`connections` needs a data plane of its own: a shared one has one set of connections";
        report.add(path, message, "set `dataplane.placement: Dedicated`, or remove `connections`");
    }
    if let Some(kafka) = &connections.kafka {
        for server in kafka.endpoint.split(',') {
            let port = server.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                let message = format!("`{server}` has no port");
                report.add(&path.field("kafka").field("endpoint"), message, "write `host:port`");
            }
        }
    }
    if let Some(clickhouse) = &connections.clickhouse {
        let rest = ["http://", "https://"].iter().find_map(|scheme| clickhouse.endpoint.strip_prefix(scheme));
        if rest.is_none_or(str::is_empty) {
            let message = format!("`{}` is not a URL", clickhouse.endpoint);
            report.add(&path.field("clickhouse").field("endpoint"), message, "write `https://host:8443`");
        }
    }
}
