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
//! - A backend's endpoints are those given by the source that defines the backend. They are swapped
//!   inside the [`Backend`], without a new table.
//!
//! The order within one delta is such that no exchange meets a half-made world: new endpoints are in
//! place before the table that leads to them is published, and what a removed backend held is taken away
//! only after the table that no longer leads there is out. A backend that nothing mentions any more is
//! not emptied but forgotten, so that exchanges which still hold it end in peace.
//!
//! Callers gather edits for a few milliseconds ([`Delta::extend`]) and apply them as one.

mod listeners;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use self::listeners::{Edits, Listeners};
use super::backend::Backends;
use super::paths::Entry;
use super::publish::{Publisher, Readers};
use super::rule::CompiledRoute;
use super::union::{Claimed, SourceIndex, Union};
use super::{Bind, Snapshot};
use crate::model::{
    self, BackendName, Delta, Endpoint, HostPattern, Listener, ListenerName, Reject, Route, RouteName,
    SourceName,
};

/// Turns deltas into snapshots.
pub struct Compiler {
    publisher: Publisher,
    sources: Vec<SourceName>,
    listeners: Listeners,
    routes: Union<RouteName, Arc<Route>>,
    policies: Union<BackendName, Arc<model::Backend>>,
    endpoints: Union<BackendName, Arc<[Endpoint]>>,
    compiled: HashMap<RouteName, Arc<CompiledRoute>>,
    /// Routes by the listeners they name, live or not.
    attached: HashMap<ListenerName, BTreeSet<RouteName>>,
    backends: Backends,
    binds: HashMap<SocketAddr, Arc<Bind>>,
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
}

impl Compiler {
    /// With an empty world.
    pub fn new() -> Self {
        Self {
            publisher: Publisher::new(),
            sources: Vec::new(),
            listeners: Listeners::default(),
            routes: Union::default(),
            policies: Union::default(),
            endpoints: Union::default(),
            compiled: HashMap::new(),
            attached: HashMap::new(),
            backends: Backends::new(),
            binds: HashMap::new(),
            generation: 0,
        }
    }

    /// The reading end, for workers and admin.
    pub fn readers(&self) -> Readers {
        self.publisher.readers()
    }

    /// Takes a delta of a source and makes it live.
    pub fn apply(&mut self, source: &SourceName, delta: Delta) -> Applied {
        let source = self.source(source);
        let mut applied = Applied::default();
        let changed = self.unite(source, delta, &mut applied.rejects);

        let gone = self.define_backends(&changed.backends, &mut applied.backends_changed);
        let fresh = self.listeners.follow(&changed.listeners);
        for name in &changed.listeners {
            applied.rejects.extend(self.slot_reject(name));
        }
        let before = self.compile_routes(&changed.routes, &fresh);
        applied.listeners_changed = self.publish(&mut applied.published);

        for route in before {
            for backend in route.backends() {
                self.backends.release(&backend.name);
            }
        }
        for name in gone {
            if self.backends.undefine(&name) {
                applied.backends_changed.push(name);
            }
        }
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
        for (name, _) in self.listeners.waiting() {
            rejects.extend(self.slot_reject(name));
        }
        rejects.sort_by(|a, b| (a.source.as_str(), &a.object).cmp(&(b.source.as_str(), &b.object)));
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

    /// Brings the content of backends up to date; gives back those that are no longer defined.
    fn define_backends(
        &mut self,
        names: &BTreeSet<BackendName>,
        changed: &mut Vec<BackendName>,
    ) -> Vec<BackendName> {
        let mut gone = Vec::new();
        for name in names {
            let Some(policy) = self.policies.get(name) else {
                gone.push(name.clone());
                continue;
            };
            let endpoints = self.endpoints.claim_of(name, policy.source).cloned();
            if self
                .backends
                .define(name, &policy.value, endpoints.unwrap_or_default())
            {
                changed.push(name.clone());
            }
        }
        gone
    }

    /// Compiles the routes of these names and brings the tables up to date; gives back the routes as they
    /// were before. The tables of `fresh` listeners are empty and get all of their routes.
    fn compile_routes(
        &mut self,
        names: &[RouteName],
        fresh: &HashSet<ListenerName>,
    ) -> Vec<Arc<CompiledRoute>> {
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
        gone
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
    fn publish(&mut self, published: &mut Option<u64>) -> bool {
        let (binds_changed, addresses_changed) = self.listeners.rebuild(&mut self.binds);
        if binds_changed || self.backends.take_listed() {
            self.generation += 1;
            *published = Some(self.generation);
            self.publisher.publish(Arc::new(Snapshot {
                generation: self.generation,
                binds: self.binds.clone(),
                backends: self.backends.list().clone(),
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

    fn slot_reject(&self, name: &ListenerName) -> Option<Reject> {
        let given = self.listeners.given.get(name)?;
        let other = self.listeners.in_the_way_of(name)?;
        let Listener {
            address, hostname, ..
        } = &*given.value;
        let holder = self.listeners.given.get(other)?.source;
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

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

/// Names for which something else counts than before.
#[derive(Default)]
struct Changed {
    listeners: Vec<ListenerName>,
    routes: Vec<RouteName>,
    backends: BTreeSet<BackendName>,
}
