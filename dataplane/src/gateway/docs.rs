//! The OpenAPI document in, one page of HTML out: no script, no outside asset, nothing but text and one style.

use std::fmt::Write as _;

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::openapi::OpenApi;

use super::problem::Kind;

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}\
h2{margin-top:2.5rem;border-top:1px solid #d0d7de;padding-top:1rem}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #eaeef2}\
code{font:14px ui-monospace,monospace;background:#f6f8fa;padding:.1rem .3rem;border-radius:.25rem}";

/// The page, and the policy a browser shall hold it to.
pub(super) struct Page {
    pub(super) html: Bytes,
    pub(super) policy: HeaderValue,
}

/// Renders the document.
pub(super) fn page(document: &OpenApi) -> Page {
    let document = serde_json::to_value(document).expect("the document holds only text keys");
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Millrace gateway</title>\
         <style>{STYLE}</style></head><body><h1>Millrace gateway</h1><p>{} \
         For programs: <a href=\"/openapi.json\">openapi.json</a>.</p>",
        text(&document["info"]["description"])
    );
    for (path, item) in members(&document["paths"]) {
        for (method, operation) in members(item) {
            write_operation(&mut html, path, method, operation);
        }
    }
    write_problems(&mut html);
    html.push_str("</body></html>\n");
    Page { html: Bytes::from(html), policy: policy() }
}

/// Nothing may be loaded, and only this very style applied.
fn policy() -> HeaderValue {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("base64 and ASCII words are header text")
}

fn write_operation(html: &mut String, path: &str, method: &str, operation: &Value) {
    let needs = match operation["security"][0]["bearer"].as_array().map(Vec::as_slice) {
        None => "nothing".to_owned(),
        Some([]) => "a token".to_owned(),
        Some(permissions) => {
            let permissions: Vec<String> = permissions.iter().map(code).collect();
            format!("a token with {}", permissions.join(", "))
        }
    };
    push(
        html,
        format_args!(
            "<h2 id=\"{id}\"><code>{method} {path}</code></h2><p>{summary} {description}</p><p>Needs {needs}.</p>",
            id = text(&operation["operationId"]),
            method = escape(&method.to_uppercase()),
            path = escape(path),
            summary = text(&operation["summary"]),
            description = text(&operation["description"]),
        ),
    );
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        push(html, format_args!("<table><tr><th>parameter<th>in<th>required<th>meaning</tr>"));
        for parameter in parameters {
            let required = if parameter["required"] == Value::Bool(true) { "yes" } else { "no" };
            let (name, place) = (code(&parameter["name"]), text(&parameter["in"]));
            let meaning = text(&parameter["description"]);
            push(html, format_args!("<tr><td>{name}<td>{place}<td>{required}<td>{meaning}</tr>"));
        }
        push(html, format_args!("</table>"));
    }
    push(html, format_args!("<table><tr><th>answer<th>meaning</tr>"));
    for (status, response) in members(&operation["responses"]) {
        let (status, meaning) = (escape(status), text(&response["description"]));
        push(html, format_args!("<tr><td><code>{status}</code><td>{meaning}</tr>"));
    }
    push(html, format_args!("</table>"));
}

/// What `type` of a problem points to.
fn write_problems(html: &mut String) {
    push(html, format_args!("<h2>Problems</h2><table><tr><th>code<th>status<th>meaning<th>try again</tr>"));
    for kind in Kind::ALL {
        let (code, status, title) = (kind.code(), kind.status().as_u16(), kind.title());
        let again = if kind.is_retryable() { "after <code>Retry-After</code>" } else { "changed" };
        push(
            html,
            format_args!(
                "<tr id=\"problem-{code}\"><td><code>{code}</code><td>{status}<td>{title}<td>{again}</tr>"
            ),
        );
    }
    push(html, format_args!("</table>"));
}

fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    html.write_fmt(text).expect("a String takes any text");
}

fn members(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    object.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn code(value: &Value) -> String {
    format!("<code>{}</code>", escape(value.as_str().unwrap_or_default()))
}

/// Documentation text: `code` between back quotes.
fn text(value: &Value) -> String {
    let escaped = escape(value.as_str().unwrap_or_default());
    let parts = escaped.split('`').enumerate();
    parts
        .map(|(at, part)| if at % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() })
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
