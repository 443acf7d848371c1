//! Which Apps of its namespace a resource is for: some by name, some by label, or all.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::pattern;

/// Some Apps of the namespace: by name or by label, exactly one of them.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.names) != has(self.selector)")
    .message("give exactly one of `names` and `selector`; leave `apps` out for every App"))]
pub struct AppSelection {
    /// Names of Apps in this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 40), regex(pattern = pattern::LABEL)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub names: Option<Vec<String>>,
    /// Apps of this namespace by their labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<AppSelector>,
}

/// Apps by their labels.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppSelector {
    /// Labels an App must carry, all of them, with exactly these values.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 32))]
    pub match_labels: BTreeMap<String, String>,
}

impl AppSelection {
    /// Whether an App of this name and with these labels is meant.
    pub fn includes(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let named = self.names.as_ref().is_some_and(|names| names.iter().any(|n| n == name));
        let selected = self.selector.as_ref().is_some_and(|selector| {
            !selector.match_labels.is_empty()
                && selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        named || selected
    }
}

/// Whether an App is meant where the selection itself may be absent, which means every App.
pub fn includes(selection: Option<&AppSelection>, name: &str, labels: &BTreeMap<String, String>) -> bool {
    selection.is_none_or(|selection| selection.includes(name, labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_by_name_by_all_labels_or_everything_and_never_by_nothing() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>()
        };
        let by_name = AppSelection { names: Some(vec!["shop".to_owned()]), selector: None };
        let by_label =
            |pairs| AppSelection { names: None, selector: Some(AppSelector { match_labels: labels(pairs) }) };
        let tier = labels(&[("tier", "gold"), ("team", "web")]);
        for (selection, name, expected) in [
            (None, "shop", true),
            (Some(by_name.clone()), "shop", true),
            (Some(by_name), "blog", false),
            (Some(by_label(&[("tier", "gold")])), "blog", true),
            (Some(by_label(&[("tier", "gold"), ("team", "app")])), "blog", false),
            (Some(by_label(&[])), "blog", false),
            (Some(AppSelection::default()), "blog", false),
        ] {
            assert_eq!(includes(selection.as_ref(), name, &tier), expected, "{selection:?} {name}");
        }
    }
}
