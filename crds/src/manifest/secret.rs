//! A Kubernetes Secret as read from a file. Its values have no Debug and no Display.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use serde_json::Value;

use crate::names::NAMESPACE_DEFAULT;

/// A Secret.
#[derive(Clone, Debug)]
pub struct Secret {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its values, from `data` and `stringData`; the latter win, as in Kubernetes.
    pub data: BTreeMap<String, SecretValue>,
}

/// A value of a Secret. Reading it is a word in the code: [`SecretValue::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Wraps a value.
    pub fn new(value: Vec<u8>) -> Self {
        Self(value)
    }

    /// The value itself; for the one call that needs it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// A fault in a Secret: field, message, fix. Never holds a value.
pub(super) type SecretFault = (String, String, &'static str);

/// Reads a Secret from its document.
pub(super) fn from_document(document: &Value) -> Result<Secret, Vec<SecretFault>> {
    let mut faults = Vec::new();
    let mut data = BTreeMap::new();
    for (key, value) in fields(document, "data") {
        // A `ByteString` is read from base64.
        match serde_json::from_value::<ByteString>(value.clone()) {
            Ok(bytes) => drop(data.insert(key.clone(), SecretValue(bytes.0))),
            Err(_) => {
                let fix = "encode it, or write it in clear under `stringData`";
                faults.push((format!("data.{key}"), "must be base64 text".to_owned(), fix));
            }
        }
    }
    for (key, value) in fields(document, "stringData") {
        match value.as_str() {
            Some(text) => drop(data.insert(key.clone(), SecretValue(text.as_bytes().to_vec()))),
            None => faults.push((format!("stringData.{key}"), "must be text".to_owned(), "put it in quotes")),
        }
    }
    let metadata = &document["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        faults.push(("metadata.name".to_owned(), "is missing".to_owned(), "name the Secret"));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let labels = metadata["labels"].as_object().into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    let namespace = metadata["namespace"].as_str().unwrap_or(NAMESPACE_DEFAULT).to_owned();
    Ok(Secret { namespace, name, labels: labels.collect(), data })
}

fn fields<'a>(document: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    document[name].as_object().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_both_forms_and_prints_neither() {
        let secret = from_document(&json!({
            "metadata": {"name": "keys", "labels": {"a": "b"}},
            "data": {"x": "aHVzaA==", "y": "b2xk"},
            "stringData": {"y": "new"},
        }))
        .unwrap();
        assert_eq!(secret.namespace, "default");
        assert_eq!(secret.data["x"].expose(), b"hush");
        assert_eq!(secret.data["y"].expose(), b"new");
        assert!(!format!("{secret:?}").contains("hush"));
    }

    #[test]
    fn reports_every_broken_value_without_showing_it() {
        let document = json!({"metadata": {}, "data": {"x": "!hush!"}, "stringData": {"y": 1}});
        let faults = from_document(&document).unwrap_err();
        assert_eq!(faults.len(), 3);
        assert!(!format!("{faults:?}").contains("hush"));
    }
}
