//! The Services in front of Gateways that have to be looked at: what is to be written may be something else, or what is there.

use std::sync::Arc;

use super::Index;
use crate::kubernetes::front::ports::GatewayPort;
use crate::kubernetes::front::{Front, is_front, mirror};
use crate::kubernetes::gateway::Gateways;
use crate::kubernetes::objects::{EndpointSlice, Id, Key, Kind, Object};

/// A Service in front of a Gateway to look at.
#[derive(Clone, Debug)]
pub struct FrontWork {
    /// Its name.
    pub service: Id,
    /// What it is to be; none: it is to go.
    pub front: Option<Arc<Front>>,
    /// Whether the Service itself may differ, or only its slices.
    pub is_whole: bool,
    /// The names of the slices of ours that it has.
    pub slices: Vec<Arc<str>>,
    /// Whether these mirror our own, as far as is known here.
    pub agrees: bool,
    /// Whether the Service says all of its target ports already, so that every replica knows them.
    pub is_said: bool,
    /// How often our own slices have changed until now.
    pub own_slices: u64,
}

impl Index {
    /// The next Service to look at. Ask after [`take_delta`](Self::take_delta).
    pub fn next_front(&mut self) -> Option<FrontWork> {
        let (service, is_whole) = self.fronts.pop_first()?;
        let front = self.gateways.fronts.services.get(&service).cloned();
        let ours: Vec<&EndpointSlice> = self.slices_of(&service).filter(|slice| slice.is_ours).collect();
        let own: Vec<&EndpointSlice> = match &self.settings.gateway_services {
            Some(services) => self.slices_of(&services.own).collect(),
            None => Vec::new(),
        };
        let agrees = front
            .as_ref()
            .is_none_or(|front| mirror::agree(&service, front, &own, &ours));
        let is_said = front.as_ref().is_none_or(|front| {
            front.ports.iter().all(|port| {
                let claim = GatewayPort {
                    gateway: front.gateway.clone(),
                    port: port.port,
                    transport: port.transport,
                };
                self.gateways.fronts.ports.get(&claim) == Some(&port.target)
            })
        });
        Some(FrontWork {
            is_said,
            slices: ours
                .iter()
                .map(|slice| Arc::clone(&slice.metadata.name))
                .collect(),
            own_slices: self.own_slices,
            service,
            front,
            is_whole,
            agrees,
        })
    }

    /// Whether there is one.
    pub fn has_front(&self) -> bool {
        !self.fronts.is_empty()
    }

    /// Has a Service looked at, as a whole or for its slices alone.
    pub fn note_front(&mut self, service: Id, is_whole: bool) {
        *self.fronts.entry(service).or_default() |= is_whole;
    }

    /// All of them as wholes: who has just begun to write knows of none how it is.
    pub fn note_fronts(&mut self) {
        let wanted = self.gateways.fronts.services.keys();
        let all: Vec<Id> = wanted.chain(self.store.fronts()).cloned().collect();
        if self.settings.gateway_services.is_some() {
            self.fronts.extend(all.into_iter().map(|service| (service, true)));
        }
    }

    /// Gateways came out as `next`.
    pub(super) fn touch_fronts(&mut self, now: &Gateways, next: &Gateways) {
        if self.settings.gateway_services.is_none() {
            return;
        }
        let (now, next) = (&now.fronts.services, &next.fronts.services);
        let changed = next
            .iter()
            .filter(|(service, front)| now.get(*service) != Some(front));
        let gone = now.keys().filter(|service| !next.contains_key(*service));
        // Those that nobody wants, from before a restart: asked for again and again, until they are gone.
        let orphans = self
            .store
            .fronts()
            .iter()
            .filter(|service| !next.contains_key(*service));
        for service in changed.map(|(service, _)| service).chain(gone).chain(orphans) {
            self.fronts.insert(service.clone(), true);
        }
    }

    /// A Service came, went or changed.
    pub(super) fn touch_front(&mut self, key: &Key, versions: [Option<&Object>; 2]) {
        let Some(services) = &self.settings.gateway_services else {
            return;
        };
        let was_made = |object: &&Object| matches!(object, Object::Service(service) if is_front(service));
        if key.id == services.own {
            self.note_fronts(); // they are reached as it is
        }
        let mut names = self.gateways.fronts.names.iter();
        let of_gateway = names.find(|(_, service)| **service == key.id);
        let gateway = of_gateway.map(|(gateway, _)| gateway.clone());
        let is_wanted = self.wants_front(&key.id);
        if gateway.is_none() && !is_wanted && !versions.iter().flatten().any(was_made) {
            return;
        }
        self.dirty.gateways = true;
        self.fronts.insert(key.id.clone(), true);
        if let Some(id) = gateway {
            let kind = Kind::Gateway;
            self.touch_status(&Key { kind, id });
        }
    }

    /// A slice of a Service came, went or changed.
    pub(super) fn touch_front_slices(&mut self, service: &Id) {
        let Some(services) = &self.settings.gateway_services else {
            return;
        };
        if *service == services.own {
            self.own_slices += 1;
            let all: Vec<Id> = self.gateways.fronts.services.keys().cloned().collect();
            for service in all {
                self.note_front(service, false);
            }
        } else if self.gateways.fronts.services.contains_key(service) {
            self.note_front(service.clone(), false);
        }
    }

    /// Whether a Gateway would have this Service, and cannot because it is another's.
    fn wants_front(&self, service: &Id) -> bool {
        let mut refused = self.gateways.complaints.iter().filter(|(key, complaints)| {
            key.kind == Kind::Gateway
                && key.id.namespace == service.namespace
                && complaints
                    .iter()
                    .any(|complaint| complaint.reason.starts_with("NoResources"))
        });
        refused.next().is_some()
    }

    fn slices_of(&self, service: &Id) -> impl Iterator<Item = &EndpointSlice> {
        let slices = self.slices.get(service).into_iter().flatten();
        slices.filter_map(|slice| self.store.endpoint_slice(slice).map(|slice| &**slice))
    }
}
