//! Kubernetes: Services, EndpointSlices, Ingresses and Gateway API objects become a model.
//!
//! The heart is [`Index`]: synchronous, with one owner, fed with plain objects by `apply`, `delete`
//! and `reset`, and asked for what changed by `take_delta`. It does no I/O and knows nobody but the
//! model, so that every rule is tested with plain objects. Who feeds it is another matter:
//! [`Cluster`], which follows an API server, or [`Manifests`], a directory of YAML files that plays one.
//!
//! ```text
//! files / API server ─► objects ─► index ─► gateway, routes, ingress, service, endpoint_slice ─► Delta
//! ```
//!
//! What is wrong with an object harms that object alone: it is left out, a [`Reject`](crate::model::Reject)
//! names the object and the field, and everything else goes on. Where the Gateway API has a condition
//! reason for it (`RefNotPermitted`, `NoMatchingListenerHostname`) the text starts with that.

mod backend_tls;
mod certificates;
mod cluster;
mod endpoint_slice;
mod features;
mod front;
mod gateway;
mod index;
mod ingress;
mod manifests;
mod nginx;
mod objects;
mod overview;
mod routes;
mod service;
mod status;
mod trust;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

pub use cluster::{
    ACME_LEASE, Access, AccessError, Backoff, Change, Cluster, ClusterOptions, Health, Hold, Overviews,
    Resign, Secrets, ask, identity,
};
pub use front::ports::PortRange;
pub use front::{FrontKind, GatewayServices};
pub use index::{Index, STATUS_KINDS};
pub use manifests::{Manifests, OpenError};
pub use nginx::{ANNOTATIONS, Annotation, Survey, Treatment, survey};
pub use objects::{Id, Key, Kind, Object};
pub use overview::{Liveness, Overview, of_directory as overview_of_directory};
pub use status::{Sockets, StatusAddress};

/// The name of a cluster as a source, in messages.
pub const SOURCE: &str = "kubernetes";

/// The class name that is ours without any class object, where [`Settings::class_by_name`] allows it.
pub const CLASS_NAME: &str = "tidegate";

/// `spec.controllerName` of the GatewayClasses that are ours.
pub const GATEWAY_CONTROLLER: &str = "tidegate.dev/gateway-controller";

/// The name under which routes whose parents are Services are told how they fare.
pub const MESH_CONTROLLER: &str = "tidegate.dev/mesh-controller";

/// `spec.controller` of the IngressClasses that are ours.
pub const INGRESS_CONTROLLER: &str = "tidegate.dev/ingress-controller";

/// What the objects themselves do not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where Ingresses are served. Bound only while there is one to serve; it goes before a Gateway
    /// that wants the same address and port.
    pub ingress_address: SocketAddr,
    /// Where their hosts with TLS are served, in the same way.
    pub ingress_tls_address: SocketAddr,
    /// Where the listeners of a Gateway without an address of its own are bound; the port is the listener's.
    pub gateway_address: IpAddr,
    /// Addresses of which every Gateway without one gets its own, instead of [`gateway_address`](Self::gateway_address); they
    /// must be this host's. Then Gateways may have the same ports.
    pub gateway_pool: Option<IpNet>,
    /// Whether Gateways get Services, which give them addresses of their own; for clusters. Then they may have the same ports.
    pub gateway_services: Option<GatewayServices>,
    /// Whether the class name [`CLASS_NAME`] makes a Gateway or Ingress ours when no object of that
    /// class exists, and an Ingress without any class is ours too. For manifest directories, where
    /// nobody else is there to serve them; never for a shared cluster.
    pub class_by_name: bool,
    /// Whether only Services are looked at, and every TCP port of them is a backend that is known by the Service's addresses:
    /// for a sidecar, whose app may ask for any of them, and which serves no Ingress and no Gateway.
    pub services_only: bool,
    /// Whether then BackendTLSPolicies are looked at too, and the ConfigMaps with their roots. A gateway always does.
    pub backend_tls: bool,
    /// What is done with routes whose parents are Services.
    pub mesh: Mesh,
    /// Whether Services of the type ExternalName are followed. Who may write one reaches whatever Tidegate reaches, also in namespaces
    /// and networks that are not theirs (CVE-2021-25740).
    pub external_names: bool,
}

/// What is done with routes whose parents are Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mesh {
    /// Nothing: they may be another's.
    #[default]
    Off,
    /// They are told how they fare; sidecars serve them.
    Tell,
    /// They are served, by a sidecar.
    Serve {
        /// The namespace of the clients, whose own routes count for them; none when nobody knows it.
        namespace: Option<std::sync::Arc<str>>,
    },
}

impl Settings {
    /// The kinds that are looked at.
    pub fn kinds(&self) -> &'static [Kind] {
        const ROUTED: &[Kind] = &[
            Kind::EndpointSlice,
            Kind::Service,
            Kind::HttpRoute,
            Kind::GrpcRoute,
            Kind::BackendTlsPolicy,
            Kind::ConfigMap,
        ];
        const SERVED: &[Kind] = &[
            Kind::EndpointSlice,
            Kind::Service,
            Kind::BackendTlsPolicy,
            Kind::ConfigMap,
        ];
        let (all, without_tls) = match (self.services_only, &self.mesh) {
            (false, _) => return Kind::ALL,
            (true, Mesh::Serve { .. }) => (ROUTED, 4),
            (true, _) => (SERVED, 2),
        };
        if self.backend_tls {
            all
        } else {
            &all[..without_tls]
        }
    }
}

impl Default for Settings {
    /// Ports 80 and 443 on every IPv4 address for Ingresses, every IPv4 address for Gateways, classes by name.
    fn default() -> Self {
        Self {
            ingress_address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 80),
            ingress_tls_address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 443),
            gateway_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            gateway_pool: None,
            gateway_services: None,
            class_by_name: true,
            services_only: false,
            backend_tls: false,
            mesh: Mesh::Off,
            external_names: false,
        }
    }
}

#[cfg(test)]
mod testing;
