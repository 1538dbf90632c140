//! Translation of what is marked: an object's routes, a Service's backends, into the delta as far as they came out different.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Complaint, Findings, Index, Meshed};
use crate::kubernetes::Mesh;
use crate::kubernetes::nginx::Upstream;
use crate::kubernetes::objects::{EndpointSlice, Id, Key, Kind, Object, ServicePort};
use crate::kubernetes::routes::Surroundings;
use crate::kubernetes::routes::services::Clients;
use crate::kubernetes::service::{PortUse, Way};
use crate::kubernetes::{endpoint_slice, ingress, routes, service};
use crate::model::{Backend, Delta, Endpoint, Route, Transport};

/// A backend as it last came out.
#[derive(Debug)]
pub(super) struct Published {
    backend: Arc<Backend>,
    endpoints: Arc<[Endpoint]>,
}

/// What an Ingress wishes of ports of a Service.
#[derive(Debug)]
pub(super) struct Wish {
    ports: BTreeSet<PortUse>,
    upstream: Arc<Upstream>,
}

impl Index {
    pub(super) fn translate_ingress(&mut self, key: &Key, services: &mut BTreeSet<Id>, delta: &mut Delta) {
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

    pub(super) fn translate_route(&mut self, key: &Key, services: &mut BTreeSet<Id>, delta: &mut Delta) {
        let mut findings = Findings::default();
        let routes = match &self.settings.mesh {
            Mesh::Off => self.read_route(key, None, &mut findings),
            Mesh::Serve { namespace } => {
                let clients = Clients::In(namespace.as_deref());
                self.read_route(key, Some(clients), &mut findings)
            }
            Mesh::Tell => {
                let routes = self.read_route(key, None, &mut findings);
                self.judge(key, &mut findings);
                routes
            }
        };
        if matches!(self.settings.mesh, Mesh::Serve { .. }) {
            // Their addresses may be for routes now, or no longer.
            let before = self.dependents.parents_of(key);
            services.extend(
                before
                    .into_iter()
                    .chain(findings.on.parents.clone())
                    .map(|parent| parent.id),
            );
        }
        self.settle(key, routes, findings, services, delta);
    }

    fn read_route(&self, key: &Key, clients: Option<Clients<'_>>, findings: &mut Findings) -> Vec<Route> {
        let around = Surroundings {
            store: &self.store,
            gateways: &self.gateways,
            rivals: &self.rivals,
            clients,
            way: &Way::REQUESTS,
        };
        match self.store.get(key) {
            Some(Object::HttpRoute(object)) => routes::of_http(key, object, around, findings),
            Some(Object::GrpcRoute(object)) => routes::of_grpc(key, object, around, findings),
            Some(Object::TlsRoute(object) | Object::TcpRoute(object) | Object::UdpRoute(object))
                if clients.is_none() =>
            {
                routes::of_stream(key, object, around, findings)
            }
            _ => Vec::new(),
        }
    }

    /// How a route fares with the Services among its parents. Sidecars serve them, so nothing of it is used here; what it
    /// depends on and what is wrong is added to what is known of the route.
    fn judge(&mut self, key: &Key, findings: &mut Findings) {
        let mut found = Findings::default();
        let is_attached = !self.read_route(key, Some(Clients::All), &mut found).is_empty();
        if found.on.parents.is_empty() {
            self.meshed.remove(key);
            return;
        }
        findings.on.parents.extend(found.on.parents);
        findings.on.services.extend(found.on.services);
        for complaint in &found.complaints {
            if !findings.complaints.contains(complaint) {
                findings.complain(&complaint.field, &complaint.reason);
            }
        }
        let complaints = found.complaints;
        self.meshed.insert(
            key.clone(),
            Meshed {
                is_attached,
                complaints,
            },
        );
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
            // Policies tell the Gateways that lead to their Services.
            let mut namespaces: BTreeSet<_> = self.dependents.services_of(key);
            namespaces.extend(findings.on.services.iter().map(|id| Arc::clone(&id.namespace)));
            namespaces.retain(|namespace| self.policies.contains_key(namespace));
            for namespace in namespaces {
                self.touch_policies(&namespace);
            }
            // Parents count their routes.
            let before = self.dependents.parents_of(key);
            for parent in before.iter().chain(&findings.on.parents) {
                self.touch_status(parent);
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
        uses: &BTreeSet<(Id, PortUse)>,
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
            wish.ports.insert(port.clone());
            services.insert(id.clone());
        }
    }

    pub(super) fn complain(&mut self, key: &Key, complaints: Vec<Complaint>) {
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

    /// The used ports of a Service: their policies and endpoints into the delta.
    pub(super) fn translate_service(&mut self, id: &Id, delta: &mut Delta) {
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
            let ports: Vec<(PortUse, bool)> = match self.settings.services_only && !object.is_external() {
                true => object
                    .spec
                    .ports
                    .iter()
                    .filter(|port| port.transport() == Some(Transport::Tcp))
                    .map(|port| (PortUse::requests(port.port.0), false))
                    .collect(),
                false => self.dependents.used_ports(id).collect(),
            };
            for (port_use, by_grpc) in ports {
                let (number, traffic) = (port_use.port, port_use.way.traffic);
                let is_meant = |port: &&ServicePort| {
                    port.transport() == Some(traffic.transport()) && port.port.0 == number
                };
                let Some(port) = object.spec.ports.iter().find(is_meant) else {
                    continue;
                };
                let mut wishes = self.wishes.get(id).into_iter().flatten();
                let mut wishing = wishes.by_ref().filter(|(_, wish)| wish.ports.contains(&port_use));
                let wish = wishing.next();
                let other =
                    wishing.find(|(_, other)| wish.is_some_and(|(_, wish)| wish.upstream != other.upstream));
                let mut policy = service::policy(
                    id,
                    object,
                    port,
                    &port_use.way,
                    by_grpc,
                    wish.map(|(_, wish)| &*wish.upstream),
                );
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
                let policies = self
                    .policies
                    .get(&id.namespace)
                    .filter(|_| traffic.may_have_tls());
                let tls = policies.and_then(|policies| policies.of_port(&id.name, &port.name));
                // Where sidecars speak mTLS, that is the TLS: what is inside is for the app.
                if let Some(Ok(tls)) = tls.filter(|_| policy.backend.mtls.is_none()) {
                    let identity = port_use.way.identity.as_ref();
                    let certificate = identity.and_then(|gateway| self.gateways.identities.get(&**gateway));
                    // A certificate that the library does not take is refused when it is read.
                    let shown = certificate.and_then(|certificate| tls.showing(certificate).ok());
                    policy.backend.tls = Some(shown.map_or_else(|| Arc::clone(tls), Arc::new));
                    policy.backend.protocol = service::over_tls(policy.backend.protocol, port);
                }
                let endpoints = endpoint_slice::endpoints(
                    slices.iter().copied(),
                    port,
                    policy.backend.protocol,
                    policy.protocol_is_forced,
                );
                let endpoints = match tls {
                    Some(Err(_)) => Arc::default(), // rather none than in clear text
                    _ => endpoints,
                };
                // Of the Service's annotations, so the same for every port, and of wishes.
                for complaint in policy.complaints {
                    if !complaints.contains(&complaint) {
                        complaints.push(complaint);
                    }
                }
                let before = old.remove(&port_use);
                kept.insert(port_use, publish(before, policy.backend, endpoints, delta));
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
