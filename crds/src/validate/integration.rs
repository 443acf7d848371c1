//! What is wrong with the spec of an Integration, beyond its schema.

use super::check_duration;
use crate::integration::{HEADERS_RESERVED, HEADERS_SECRET, HeaderSpec, IntegrationSpec, WebhookSpec};
use crate::problem::{Path, Report};
use crate::quantity::Duration;
use crate::selection::AppSelection;

pub(super) fn check(spec: &IntegrationSpec, report: &mut Report) {
    let root = Path::root("spec");
    check_selection(spec.apps.as_ref(), &root.field("apps"), report);
    let expiry = root.field("retry").field("expireAfter");
    check_duration(spec.retry.expire_after, Duration::minutes(1), Duration::days(7), &expiry, report);
    match &spec.webhook {
        Some(webhook) => check_webhook(webhook, &root.field("webhook"), report),
        None => report.add(&root, "names no service", "give exactly one: `webhook`"),
    }
}

/// Exactly one way of choosing, or no selection at all.
pub(super) fn check_selection(selection: Option<&AppSelection>, path: &Path, report: &mut Report) {
    let Some(selection) = selection else { return };
    if selection.names.is_some() == selection.selector.is_some() {
        let message = "must have exactly one of `names` and `selector`";
        report.add(path, message, "keep one; leave `apps` out for every App");
    }
}

fn check_webhook(webhook: &WebhookSpec, path: &Path, report: &mut Report) {
    check_url(&webhook.url, &path.field("url"), report);
    let timeout = path.field("timeout");
    check_duration(webhook.timeout, Duration::seconds(1), Duration::seconds(60), &timeout, report);
    check_headers(&webhook.headers, &path.field("headers"), report);
    if let Some(template) = &webhook.template {
        for message in template_faults(template) {
            let fix = "write `{{ path }}` with a field of the event, such as `{{ event_data.total }}`";
            report.add(&path.field("template"), message, fix);
        }
    }
}

fn check_url(url: &str, path: &Path, report: &mut Report) {
    let Some(rest) = url.strip_prefix("https://") else {
        return report.add(path, format!("`{url}` does not start with `https://`"), "use TLS");
    };
    if rest.contains('@') || rest.chars().any(char::is_whitespace) {
        let fix = "remove both; the signature proves the sender";
        return report.add(path, "holds credentials or spaces", fix);
    }
    let host = rest.split(['/', '?', '#', ':']).next().unwrap_or_default();
    if host.is_empty() {
        report.add(path, format!("`{url}` has no host"), "write `https://host/path`");
    }
}

fn check_headers(headers: &[HeaderSpec], path: &Path, report: &mut Report) {
    for (index, header) in headers.iter().enumerate() {
        let name = header.name.to_ascii_lowercase();
        let at = path.index(index).field("name");
        if HEADERS_SECRET.contains(&name.as_str()) {
            let message = format!("`{}` would carry a credential in clear text", header.name);
            report.add(&at, message, "remove it; the signature proves the sender");
        }
        if HEADERS_RESERVED.contains(&name.as_str()) {
            report.add(&at, format!("`{}` is set by Millrace itself", header.name), "remove it");
        }
        if headers[..index]
            .iter()
            .any(|other| other.name != header.name && other.name.eq_ignore_ascii_case(&name))
        {
            report.add(&at, format!("`{}` is here twice", header.name), "remove one");
        }
    }
}

/// What is wrong with the placeholders of a template.
fn template_faults(template: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        rest = &rest[start + 2..];
        let Some(end) = rest.find("}}") else {
            faults.push("has `{{` without `}}`".to_owned());
            break;
        };
        let path = rest[..end].trim();
        if !is_field_path(path) {
            faults.push(format!("`{path}` is not a field of the event"));
        }
        rest = &rest[end + 2..];
    }
    faults
}

fn is_field_path(path: &str) -> bool {
    path.split('.')
        .all(|part| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || "{}".contains(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_broken_placeholder() {
        for (template, faults) in [
            ("{}", 0),
            (r#"{"text": {{ event_data.total }}, "id": {{event_id}}}"#, 0),
            ("{{ }}", 1),
            ("{{ a..b }} {{ c d }}", 2),
            ("{{ a }} {{ b", 1),
            ("}} {{ a }}", 0),
        ] {
            assert_eq!(template_faults(template).len(), faults, "{template}");
        }
    }
}
