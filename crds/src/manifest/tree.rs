//! One YAML document into a JSON value, with the line of every field. Bounded: aliases and nesting cannot blow up.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Error, Spanned};

use crate::problem::Path;

/// Deepest nesting. Ours needs nine levels.
const DEPTH_MAX: usize = 32;
/// Most values in one document, those repeated by aliases included.
const NODES_MAX: usize = 100_000;
/// Most aliases in one document.
const ALIASES_MAX: usize = 1_000;

/// Longest key. Kubernetes allows 317 bytes for that of an annotation.
const KEY_BYTES_MAX: usize = 512;
/// Fields with a longer path are found at the line of the field around them; else many deep fields would cost memory.
const PATH_BYTES_MAX: usize = 1_024;

/// A document as read.
#[derive(Debug)]
pub(super) struct Tree {
    /// The document.
    pub(super) value: Value,
    /// Line of each field in the document, from 1, by path.
    pub(super) lines: BTreeMap<String, u64>,
}

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Tree, Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 2 * NODES_MAX,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_recorded_anchor_events: NODES_MAX,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: NODES_MAX,
            max_replay_stack_depth: DEPTH_MAX,
        },
        with_snippet: false,
    };
    let node: Spanned<Node> = serde_saphyr::from_str_with_options(text, options)?;
    let mut lines = BTreeMap::new();
    let value = node.value.into_value(&Path::root(""), &mut lines);
    Ok(Tree { value, lines })
}

enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Mapping(Vec<(Spanned<String>, Node)>),
}

impl Node {
    fn into_value(self, path: &Path, lines: &mut BTreeMap<String, u64>) -> Value {
        match self {
            Self::Scalar(value) => value,
            Self::List(items) => {
                let one = |(index, item): (usize, Spanned<Self>)| {
                    let at = path.index(index);
                    remember(&at, item.referenced.line(), lines);
                    item.value.into_value(&at, lines)
                };
                Value::Array(items.into_iter().enumerate().map(one).collect())
            }
            Self::Mapping(fields) => {
                let one = |(name, value): (Spanned<String>, Self)| {
                    let at = path.field(&name.value);
                    remember(&at, name.referenced.line(), lines);
                    (name.value, value.into_value(&at, lines))
                };
                Value::Object(fields.into_iter().map(one).collect::<Map<_, _>>())
            }
        }
    }
}

fn remember(path: &Path, line: u64, lines: &mut BTreeMap<String, u64>) {
    if path.as_str().len() <= PATH_BYTES_MAX {
        lines.insert(path.as_str().to_owned(), line);
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true, false, null, a list or a mapping")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Node::Scalar(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields: Vec<(Spanned<String>, Node)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<Spanned<String>, Node>()? {
            if name.value.len() > KEY_BYTES_MAX {
                return Err(A::Error::custom("a key is too long"));
            }
            fields.push((name, value));
        }
        Ok(Node::Mapping(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_values_and_their_lines() {
        let tree = read("---\na:\n  b: [1, x]\n  c:\n    - d: true\n    - e: ~\n").unwrap();
        assert_eq!(tree.value, json!({"a": {"b": [1, "x"], "c": [{"d": true}, {"e": null}]}}));
        let line = |path: &str| tree.lines[path];
        assert_eq!((line("a"), line("a.b[1]"), line("a.c[0]"), line("a.c[1].e")), (2, 3, 5, 6));
    }

    #[test]
    fn keeps_text_that_looks_like_something_else_when_quoted() {
        let tree = read("a: \"true\"\nb: '1'\nc: 2024-01-01\nd: 1.5\ne: -3\n").unwrap();
        assert_eq!(tree.value, json!({"a": "true", "b": "1", "c": "2024-01-01", "d": 1.5, "e": -3}));
    }

    #[test]
    fn refuses_bombs_repetition_and_nonsense() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        let deep = "[".repeat(1_000);
        let long = format!("{}: 1\n", "k".repeat(KEY_BYTES_MAX + 1));
        for text in [
            bomb,
            &deep,
            &long,
            "a: 1\na: 2\n",
            "a: .nan\n",
            "a: [1\n",
            "a: b: c\n",
            "\t- x: 'y\n",
            "a: *nowhere\n",
        ] {
            assert!(read(text).is_err(), "{text:.60}");
        }
    }

    #[test]
    fn shares_by_alias_within_bounds() {
        let tree = read("a: &x {b: 1}\nc: *x\n").unwrap();
        assert_eq!(tree.value, json!({"a": {"b": 1}, "c": {"b": 1}}));
    }
}
