//! Gateways: which are ours, where their listeners are bound, and what may attach to them.
//!
//! An address and port belong to one owner: the Ingress listener first, then Gateways by age and
//! name. Listeners of one Gateway share a port when their hostnames differ; those that do not differ
//! are all refused, as the Gateway API asks ("MUST NOT pick one conflicting Listener as the winner").

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::kubernetes::certificates;
use crate::kubernetes::index::{Complaint, Store};
use crate::kubernetes::objects::{Gateway, GatewayListener, Id, Key, Kind, LabelSelector, Object};
use crate::kubernetes::{CLASS_NAME, GATEWAY_CONTROLLER, Settings};
use crate::model::{HostPattern, Listener, ListenerLimits, ListenerName, ListenerTls, Protocols};

/// The group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// All Gateways that are ours.
#[derive(Debug, Default, PartialEq)]
pub struct Gateways {
    /// By namespace and name: the listeners, in the order of the Gateway.
    pub views: BTreeMap<Id, Vec<ListenerView>>,
    /// The listeners to bind.
    pub listeners: BTreeMap<ListenerName, Arc<Listener>>,
    /// The addresses of the pool that were given.
    pub given: BTreeMap<Id, IpAddr>,
    /// What is wrong, by Gateway.
    pub complaints: BTreeMap<Id, Vec<Complaint>>,
}

impl Gateways {
    /// A Gateway that comes with an address of the pool in its status had it before a restart, and has it again, unless another
    /// has it.
    pub fn take_back(&mut self, id: &Id, gateway: &Gateway, pool: Option<IpNet>) {
        let said = gateway.status.addresses.iter();
        let known = said.filter_map(|address| address.value.parse::<IpAddr>().ok());
        let free = known.filter(|address| !self.given.values().any(|given| given == address));
        let mut ours = free.filter(|address| pool.is_some_and(|pool| pool.contains(address)));
        if let Some(address) = ours.next() {
            self.given.entry(id.clone()).or_insert(address);
        }
    }
}

/// A listener as a route sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerView {
    /// Its name within the Gateway.
    pub section: Arc<str>,
    /// Its port.
    pub port: u16,
    /// Its hostname.
    pub hostname: HostPattern,
    /// From which namespaces routes may come.
    pub namespaces: AllowedNamespaces,
    /// Whether HTTPRoutes may attach.
    pub takes_http_routes: bool,
    /// What it is in the model, one for each address; or why it is not served.
    pub names: Result<Vec<ListenerName>, String>,
}

/// From which namespaces routes may come.
#[derive(Clone, Debug, PartialEq)]
pub enum AllowedNamespaces {
    /// From every one.
    All,
    /// From none, because the field is not understood.
    None,
    /// From the Gateway's.
    Same,
    /// From those whose labels are selected.
    Selector(LabelSelector),
}

impl AllowedNamespaces {
    /// Whether a route in `namespace` may attach to a listener of a Gateway in `own`.
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

/// All Gateways that are ours, with their listeners. `taken` are the addresses of the
/// Ingress listeners that are served, `given` the addresses of the pool that Gateways have; they keep them.
pub fn gateways(
    store: &Store,
    settings: &Settings,
    taken: &[SocketAddr],
    given: &BTreeMap<Id, IpAddr>,
) -> Gateways {
    let mut ours: Vec<(&Key, &Gateway)> = store
        .of_kind(Kind::Gateway)
        .filter_map(|(key, object)| match object {
            Object::Gateway(gateway) if is_ours(store, settings, gateway) => Some((key, &**gateway)),
            _ => None,
        })
        .collect();
    ours.sort_by_key(|(key, gateway)| (gateway.metadata.created, &key.id));

    let mut owners: BTreeMap<SocketAddr, String> = BTreeMap::new();
    for address in taken {
        owners.insert(*address, "the Ingresses".to_owned());
    }
    let mut all = Gateways::default();
    let of_pool = |gateway: &Gateway| {
        settings
            .gateway_pool
            .filter(|_| gateway.spec.addresses.is_empty())
    };
    for (key, _) in ours.iter().filter(|(_, gateway)| of_pool(gateway).is_some()) {
        if let Some(address) = given.get(&key.id) {
            all.given.insert(key.id.clone(), *address);
        }
    }
    for (key, gateway) in ours {
        let mut complaints = Vec::new();
        let addresses = match of_pool(gateway) {
            Some(pool) => give(&key.id, pool, &mut all.given, &mut complaints),
            None => addresses(gateway, settings, &mut complaints),
        };
        let views: Vec<ListenerView> = (0..gateway.spec.listeners.len())
            .map(|at| {
                let (view, listeners) =
                    listener(&key.id, gateway, at, &addresses, &owners, store, &mut complaints);
                all.listeners.extend(listeners);
                view
            })
            .collect();
        for view in views.iter().filter(|view| view.names.is_ok()) {
            for address in &addresses {
                owners.insert(SocketAddr::new(*address, view.port), key.to_string());
            }
        }
        all.views.insert(key.id.clone(), views);
        if !complaints.is_empty() {
            all.complaints.insert(key.id.clone(), complaints);
        }
    }
    all
}

/// Whether a Gateway is ours, by its class.
pub fn is_ours(store: &Store, settings: &Settings, gateway: &Gateway) -> bool {
    let name = &gateway.spec.gateway_class_name;
    let key = Key {
        kind: Kind::GatewayClass,
        id: Id::new("", Arc::clone(name)),
    };
    match store.get(&key) {
        Some(Object::GatewayClass(class)) => {
            class.spec.controller_name.as_deref() == Some(GATEWAY_CONTROLLER)
        }
        _ => settings.class_by_name && **name == *CLASS_NAME,
    }
}

/// The address of the pool that a Gateway has or gets: the first that no other has.
fn give(
    id: &Id,
    pool: IpNet,
    given: &mut BTreeMap<Id, IpAddr>,
    complaints: &mut Vec<Complaint>,
) -> Vec<IpAddr> {
    if let Some(address) = given.get(id) {
        return vec![*address];
    }
    let others: BTreeSet<IpAddr> = given.values().copied().collect();
    // As many as there are others are taken, so the search ends before the pool, however large.
    match pool.hosts().find(|address| !others.contains(address)) {
        Some(address) => {
            given.insert(id.clone(), address);
            vec![address]
        }
        None => {
            complaints.push(Complaint::new(
                "spec.addresses",
                format!("AddressNotAssigned: all addresses of {pool} are given to others"),
            ));
            Vec::new()
        }
    }
}

/// The addresses a Gateway is bound to; none when it asks only for what cannot be had.
fn addresses(gateway: &Gateway, settings: &Settings, complaints: &mut Vec<Complaint>) -> Vec<IpAddr> {
    if gateway.spec.addresses.is_empty() {
        return vec![settings.gateway_address];
    }
    let mut found = Vec::new();
    for (at, address) in gateway.spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{at}]");
        match address.r#type.as_deref() {
            None | Some("IPAddress") => match address.value.parse::<IpAddr>() {
                Ok(address) if !found.contains(&address) => found.push(address),
                Ok(_) => {}
                Err(_) if address.value.is_empty() => found.push(settings.gateway_address),
                Err(_) => complaints.push(Complaint::new(
                    format!("{field}.value"),
                    format!("AddressNotUsable: {:?} is no IP address", address.value),
                )),
            },
            Some(other) => complaints.push(Complaint::new(
                format!("{field}.type"),
                format!("UnsupportedAddress: {other:?} cannot be bound; only IPAddress can"),
            )),
        }
    }
    found
}

/// One listener of a Gateway: how routes see it, and what there is to bind.
fn listener(
    id: &Id,
    gateway: &Gateway,
    at: usize,
    addresses: &[IpAddr],
    owners: &BTreeMap<SocketAddr, String>,
    store: &Store,
    complaints: &mut Vec<Complaint>,
) -> (ListenerView, Vec<(ListenerName, Arc<Listener>)>) {
    let spec = &gateway.spec.listeners[at];
    let field = format!("spec.listeners[{at}]");
    let (namespaces, takes_http_routes) = allowed(spec, &field, complaints);
    let mut view = ListenerView {
        section: Arc::clone(&spec.name),
        port: spec.port.0,
        hostname: HostPattern::Any,
        namespaces,
        takes_http_routes,
        names: Ok(Vec::new()),
    };
    let served = served(gateway, at, addresses, owners)
        .and_then(|hostname| Ok((hostname, tls(id, spec, &field, store, complaints)?)));
    match served {
        Err(complaint) => {
            view.names = Err(complaint.reason.clone());
            complaints.push(Complaint::new(field + &complaint.field, complaint.reason));
            (view, Vec::new())
        }
        Ok((hostname, tls)) => {
            let listeners: Vec<_> = addresses
                .iter()
                .enumerate()
                .map(|(nth, address)| {
                    let name = match nth {
                        0 => ListenerName::new(format!("{id}/{}", spec.name)),
                        _ => ListenerName::new(format!("{id}/{}/{address}", spec.name)),
                    };
                    let listener = Listener {
                        name: name.clone(),
                        address: SocketAddr::new(*address, spec.port.0),
                        hostname: hostname.clone(),
                        kind: crate::model::ListenerKind::Http,
                        protocols: Protocols::default(),
                        tls: tls.clone(),
                        limits: ListenerLimits::default(),
                    };
                    (name, Arc::new(listener))
                })
                .collect();
            view.hostname = hostname;
            view.names = Ok(listeners.iter().map(|(name, _)| name.clone()).collect());
            (view, listeners)
        }
    }
}

/// The TLS of a listener: none in clear text. Certificates that cannot be had are complained about; without any, the
/// listener is not served.
fn tls(
    id: &Id,
    spec: &GatewayListener,
    field: &str,
    store: &Store,
    complaints: &mut Vec<Complaint>,
) -> Result<Option<Arc<ListenerTls>>, Complaint> {
    if &*spec.protocol != "HTTPS" {
        return Ok(None);
    }
    let none = || Complaint::new(".tls", "InvalidCertificateRef: HTTPS needs certificateRefs");
    let tls = spec.tls.as_ref().ok_or_else(none)?;
    match tls.mode.as_deref() {
        None | Some("Terminate") => {}
        Some(other) => {
            return Err(Complaint::new(
                ".tls.mode",
                format!("UnsupportedValue: {other:?} is not available in this version; Terminate is"),
            ));
        }
    }
    let mut certificates = Vec::new();
    let mut last = none();
    for (at, wanted) in tls.certificate_refs.iter().enumerate() {
        match certificates::of_gateway(id, wanted, store) {
            Ok(certificate) => certificates.push(certificate),
            Err(complaint) => {
                let below = format!(".tls.certificateRefs[{at}]{}", complaint.field);
                let complaint = Complaint::new(below, complaint.reason);
                complaints.push(Complaint::new(
                    format!("{field}{}", complaint.field),
                    complaint.reason.clone(),
                ));
                last = Complaint::new("", "it has no certificate, and is not served");
            }
        }
    }
    ListenerTls::new(certificates)
        .map(|tls| Some(Arc::new(tls)))
        .ok_or(last)
}

/// The hostname of a listener that can be served, or why it cannot; the complaint's field is below the listener's.
fn served(
    gateway: &Gateway,
    at: usize,
    addresses: &[IpAddr],
    owners: &BTreeMap<SocketAddr, String>,
) -> Result<HostPattern, Complaint> {
    let fail = |field: &str, reason: String| Err(Complaint::new(field, reason));
    let spec = &gateway.spec.listeners[at];
    if !crate::kubernetes::objects::is_object_name(&spec.name) {
        return fail(
            ".name",
            format!(
                "{:?} is no name: lower-case letters, digits, '-' and '.'",
                spec.name
            ),
        );
    }
    match &*spec.protocol {
        "HTTP" | "HTTPS" => {}
        "TLS" | "TCP" | "UDP" => {
            return fail(
                ".protocol",
                format!(
                    "UnsupportedProtocol: {} is not available in this version; HTTP and HTTPS are",
                    spec.protocol
                ),
            );
        }
        other => {
            return fail(
                ".protocol",
                format!("UnsupportedProtocol: {other:?} is not known; HTTP and HTTPS are"),
            );
        }
    }
    let hostname = hostname(spec).map_err(|reason| Complaint::new(".hostname", reason))?;
    for (other_at, other) in gateway.spec.listeners.iter().enumerate() {
        if other_at == at {
            continue;
        }
        if other.name == spec.name {
            return fail(
                ".name",
                format!("listeners[{other_at}] has the name {:?} too", spec.name),
            );
        }
        if other.port != spec.port {
            continue;
        }
        match &*other.protocol {
            own if own == &*spec.protocol && hostname_of(other).as_ref() == Some(&hostname) => {
                return fail(
                    ".hostname",
                    format!(
                        "HostnameConflict: listener {:?} has the same port and hostname; neither is served",
                        other.name
                    ),
                );
            }
            "HTTP" | "HTTPS" | "TLS" | "TCP" if other.protocol != spec.protocol => {
                return fail(
                    ".protocol",
                    format!(
                        "ProtocolConflict: listener {:?} has the same port with {}",
                        other.name, other.protocol
                    ),
                );
            }
            _ => {}
        }
    }
    if addresses.is_empty() {
        return fail(
            "",
            "AddressNotUsable: the Gateway has no address that can be bound".to_owned(),
        );
    }
    for address in addresses {
        let address = SocketAddr::new(*address, spec.port.0);
        if let Some(owner) = owners.get(&address) {
            return fail(
                ".port",
                format!(
                    "PortUnavailable: {address} is taken by {owner}; give this Gateway an address of its own in \
                     spec.addresses"
                ),
            );
        }
    }
    Ok(hostname)
}

fn hostname_of(spec: &GatewayListener) -> Option<HostPattern> {
    hostname(spec).ok()
}

fn hostname(spec: &GatewayListener) -> Result<HostPattern, String> {
    match spec.hostname.as_deref() {
        None | Some("") => Ok(HostPattern::Any),
        Some(text) => HostPattern::parse(text).map_err(|error| format!("UnsupportedValue: {error}")),
    }
}

/// From where routes may come, and whether HTTPRoutes are among the kinds that may.
fn allowed(
    spec: &GatewayListener,
    field: &str,
    complaints: &mut Vec<Complaint>,
) -> (AllowedNamespaces, bool) {
    let namespaces = spec.allowed_routes.namespaces.as_ref();
    let namespaces = match namespaces.and_then(|namespaces| namespaces.from.as_deref()) {
        None | Some("Same") => AllowedNamespaces::Same,
        Some("All") => AllowedNamespaces::All,
        Some("Selector") => match namespaces.and_then(|namespaces| namespaces.selector.clone()) {
            Some(selector) => AllowedNamespaces::Selector(selector),
            None => {
                complaints.push(Complaint::new(
                    format!("{field}.allowedRoutes.namespaces.selector"),
                    "from: Selector needs a selector; no route may attach",
                ));
                AllowedNamespaces::None
            }
        },
        Some(other) => {
            if other != "None" {
                complaints.push(Complaint::new(
                    format!("{field}.allowedRoutes.namespaces.from"),
                    format!("{other:?} is none of All, Same, Selector; no route may attach"),
                ));
            }
            AllowedNamespaces::None
        }
    };
    let kinds = &spec.allowed_routes.kinds;
    let mut takes_http_routes = kinds.is_empty();
    let mut unknown = BTreeSet::new();
    for kind in kinds {
        if kind.group.as_deref().unwrap_or(GROUP) == GROUP && *kind.kind == *Kind::HttpRoute.name() {
            takes_http_routes = true;
        } else {
            unknown.insert(&*kind.kind);
        }
    }
    if !unknown.is_empty() {
        let unknown: Vec<_> = unknown.into_iter().collect();
        complaints.push(Complaint::new(
            format!("{field}.allowedRoutes.kinds"),
            format!(
                "InvalidRouteKinds: {} cannot attach to an HTTP listener of this version; HTTPRoute can",
                unknown.join(", ")
            ),
        ));
    }
    (namespaces, takes_http_routes)
}

#[cfg(test)]
mod tests;
