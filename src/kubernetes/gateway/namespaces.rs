//! From which namespaces something may attach.

use crate::kubernetes::index::Store;
use crate::kubernetes::objects::{Id, LabelSelector, RouteNamespaces};

/// From which namespaces something may attach.
#[derive(Clone, Debug, PartialEq)]
pub enum AllowedNamespaces {
    /// From every one.
    All,
    /// From none; also when the field is not understood.
    None,
    /// From the Gateway's.
    Same,
    /// From those whose labels are selected.
    Selector(LabelSelector),
}

impl AllowedNamespaces {
    /// Reads `namespaces`, with what `from` means when it is not said; or what is wrong with it, with the field below.
    pub fn read(spec: Option<&RouteNamespaces>, unsaid: &str) -> Result<Self, (&'static str, String)> {
        match spec.and_then(|spec| spec.from.as_deref()).unwrap_or(unsaid) {
            "None" => Ok(Self::None),
            "Same" => Ok(Self::Same),
            "All" => Ok(Self::All),
            "Selector" => match spec.and_then(|spec| spec.selector.clone()) {
                Some(selector) => Ok(Self::Selector(selector)),
                None => Err((".selector", "from: Selector needs a selector".to_owned())),
            },
            other => Err((".from", format!("{other:?} is none of All, None, Same, Selector"))),
        }
    }

    /// Whether what is in `namespace` may attach to what is in `own`.
    pub fn allow(&self, own: &str, namespace: &str, store: &Store) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Same => own == namespace,
            Self::Selector(selector) => {
                let object = store.namespace(&Id::new("", namespace));
                let label = |key: &str| match object.and_then(|object| object.metadata.labels.get(key)) {
                    Some(value) => Some(&**value),
                    // the API server gives every namespace this label
                    None => (key == "kubernetes.io/metadata.name").then_some(namespace),
                };
                selects(selector, label)
            }
        }
    }
}

/// Whether a selector selects an object with these labels. An empty one selects everything.
fn selects<'labels>(selector: &LabelSelector, label: impl Fn(&str) -> Option<&'labels str>) -> bool {
    selector
        .match_labels
        .iter()
        .all(|(key, value)| label(key) == Some(value))
        && selector.match_expressions.iter().all(|expression| {
            let value = label(&expression.key);
            let listed = value.is_some_and(|value| expression.values.iter().any(|listed| **listed == *value));
            match &*expression.operator {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
