//! What changed in a source, and the union of all sources.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{
    Backend, BackendName, Certificate, Challenges, DnsName, Endpoint, Identity, Listener, ListenerName,
    ManagedName, Route, RouteName, SourceName,
};

/// What changed: `Some` is added or changed, `None` is gone. The first delta of a source is all it has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Listeners.
    pub listeners: BTreeMap<ListenerName, Option<Arc<Listener>>>,
    /// Routes.
    pub routes: BTreeMap<RouteName, Option<Arc<Route>>>,
    /// Backends' policies.
    pub backends: BTreeMap<BackendName, Option<Arc<Backend>>>,
    /// Backends' endpoints, each set whole. A backend without an entry ever has none.
    pub endpoints: BTreeMap<BackendName, Option<Arc<[Endpoint]>>>,
    /// What names of endpoints mean from now on; none: nothing. One source alone says it.
    pub names: BTreeMap<DnsName, Option<Arc<[IpAddr]>>>,
    /// Certificates for names that listeners leave to Tidegate. One source alone gives them.
    pub certificates: BTreeMap<ManagedName, Option<Arc<Certificate>>>,
    /// What authorities are answered from now on. None: what they were answered before. One source alone says it.
    pub challenges: Option<Arc<Challenges>>,
    /// Who we are from now on, towards other sidecars; `Some(None)`: nobody. None: who we were before.
    pub identity: Option<Option<Arc<Identity>>>,
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
            && self.routes.is_empty()
            && self.backends.is_empty()
            && self.endpoints.is_empty()
            && self.names.is_empty()
            && self.certificates.is_empty()
            && self.challenges.is_none()
            && self.identity.is_none()
    }

    /// Takes a later delta on top of this one.
    pub fn extend(&mut self, later: Self) {
        self.listeners.extend(later.listeners);
        self.routes.extend(later.routes);
        self.backends.extend(later.backends);
        self.endpoints.extend(later.endpoints);
        self.names.extend(later.names);
        self.certificates.extend(later.certificates);
        self.challenges = later.challenges.or(self.challenges.take());
        self.identity = later.identity.or(self.identity.take());
    }
}

/// All that is known: the union of what the sources gave. Certificates and challenges come and go without it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Listeners by name.
    pub listeners: BTreeMap<ListenerName, Arc<Listener>>,
    /// Routes by name.
    pub routes: BTreeMap<RouteName, Arc<Route>>,
    /// Backends' policies by name.
    pub backends: BTreeMap<BackendName, Arc<Backend>>,
    /// Backends' endpoints by name.
    pub endpoints: BTreeMap<BackendName, Arc<[Endpoint]>>,
    /// Who we are, towards other sidecars.
    pub identity: Option<Arc<Identity>>,
}

impl World {
    /// What leads from this world to another: equal entries are left out. How a source that always
    /// reads everything (a file) makes its delta.
    pub fn delta_to(&self, next: &Self) -> Delta {
        Delta {
            listeners: changes(&self.listeners, &next.listeners),
            routes: changes(&self.routes, &next.routes),
            backends: changes(&self.backends, &next.backends),
            endpoints: changes(&self.endpoints, &next.endpoints),
            identity: (self.identity != next.identity).then(|| next.identity.clone()),
            ..Delta::default()
        }
    }

    /// Applies a delta.
    pub fn apply(&mut self, delta: &Delta) {
        put(&mut self.listeners, &delta.listeners);
        put(&mut self.routes, &delta.routes);
        put(&mut self.backends, &delta.backends);
        put(&mut self.endpoints, &delta.endpoints);
        if let Some(identity) = &delta.identity {
            self.identity.clone_from(identity);
        }
    }
}

fn changes<K: Ord + Clone, V: PartialEq + ?Sized>(
    now: &BTreeMap<K, Arc<V>>,
    next: &BTreeMap<K, Arc<V>>,
) -> BTreeMap<K, Option<Arc<V>>> {
    let gone = now
        .keys()
        .filter(|key| !next.contains_key(*key))
        .map(|key| (key.clone(), None));
    let put = next
        .iter()
        .filter(|(key, value)| {
            now.get(*key)
                .is_none_or(|old| !Arc::ptr_eq(old, value) && old != *value)
        })
        .map(|(key, value)| (key.clone(), Some(Arc::clone(value))));
    gone.chain(put).collect()
}

fn put<K: Ord + Clone, V: ?Sized>(map: &mut BTreeMap<K, Arc<V>>, delta: &BTreeMap<K, Option<Arc<V>>>) {
    for (key, value) in delta {
        match value {
            Some(value) => map.insert(key.clone(), Arc::clone(value)),
            None => map.remove(key),
        };
    }
}

/// Something of a source that was left out, and why. The rest of the source goes live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Where it came from.
    pub source: SourceName,
    /// What it is: `HTTPRoute default/web`, `listeners.http`.
    pub object: String,
    /// The field, if one is to blame: `spec.rules[0].matches[1].path`.
    pub field: Option<String>,
    /// What is wrong and what to try.
    pub reason: String,
}

impl fmt::Display for Reject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.source, self.object)?;
        if let Some(field) = &self.field {
            write!(formatter, ": {field}")?;
        }
        write!(formatter, ": {}", self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_leads_from_one_world_to_the_next() {
        let name = |text: &str| BackendName::new(text);
        let backend = |text: &str| Arc::new(Backend::new(name(text)));
        let mut now = World::default();
        now.backends.insert(name("kept"), backend("kept"));
        now.backends.insert(name("gone"), backend("gone"));
        let mut next = World::default();
        next.backends.insert(name("kept"), backend("kept"));
        next.backends.insert(name("new"), backend("new"));

        let delta = now.delta_to(&next);

        assert_eq!(
            delta.backends.keys().map(BackendName::as_str).collect::<Vec<_>>(),
            ["gone", "new"]
        );
        now.apply(&delta);
        assert_eq!(now, next);
        assert!(now.delta_to(&next).is_empty());
    }
}
