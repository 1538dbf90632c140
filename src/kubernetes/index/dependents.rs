//! Who asks for what: from a Service, Gateway or namespace of grants back to the routes and Ingresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::findings::Dependencies;
use crate::kubernetes::objects::{Id, Key, Kind};
use crate::kubernetes::service::PortUse;

/// How many use a port of a Service.
#[derive(Clone, Copy, Debug, Default)]
struct Users {
    /// Routes and Ingresses.
    all: u32,
    /// GRPCRoutes of them.
    grpc: u32,
}

/// The dependencies of all routes and Ingresses, both ways. Holds nothing for objects that nobody asks for.
#[derive(Debug, Default)]
pub struct Dependents {
    of: BTreeMap<Key, Kept>,
    services: BTreeMap<Id, BTreeSet<Key>>,
    parents: BTreeMap<Key, BTreeSet<Key>>,
    secrets: BTreeMap<Id, BTreeSet<Key>>,
    granting: BTreeMap<Arc<str>, BTreeSet<Key>>,
    /// Who uses a port.
    ports: BTreeMap<Id, BTreeMap<PortUse, Users>>,
}

impl Dependents {
    /// Who asks for a Service.
    pub fn of_service(&self, id: &Id) -> Vec<Key> {
        self.services.get(id).into_iter().flatten().cloned().collect()
    }

    /// Who asks for the certificate of a Secret.
    pub fn of_secret(&self, id: &Id) -> Vec<Key> {
        self.secrets.get(id).into_iter().flatten().cloned().collect()
    }

    /// Who wants to attach to a parent.
    pub fn of_parent(&self, key: &Key) -> Vec<Key> {
        self.parents.get(key).into_iter().flatten().cloned().collect()
    }

    /// What a route wants to attach to.
    pub fn parents_of(&self, key: &Key) -> Vec<Key> {
        self.of
            .get(key)
            .map_or_else(Vec::new, |kept| kept.parents.to_vec())
    }

    /// The namespaces of the Services that a route asks for.
    pub fn services_of(&self, key: &Key) -> BTreeSet<Arc<str>> {
        let kept = self.of.get(key).into_iter();
        kept.flat_map(|kept| &kept.services)
            .map(|id| Arc::clone(&id.namespace))
            .collect()
    }

    /// The ports of Services that a route or Ingress uses.
    pub fn uses_of(&self, key: &Key) -> Vec<(Id, PortUse)> {
        self.of.get(key).map_or_else(Vec::new, |kept| kept.uses.to_vec())
    }

    /// Who asks for a grant in a namespace.
    pub fn of_grants_in(&self, namespace: &str) -> Vec<Key> {
        self.granting
            .get(namespace)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// The ports of a Service that are used and for what, and whether GRPCRoutes are among those who use them.
    pub fn used_ports(&self, id: &Id) -> impl Iterator<Item = (PortUse, bool)> + '_ {
        let ports = self.ports.get(id).into_iter().flatten();
        ports.map(|(port, users)| (port.clone(), users.grpc > 0))
    }

    /// The Services to which a Gateway leads with its own certificate. Looks at all that are used.
    pub fn shown_certificate_of(&self, gateway: &Id) -> impl Iterator<Item = &Id> {
        let is_shown = |port: &PortUse| port.way.identity.as_deref() == Some(gateway);
        let all = self.ports.iter();
        all.filter(move |(_, ports)| ports.keys().any(is_shown))
            .map(|(id, _)| id)
    }

    /// See [`Index::compact`](super::Index::compact).
    pub fn compact(&mut self) {
        super::compact(&mut self.of);
    }

    /// Whether nobody depends on anything.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
            && self.services.is_empty()
            && self.parents.is_empty()
            && self.secrets.is_empty()
            && self.granting.is_empty()
            && self.ports.is_empty()
    }

    /// Notes what a route or Ingress depends on now; gives the Services of which a port is used for the
    /// first time or no longer.
    pub fn replace(&mut self, key: &Key, next: Dependencies) -> BTreeSet<Id> {
        let now: Dependencies = self.of.remove(key).map(Dependencies::from).unwrap_or_default();
        exchange(&mut self.services, key, &now.services, &next.services);
        exchange(&mut self.parents, key, &now.parents, &next.parents);
        exchange(&mut self.secrets, key, &now.secrets, &next.secrets);
        exchange(&mut self.granting, key, &now.granting, &next.granting);
        let mut changed = BTreeSet::new();
        let grpc = u32::from(key.kind == Kind::GrpcRoute);
        for (id, port) in next.uses.difference(&now.uses) {
            let users = self
                .ports
                .entry(id.clone())
                .or_default()
                .entry(port.clone())
                .or_default();
            users.all += 1;
            users.grpc += grpc;
            if users.all == 1 || users.grpc == grpc && grpc == 1 {
                changed.insert(id.clone());
            }
        }
        for (id, port) in now.uses.difference(&next.uses) {
            let Some(ports) = self.ports.get_mut(id) else {
                continue;
            };
            let Some(users) = ports.get_mut(port) else {
                continue;
            };
            users.all -= 1;
            users.grpc -= grpc;
            if users.all == 0 || users.grpc == 0 && grpc == 1 {
                changed.insert(id.clone());
            }
            if users.all == 0 {
                ports.remove(port);
            }
            if ports.is_empty() {
                self.ports.remove(id);
            }
        }
        if next != Dependencies::default() {
            self.of.insert(key.clone(), Kept::from(next));
        }
        changed
    }
}

/// Dependencies at rest. A set of one item has room for eleven; of four sets for each of ten thousand routes, that is
/// 11 MB.
#[derive(Debug)]
struct Kept {
    uses: Box<[(Id, PortUse)]>,
    services: Box<[Id]>,
    parents: Box<[Key]>,
    secrets: Box<[Id]>,
    granting: Box<[Arc<str>]>,
}

impl From<Dependencies> for Kept {
    fn from(all: Dependencies) -> Self {
        Self {
            uses: all.uses.into_iter().collect(),
            services: all.services.into_iter().collect(),
            parents: all.parents.into_iter().collect(),
            secrets: all.secrets.into_iter().collect(),
            granting: all.granting.into_iter().collect(),
        }
    }
}

impl From<Kept> for Dependencies {
    fn from(all: Kept) -> Self {
        Self {
            uses: all.uses.into_iter().collect(),
            services: all.services.into_iter().collect(),
            parents: all.parents.into_iter().collect(),
            secrets: all.secrets.into_iter().collect(),
            granting: all.granting.into_iter().collect(),
        }
    }
}

fn exchange<K: Ord + Clone>(
    map: &mut BTreeMap<K, BTreeSet<Key>>,
    key: &Key,
    now: &BTreeSet<K>,
    next: &BTreeSet<K>,
) {
    for gone in now.difference(next) {
        if let Some(keys) = map.get_mut(gone) {
            keys.remove(key);
            if keys.is_empty() {
                map.remove(gone);
            }
        }
    }
    for new in next.difference(now) {
        map.entry(new.clone()).or_default().insert(key.clone());
    }
}
