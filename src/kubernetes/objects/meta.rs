//! Metadata of every object: its name, its age, and the few labels and annotations that are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::Kind;
use super::scalar::{or_default, parse_time};

/// Prefixes of the annotations that are read; others (some are larger than their object) are dropped.
const READ_ANNOTATIONS: &[&str] = &[
    "tidegate.dev/",
    "gateway.networking.k8s.io/",
    "kubernetes.io/ingress.class",
    "nginx.ingress.kubernetes.io/",
    "ingressclass.kubernetes.io/",
];

/// The label that says who made an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Its value where that is us.
pub const MANAGER: &str = "tidegate";

/// Metadata of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// The namespace; empty for a cluster-wide object.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// Seconds since 1970 when it was made; 0 when not said (a manifest).
    pub created: u64,
    /// Counts changes of the `spec`; 0 when not said (a manifest).
    pub generation: i64,
    /// What tells it from others of the same name, before and after it; kept for Gateways only.
    pub uid: Option<Box<str>>,
    /// Labels; kept for Namespaces only, and for Services that we made.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Those annotations that are read.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
}

impl Meta {
    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(|value| &**value)
    }

    /// Puts the namespace right and drops what is not read of this kind.
    pub(super) fn prune(&mut self, kind: Kind) {
        if !kind.is_namespaced() {
            self.namespace = Arc::from("");
        } else if self.namespace.is_empty() {
            self.namespace = Arc::from("default");
        }
        if kind != Kind::Gateway {
            self.uid = None;
        }
        let is_made_by_us =
            kind == Kind::Service && self.labels.get(MANAGED_BY).is_some_and(|by| **by == *MANAGER);
        if kind != Kind::Namespace && !is_made_by_us {
            self.labels = BTreeMap::new();
        }
    }
}

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            name: Arc<str>,
            #[serde(default)]
            namespace: Option<Arc<str>>,
            #[serde(default)]
            creation_timestamp: Option<Box<str>>,
            #[serde(default)]
            generation: i64,
            #[serde(default)]
            uid: Option<Box<str>>,
            #[serde(default, deserialize_with = "or_default")]
            labels: BTreeMap<Arc<str>, Arc<str>>,
            #[serde(default, deserialize_with = "or_default")]
            annotations: BTreeMap<Arc<str>, Arc<str>>,
        }
        let mut raw = Raw::deserialize(input)?;
        for (field, name) in [("name", Some(&raw.name)), ("namespace", raw.namespace.as_ref())] {
            if let Some(name) = name.filter(|name| !is_object_name(name)) {
                return Err(D::Error::custom(format_args!(
                    "metadata.{field} {name:?} is no name: lower-case letters, digits, '-' and '.', at most 253"
                )));
            }
        }
        let created = match raw.creation_timestamp.as_deref() {
            None | Some("") => 0,
            Some(text) => parse_time(text).ok_or_else(|| {
                D::Error::custom(format_args!(
                    "metadata.creationTimestamp {text:?} is no time like 2026-01-31T12:00:00Z"
                ))
            })?,
        };
        raw.annotations
            .retain(|name, _| READ_ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix)));
        Ok(Self {
            namespace: raw.namespace.unwrap_or_default(),
            name: raw.name,
            created,
            generation: raw.generation,
            uid: raw.uid,
            labels: raw.labels,
            annotations: raw.annotations,
        })
    }
}

/// Whether the API server would take this as a name (RFC 1123 subdomain). Names are joined with `/` and `:`.
pub fn is_object_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|byte| inner(byte) || byte == b'-' || byte == b'.')
        && name.bytes().next().is_some_and(inner)
        && name.bytes().next_back().is_some_and(inner)
}
