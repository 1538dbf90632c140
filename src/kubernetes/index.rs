//! The index: objects in, changes of the model out.
//!
//! Synchronous and with one owner. `apply`, `delete` and `reset` only store the object and mark what
//! it touches; [`Index::take_delta`] then translates what is marked and gives what came out different.
//! So a burst of changes costs one translation, and a change costs what it touches:
//!
//! ```text
//! IngressClass ─► Ingress ───────────────┐ uses            ┌─ slices of
//! GatewayClass ─► Gateway ─► HTTPRoute ──┴──► Service:port ◄┴─ EndpointSlice
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
mod findings;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use dependents::Dependents;
pub use findings::{Complaint, Findings, condition};
pub use store::Store;

use crate::kubernetes::gateway::{AllowedNamespaces, Gateways, gateways};
use crate::kubernetes::nginx::{Upstream, is_canary};
use crate::kubernetes::objects::{EndpointSlice, Id, Key, Kind, Object};
use crate::kubernetes::routes::Surroundings;
use crate::kubernetes::{Settings, endpoint_slice, ingress, routes, service};
use crate::model::{
    Backend, Certificate, Delta, Endpoint, Listener, ListenerName, Reject, Route, SourceName,
};

/// The rejects that are given out; what is beyond is only counted.
const MAX_REJECTS: usize = 1000;

/// The kinds whose objects are told how they fare.
pub const STATUS_KINDS: &[Kind] = &[Kind::GatewayClass, Kind::Gateway, Kind::HttpRoute, Kind::Ingress];

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
    certificates: BTreeMap<Key, Vec<Arc<Certificate>>>,
    /// The routes of each HTTPRoute and Ingress as they last came out.
    routes: BTreeMap<Key, Vec<Arc<Route>>>,
    /// How many of those Ingresses have routes.
    ingresses_served: usize,
    /// Who asks for what.
    dependents: Dependents,
    /// The slices of each Service.
    slices: BTreeMap<Id, BTreeSet<Id>>,
    /// The backends of each Service as they last came out, by port.
    backends: BTreeMap<Id, BTreeMap<u16, Published>>,
    /// What Ingresses wish of the ports of Services that they use, by Service; only those that do.
    wishes: BTreeMap<Id, BTreeMap<Key, Wish>>,
    /// What is wrong, by object.
    complaints: BTreeMap<Key, Vec<Complaint>>,
    /// Objects whose status may be different now; none: nobody asks.
    touched: Option<BTreeSet<Key>>,
    /// Objects of which something else is wrong now; none: nobody asks.
    news: Option<BTreeSet<Key>>,
}

/// What the objects came out as.
#[derive(Clone, Copy)]
pub(super) struct Outcome<'index> {
    pub store: &'index Store,
    pub settings: &'index Settings,
    pub gateways: &'index Gateways,
    routes: &'index BTreeMap<Key, Vec<Arc<Route>>>,
    dependents: &'index Dependents,
    complaints: &'index BTreeMap<Key, Vec<Complaint>>,
}

impl<'index> Outcome<'index> {
    /// The routes of an HTTPRoute or Ingress.
    pub fn routes(&self, key: &Key) -> &'index [Arc<Route>] {
        self.routes.get(key).map_or(&[], Vec::as_slice)
    }

    /// What is wrong with an object.
    pub fn complaints(&self, key: &Key) -> &'index [Complaint] {
        self.complaints.get(key).map_or(&[], Vec::as_slice)
    }

    /// How many HTTPRoutes are attached to a listener of a Gateway.
    pub fn attached(&self, gateway: &Id, listener: &ListenerName) -> usize {
        let wanting = self.dependents.of_gateway(gateway);
        let attached = wanting.iter().filter(|key| {
            let mut routes = self.routes(key).iter();
            routes.any(|route| route.listeners.contains(listener))
        });
        attached.count()
    }
}

/// What an Ingress wishes of ports of a Service.
#[derive(Debug)]
struct Wish {
    ports: BTreeSet<u16>,
    upstream: Arc<Upstream>,
}

/// A backend as it last came out.
#[derive(Debug)]
struct Published {
    backend: Arc<Backend>,
    endpoints: Arc<[Endpoint]>,
}

/// What is to be translated again.
#[derive(Debug, Default)]
struct Dirty {
    gateways: bool,
    /// Gateways that came or went, be they ours or not.
    changed_gateways: BTreeSet<Id>,
    ingresses: BTreeSet<Key>,
    routes: BTreeSet<Key>,
    services: BTreeSet<Id>,
}

impl Index {
    /// An empty index. `source` is the name that rejects carry.
    pub fn new(source: SourceName, settings: Settings) -> Self {
        Self {
            source,
            settings,
            store: Store::default(),
            dirty: Dirty::default(),
            gateways: Gateways::default(),
            ingress_listeners: [None, None],
            certificates: BTreeMap::new(),
            routes: BTreeMap::new(),
            ingresses_served: 0,
            dependents: Dependents::default(),
            slices: BTreeMap::new(),
            backends: BTreeMap::new(),
            wishes: BTreeMap::new(),
            complaints: BTreeMap::new(),
            touched: None,
            news: None,
        }
    }

    /// From now on notes objects whose status may be different, beginning with all that have one, and objects of which something
    /// else is wrong, beginning with all that are not well; or no longer does.
    pub fn note_statuses(&mut self, notes: bool) {
        self.news = notes.then(|| self.complaints.keys().cloned().collect());
        self.touched = notes.then(|| {
            let all = STATUS_KINDS.iter().flat_map(|kind| self.store.of_kind(*kind));
            all.map(|(key, _)| key.clone()).collect()
        });
    }

    /// An object whose status may be different since it was last given here. Ask after [`take_delta`](Self::take_delta).
    pub fn next_touched(&mut self) -> Option<Key> {
        self.touched.as_mut()?.pop_first()
    }

    /// An object of which something else is wrong than when it was last given here, and what. Ask after
    /// [`take_delta`](Self::take_delta).
    pub fn next_news(&mut self) -> Option<(Key, Vec<Complaint>)> {
        let key = self.news.as_mut()?.pop_first()?;
        let complaints = self.complaints.get(&key).cloned().unwrap_or_default();
        Some((key, complaints))
    }

    /// Whether there is one.
    pub fn has_news(&self) -> bool {
        self.news.as_ref().is_some_and(|news| !news.is_empty())
    }

    /// Whether there is one.
    pub fn is_touched(&self) -> bool {
        self.touched.as_ref().is_some_and(|touched| !touched.is_empty())
    }

    /// Notes that an object's status may be different.
    pub fn touch_status(&mut self, key: &Key) {
        if let Some(touched) = &mut self.touched
            && STATUS_KINDS.contains(&key.kind)
        {
            touched.insert(key.clone());
        }
    }

    /// The same for all objects of some kinds.
    pub fn touch_statuses(&mut self, kinds: &[Kind]) {
        if let Some(touched) = &mut self.touched {
            let all = kinds.iter().flat_map(|kind| self.store.of_kind(*kind));
            touched.extend(all.map(|(key, _)| key.clone()));
        }
    }

    /// All objects, and what they came out as: for statuses.
    pub(super) fn outcome(&self) -> Outcome<'_> {
        Outcome {
            store: &self.store,
            settings: &self.settings,
            gateways: &self.gateways,
            routes: &self.routes,
            dependents: &self.dependents,
            complaints: &self.complaints,
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
        if self.store.get(&key) == Some(&object) {
            return;
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
        for key in &dirty.ingresses {
            self.translate_ingress(key, &mut dirty.services, &mut delta);
        }
        self.decide_listeners(&mut dirty, &mut delta);
        for key in &dirty.routes {
            self.translate_route(key, &mut dirty.services, &mut delta);
        }
        for id in &dirty.services {
            self.translate_service(id, &mut delta);
        }
        delta
    }

    /// All that is wrong now, by object; at most 1000 entries, the last of which then counts the others.
    pub fn rejects(&self) -> Vec<Reject> {
        self.rejects_with(|key| key.to_string())
    }

    /// All that is wrong now, with a way to name an object.
    pub(super) fn rejects_with(&self, name: impl Fn(&Key) -> String) -> Vec<Reject> {
        let all = || {
            let each = self.complaints.iter();
            each.flat_map(|(key, complaints)| complaints.iter().map(move |complaint| (key, complaint)))
        };
        let mut rejects: Vec<Reject> = all()
            .take(MAX_REJECTS)
            .map(|(key, complaint)| Reject {
                source: self.source.clone(),
                object: name(key),
                field: Some(complaint.field.clone()).filter(|field| !field.is_empty()),
                reason: complaint.reason.clone(),
            })
            .collect();
        let others = all().count().saturating_sub(MAX_REJECTS);
        if others > 0 {
            rejects.truncate(MAX_REJECTS - 1);
            rejects.push(Reject {
                source: self.source.clone(),
                object: "other objects".to_owned(),
                field: None,
                reason: format!("{} more complaints are not shown", others + 1),
            });
        }
        rejects
    }

    /// Whether it holds nothing at all: what comes and goes must leave nothing behind.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.is_empty()
            && self.routes.is_empty()
            && self.ingresses_served == 0
            && self.dependents.is_empty()
            && self.slices.is_empty()
            && self.backends.is_empty()
            && self.complaints.is_empty()
            && self.certificates.is_empty()
            && self.wishes.is_empty()
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
                self.dirty.services.insert(key.id.clone());
            }
            Kind::Ingress => {
                self.dirty.ingresses.insert(key.clone());
                self.touch_canaries(key, [old, new]);
            }
            Kind::HttpRoute => {
                self.dirty.routes.insert(key.clone());
            }
            Kind::IngressClass => {
                let all = self.store.of_kind(Kind::Ingress).map(|(key, _)| key.clone());
                self.dirty.ingresses.extend(all);
            }
            Kind::GatewayClass => self.dirty.gateways = true,
            Kind::Gateway => {
                self.dirty.gateways = true;
                if old.is_none() || new.is_none() {
                    self.dirty.changed_gateways.insert(key.id.clone());
                }
            }
            Kind::Namespace => {
                let mut listeners = self.gateways.views.values().flatten();
                if listeners.any(|view| matches!(view.namespaces, AllowedNamespaces::Selector(_))) {
                    let inside = self.store.in_namespace(Kind::HttpRoute, &key.id.name);
                    self.dirty.routes.extend(inside.map(|(key, _)| key.clone()));
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

    fn translate_ingress(&mut self, key: &Key, services: &mut BTreeSet<Id>, delta: &mut Delta) {
        let mut findings = Findings::default();
        let routes = match self.store.ingress(&key.id) {
            Some(object) => ingress::translate(&key.id, object, &self.store, &self.settings, &mut findings),
            None => Vec::new(),
        };
        let had_routes = self.routes.get(key).is_some_and(|routes| !routes.is_empty());
        let certificates = std::mem::take(&mut findings.certificates);
        if certificates.is_empty() {
            self.certificates.remove(key);
        } else {
            self.certificates.insert(key.clone(), certificates);
        }
        self.ingresses_served += usize::from(!routes.is_empty());
        self.ingresses_served -= usize::from(had_routes);
        self.settle(key, routes, findings, services, delta);
    }

    fn translate_route(&mut self, key: &Key, services: &mut BTreeSet<Id>, delta: &mut Delta) {
        let mut findings = Findings::default();
        let around = Surroundings {
            store: &self.store,
            gateways: &self.gateways,
        };
        let route = self
            .store
            .http_route(&key.id)
            .and_then(|object| routes::translate(&key.id, object, around, &mut findings));
        self.settle(key, route.into_iter().collect(), findings, services, delta);
    }

    /// Takes what came out of an object: routes into the delta, dependencies, complaints.
    fn settle(
        &mut self,
        key: &Key,
        routes: Vec<Route>,
        findings: Findings,
        services: &mut BTreeSet<Id>,
        delta: &mut Delta,
    ) {
        if self.touched.is_some() {
            self.touch_status(key);
            // The Gateways count their routes.
            let before = self.dependents.gateways_of(key);
            for id in before.iter().chain(&findings.on.gateways) {
                self.touch_status(&Key {
                    kind: Kind::Gateway,
                    id: id.clone(),
                });
            }
        }
        let old = self.routes.remove(key).unwrap_or_default();
        let mut kept: Vec<Arc<Route>> = Vec::with_capacity(routes.len());
        for route in routes {
            match old.iter().find(|old| ***old == route) {
                Some(same) => kept.push(Arc::clone(same)),
                None => {
                    let route = Arc::new(route);
                    delta.routes.insert(route.name.clone(), Some(Arc::clone(&route)));
                    kept.push(route);
                }
            }
        }
        for gone in old
            .iter()
            .filter(|old| !kept.iter().any(|kept| kept.name == old.name))
        {
            delta.routes.insert(gone.name.clone(), None);
        }
        if !kept.is_empty() {
            self.routes.insert(key.clone(), kept);
        }
        self.complain(key, findings.complaints);
        self.wish(key, findings.upstream, &findings.on.uses, services);
        services.extend(self.dependents.replace(key, findings.on));
    }

    /// Notes what an Ingress wishes of the ports that it uses.
    fn wish(
        &mut self,
        key: &Key,
        upstream: Upstream,
        uses: &BTreeSet<(Id, u16)>,
        services: &mut BTreeSet<Id>,
    ) {
        if upstream.is_empty() && self.wishes.is_empty() {
            return;
        }
        for (id, _) in self.dependents.uses_of(key) {
            if let Some(wishes) = self.wishes.get_mut(&id) {
                if wishes.remove(key).is_some() {
                    services.insert(id.clone());
                }
                if wishes.is_empty() {
                    self.wishes.remove(&id);
                }
            }
        }
        if upstream.is_empty() {
            return;
        }
        let upstream = Arc::new(upstream);
        for (id, port) in uses {
            let wish = self.wishes.entry(id.clone()).or_default().entry(key.clone());
            let wish = wish.or_insert_with(|| Wish {
                ports: BTreeSet::new(),
                upstream: Arc::clone(&upstream),
            });
            wish.ports.insert(*port);
            services.insert(id.clone());
        }
    }

    fn complain(&mut self, key: &Key, complaints: Vec<Complaint>) {
        if let Some(news) = &mut self.news
            && self.complaints.get(key).map_or(&[][..], Vec::as_slice) != complaints
        {
            news.insert(key.clone());
        }
        if complaints.is_empty() {
            self.complaints.remove(key);
        } else {
            self.complaints.insert(key.clone(), complaints);
        }
    }

    /// Who is bound where; marks the routes of Gateways that came out different.
    fn decide_listeners(&mut self, dirty: &mut Dirty, delta: &mut Delta) {
        if !dirty.gateways && dirty.ingresses.is_empty() {
            return;
        }
        let next = ingress::listeners(
            self.ingresses_served > 0,
            self.certificates.values().flatten(),
            &self.settings,
        );
        let names = [ingress::LISTENER, ingress::TLS_LISTENER];
        let now = std::mem::take(&mut self.ingress_listeners);
        let came_or_went = now.each_ref().map(Option::is_some) != next.each_ref().map(Option::is_some);
        let both = now.into_iter().zip(next).zip(names);
        let kept: Vec<_> = both
            .map(|((now, next), name)| {
                if now.as_deref() == next.as_ref() {
                    return now;
                }
                let next = next.map(Arc::new);
                delta.listeners.insert(ListenerName::new(name), next.clone());
                next
            })
            .collect();
        for (place, kept) in self.ingress_listeners.iter_mut().zip(kept) {
            *place = kept;
        }
        if !dirty.gateways && !came_or_went {
            return;
        }
        let taken: Vec<_> = self
            .ingress_listeners
            .iter()
            .flatten()
            .map(|listener| listener.address)
            .collect();
        let next = gateways(&self.store, &self.settings, &taken, &self.gateways.given);
        let now = std::mem::take(&mut self.gateways);

        let mut changed = std::mem::take(&mut dirty.changed_gateways);
        for id in now.views.keys().chain(next.views.keys()) {
            if now.views.get(id) != next.views.get(id) {
                changed.insert(id.clone());
            }
        }
        for id in &changed {
            dirty.routes.extend(self.dependents.of_gateway(id));
        }
        for name in now
            .listeners
            .keys()
            .filter(|name| !next.listeners.contains_key(*name))
        {
            delta.listeners.insert(name.clone(), None);
        }
        for (name, listener) in &next.listeners {
            if now.listeners.get(name) != Some(listener) {
                delta.listeners.insert(name.clone(), Some(Arc::clone(listener)));
            }
        }
        let differs = |id: &&Id| changed.contains(*id) || now.complaints.get(*id) != next.complaints.get(*id);
        for id in next.views.keys().filter(differs) {
            self.touch_status(&Key {
                kind: Kind::Gateway,
                id: id.clone(),
            });
        }
        for id in now.complaints.keys().chain(next.complaints.keys()) {
            let key = Key {
                kind: Kind::Gateway,
                id: id.clone(),
            };
            self.complain(&key, next.complaints.get(id).cloned().unwrap_or_default());
        }
        self.gateways = next;
    }

    /// The used ports of a Service: their policies and endpoints into the delta.
    fn translate_service(&mut self, id: &Id, delta: &mut Delta) {
        let mut old = self.backends.remove(id).unwrap_or_default();
        let mut kept = BTreeMap::new();
        let mut complaints = Vec::new();
        if let Some(object) = self.store.service(id) {
            let slices: Vec<&EndpointSlice> = self
                .slices
                .get(id)
                .into_iter()
                .flatten()
                .filter_map(|slice| self.store.endpoint_slice(slice).map(|slice| &**slice))
                .collect();
            let ports: Vec<u16> = match self.settings.services_only && !object.is_external() {
                true => object
                    .spec
                    .ports
                    .iter()
                    .filter(|port| port.is_tcp())
                    .map(|port| port.port.0)
                    .collect(),
                false => self.dependents.used_ports(id).collect(),
            };
            for number in ports {
                let ports = &object.spec.ports;
                let Some(port) = ports.iter().find(|port| port.is_tcp() && port.port.0 == number) else {
                    continue;
                };
                let mut wishes = self.wishes.get(id).into_iter().flatten();
                let mut wishing = wishes.by_ref().filter(|(_, wish)| wish.ports.contains(&number));
                let wish = wishing.next();
                let other =
                    wishing.find(|(_, other)| wish.is_some_and(|(_, wish)| wish.upstream != other.upstream));
                let mut policy = service::policy(id, object, port, wish.map(|(_, wish)| &*wish.upstream));
                if let (Some((first, _)), Some((other, _))) = (wish, other) {
                    policy.complaints.push(Complaint::new(
                        "",
                        format!("{other} wishes other connections to port {number} than {first}, which has its wish"),
                    ));
                }
                if self.settings.services_only {
                    let addresses = object.spec.addresses();
                    policy.backend.virtual_addresses = addresses
                        .map(|address| SocketAddr::new(address, number))
                        .collect();
                }
                let endpoints = endpoint_slice::endpoints(
                    slices.iter().copied(),
                    port,
                    policy.backend.protocol,
                    policy.protocol_is_forced,
                );
                // Of the Service's annotations, so the same for every port, and of wishes.
                for complaint in policy.complaints {
                    if !complaints.contains(&complaint) {
                        complaints.push(complaint);
                    }
                }
                kept.insert(
                    number,
                    publish(old.remove(&number), policy.backend, endpoints, delta),
                );
            }
        }
        for Published { backend, .. } in old.into_values() {
            delta.backends.insert(backend.name.clone(), None);
            delta.endpoints.insert(backend.name.clone(), None);
        }
        if !kept.is_empty() {
            self.backends.insert(id.clone(), kept);
        }
        let key = Key {
            kind: Kind::Service,
            id: id.clone(),
        };
        self.complain(&key, complaints);
    }
}

/// Builds a tree anew, with full nodes.
pub(super) fn compact<K: Ord, V>(tree: &mut BTreeMap<K, V>) {
    *tree = std::mem::take(tree).into_iter().collect();
}

/// Puts a backend and its endpoints into the delta, as far as they differ from what came out before.
fn publish(
    old: Option<Published>,
    backend: Backend,
    endpoints: Arc<[Endpoint]>,
    delta: &mut Delta,
) -> Published {
    let (old_backend, old_endpoints) = old.map(|old| (old.backend, old.endpoints)).unzip();
    let backend = match old_backend {
        Some(old) if *old == backend => old,
        _ => {
            let backend = Arc::new(backend);
            delta
                .backends
                .insert(backend.name.clone(), Some(Arc::clone(&backend)));
            backend
        }
    };
    let endpoints = match old_endpoints {
        Some(old) if *old == *endpoints => old,
        _ => {
            delta
                .endpoints
                .insert(backend.name.clone(), Some(Arc::clone(&endpoints)));
            endpoints
        }
    };
    Published { backend, endpoints }
}

#[cfg(test)]
mod tests;
