//! The index: objects in, changes of the model out.
//!
//! Synchronous and with one owner. `apply`, `delete` and `reset` only store the object and mark what
//! it touches; [`Index::take_delta`] then translates what is marked and gives what came out different.
//! So a burst of changes costs one translation, and a change costs what it touches:
//!
//! ```text
//! IngressClass ─► Ingress ───────────────┐ uses            ┌─ slices of
//! GatewayClass ─► Gateway ─► …Route ──────┴──► Service:port ◄┴─ EndpointSlice
//!    Secret ─► Ingress, Gateway  │ └── ReferenceGrant ─► Gateway
//!                 Namespace ─────┘
//! ```
//!
//! An EndpointSlice touches the used ports of its Service, a Service the routes that ask for it and
//! its used ports, a Gateway all Gateways (they compete for addresses; there are few) and the routes of
//! those whose listeners came out different. Only ports that some route uses become backends: a
//! cluster's other endpoints cost nothing but their place here.
//!
//! Everything that is given is compared with what is known, so a relist or a file written again
//! without change gives an empty delta.

mod dependents;
mod destinations;
mod findings;
mod fronts;
mod listeners;
mod outcome;
mod policies;
mod rivals;
mod store;
mod translate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dependents::Dependents;
use destinations::Destinations;
pub use findings::{Complaint, Findings, condition};
pub use fronts::FrontWork;
pub use outcome::STATUS_KINDS;
pub(super) use outcome::{Meshed, Outcome};
pub use rivals::{Claim, Rank, Rivals};
pub use store::Store;
use translate::{Published, Wish};

use crate::kubernetes::Settings;
use crate::kubernetes::backend_tls::Policies;
use crate::kubernetes::certificates::Held;
use crate::kubernetes::features;
use crate::kubernetes::gateway::{AllowedNamespaces, Gateways};
use crate::kubernetes::ingress;
use crate::kubernetes::nginx::is_canary;
use crate::kubernetes::objects::{EndpointSlice, Id, Key, Kind, Object};
use crate::kubernetes::service::PortUse;
use crate::model::{Delta, Listener, Route, SourceName};

/// All objects and the model they make.
#[derive(Debug)]
pub struct Index {
    source: SourceName,
    settings: Settings,
    store: Store,
    dirty: Dirty,
    /// The Gateways as they last came out.
    gateways: Gateways,
    /// The listeners of Ingresses, in clear text and with TLS, while there is something for them.
    ingress_listeners: [Option<Arc<Listener>>; 2],
    /// The certificates of each Ingress.
    certificates: BTreeMap<Key, Vec<Held>>,
    /// The routes of each route object and Ingress as they last came out.
    routes: BTreeMap<Key, Vec<Arc<Route>>>,
    /// What HTTPRoutes and GRPCRoutes claim, while there are both.
    rivals: Rivals,
    /// How many of those Ingresses have routes.
    ingresses_served: usize,
    /// Who asks for what.
    dependents: Dependents,
    /// The slices of each Service.
    slices: BTreeMap<Id, BTreeSet<Id>>,
    /// The backends of each Service as they last came out, by port and use.
    backends: BTreeMap<Id, BTreeMap<PortUse, Published>>,
    /// The listeners of the addresses of each Service that has routes, where we serve those.
    destinations: BTreeMap<Id, Destinations>,
    /// How routes fare with their parents that are Services, where we tell that; only those that have such.
    meshed: BTreeMap<Key, Meshed>,
    /// What Ingresses wish of the ports of Services that they use, by Service; only those that do.
    wishes: BTreeMap<Id, BTreeMap<Key, Wish>>,
    /// The TLS towards Services, by namespace.
    policies: BTreeMap<Arc<str>, Policies>,
    /// What is wrong, by object.
    complaints: BTreeMap<Key, Vec<Complaint>>,
    /// Objects whose status may be different now; none: nobody asks.
    touched: Option<BTreeSet<Key>>,
    /// Services in front of Gateways to look at, and whether as a whole or for their slices alone. Bounded by the Services there are.
    fronts: BTreeMap<Id, bool>,
    /// Counts changes of the slices of our own Service.
    own_slices: u64,
    /// Objects of which something else is wrong now; none: nobody asks.
    news: Option<BTreeSet<Key>>,
}

/// What is to be translated again.
#[derive(Debug, Default)]
struct Dirty {
    gateways: bool,
    /// Parents of routes that came or went, be they ours or not.
    changed_parents: BTreeSet<Key>,
    ingresses: BTreeSet<Key>,
    routes: BTreeSet<Key>,
    services: BTreeSet<Id>,
    /// Namespaces whose policies of TLS may be different.
    policies: BTreeSet<Arc<str>>,
}

impl Index {
    /// An empty index. `source` is the name that rejects carry.
    pub fn new(source: SourceName, settings: Settings) -> Self {
        let mut store = Store::default();
        store.external_names = settings.external_names;
        Self {
            source,
            settings,
            store,
            dirty: Dirty::default(),
            gateways: Gateways::default(),
            ingress_listeners: [None, None],
            certificates: BTreeMap::new(),
            routes: BTreeMap::new(),
            rivals: Rivals::default(),
            ingresses_served: 0,
            dependents: Dependents::default(),
            slices: BTreeMap::new(),
            backends: BTreeMap::new(),
            destinations: BTreeMap::new(),
            meshed: BTreeMap::new(),
            wishes: BTreeMap::new(),
            policies: BTreeMap::new(),
            complaints: BTreeMap::new(),
            touched: None,
            fronts: BTreeMap::new(),
            own_slices: 0,
            news: None,
        }
    }

    /// How many objects are known.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// An object as it is known.
    pub fn get(&self, key: &Key) -> Option<&Object> {
        self.store.get(key)
    }

    /// Gives back the room that filling up has left: a tree filled in order is half empty. For a few large trees, once
    /// after the first objects.
    pub fn compact(&mut self) {
        self.store.compact();
        self.dependents.compact();
        compact(&mut self.routes);
    }

    /// Whether no object is known.
    pub fn is_empty(&self) -> bool {
        self.store.len() == 0
    }

    /// Puts an object, new or changed.
    pub fn apply(&mut self, object: Object) {
        let key = object.key();
        if !self.settings.kinds().contains(&key.kind) {
            return;
        }
        if self.store.get(&key) == Some(&object) || features::is_of_others(&key) {
            return;
        }
        if !self.concerns_us(&object) {
            return self.delete(&key);
        }
        let old = self.store.put(key.clone(), object.clone());
        if old.is_none()
            && let Object::Gateway(gateway) = &object
        {
            self.gateways
                .take_back(&key.id, gateway, self.settings.gateway_pool);
        }
        self.touch(&key, old.as_ref(), Some(&object));
    }

    /// Takes an object out; one that is not known is no change.
    pub fn delete(&mut self, key: &Key) {
        if let Some(old) = self.store.remove(key) {
            self.complain(key, Vec::new());
            self.touch(key, Some(&old), None);
        }
    }

    /// These are all objects of a kind: what is known and not among them is gone. Objects of other kinds are left out.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Object>) {
        let kept: BTreeSet<Key> = objects.iter().map(Object::key).collect();
        let gone: Vec<Key> = self
            .store
            .of_kind(kind)
            .map(|(key, _)| key)
            .filter(|key| !kept.contains(key))
            .cloned()
            .collect();
        for key in gone {
            self.delete(&key);
        }
        for object in objects.into_iter().filter(|object| object.kind() == kind) {
            self.apply(object);
        }
    }

    /// What changed in the model since the last call.
    pub fn take_delta(&mut self) -> Delta {
        let mut delta = Delta::default();
        let mut dirty = std::mem::take(&mut self.dirty);
        self.decide_policies(&mut dirty);
        for key in &dirty.ingresses {
            self.translate_ingress(key, &mut dirty.services, &mut delta);
        }
        self.decide_listeners(&mut dirty, &mut delta);
        self.decide_rivals(&mut dirty);
        for key in &dirty.routes {
            self.translate_route(key, &mut dirty.services, &mut delta);
        }
        for id in &dirty.services {
            self.translate_service(id, &mut delta);
            self.decide_destinations(id, &mut delta);
        }
        delta
    }

    /// Whether it holds nothing at all: what comes and goes must leave nothing behind.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.is_empty()
            && self.routes.is_empty()
            && self.rivals.is_empty()
            && self.ingresses_served == 0
            && self.dependents.is_empty()
            && self.slices.is_empty()
            && self.backends.is_empty()
            && self.policies.is_empty()
            && self.complaints.is_empty()
            && self.certificates.is_empty()
            && self.wishes.is_empty()
            && self.destinations.is_empty()
            && self.meshed.is_empty()
            && self.gateways == Gateways::default()
    }

    /// Marks what an object touches; `old` is what it was, `new` what it is.
    fn touch(&mut self, key: &Key, old: Option<&Object>, new: Option<&Object>) {
        self.touch_status(key);
        match key.kind {
            Kind::Secret => {
                self.mark(self.dependents.of_secret(&key.id));
                // There are few, and they ask for few.
                self.dirty.gateways = true;
            }
            Kind::CustomResourceDefinition => self.touch_statuses(&[Kind::GatewayClass]),
            Kind::ConfigMap => {
                self.dirty.policies.extend(
                    self.policies
                        .get_key_value(&key.id.namespace)
                        .map(|(name, _)| name.clone()),
                );
                self.dirty.gateways = true;
            }
            Kind::BackendTlsPolicy => {
                self.dirty.policies.insert(Arc::clone(&key.id.namespace));
            }
            Kind::EndpointSlice => {
                for (object, is_new) in old
                    .map(|old| (old, false))
                    .into_iter()
                    .chain(new.map(|new| (new, true)))
                {
                    if let Object::EndpointSlice(slice) = object {
                        self.touch_slice(key, slice, is_new);
                    }
                }
            }
            Kind::Service => {
                self.mark(self.dependents.of_service(&key.id));
                self.mark(self.dependents.of_parent(key));
                self.dirty.services.insert(key.id.clone());
                self.touch_front(key, [old, new]);
            }
            Kind::Ingress => {
                self.dirty.ingresses.insert(key.clone());
                self.touch_canaries(key, [old, new]);
            }
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
                self.dirty.routes.insert(key.clone());
            }
            Kind::IngressClass => {
                let all = self.store.of_kind(Kind::Ingress).map(|(key, _)| key.clone());
                self.dirty.ingresses.extend(all);
            }
            Kind::GatewayClass => self.dirty.gateways = true,
            Kind::Gateway | Kind::ListenerSet => {
                self.dirty.gateways = true;
                if old.is_none() || new.is_none() {
                    self.dirty.changed_parents.insert(key.clone());
                }
            }
            Kind::Namespace => {
                self.dirty.gateways |= self.store.of_kind(Kind::ListenerSet).next().is_some();
                let mut listeners = self.gateways.views.values().flatten();
                if listeners.any(|view| matches!(view.namespaces, AllowedNamespaces::Selector(_))) {
                    for kind in Kind::ROUTES {
                        let inside = self.store.in_namespace(*kind, &key.id.name);
                        self.dirty.routes.extend(inside.map(|(key, _)| key.clone()));
                    }
                }
            }
            Kind::ReferenceGrant => {
                self.mark(self.dependents.of_grants_in(&key.id.namespace));
                self.dirty.gateways = true;
            }
        }
    }

    /// A canary is part of the other Ingresses of its hosts, and they are what it belongs to.
    fn touch_canaries(&mut self, key: &Key, versions: [Option<&Object>; 2]) {
        let both = versions.into_iter().flatten().filter_map(|object| match object {
            Object::Ingress(ingress) => Some(&**ingress),
            _ => None,
        });
        let ingress = |id: &Id| Key {
            kind: Kind::Ingress,
            id: id.clone(),
        };
        let canaries = self.store.canaries(&key.id.namespace).map(|(id, _)| ingress(id));
        self.dirty.ingresses.extend(canaries);
        for one in both.filter(|ingress| is_canary(ingress)) {
            let all = self.store.in_namespace(Kind::Ingress, &key.id.namespace);
            let others = all.filter(|(_, other)| match other {
                Object::Ingress(other) => ingress::share_a_host(one, other),
                _ => false,
            });
            self.dirty.ingresses.extend(others.map(|(key, _)| key.clone()));
        }
    }

    fn touch_slice(&mut self, key: &Key, slice: &EndpointSlice, is_new: bool) {
        if is_new {
            let complaint = slice.bad_address.as_ref().map(|text| {
                let reason = format!("{text:?} is no address of an endpoint; such endpoints are left out");
                Complaint::new("endpoints.addresses", reason)
            });
            self.complain(key, complaint.into_iter().collect());
        }
        let Some(service) = &slice.service else {
            return;
        };
        let service = Id::new(Arc::clone(&key.id.namespace), Arc::clone(service));
        self.touch_front_slices(&service);
        let slices = self.slices.entry(service.clone()).or_default();
        if is_new {
            slices.insert(key.id.clone());
        } else {
            slices.remove(&key.id);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.dirty.services.insert(service);
    }

    fn mark(&mut self, keys: Vec<Key>) {
        for key in keys {
            match key.kind {
                Kind::Ingress => self.dirty.ingresses.insert(key),
                _ => self.dirty.routes.insert(key),
            };
        }
    }
}

/// Builds a tree anew, with full nodes.
pub(super) fn compact<K: Ord, V>(tree: &mut BTreeMap<K, V>) {
    *tree = std::mem::take(tree).into_iter().collect();
}

#[cfg(test)]
mod tests;
