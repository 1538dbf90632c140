//! Attachment to Services: which addresses a route is for, where its parents are Services (Gateway API, GEP-1294).
//!
//! A route in a Service's own namespace is its producer's and counts for every client. One in another namespace is a
//! consumer's and counts for clients of that namespace alone, to whom it goes before the producer's: it says what they wish
//! to be different. So an address has a listener for the producer's routes and one for each namespace of consumers, and
//! the index gives out the one that counts (`src/kubernetes/index/destinations.rs`).
//!
//! A route is for all ports of its Service or for the one that it names. Its hostnames say nothing here: clients are told
//! apart by the address that they ask for. References to Services of other namespaces need no grant, because clients
//! may ask those themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::Surroundings;
use crate::kubernetes::index::{Claim, Findings, Rank};
use crate::kubernetes::objects::{Id, Key, Kind, ParentRef, Service, ServicePort};
use crate::model::{HostPattern, ListenerName};

/// The clients that routes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients<'a> {
    /// All of them: what is asked is how a route fares.
    All,
    /// Those in this namespace. None: nobody knows in which they are, so that consumers' routes do not count.
    In(Option<&'a str>),
}

/// The listeners of the Services that take a route, each once, by name.
pub fn listeners(
    route: &Key,
    parents: &[ParentRef],
    clients: Clients<'_>,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<ListenerName> {
    let mut found = BTreeSet::new();
    for (at, parent) in parents.iter().enumerate() {
        let Some(id) = service_of(&route.id, parent) else {
            continue;
        };
        let key = Key {
            kind: Kind::Service,
            id: id.clone(),
        };
        findings.on.parents.insert(key);
        let taken = match around.store.service(&id) {
            Some(service) => taking(&id, service, parent),
            None => Err(format!("NoMatchingParent: there is no Service {id}")),
        };
        match taken {
            Ok(addresses) => {
                let consumer = (id.namespace != route.id.namespace).then_some(&*route.id.namespace);
                let counts = match (clients, consumer) {
                    (Clients::All, _) | (_, None) => true,
                    (Clients::In(namespace), Some(consumer)) => namespace == Some(consumer),
                };
                let names = addresses.iter().map(|address| name(&id, *address, consumer));
                let (mut lost, mut is_attached) = (None, false);
                for name in names.filter(|_| counts) {
                    match around.rivals.refuses(route, &name) {
                        None => is_attached |= found.insert(name),
                        Some(rival) => lost = Some(rival),
                    }
                }
                if let Some(rival) = lost {
                    let part = if is_attached { ".port" } else { "" };
                    let reason = format!(
                        "Conflicted: {rival} goes before it at Service {id}; a port has HTTPRoutes or GRPCRoutes"
                    );
                    findings.complain(format!("spec.parentRefs[{at}]{part}"), reason);
                }
            }
            Err(refusal) => findings.complain(format!("spec.parentRefs[{at}]"), refusal),
        }
    }
    found.into_iter().collect()
}

/// What a route claims of the listeners that take it.
pub fn claims(
    route: &Key,
    parents: &[ParentRef],
    clients: Clients<'_>,
    around: Surroundings<'_>,
) -> BTreeMap<ListenerName, Claim> {
    let claim = Claim {
        rank: Rank::by_kind(route),
        hostnames: vec![HostPattern::Any],
    };
    let names = listeners(route, parents, clients, around, &mut Findings::default());
    names.into_iter().map(|name| (name, claim.clone())).collect()
}

/// The listener of an address of a Service, for the routes of its producer or of consumers in a namespace.
pub fn name(service: &Id, address: SocketAddr, consumer: Option<&str>) -> ListenerName {
    let scope = consumer.map_or_else(String::new, |namespace| format!(" from {namespace}"));
    ListenerName::new(format!("Service/{service} {address}{scope}"))
}

/// The Service that a parent is; none when it is of another kind.
pub fn service_of(route: &Id, parent: &ParentRef) -> Option<Id> {
    // The group has to be said: not said, it is the Gateway API's.
    if parent.group.as_deref() != Some("") || parent.kind.as_deref() != Some("Service") {
        return None;
    }
    let namespace = parent.namespace.as_ref().unwrap_or(&route.namespace);
    Some(Id::new(Arc::clone(namespace), Arc::clone(&parent.name)))
}

/// The addresses of a Service that a parent reference means, or why there are none.
fn taking(id: &Id, service: &Service, parent: &ParentRef) -> Result<Vec<SocketAddr>, String> {
    if service.is_external() || service.spec.addresses().next().is_none() {
        return Err(format!(
            "UnsupportedValue: Service {id} has no cluster address by which its clients could be known"
        ));
    }
    let is_meant = |port: &&ServicePort| {
        parent.port.is_none_or(|wanted| wanted == port.port)
            && parent.section_name.as_ref().is_none_or(|name| *name == port.name)
    };
    let ports = service.spec.ports.iter().filter(|port| port.is_tcp());
    let meant: Vec<u16> = ports.filter(is_meant).map(|port| port.port.0).collect();
    if meant.is_empty() {
        return Err(format!(
            "NoMatchingParent: Service {id} has no such port for TCP; it has {}",
            crate::kubernetes::service::describe_ports(service)
        ));
    }
    let of_port = |port| {
        let addresses = service.spec.addresses();
        addresses.map(move |address| SocketAddr::new(address, port))
    };
    Ok(meant.into_iter().flat_map(of_port).collect())
}
