//! Gateways and their ListenerSets: which are ours, where their listeners are bound, and what may attach to them.
//!
//! An address and port belong to one owner: the Ingress listener first, then Gateways by age and
//! name; ports of connections and of datagrams are apart. Listeners of one Gateway share a port when their hostnames differ and all
//! of them begin alike (in clear text, or with TLS, ended here or not); those that do not differ
//! are all refused, as the Gateway API asks ("MUST NOT pick one conflicting Listener as the winner"). A ListenerSet's come after those of its Gateway and of older
//! ListenerSets, which go before it.

mod listener;
mod namespaces;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use listener::{Claim, Owner, is_insecure, listener};
pub use namespaces::AllowedNamespaces;

use crate::kubernetes::certificates;
use crate::kubernetes::front::ports::GatewayPort;
use crate::kubernetes::front::{self, Fronts, GatewayServices, Wish, fronts};
use crate::kubernetes::index::{Complaint, Store};
use crate::kubernetes::objects::{
    Gateway, GatewayListener, Id, Key, Kind, ListenerSet, Object, ParametersRef,
};
use crate::kubernetes::service::Way;
use crate::kubernetes::{CLASS_NAME, GATEWAY_CONTROLLER, Settings};
use crate::model::{Certificate, HostPattern, Listener, ListenerName, Transport};

/// The group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// All Gateways that are ours.
#[derive(Debug, Default, PartialEq)]
pub struct Gateways {
    /// What routes can attach to: the listeners, in the order of their object.
    pub views: BTreeMap<Key, Vec<ListenerView>>,
    /// The listeners to bind.
    pub listeners: BTreeMap<ListenerName, Arc<Listener>>,
    /// The addresses of the pool that were given.
    pub given: BTreeMap<Id, IpAddr>,
    /// The ListenerSets of Gateways that are ours: the Gateway they are attached to, or why they are not.
    pub sets: BTreeMap<Key, Result<Id, String>>,
    /// How many ListenerSets with a listener that can be served each Gateway has.
    pub attached_sets: BTreeMap<Id, usize>,
    /// Gateways that take any client certificate somewhere.
    pub insecure: BTreeSet<Id>,
    /// What Gateways show to endpoints that ask.
    pub identities: BTreeMap<Id, Arc<Certificate>>,
    /// What stands in front of Gateways, where that is ours to make.
    pub fronts: Fronts,
    /// What is wrong, by object.
    pub complaints: BTreeMap<Key, Vec<Complaint>>,
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
    /// The kinds of routes that may attach.
    pub kinds: Vec<Kind>,
    /// How it leads to endpoints.
    pub way: Way,
    /// What it is in the model, one for each address; also while it is not served, because routes attach all the same.
    pub names: Vec<ListenerName>,
    /// Why it is not served.
    pub refusal: Option<String>,
}

/// All Gateways that are ours, with their listeners. `taken` are the addresses of the
/// Ingress listeners that are served, `now` the Gateways as they last came out: what they were given they keep.
pub fn gateways(store: &Store, settings: &Settings, taken: &[SocketAddr], now: &Gateways) -> Gateways {
    let mut ours: Vec<(&Key, &Gateway)> = store
        .of_kind(Kind::Gateway)
        .filter_map(|(key, object)| match object {
            Object::Gateway(gateway) if is_ours(store, settings, gateway) => Some((key, &**gateway)),
            _ => None,
        })
        .collect();
    ours.sort_by_key(|(key, gateway)| (gateway.metadata.created, &key.id));

    let mut owners: BTreeMap<(SocketAddr, Transport), String> = BTreeMap::new();
    for address in taken {
        owners.insert((*address, Transport::Tcp), "the Ingresses".to_owned());
    }
    let services = settings.gateway_services.as_ref();
    let mut wishes = Vec::new();
    let mut all = Gateways::default();
    let mut sets = sets(store);
    let of_pool = |gateway: &Gateway| {
        settings
            .gateway_pool
            .filter(|_| gateway.spec.addresses.is_empty())
    };
    for (key, _) in ours.iter().filter(|(_, gateway)| of_pool(gateway).is_some()) {
        if let Some(address) = now.given.get(&key.id) {
            all.given.insert(key.id.clone(), *address);
        }
    }
    for (key, gateway) in ours {
        let mut complaints = Vec::new();
        let mut asked = None;
        let addresses = match (services, of_pool(gateway)) {
            (Some(services), _) => {
                asked = front::address(gateway, services.kind, &mut complaints);
                vec![settings.gateway_address]
            }
            (None, Some(pool)) => give(&key.id, pool, &mut all.given, &mut complaints),
            (None, None) => addresses(gateway, settings, &mut complaints),
        };
        let parameters = parameters(store, gateway);
        if let Some(complaint) = &parameters {
            complaints.push(complaint.clone());
        }
        let identity = identity(key, gateway, store, &mut complaints).map(|certificate| {
            all.identities.insert(key.id.clone(), certificate);
            Arc::new(key.id.clone())
        });
        let owner = Owner {
            key,
            identity: identity.as_ref(),
            listeners: &gateway.spec.listeners,
            frontend: &gateway.spec.tls.frontend,
            gateway: key,
            addresses: &addresses,
            owners: &owners,
            is_refused: parameters.is_some(),
        };
        let mut ports = BTreeSet::new();
        all.put(owner, store, complaints, &mut Vec::new(), &mut ports);
        if is_insecure(owner.frontend) {
            all.insecure.insert(key.id.clone());
        }
        let mut front_ports = front_ports(owner.listeners);
        // Of the Gateway's own listeners those count too that cannot be served: nobody else gets their place.
        let mut claims: Vec<Claim> = owner
            .listeners
            .iter()
            .filter_map(|spec| Claim::of(key, spec))
            .collect();
        for (set_key, set) in sets.remove(&key.id).unwrap_or_default() {
            if let Err(reason) = admit(&key.id, gateway, set_key, store) {
                let complaint = Complaint::new("spec.parentRef", &reason);
                all.complaints.insert(set_key.clone(), vec![complaint]);
                all.sets.insert(set_key.clone(), Err(reason));
                all.views.insert(set_key.clone(), Vec::new());
                continue;
            }
            let specs = &set.spec.listeners;
            let of_set = Owner {
                key: set_key,
                listeners: specs,
                ..owner
            };
            if all.put(of_set, store, Vec::new(), &mut claims, &mut ports) > 0 {
                *all.attached_sets.entry(key.id.clone()).or_default() += 1;
            }
            front_ports.extend(self::front_ports(specs));
            all.sets.insert(set_key.clone(), Ok(key.id.clone()));
        }
        if services.is_some() {
            // Each port has one of its own in the pods, so nobody is in another's way.
            if !owner.is_refused {
                wishes.push(Wish {
                    id: &key.id,
                    gateway,
                    ports: front_ports.into_iter().collect(),
                    address: asked,
                });
            }
            continue;
        }
        for (port, transport) in ports {
            let taken = addresses
                .iter()
                .map(|address| (SocketAddr::new(*address, port), transport));
            owners.extend(taken.map(|socket| (socket, key.to_string())));
        }
    }
    if let Some(services) = services {
        all.put_behind(&wishes, store, services, now);
    }
    all
}

impl Gateways {
    /// Puts the listeners of a Gateway or ListenerSet; says how many are served. Adds the claims of those, and their ports.
    fn put(
        &mut self,
        owner: Owner<'_>,
        store: &Store,
        mut complaints: Vec<Complaint>,
        claims: &mut Vec<Claim>,
        ports: &mut BTreeSet<(u16, Transport)>,
    ) -> usize {
        let mut views = Vec::with_capacity(owner.listeners.len());
        let mut served = 0;
        for (at, spec) in owner.listeners.iter().enumerate() {
            let (view, listeners) = listener(owner, at, claims, store, &mut complaints);
            self.listeners.extend(listeners);
            if view.refusal.is_none() {
                served += 1;
                ports.insert((view.port, view.way.traffic.transport()));
                claims.extend(Claim::of(owner.key, spec));
            }
            views.push(view);
        }
        self.views.insert(owner.key.clone(), views);
        if !complaints.is_empty() {
            self.complaints.insert(owner.key.clone(), complaints);
        }
        served
    }

    /// Has the listeners bound where their Gateways' Services lead to; those of which no Service says it wait.
    fn put_behind(&mut self, wishes: &[Wish<'_>], store: &Store, services: &GatewayServices, now: &Self) {
        let (fronts, complaints) = fronts(wishes, store, services, &now.fronts.ports);
        for (id, complaint) in complaints {
            let kind = Kind::Gateway;
            self.complaints
                .entry(Key { kind, id })
                .or_default()
                .push(complaint);
        }
        for (key, views) in &self.views {
            let gateway = match (key.kind, self.sets.get(key)) {
                (Kind::Gateway, _) => &key.id,
                (_, Some(Ok(gateway))) => gateway,
                _ => continue,
            };
            for name in views.iter().flat_map(|view| &view.names) {
                let Some(listener) = self.listeners.get_mut(name) else {
                    continue;
                };
                let claim = GatewayPort {
                    gateway: gateway.clone(),
                    port: listener.address.port(),
                    transport: listener.transport(),
                };
                let Some(target) = fronts.ports.get(&claim) else {
                    self.listeners.remove(name);
                    continue;
                };
                let listener = Arc::make_mut(listener);
                listener.public_port = NonZeroU16::new(claim.port);
                listener.address.set_port(*target);
            }
        }
        self.fronts = fronts;
    }
}

/// The ports of listeners, be they served or not: an address must not come and go with a certificate.
fn front_ports(listeners: &[GatewayListener]) -> BTreeSet<(u16, Transport)> {
    let ports = listeners.iter().filter_map(|spec| {
        let transport = match &*spec.protocol {
            "HTTP" | "HTTPS" | "TLS" | "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            _ => return None,
        };
        Some((spec.port.0, transport))
    });
    ports.collect()
}

/// The ListenerSets by the Gateway that they want to attach to, the older first.
fn sets(store: &Store) -> BTreeMap<Id, Vec<(&Key, &ListenerSet)>> {
    let mut sets: BTreeMap<Id, Vec<(&Key, &ListenerSet)>> = BTreeMap::new();
    for (key, object) in store.of_kind(Kind::ListenerSet) {
        let Object::ListenerSet(set) = object else {
            continue;
        };
        let parent = &set.spec.parent_ref;
        let namespace = parent.namespace.as_ref().unwrap_or(&key.id.namespace);
        if parent.group.as_deref().unwrap_or(GROUP) == GROUP
            && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
        {
            let gateway = Id::new(Arc::clone(namespace), Arc::clone(&parent.name));
            sets.entry(gateway).or_default().push((key, set));
        }
    }
    for sets in sets.values_mut() {
        sets.sort_by_key(|(key, set)| (set.metadata.created, &key.id));
    }
    sets
}

/// Parameters of somebody's own, of which we know no kind, of a Gateway or its class: it is not served.
fn parameters(store: &Store, gateway: &Gateway) -> Option<Complaint> {
    if let Some(wanted) = &gateway.spec.infrastructure.parameters_ref {
        let field = "spec.infrastructure.parametersRef";
        return Some(Complaint::new(field, unknown_parameters(wanted)));
    }
    let class = &gateway.spec.gateway_class_name;
    let key = Key {
        kind: Kind::GatewayClass,
        id: Id::new("", Arc::clone(class)),
    };
    match store.get(&key) {
        Some(Object::GatewayClass(object)) => object.spec.parameters_ref.as_ref().map(|wanted| {
            let reason = unknown_parameters(wanted);
            let reason = format!("{reason}, and GatewayClass {class} refers to it");
            Complaint::new("spec.gatewayClassName", reason)
        }),
        _ => None,
    }
}

/// What is wrong with a reference to parameters.
pub fn unknown_parameters(wanted: &ParametersRef) -> String {
    format!(
        "InvalidParameters: {} of {:?} is no kind of parameters that is known; there are none",
        wanted.kind, wanted.group
    )
}

/// What a Gateway shows to endpoints; none when it has nothing, or nothing that can be used.
fn identity(
    key: &Key,
    gateway: &Gateway,
    store: &Store,
    complaints: &mut Vec<Complaint>,
) -> Option<Arc<Certificate>> {
    let wanted = gateway.spec.tls.backend.client_certificate_ref.as_ref()?;
    let complain = |complaint: Complaint| {
        let reason = match complaint.condition() {
            Some(("InvalidCertificateRef", message)) => format!("InvalidClientCertificateRef: {message}"),
            _ => complaint.reason,
        };
        let field = format!("spec.tls.backend.clientCertificateRef{}", complaint.field);
        complaints.push(Complaint::new(field, reason));
    };
    certificates::of_listener(key, wanted, store)
        .map_err(complain)
        .ok()
}

/// Whether a Gateway lets a ListenerSet attach; or why not.
fn admit(id: &Id, gateway: &Gateway, set: &Key, store: &Store) -> Result<(), String> {
    let allowed = gateway.spec.allowed_listeners.as_ref();
    let namespaces = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    let allowed = AllowedNamespaces::read(namespaces, "None").unwrap_or(AllowedNamespaces::None);
    if allowed.allow(&id.namespace, &set.id.namespace, store) {
        return Ok(());
    }
    Err(format!(
        "NotAllowed: Gateway {id} takes no ListenerSets of namespace {}; see allowedListeners there",
        set.id.namespace
    ))
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

#[cfg(test)]
mod tests;
