//! `BackendTLSPolicy`: TLS towards the endpoints of Services.

use std::sync::Arc;

use serde::Deserialize;

use super::Meta;
use super::scalar::or_default;

/// `BackendTLSPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct BackendTlsPolicy {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: BackendTlsPolicySpec,
}

/// What is read of a BackendTLSPolicy's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BackendTlsPolicySpec {
    #[serde(deserialize_with = "or_default")]
    pub target_refs: Vec<PolicyTarget>,
    #[serde(deserialize_with = "or_default")]
    pub validation: BackendTlsValidation,
}

/// A Service of the policy's namespace, or one port of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTarget {
    #[serde(default, deserialize_with = "or_default")]
    pub group: Box<str>,
    #[serde(default, deserialize_with = "or_default")]
    pub kind: Box<str>,
    pub name: Arc<str>,
    /// A port's name.
    #[serde(default)]
    pub section_name: Option<Arc<str>>,
}

/// Whom to trust, and by which name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BackendTlsValidation {
    #[serde(rename = "caCertificateRefs", deserialize_with = "or_default")]
    pub ca_certificate_refs: Vec<ObjectRef>,
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub hostname: Box<str>,
    #[serde(deserialize_with = "or_default")]
    pub subject_alt_names: Vec<AltName>,
}

/// A reference to an object that has root certificates.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ObjectRef {
    #[serde(default, deserialize_with = "or_default")]
    pub group: Box<str>,
    #[serde(default, deserialize_with = "or_default")]
    pub kind: Box<str>,
    pub name: Arc<str>,
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
}

/// A name that an endpoint's certificate may have; `type` says which of the others is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AltName {
    #[serde(deserialize_with = "or_default")]
    pub r#type: Box<str>,
    pub hostname: Option<Box<str>>,
    pub uri: Option<Box<str>>,
}
