//! Core kinds: Service, Namespace, ConfigMap; definitions of other kinds.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::scalar::or_default;
use super::{Meta, PortNumber, PortRef};
use crate::model::Transport;

/// `v1 Service`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Service {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: ServiceSpec,
    #[serde(default, deserialize_with = "or_default")]
    pub status: ServiceStatus,
}

impl Service {
    /// Whether it is only a name for something outside the cluster.
    pub fn is_external(&self) -> bool {
        self.spec.r#type.as_deref() == Some("ExternalName")
    }
}

/// What is read of a Service's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceSpec {
    /// `ExternalName` is told from all others.
    pub r#type: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
    /// The addresses that clients know it by, one of each family; `None` where there is none ("headless").
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    pub cluster_ips: Vec<Box<str>>,
    /// The first of them, all that older or hand-written objects have.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<Box<str>>,
    /// The name that it stands for, where its type is `ExternalName`.
    #[serde(rename = "externalName")]
    pub external_name: Option<Box<str>>,
    /// `ClientIP`: what one client asks goes to one endpoint.
    #[serde(rename = "sessionAffinity")]
    pub session_affinity: Option<Box<str>>,
    /// Addresses outside of the cluster that lead to it.
    #[serde(rename = "externalIPs", deserialize_with = "or_default")]
    pub external_ips: Box<[Box<str>]>,
}

/// What is read of a Service's `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    #[serde(deserialize_with = "or_default")]
    pub load_balancer: LoadBalancer,
}

/// A load balancer's addresses.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    #[serde(deserialize_with = "or_default")]
    pub ingress: Box<[LoadBalancerIngress]>,
}

/// One of them, as an address or a name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoadBalancerIngress {
    pub ip: Option<Box<str>>,
    pub hostname: Option<Arc<str>>,
}

impl ServiceSpec {
    /// The addresses that clients know it by.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let first = self
            .cluster_ip
            .as_slice()
            .iter()
            .filter(|_| self.cluster_ips.is_empty());
        let texts = self.cluster_ips.iter().chain(first);
        texts.filter_map(|text| text.parse().ok())
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Empty when there is only one.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Arc<str>,
    pub port: PortNumber,
    #[serde(default)]
    pub target_port: Option<PortRef>,
    /// `TCP` when not said.
    #[serde(default)]
    pub protocol: Option<Box<str>>,
    #[serde(default)]
    pub app_protocol: Option<Box<str>>,
}

impl ServicePort {
    /// Whether it is for connections or datagrams; none of those that are known: neither.
    pub fn transport(&self) -> Option<Transport> {
        transport(self.protocol.as_deref())
    }

    /// Whether it is for connections.
    pub fn is_tcp(&self) -> bool {
        self.transport() == Some(Transport::Tcp)
    }
}

/// What a `protocol` field says; not said is TCP, and SCTP is not known here.
pub fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol {
        None | Some("" | "TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

/// `v1 Namespace`; only its labels are read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Namespace {
    pub metadata: Meta,
}

/// `v1 ConfigMap`; of its data only what may be a bundle of root certificates.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ConfigMap {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub data: ConfigMapData,
}

/// What is read of a ConfigMap's `data`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConfigMapData {
    /// Certificates in PEM.
    #[serde(rename = "ca.crt")]
    pub ca: Option<Arc<str>>,
}

/// `apiextensions.k8s.io/v1 CustomResourceDefinition`; only its annotations are read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct CustomResourceDefinition {
    pub metadata: Meta,
}
