//! The identity of an event: a client's retry must give the same id, in this process and in any other, for ever.
//!
//! UUIDs are version 5 (SHA-1 over a namespace and a name). Ids that clients chose and ids made from content
//! have a namespace each, so that neither can be steered into the other. A name starts with the App and NUL,
//! which neither an App nor an admitted string contains.

use millrace_crds::names::AppId;
use uuid::Uuid;

/// Namespace of ids from a client's message id.
const CLIENT_IDS: Uuid = Uuid::from_u128(0x8c1f_2e0a_5d57_4c3b_9a64_20f1_7be6_d301);
/// Namespace of ids from an event's content.
const CONTENT: Uuid = Uuid::from_u128(0x1b9d_6bcd_bbfd_4b2d_8c11_e4f7_9c5a_d702);

/// The id of an event whose client gave one: a UUID in its usual form as it is, anything else hashed.
pub(crate) fn from_client_id(app: &AppId, client_id: &str) -> Uuid {
    const HYPHENATED_CHARS: usize = 36;
    match Uuid::try_parse(client_id) {
        Ok(uuid) if client_id.len() == HYPHENATED_CHARS => uuid,
        _ => Uuid::new_v5(&CLIENT_IDS, format!("{app}\0{client_id}").as_bytes()),
    }
}

/// The id of an event whose client gave none but said when it happened. `parts` in a fixed order, all of them
/// after anonymisation; absent and empty differ.
pub(crate) fn from_content<T: AsRef<str>>(app: &AppId, parts: &[Option<T>]) -> Uuid {
    let mut name = format!("{app}\0").into_bytes();
    for part in parts {
        match part {
            None => name.push(0),
            Some(text) => {
                let text = text.as_ref();
                name.push(1);
                name.extend_from_slice(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
                name.extend_from_slice(text.as_bytes());
            }
        }
    }
    Uuid::new_v5(&CONTENT, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(text: &str) -> AppId {
        text.parse().unwrap()
    }

    /// Computed outside with Python's `hashlib`. They must never change: a retry after an upgrade would be
    /// counted twice.
    #[test]
    fn ids_stay_as_they_are() {
        let shop = app("default/shop");
        for (client_id, expected) in [
            ("0190a5c8-7a3b-7000-8000-0123456789AB", "0190a5c8-7a3b-7000-8000-0123456789ab"),
            ("order-1", "ca01d10e-4058-5c29-95c7-74d0721720b8"),
            ("0190a5c87a3b700080000123456789ab", "d4ac577a-d738-5af8-ab33-dce3131328df"),
        ] {
            assert_eq!(from_client_id(&shop, client_id).to_string(), expected, "{client_id}");
        }
        assert_eq!(
            from_content(&shop, &[Some("u1"), None, Some("")]).to_string(),
            "ee9a235e-fcda-56cd-aefc-03e69a51435e"
        );
    }

    #[test]
    fn apps_namespaces_and_parts_do_not_run_into_each_other() {
        let shop = app("default/shop");
        let ids = [
            from_client_id(&shop, "x"),
            from_client_id(&app("default/shop2"), "x"),
            from_client_id(&app("other/shop"), "x"),
            from_content(&shop, &[Some("x")]),
            from_content(&shop, &[Some("x"), None]),
            from_content(&shop, &[None, Some("x")]),
            from_content(&shop, &[Some("x"), Some("")]),
            from_content(&shop, &[Some("ab"), Some("c")]),
            from_content(&shop, &[Some("a"), Some("bc")]),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
