//! The compiler: turns what the sources say into the snapshot, at the cost of what has changed.
//!
//! It belongs to the control plane and has a single owner. Each source sends deltas; [`Compiler::apply`]
//! unites them, compiles what they touch and makes it live:
//!
//! - Names are claimed by the source that gave them first (`union.rs`), slots of address and hostname by
//!   the listener that wanted them first. Later ones wait, are reported, and come alive when the first
//!   goes away. Seniority is the order of arrival: what is live is never pushed out by what comes later.
//! - A route is compiled when it changes and put into the tables of those of its listeners that are live.
//!   A route without live listeners is kept, and put in when one of its listeners comes alive.
//! - A backend's endpoints are those given by the source that defines the backend, and those under the names that its
//!   policy has (`names.rs`). They are swapped inside the [`Backend`](super::Backend), without a new table.
//!
//! The order within one delta is such that no exchange meets a half-made world: new endpoints are in
//! place before the table that leads to them is published, and a backend is emptied only after the table
//! that may no longer lead there is out. A backend that nothing mentions any more is not emptied but
//! forgotten, so that exchanges which still hold it end in peace.
//!
//! Callers gather edits for a few milliseconds ([`Delta::extend`]) and apply them as one.

mod listeners;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use self::listeners::{Edits, Listeners};
use super::backend::{Backends, Swap};
use super::destinations::Destinations;
use super::mtls::Mtls;
use super::names::Names;
use super::paths::Entry;
use super::publish::{Publisher, Readers};
use super::rule::CompiledRoute;
use super::union::{Claimed, SourceIndex, Union};
use super::{Bind, ChallengeTable, Snapshot};
use crate::balance::{Micros, Vantage};
use crate::model::{
    self, BackendName, Delta, DnsName, Endpoint, HostPattern, Identity, Listener, ListenerName, Opening,
    Reject, Route, RouteName, SourceName, Transport,
};
use crate::telemetry::Metrics;

/// Turns deltas into snapshots.
pub struct Compiler {
    publisher: Publisher,
    sources: Vec<SourceName>,
    listeners: Listeners,
    routes: Union<RouteName, Arc<Route>>,
    policies: Union<BackendName, Arc<model::Backend>>,
    endpoints: Union<BackendName, Arc<[Endpoint]>>,
    pub(super) compiled: HashMap<RouteName, Arc<CompiledRoute>>,
    /// Routes by the listeners they name, live or not.
    attached: HashMap<ListenerName, BTreeSet<RouteName>>,
    backends: Backends,
    destinations: Destinations,
    mtls: Mtls,
    names: Names,
    binds: HashMap<(SocketAddr, Transport), Arc<Bind>, RandomState>,
    challenges: Option<Arc<ChallengeTable>>,
    generation: u64,
}

/// What a delta has led to.
#[derive(Debug, Default)]
pub struct Applied {
    /// What of this delta was left out; it waits and may come alive later. All that waits: [`Compiler::rejects`].
    pub rejects: Vec<Reject>,
    /// An address, or its protocols or limits, have changed: sockets have to follow.
    pub listeners_changed: bool,
    /// The generation of the new table, if there is one. Endpoints and policies need none.
    pub published: Option<u64>,
    /// Backends whose policy or endpoints are other than before.
    pub backends_changed: Vec<BackendName>,
    /// All names that endpoints are known by, if these are others than before.
    pub names: Option<BTreeSet<DnsName>>,
}

impl Compiler {
    /// With an empty world. Handles of metrics are made for each backend when it is first heard of.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self::at(Vantage::default(), metrics)
    }

    /// As [`Self::new`], for a process that knows where it stands.
    pub fn at(vantage: Vantage, metrics: Arc<Metrics>) -> Self {
        Self {
            publisher: Publisher::new(),
            sources: Vec::new(),
            listeners: Listeners::default(),
            routes: Union::default(),
            policies: Union::default(),
            endpoints: Union::default(),
            compiled: HashMap::new(),
            attached: HashMap::new(),
            backends: Backends::new(metrics, vantage),
            destinations: Destinations::default(),
            mtls: Mtls::default(),
            names: Names::default(),
            binds: HashMap::default(),
            challenges: None,
            generation: 0,
        }
    }

    /// The reading end, for workers and admin.
    pub fn readers(&self) -> Readers {
        self.publisher.readers()
    }

    /// Takes a delta of a source and makes it live. New endpoints' slow start begins `now`.
    pub fn apply(&mut self, source: &SourceName, mut delta: Delta, now: Micros) -> Applied {
        let source = self.source(source);
        let mut applied = Applied::default();
        let (certificates, challenges) = (std::mem::take(&mut delta.certificates), delta.challenges.take());
        let identity = delta.identity.take();
        let names = std::mem::take(&mut delta.names);
        let mut changed = self.unite(source, delta, &mut applied.rejects);
        if let Some(identity) = identity {
            self.identify(source, identity, &mut changed);
        }
        for (name, addresses) in names {
            changed.backends.extend(self.names.learn(&name, addresses));
        }

        let mut late = Vec::new();
        for swap in self.define_backends(&changed.backends, now) {
            applied.backends_changed.push(swap.backend().clone());
            if swap.empties() {
                late.push(swap);
            } else {
                swap.make();
            }
        }
        let mut names_changed = false;
        for name in &changed.backends {
            let policy = self.policies.get(name).map(|claim| &*claim.value);
            self.destinations.follow(name, policy, &mut self.backends);
            names_changed |= self.names.follow(name, policy);
        }
        applied.names = names_changed.then(|| self.names.wanted());
        applied
            .rejects
            .extend(self.address_rejects(|name| changed.backends.contains(name)));
        applied
            .rejects
            .extend(self.identity_rejects(|name| changed.backends.contains(name)));
        let fresh = self.listeners.follow(&changed.listeners);
        self.listeners.manage(certificates);
        for name in &changed.listeners {
            applied.rejects.extend(self.slot_reject(name));
        }
        self.compile_routes(&changed.routes, &fresh);
        for swap in self.undefine_backends(&changed.backends) {
            applied.backends_changed.push(swap.backend().clone());
            late.push(swap);
        }
        let answers_changed = challenges.is_some_and(|challenges| {
            let before = self.challenges.take();
            self.challenges = ChallengeTable::of(&challenges);
            before.is_some() || self.challenges.is_some()
        });
        applied.listeners_changed = self.publish(answers_changed, &mut applied.published);
        late.into_iter().for_each(Swap::make);
        applied
    }

    /// All that waits because something else is in its way.
    pub fn rejects(&self) -> Vec<Reject> {
        let mut rejects = Vec::new();
        for (name, source, holder) in self.listeners.given.waiting() {
            rejects.push(self.name_reject("listener", name.as_str(), source, holder));
        }
        for (name, source, holder) in self.routes.waiting() {
            rejects.push(self.name_reject("route", name.as_str(), source, holder));
        }
        for (name, source, holder) in self.policies.waiting() {
            rejects.push(self.name_reject("backend", name.as_str(), source, holder));
        }
        for name in self.listeners.waiting() {
            rejects.extend(self.slot_reject(name));
        }
        rejects.sort_by(|a, b| (a.source.as_str(), &a.object).cmp(&(b.source.as_str(), &b.object)));
        rejects.extend(self.address_rejects(|_| true));
        rejects.extend(self.identity_rejects(|_| true));
        rejects
    }

    fn source(&mut self, name: &SourceName) -> SourceIndex {
        let known = self.sources.iter().position(|known| known == name);
        SourceIndex(known.unwrap_or_else(|| {
            self.sources.push(name.clone());
            self.sources.len() - 1
        }))
    }

    fn source_name(&self, index: SourceIndex) -> SourceName {
        let name = self.sources.get(index.0).cloned();
        name.unwrap_or_else(|| SourceName::new("another source"))
    }

    /// Puts the delta into the unions; says for which names something else counts now.
    fn unite(&mut self, source: SourceIndex, delta: Delta, rejects: &mut Vec<Reject>) -> Changed {
        let mut changed = Changed::default();
        for (name, listener) in delta.listeners {
            match self.listeners.given.put(&name, source, listener) {
                Claimed::Changed => changed.listeners.push(name),
                Claimed::Waits(holder) => {
                    rejects.push(self.name_reject("listener", name.as_str(), source, holder))
                }
                Claimed::Same => {}
            }
        }
        for (name, route) in delta.routes {
            match self.routes.put(&name, source, route) {
                Claimed::Changed => changed.routes.push(name),
                Claimed::Waits(holder) => {
                    rejects.push(self.name_reject("route", name.as_str(), source, holder))
                }
                Claimed::Same => {}
            }
        }
        for (name, policy) in delta.backends {
            match self.policies.put(&name, source, policy) {
                Claimed::Changed => {
                    changed.backends.insert(name);
                }
                Claimed::Waits(holder) => {
                    rejects.push(self.name_reject("backend", name.as_str(), source, holder))
                }
                Claimed::Same => {}
            }
        }
        for (name, endpoints) in delta.endpoints {
            // Which source's endpoints count is decided by who defines the backend, not by who came first.
            self.endpoints.put(&name, source, endpoints);
            changed.backends.insert(name);
        }
        changed
    }

    /// Who we are towards other sidecars.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.mtls.identity()
    }

    /// Takes who a source says that we are; what is made of it is made anew.
    fn identify(&mut self, source: SourceIndex, identity: Option<Arc<Identity>>, changed: &mut Changed) {
        if self.mtls.follow(source, identity) {
            let all = self.policies.all();
            let concerned = all.filter(|(_, claim)| claim.value.mtls.is_some());
            changed.backends.extend(concerned.map(|(name, _)| name.clone()));
            self.listeners.identify();
        }
    }

    /// New content of those backends that are defined and other than before.
    fn define_backends(&mut self, names: &BTreeSet<BackendName>, now: Micros) -> Vec<Swap> {
        let mut swaps = Vec::new();
        for name in names {
            if let Some(policy) = self.policies.get(name) {
                let endpoints = self.endpoints.claim_of(name, policy.source).cloned();
                let endpoints = self.names.complete(&policy.value, endpoints.unwrap_or_default());
                let complete = self.mtls.complete(&policy.value);
                swaps.extend(self.backends.define(name, &complete, endpoints, now));
            }
        }
        swaps
    }

    /// Content of those backends that are no longer defined but still mentioned.
    fn undefine_backends(&mut self, names: &BTreeSet<BackendName>) -> Vec<Swap> {
        let undefined = names.iter().filter(|name| self.policies.get(*name).is_none());
        undefined
            .filter_map(|name| self.backends.undefine(name))
            .collect()
    }

    /// Compiles the routes of these names and brings the tables up to date. The tables of `fresh` listeners
    /// are empty and get all of their routes.
    fn compile_routes(&mut self, names: &[RouteName], fresh: &HashSet<ListenerName>) {
        let mut edits: HashMap<ListenerName, Edits> = HashMap::new();
        let mut gone = Vec::new();
        for name in names {
            let after = self.routes.get(name).map(|claim| {
                let route = Arc::clone(&claim.value);
                Arc::new(CompiledRoute::compile(route, |name| self.backends.acquire(name)))
            });
            let before = match &after {
                Some(after) => self.compiled.insert(name.clone(), Arc::clone(after)),
                None => self.compiled.remove(name),
            };
            if let Some(before) = before {
                self.detach(&before.route);
                for (listener, pattern) in self.places(&before.route, |listener| !fresh.contains(listener)) {
                    let edits = edits.entry(listener).or_default();
                    edits.entry(pattern).or_default().gone.push(Arc::clone(&before));
                }
                gone.push(before);
            }
            if let Some(after) = &after {
                self.attach(&after.route);
                for (listener, pattern) in self.places(&after.route, |listener| !fresh.contains(listener)) {
                    let edits = edits.entry(listener).or_default();
                    edits.entry(pattern).or_default().added.extend(Entry::of(after));
                }
            }
        }
        for listener in fresh {
            let routes = self.attached.get(listener).into_iter().flatten();
            for route in routes.filter_map(|name| self.compiled.get(name)) {
                for (listener, pattern) in self.places(&route.route, |other| other == listener) {
                    let edits = edits.entry(listener).or_default();
                    edits.entry(pattern).or_default().added.extend(Entry::of(route));
                }
            }
        }
        for (listener, edits) in edits {
            self.listeners.edit(&listener, edits);
        }
        // Released after the new ones have been acquired, so that a backend that both mention stays.
        for backend in gone.iter().flat_map(|route| route.backends()) {
            self.backends.release(&backend.name);
        }
    }

    /// Where a route stands: its live listeners (of those wanted) and the hostnames that both mean.
    fn places(
        &self,
        route: &Route,
        wanted: impl Fn(&ListenerName) -> bool,
    ) -> BTreeSet<(ListenerName, HostPattern)> {
        let names = route.listeners.iter().filter(|name| wanted(name));
        names
            .filter_map(|name| Some((name, self.listeners.live(name)?)))
            .flat_map(|(name, listener)| {
                let meetings = route
                    .hostnames
                    .iter()
                    .filter_map(|host| host.intersect(&listener.hostname));
                meetings.map(|pattern| (name.clone(), pattern))
            })
            .collect()
    }

    fn attach(&mut self, route: &Route) {
        for listener in &route.listeners {
            self.attached
                .entry(listener.clone())
                .or_default()
                .insert(route.name.clone());
        }
    }

    fn detach(&mut self, route: &Route) {
        for listener in &route.listeners {
            if let Some(routes) = self.attached.get_mut(listener) {
                routes.remove(&route.name);
                if routes.is_empty() {
                    self.attached.remove(listener);
                }
            }
        }
    }

    /// Publishes a new table if there is anything new in it; says whether sockets have to follow.
    fn publish(&mut self, answers_changed: bool, published: &mut Option<u64>) -> bool {
        let identity = self.mtls.identity();
        let (binds_changed, addresses_changed) = self.listeners.rebuild(&mut self.binds, identity);
        let destinations_changed = self.destinations.take_changed();
        if self.backends.take_listed() | binds_changed | answers_changed | destinations_changed {
            self.generation += 1;
            *published = Some(self.generation);
            self.publisher.publish(Arc::new(Snapshot {
                generation: self.generation,
                binds: self.binds.clone(),
                challenges: self.challenges.clone(),
                backends: self.backends.list().clone(),
                destinations: Arc::clone(self.destinations.table()),
            }));
        }
        addresses_changed
    }

    fn name_reject(&self, kind: &str, name: &str, source: SourceIndex, holder: SourceIndex) -> Reject {
        let holder = self.source_name(holder);
        Reject {
            source: self.source_name(source),
            object: format!("{kind} {name}"),
            field: Some("name".to_owned()),
            reason: format!("{holder} has a {kind} of this name already, which stays; rename one of them"),
        }
    }

    /// Addresses that these backends want and others have.
    fn address_rejects(&self, concerns: impl Fn(&BackendName) -> bool) -> Vec<Reject> {
        let waiting = self.destinations.waiting().filter(|(_, name, _)| concerns(name));
        let rejects = waiting.filter_map(|(address, name, holder)| {
            Some(Reject {
                source: self.source_name(self.policies.get(name)?.source),
                object: format!("backend {name}"),
                field: Some("virtual_addresses".to_owned()),
                reason: format!(
                    "backend {holder} has the address {address} already, and keeps it; take it from one of them"
                ),
            })
        });
        rejects.collect()
    }

    /// Backends that are to be reached by mTLS while nobody says who we are: nothing goes there.
    fn identity_rejects(&self, concerns: impl Fn(&BackendName) -> bool) -> Vec<Reject> {
        if self.mtls.identity().is_some() {
            return Vec::new();
        }
        let asking = self
            .policies
            .all()
            .filter(|(name, claim)| claim.value.mtls.is_some() && concerns(name));
        let mut rejects: Vec<_> = asking
            .map(|(name, claim)| Reject {
                source: self.source_name(claim.source),
                object: format!("backend {name}"),
                field: Some("mtls".to_owned()),
                reason:
                    "mTLS needs an identity, and there is none, so nothing is sent there; write identity: \
                         {directory: PATH}, or give --identity DIR"
                        .to_owned(),
            })
            .collect();
        rejects.sort_by(|a, b| a.object.cmp(&b.object));
        rejects
    }

    fn slot_reject(&self, name: &ListenerName) -> Option<Reject> {
        let given = self.listeners.given.get(name)?;
        let other = self.listeners.in_the_way_of(name)?;
        let Listener {
            address, hostname, ..
        } = &*given.value;
        let held = self.listeners.given.get(other)?;
        let holder = held.source;
        let (its, own) = (held.value.opening(), given.value.opening());
        if its != own {
            let field = match (its, own) {
                (Opening::Anything, _) | (_, Opening::Anything) => "protocol",
                (Opening::Redirected(_), _) | (_, Opening::Redirected(_)) => "transparent",
                (Opening::Http | Opening::Tls, _) => "tls",
            };
            let (its, own) = (its.words(), own.words());
            return Some(Reject {
                source: self.source_name(given.source),
                object: format!("listener {name}"),
                field: Some(field.to_owned()),
                reason: format!(
                    "listener {other} of {} speaks {its} on {address} already, and stays; an address cannot speak \
                     {own} too, choose another port",
                    self.source_name(holder)
                ),
            });
        }
        Some(Reject {
            source: self.source_name(given.source),
            object: format!("listener {name}"),
            field: Some("hostname".to_owned()),
            reason: format!(
                "listener {other} of {} has the address {address} and the hostname {hostname} already, \
                 and stays; change one of them",
                self.source_name(holder)
            ),
        })
    }
}

/// Names for which something else counts than before.
#[derive(Default)]
struct Changed {
    listeners: Vec<ListenerName>,
    routes: Vec<RouteName>,
    backends: BTreeSet<BackendName>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HeaderMatch, Rule, WeightedBackend};

    #[test]
    fn nothing_is_kept_of_what_is_gone() {
        let mut compiler = Compiler::new(Metrics::new(1));
        let source = SourceName::from("s");
        let mut delta = Delta::default();
        for name in ["a", "b"] {
            let listener = Listener {
                name: name.into(),
                address: ([127, 0, 0, 1], 80).into(),
                public_port: None,
                hostname: HostPattern::Any,
                kind: model::ListenerKind::Http,
                protocols: model::Protocols::default(),
                tls: None,
                limits: model::ListenerLimits::default(),
            };
            delta.listeners.insert(name.into(), Some(Arc::new(listener)));
            let rule = Rule {
                matches: vec![model::Match {
                    headers: vec![HeaderMatch {
                        name: http::header::ACCEPT,
                        value: model::StringMatch::Present,
                    }],
                    ..model::Match::default()
                }],
                backends: vec![WeightedBackend {
                    target: model::BackendTarget::Backend(name.into()),
                    weight: 1,
                    filters: Vec::new(),
                }],
                ..Rule::default()
            };
            let route = Route {
                name: name.into(),
                listeners: vec!["a".into(), "b".into(), "nowhere".into()],
                hostnames: vec![HostPattern::Any],
                rules: vec![Arc::new(rule)],
                created: 0,
                order: 0,
            };
            delta.routes.insert(name.into(), Some(Arc::new(route)));
            let policy = model::Backend::new(name.into());
            delta.backends.insert(name.into(), Some(Arc::new(policy)));
            let endpoint = Endpoint::at(([10, 0, 0, 1], 80).into());
            delta.endpoints.insert(name.into(), Some(Arc::new([endpoint])));
        }
        let mut gone = delta.clone();
        gone.listeners.values_mut().for_each(|value| *value = None);
        gone.routes.values_mut().for_each(|value| *value = None);
        gone.backends.values_mut().for_each(|value| *value = None);
        gone.endpoints.values_mut().for_each(|value| *value = None);

        assert_eq!(compiler.apply(&source, delta, Micros(0)).rejects.len(), 1);
        let weak: Vec<_> = compiler.compiled.values().map(Arc::downgrade).collect();
        assert!(compiler.apply(&source, gone, Micros(0)).listeners_changed);

        assert!(compiler.attached.is_empty() && compiler.compiled.is_empty() && compiler.binds.is_empty());
        assert_eq!(compiler.backends.list().len(), 0);
        assert!(compiler.listeners.is_empty());
        assert!(compiler.rejects().is_empty());
        assert!(weak.len() == 2 && weak.iter().all(|route| route.upgrade().is_none()));
    }
}
