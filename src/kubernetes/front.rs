//! The Service in front of a Gateway, which gives it an address of its own (GEP-1762, GEP-1867).
//!
//! All Gateways are served by the same pods, so a Gateway's Service cannot select pods of its own: it has no selector, and
//! EndpointSlices that we write, which mirror those of Tidegate's own Service. Two Gateways on port 80 come to the same pods, and are
//! told apart there by the port: each port of a Gateway has a *target port* of a range of ours ([`ports`]), which is where
//! every replica binds. It is kept nowhere but in the Service's `targetPort`, so replicas agree and a restart changes nothing.
//!
//! ```text
//! client ─► Service of the Gateway, :80 ─► any pod of Tidegate, :20317 ─► listener of the Gateway
//!             written by who holds the lease     bound by every replica, once the Service says it
//! ```
//!
//! What is written is decided here, as plain data ([`objects`], [`mirror`]); `cluster/fronts.rs` writes it.

pub mod mirror;
pub mod objects;
pub mod ports;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ports::{GatewayPort, PortRange, assign};

use crate::kubernetes::index::{Complaint, Store};
use crate::kubernetes::objects::{Gateway, Id, Infrastructure, MANAGED_BY, MANAGER, PortRef, Service};
use crate::model::Transport;

/// The label with the name of the Gateway that an object is for (GEP-1762).
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// The same for its class.
pub const CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";

/// The longest name of a Service, and value of a label.
const MAX_NAME: usize = 63;

/// Whether and how Gateways get Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayServices {
    /// Of which type.
    pub kind: FrontKind,
    /// Where their ports lead to in the pods.
    pub ports: PortRange,
    /// Tidegate's own Service, whose endpoints are theirs.
    pub own: Id,
}

/// The type of the Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontKind {
    /// Each has an address of a load balancer.
    LoadBalancer,
    /// Each has an address within the cluster.
    ClusterIp,
    /// The same, and a port of every node for each of its own.
    NodePort,
}

impl FrontKind {
    /// As a Service has it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
        }
    }
}

/// What is to stand in front of a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Front {
    /// The Gateway.
    pub gateway: Id,
    /// What tells it from one of the same name before it.
    pub uid: Option<Box<str>>,
    /// Its class.
    pub class: Arc<str>,
    /// Its ports, by number; at least one.
    pub ports: Vec<FrontPort>,
    /// The address that it asks for.
    pub address: Option<IpAddr>,
    /// Labels and annotations that it asks for.
    pub infrastructure: Infrastructure,
}

/// A port of a Gateway, and where it leads to in the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontPort {
    /// That clients know.
    pub port: u16,
    /// For connections or datagrams.
    pub transport: Transport,
    /// That is bound.
    pub target: u16,
}

impl FrontPort {
    /// Its name in Services and slices.
    pub fn name(&self) -> String {
        format!("{}-{}", self.transport.word(), self.port)
    }
}

/// A Gateway that wants a Service, and what it wants.
pub struct Wish<'all> {
    /// Which.
    pub id: &'all Id,
    /// As it is.
    pub gateway: &'all Gateway,
    /// The ports of its listeners and of those of its ListenerSets.
    pub ports: Vec<(u16, Transport)>,
    /// The address that it asks for and may have.
    pub address: Option<IpAddr>,
}

/// Where Gateways' ports lead to, and what stands in front of them.
#[derive(Debug, Default, PartialEq)]
pub struct Fronts {
    /// The ports that the Services say, which are bound.
    pub ports: BTreeMap<GatewayPort, u16>,
    /// The Services to write.
    pub services: BTreeMap<Id, Arc<Front>>,
    /// The Service of each Gateway that has one or is to have one.
    pub names: BTreeMap<Id, Id>,
}

/// What stands in front of Gateways that want it, the first of which comes first where a port or a name is wanted twice. `known` is what
/// was bound until now.
pub fn fronts(
    wishes: &[Wish<'_>],
    store: &Store,
    settings: &GatewayServices,
    known: &BTreeMap<GatewayPort, u16>,
) -> (Fronts, Vec<(Id, Complaint)>) {
    let mut fronts = Fronts::default();
    let mut complaints = Vec::new();
    let mut said = BTreeMap::new();
    let mut wanted = Vec::new();
    for wish in wishes {
        let service = service_of(wish.id, &wish.gateway.spec.gateway_class_name);
        let there = store.service(&service);
        let is_taken = fronts.names.values().any(|other| *other == service);
        if is_taken || there.is_some_and(|there| !is_for(there, wish.id)) {
            let reason = format!(
                "NoResources: Service {service} is there and is not this Gateway's; rename one of them"
            );
            complaints.push((wish.id.clone(), Complaint::new("spec.infrastructure", reason)));
            continue;
        }
        fronts.names.insert(wish.id.clone(), service);
        let claim = |port: u16, transport| GatewayPort {
            gateway: wish.id.clone(),
            port,
            transport,
        };
        for port in there.iter().flat_map(|there| &there.spec.ports) {
            if let (Some(PortRef::Number(target)), Some(transport)) = (&port.target_port, port.transport()) {
                said.insert(claim(port.port.0, transport), *target);
            }
        }
        wanted.extend(
            wish.ports
                .iter()
                .map(|(port, transport)| claim(*port, *transport)),
        );
    }
    let assigned = assign(&wanted, known, &said, settings.ports);
    for claim in &assigned.left_out {
        let reason = format!(
            "NoResources: port {} leads nowhere, because all ports of {} are given to others; widen --gateway-ports",
            claim.port, settings.ports
        );
        complaints.push((
            claim.gateway.clone(),
            Complaint::new("spec.infrastructure", reason),
        ));
    }
    for wish in wishes {
        let Some(service) = fronts.names.get(wish.id) else {
            continue;
        };
        let port = |(port, transport): &(u16, Transport)| {
            let claim = GatewayPort {
                gateway: wish.id.clone(),
                port: *port,
                transport: *transport,
            };
            assigned.wished.get(&claim).map(|target| FrontPort {
                port: *port,
                transport: *transport,
                target: *target,
            })
        };
        let ports: Vec<FrontPort> = wish.ports.iter().filter_map(port).collect();
        if ports.is_empty() {
            continue; // a Service has at least one
        }
        let front = Front {
            gateway: wish.id.clone(),
            uid: wish.gateway.metadata.uid.clone(),
            class: Arc::clone(&wish.gateway.spec.gateway_class_name),
            ports,
            address: wish.address,
            infrastructure: wish.gateway.spec.infrastructure.clone(),
        };
        fronts.services.insert(service.clone(), Arc::new(front));
    }
    fronts.ports = assigned.served;
    (fronts, complaints)
}

/// The address that a Gateway asks for and may have.
pub fn address(gateway: &Gateway, kind: FrontKind, complaints: &mut Vec<Complaint>) -> Option<IpAddr> {
    let mut found = None;
    for (at, address) in gateway.spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{at}]");
        let value = &address.value;
        let reason = match (address.r#type.as_deref(), value.parse::<IpAddr>()) {
            (None | Some("IPAddress"), Ok(address)) => match found {
                _ if kind != FrontKind::LoadBalancer => {
                    format!(
                        "AddressNotUsable: a Service of the type {} takes no address of one's choice",
                        kind.word()
                    )
                }
                Some(found) if found != address => {
                    format!(
                        "AddressNotUsable: {address} is one too many; a load balancer is asked for one, {found}"
                    )
                }
                _ => {
                    found = Some(address);
                    continue;
                }
            },
            (None | Some("IPAddress"), Err(_)) if value.is_empty() => continue,
            (None | Some("IPAddress"), Err(_)) => format!("AddressNotUsable: {value:?} is no IP address"),
            (Some(other), _) => {
                format!("UnsupportedAddress: {other:?} cannot be asked for; only IPAddress can")
            }
        };
        complaints.push(Complaint::new(field, reason));
    }
    found
}

/// Whether a Service was made by us for some Gateway.
pub fn is_front(service: &Service) -> bool {
    let labels = &service.metadata.labels;
    labels.get(MANAGED_BY).is_some_and(|by| **by == *MANAGER) && labels.contains_key(GATEWAY_NAME)
}

/// Whether a Service is one that we made for this Gateway.
fn is_for(service: &Service, gateway: &Id) -> bool {
    let label = service.metadata.labels.get(GATEWAY_NAME);
    is_front(service) && label.is_some_and(|name| **name == *label_of(&gateway.name))
}

/// The Service of a Gateway: `GATEWAY-CLASS`, as GEP-1762 has it, as far as that is a name that a Service may have.
pub fn service_of(gateway: &Id, class: &str) -> Id {
    let whole = format!("{}-{class}", gateway.name);
    let starts_well = whole.starts_with(|first: char| first.is_ascii_lowercase());
    let plain = if starts_well {
        whole.clone()
    } else {
        format!("gw-{whole}")
    }
    .replace('.', "-");
    let name = match plain == whole {
        true => short(&plain, &whole),
        // Two names may be the same without their dots.
        false => hashed(&plain, &whole),
    };
    Id::new(Arc::clone(&gateway.namespace), name)
}

/// A name as the value of a label.
pub fn label_of(name: &str) -> String {
    short(name, name)
}

/// Cut to what a Service's name and a label's value may have.
fn short(text: &str, whole: &str) -> String {
    match text.len() <= MAX_NAME {
        true => text.to_owned(),
        false => hashed(text, whole),
    }
}

/// Cut, with the hash of the whole behind it.
fn hashed(text: &str, whole: &str) -> String {
    let end = text.len().min(MAX_NAME - 9);
    let start = text.get(..end).unwrap_or_default();
    format!(
        "{}-{:08x}",
        start.trim_end_matches(['-', '.']),
        hash(whole.as_bytes()) as u32
    )
}

/// FNV-1a: the same wherever and whenever it is asked for.
pub fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests;
