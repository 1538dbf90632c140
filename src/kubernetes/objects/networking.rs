//! `networking.k8s.io/v1`: Ingress and IngressClass.

use std::sync::Arc;

use serde::Deserialize;

use super::scalar::or_default;
use super::{Meta, PortNumber};

/// `networking.k8s.io/v1 Ingress`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Ingress {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: IngressSpec,
}

/// What is read of an Ingress's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IngressSpec {
    pub ingress_class_name: Option<Arc<str>>,
    pub default_backend: Option<IngressBackend>,
    #[serde(deserialize_with = "or_default")]
    pub rules: Vec<IngressRule>,
    #[serde(deserialize_with = "or_default")]
    pub tls: Vec<IngressTls>,
}

/// A host and its paths.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressRule {
    /// Not said or empty: every host.
    pub host: Option<Arc<str>>,
    pub http: Option<IngressPaths>,
}

/// The paths of a host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressPaths {
    #[serde(deserialize_with = "or_default")]
    pub paths: Vec<IngressPath>,
}

/// A path and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IngressPath {
    /// Not said or empty: `/`.
    pub path: Option<Arc<str>>,
    /// `Exact`, `Prefix` or `ImplementationSpecific`.
    pub path_type: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub backend: IngressBackend,
}

/// Where a path goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressBackend {
    pub service: Option<IngressService>,
}

/// A Service and one of its ports.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct IngressService {
    pub name: Arc<str>,
    #[serde(default, deserialize_with = "or_default")]
    pub port: IngressPort,
}

/// A port by number or by name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressPort {
    pub number: Option<PortNumber>,
    pub name: Option<Arc<str>>,
}

/// Hosts that the Ingress wants served with TLS; none listed means all.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IngressTls {
    #[serde(deserialize_with = "or_default")]
    pub hosts: Vec<Arc<str>>,
    pub secret_name: Option<Arc<str>>,
}

/// `networking.k8s.io/v1 IngressClass`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct IngressClass {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: IngressClassSpec,
}

/// What is read of an IngressClass's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressClassSpec {
    pub controller: Option<Box<str>>,
}
