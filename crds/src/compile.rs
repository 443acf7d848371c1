//! Checked resources in, a compiled configuration out: the bytes that pods run and acknowledge. Pure and
//! deterministic: the order in which inputs come makes no difference. Every default is filled here.

mod access;
mod app;
mod installation;

pub use access::{AccessInput, compile_access};
pub use app::{AppInput, WRITE_KEY_DEFAULT, WRITE_KEY_DEFAULT_PREVIOUS, compile_app};
pub use installation::{IngestLimits, Installation, TopicDefaults, TopicsDefaults};

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Canonical JSON: keys sorted by bytes, no space between tokens. Equal values give equal bytes.
pub fn canonical(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).expect("our configurations have text keys and no failing field");
    let mut text = String::new();
    write_canonical(&value, &mut text);
    text
}

/// SHA-256 in lower-case hexadecimal.
pub fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// What names a compiled configuration: the hash of its canonical JSON.
pub fn revision_hash(config: &impl Serialize) -> String {
    hash(&canonical(config))
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            // Sorted here and not left to the map: a feature of serde_json elsewhere in the build could change it.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            let separated = std::iter::once("{").chain(std::iter::repeat(","));
            for (separator, (name, value)) in separated.zip(&fields) {
                write_scalar(text, format_args!("{separator}{}:", Value::from(name.as_str())));
                write_canonical(value, text);
            }
            text.push_str(if fields.is_empty() { "{}" } else { "}" });
        }
        Value::Array(items) => {
            let separated = std::iter::once("[").chain(std::iter::repeat(","));
            for (separator, item) in separated.zip(items) {
                text.push_str(separator);
                write_canonical(item, text);
            }
            text.push_str(if items.is_empty() { "[]" } else { "]" });
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            write_scalar(text, format_args!("{value}"));
        }
    }
}

fn write_scalar(text: &mut String, scalar: std::fmt::Arguments<'_>) {
    text.write_fmt(scalar).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests;
