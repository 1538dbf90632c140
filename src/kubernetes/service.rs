//! Services: which port a reference means, what is spoken there, and the policy that annotations give.
//!
//! Every port of a Service that a route uses is one backend, `namespace/service:port`, and another one for what is not read
//! (`…/tcp`, `…/tls`, `…/udp`): TLS, protocol and what is learnt of the endpoints are not the same there. Another one it is for
//! each Gateway that shows endpoints a certificate (`…@namespace/gateway`). A bad annotation is left out, with the default in its
//! place.

mod annotations;

use std::fmt::Write as _;
use std::sync::Arc;

use annotations::{PREFIX, mtls};

use crate::kubernetes::index::{Complaint, Store};
use crate::kubernetes::nginx::Upstream;
use crate::kubernetes::objects::{Id, Kind, PortRef, Service, ServicePort};
use crate::model::{
    Affinity, AffinityBy, AffinityMode, Backend, BackendName, BackendProtocol, DnsName, NamedEndpoint,
    Transport,
};

/// What passes between clients and endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// Requests, one by one.
    Requests,
    /// Bytes that nobody reads, of connections that are ours on both sides.
    Bytes,
    /// TLS between a client and an endpoint, which is not opened.
    Tls,
    /// Datagrams.
    Datagrams,
}

impl Traffic {
    /// What it takes.
    pub fn transport(self) -> Transport {
        match self {
            Self::Requests | Self::Bytes | Self::Tls => Transport::Tcp,
            Self::Datagrams => Transport::Udp,
        }
    }

    /// Whether it goes over TLS of ours where a policy says so.
    pub fn may_have_tls(self) -> bool {
        match self {
            Self::Requests | Self::Bytes => true,
            Self::Tls | Self::Datagrams => false,
        }
    }
}

/// How a listener leads to endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// What passes.
    pub traffic: Traffic,
    /// The Gateway whose certificate is shown to endpoints that ask who we are over TLS. None: no certificate is.
    pub identity: Option<Arc<Id>>,
}

impl Way {
    /// Requests, and no certificate.
    pub const REQUESTS: Self = Self {
        traffic: Traffic::Requests,
        identity: None,
    };
}

/// A port of a Service, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortUse {
    /// The Service's own number, of the ports with that transport.
    pub port: u16,
    /// How.
    pub way: Way,
}

impl PortUse {
    /// For requests, with no certificate of ours.
    pub fn requests(port: u16) -> Self {
        Self {
            port,
            way: Way::REQUESTS,
        }
    }
}

/// The name of the backend that a Service's port is.
pub fn backend_name(id: &Id, PortUse { port, way }: &PortUse) -> BackendName {
    let mut name = match way.traffic {
        Traffic::Requests => format!("{id}:{port}"),
        Traffic::Bytes => format!("{id}:{port}/tcp"),
        Traffic::Tls => format!("{id}:{port}/tls"),
        Traffic::Datagrams => format!("{id}:{port}/udp"),
    };
    if let Some(gateway) = &way.identity {
        let _ = write!(name, "@{gateway}"); // a String takes everything
    }
    BackendName::new(name)
}

/// The port of a Service that is meant, or why there is none that can be spoken with.
pub fn find_port<'store>(
    store: &'store Store,
    id: &Id,
    wanted: &PortRef,
    traffic: Traffic,
) -> Result<&'store ServicePort, String> {
    let service = store
        .service(id)
        .ok_or_else(|| format!("BackendNotFound: there is no Service {id}"))?;
    if service.is_external() {
        if !store.external_names {
            return Err(format!(
                "UnsupportedValue: Service {id} is of type ExternalName; only with --external-names is it followed"
            ));
        }
        external_name(service).map_err(|reason| format!("UnsupportedValue: Service {id}: {reason}"))?;
    }
    let is_meant = |port: &&ServicePort| match wanted {
        PortRef::Number(number) => port.port.0 == *number,
        PortRef::Name(name) => port.name == *name,
    };
    let Some(port) = service
        .spec
        .ports
        .iter()
        .filter(|port| port.transport() == Some(traffic.transport()))
        .find(is_meant)
    else {
        let wanted = match wanted {
            PortRef::Number(number) => number.to_string(),
            PortRef::Name(name) => format!("{name:?}"),
        };
        if service.spec.ports.iter().any(|port| is_meant(&port)) {
            return Err(format!(
                "UnsupportedProtocol: port {wanted} of Service {id} is not a {} port",
                traffic.transport().word().to_uppercase()
            ));
        }
        return Err(format!(
            "BackendNotFound: Service {id} has no port {wanted}; it has {}",
            describe_ports(service)
        ));
    };
    match app_protocol(port.app_protocol.as_deref()) {
        AppProtocol::Unspeakable
            if traffic == Traffic::Requests
                && service.metadata.annotation("tidegate.dev/protocol").is_none()
                && !has_policy(store, id) =>
        {
            Err(format!(
                "UnsupportedProtocol: appProtocol {:?} of Service {id} asks for TLS to the endpoints, which \
             takes a BackendTLSPolicy",
                port.app_protocol.as_deref().unwrap_or_default()
            ))
        }
        _ => Ok(port),
    }
}

/// The name that a Service of the type ExternalName stands for.
fn external_name(service: &Service) -> Result<DnsName, String> {
    let name = service.spec.external_name.as_deref().unwrap_or_default();
    DnsName::parse(name).map_err(|error| format!("externalName {name:?}: {error}"))
}

/// Whether there is a policy for the TLS to a Service's endpoints.
fn has_policy(store: &Store, id: &Id) -> bool {
    let mut policies = store.in_namespace(Kind::BackendTlsPolicy, &id.namespace);
    policies.any(|(key, _)| {
        let policy = store.backend_tls_policy(&key.id);
        policy.is_some_and(|policy| {
            policy
                .spec
                .target_refs
                .iter()
                .any(|target| target.name == id.name)
        })
    })
}

/// What is spoken over TLS where nothing says what it is: HTTP/2 or HTTP/1.1, as the endpoint likes.
pub fn over_tls(protocol: BackendProtocol, port: &ServicePort) -> BackendProtocol {
    match (protocol, app_protocol(port.app_protocol.as_deref())) {
        (BackendProtocol::Http1, AppProtocol::Unsaid | AppProtocol::Unspeakable) => BackendProtocol::Auto,
        (protocol, _) => protocol,
    }
}

/// The ports of a Service, in words.
pub fn describe_ports(service: &Service) -> String {
    let known: Vec<_> = service.spec.ports.iter().map(describe_port).collect();
    match known.is_empty() {
        true => "none".to_owned(),
        false => known.join(", "),
    }
}

fn describe_port(port: &ServicePort) -> String {
    if port.name.is_empty() {
        port.port.0.to_string()
    } else {
        format!("{} ({})", port.port.0, port.name)
    }
}

/// What an `appProtocol` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppProtocol {
    /// This.
    Speak(BackendProtocol),
    /// Nothing that is known.
    Unsaid,
    /// TLS, which is not spoken with endpoints.
    Unspeakable,
}

/// Reads an `appProtocol`: the prefixed names of Kubernetes (GEP-1911) and the common bare ones.
///
/// A WebSocket begins as HTTP/1.1, so `ws` and `wss` are that. Names of others say nothing about HTTP.
pub fn app_protocol(text: Option<&str>) -> AppProtocol {
    match text {
        Some("kubernetes.io/h2c" | "h2c" | "grpc") => AppProtocol::Speak(BackendProtocol::H2c),
        Some("kubernetes.io/ws" | "kubernetes.io/wss" | "ws" | "wss" | "http") => {
            AppProtocol::Speak(BackendProtocol::Http1)
        }
        Some("https" | "HTTPS" | "grpcs" | "tls" | "kubernetes.io/https") => AppProtocol::Unspeakable,
        _ => AppProtocol::Unsaid,
    }
}

/// A backend's policy, and whether an annotation says what is spoken (then slices have no say).
#[derive(Debug, PartialEq)]
pub struct Policy {
    /// The backend.
    pub backend: Backend,
    /// Whether the protocol is an annotation's.
    pub protocol_is_forced: bool,
    /// Annotations that were left out, with their reasons.
    pub complaints: Vec<Complaint>,
}

/// The policy of one use of a port of a Service. Where GRPCRoutes lead to it and nothing says otherwise, HTTP/2 is spoken, which is
/// what gRPC needs. What an Ingress wishes goes before `appProtocol`, the Service's annotations before both.
pub fn policy(
    id: &Id,
    service: &Service,
    port: &ServicePort,
    way: &Way,
    by_grpc: bool,
    wish: Option<&Upstream>,
) -> Policy {
    let port_use = PortUse {
        port: port.port.0,
        way: way.clone(),
    };
    let mut backend = Backend::new(backend_name(id, &port_use));
    match app_protocol(port.app_protocol.as_deref()) {
        _ if way.traffic != Traffic::Requests => {}
        AppProtocol::Speak(protocol) => backend.protocol = protocol,
        AppProtocol::Unsaid | AppProtocol::Unspeakable if by_grpc => backend.protocol = BackendProtocol::H2c,
        AppProtocol::Unsaid | AppProtocol::Unspeakable => {}
    }
    if let Some(wish) = wish {
        wish.apply(&mut backend);
    }
    backend.opaque = port.app_protocol.as_deref() == Some("tcp");
    if backend.affinity.is_none() && service.spec.session_affinity.as_deref() == Some("ClientIP") {
        backend.affinity = Some(Affinity {
            by: AffinityBy::Source,
            mode: AffinityMode::Strong,
        });
    }
    if service.is_external()
        && let Ok(name) = external_name(service)
    {
        backend.named = vec![NamedEndpoint::new(name, port.port.0)];
    }
    let mut policy = Policy {
        backend,
        protocol_is_forced: wish.is_some_and(Upstream::has_protocol),
        complaints: Vec::new(),
    };
    for (name, value) in &service.metadata.annotations {
        let Some(word) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if let Err(reason) = policy.annotate(word, value) {
            let field = format!("metadata.annotations[{name}]");
            policy.complaints.push(Complaint::new(field, reason));
        }
    }
    policy.unhedge_ties();
    // Datagrams have no TLS.
    if way.traffic.transport() == Transport::Tcp {
        policy.backend.mtls = mtls(id, service, &mut policy.complaints);
    }
    policy
}

#[cfg(test)]
mod tests;
