//! Listeners under compilation: which are live, and the tables that grow inside them.
//!
//! A listener holds the slot of its address and hostname. A later one that wants the same slot waits,
//! and goes live when the slot is free again. An address begins with TLS, with a request in clear text or with anything,
//! as the first who wanted it has it; a later one of another kind waits too.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::super::hosts::HostIndex;
use super::super::paths::{Entry, PathTable};
use super::super::rule::CompiledRoute;
use super::super::tls::{Managed, Tickets, TlsService};
use super::super::union::Union;
use super::super::{Bind, ListenerEntry};
use crate::model::{
    Certificate, HostPattern, Identity, Listener, ListenerName, ManagedName, Opening, Transport,
};

type Tables = HostIndex<Arc<PathTable>>;

/// All listeners that the sources gave, and the tables of those that are live.
pub(super) struct Listeners {
    pub(super) given: Union<ListenerName, Arc<Listener>>,
    /// Who wants a slot, in order of arrival; the first has it.
    slots: HashMap<Slot, Vec<ListenerName>>,
    wanted: HashMap<ListenerName, Slot>,
    /// Who wants an address, in order of arrival; the first decides what has to come first there.
    arrivals: HashMap<Socket, Vec<ListenerName>>,
    live: HashMap<ListenerName, Live>,
    by_address: HashMap<Socket, BTreeSet<ListenerName>>,
    /// Addresses whose bind has to be made anew.
    stale: BTreeSet<Socket>,
    tickets: Tickets,
    /// Certificates that Tidegate has got by itself.
    managed: Managed,
}

/// An address, a hostname, and what has to come first.
type Slot = (Socket, HostPattern, Opening);

/// Where a socket is, and what it is for.
type Socket = (SocketAddr, Transport);

struct Live {
    listener: Arc<Listener>,
    tables: Tables,
    tls: Option<Arc<TlsService>>,
    /// As last published, while nothing has changed since.
    entry: Option<Arc<ListenerEntry>>,
}

/// Changes of the table of one hostname.
#[derive(Default)]
pub(super) struct Edit {
    pub(super) gone: Vec<Arc<CompiledRoute>>,
    pub(super) added: Vec<Entry>,
}

/// Changes of the tables of one listener.
pub(super) type Edits = BTreeMap<HostPattern, Edit>;

impl Default for Listeners {
    fn default() -> Self {
        Self {
            given: Union::default(),
            slots: HashMap::new(),
            wanted: HashMap::new(),
            arrivals: HashMap::new(),
            live: HashMap::new(),
            by_address: HashMap::new(),
            stale: BTreeSet::new(),
            tickets: Tickets::new(),
            managed: Managed::new(),
        }
    }
}

impl Listeners {
    /// Follows what has been given under these names; says which listeners are live with empty tables now.
    pub(super) fn follow(&mut self, names: &[ListenerName]) -> HashSet<ListenerName> {
        let mut concerned: BTreeSet<ListenerName> = names.iter().cloned().collect();
        for name in names {
            let slot = self.given.get(name).map(|claim| slot(&claim.value));
            let before = self.wanted.get(name);
            if before == slot.as_ref() {
                continue;
            }
            if let Some(before) = before {
                if let Some(line) = self.slots.get_mut(before) {
                    line.retain(|other| other != name);
                    concerned.extend(line.first().cloned());
                    if line.is_empty() {
                        self.slots.remove(before);
                    }
                }
                let address = before.0;
                if let Some(line) = self.arrivals.get_mut(&address) {
                    // Who waited for the kind of the address may have it now, or no longer.
                    concerned.extend(line.iter().cloned());
                    if slot.as_ref().is_none_or(|slot| slot.0 != address) {
                        line.retain(|other| other != name);
                    }
                    if line.is_empty() {
                        self.arrivals.remove(&address);
                    }
                }
            }
            match slot {
                Some(slot) => {
                    self.slots.entry(slot.clone()).or_default().push(name.clone());
                    let line = self.arrivals.entry(slot.0).or_default();
                    if !line.contains(name) {
                        line.push(name.clone());
                    }
                    self.wanted.insert(name.clone(), slot);
                }
                None => {
                    self.wanted.remove(name);
                }
            }
        }
        concerned.into_iter().filter(|name| self.settle(name)).collect()
    }

    /// Takes certificates that were got, or are gone, and gives them to the live listeners that want them.
    pub(super) fn manage(&mut self, certificates: BTreeMap<ManagedName, Option<Arc<Certificate>>>) {
        let mut changed = BTreeSet::new();
        for (name, certificate) in certificates {
            let before = match certificate {
                Some(certificate) => self.managed.insert(name.clone(), certificate),
                None => self.managed.remove(&name),
            };
            if before.as_ref() != self.managed.get(&name) {
                changed.insert(name);
            }
        }
        for live in self.live.values_mut() {
            let tls = live.listener.tls.as_ref();
            if tls.is_some_and(|tls| tls.managed.iter().any(|name| changed.contains(name))) {
                live.tls = TlsService::of(&live.listener, &self.managed, &self.tickets);
                live.entry = None;
                self.stale.insert(live.listener.socket());
            }
        }
    }

    /// Who we are is another from now on: the binds that ask others who they are are made anew.
    pub(super) fn identify(&mut self) {
        let asking = self
            .live
            .values()
            .filter(|live| live.listener.limits.mtls.is_some());
        self.stale.extend(asking.map(|live| live.listener.socket()));
    }

    /// The live listener of a name.
    pub(super) fn live(&self, name: &ListenerName) -> Option<&Arc<Listener>> {
        self.live.get(name).map(|live| &live.listener)
    }

    /// Who has the slot that this listener wants, if it is another.
    pub(super) fn in_the_way_of(&self, name: &ListenerName) -> Option<&ListenerName> {
        let slot = self.wanted.get(name)?;
        let first = self.arrivals.get(&slot.0)?.first()?;
        if self.wanted.get(first).is_some_and(|other| other.2 != slot.2) {
            return Some(first);
        }
        let holder = self.slots.get(slot)?.first()?;
        (holder != name).then_some(holder)
    }

    /// Listeners that wait for a slot.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &ListenerName> {
        self.wanted
            .keys()
            .filter(|name| self.in_the_way_of(name).is_some())
    }

    /// Changes the tables of a listener.
    pub(super) fn edit(&mut self, name: &ListenerName, edits: Edits) {
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        for (pattern, edit) in edits {
            match live.tables.get_mut(&pattern) {
                Some(table) => {
                    let table = Arc::make_mut(table);
                    table.edit(&edit.gone, edit.added);
                    if table.is_empty() {
                        live.tables.remove(&pattern);
                    }
                }
                None => {
                    let mut table = PathTable::default();
                    table.edit(&[], edit.added);
                    if !table.is_empty() {
                        live.tables.insert(&pattern, Arc::new(table));
                    }
                }
            }
        }
        live.entry = None;
        self.stale.insert(live.listener.socket());
    }

    /// Makes the binds anew whose listeners have changed. Says whether any did, and whether any
    /// address, its protocols or its limits did.
    pub(super) fn rebuild(
        &mut self,
        binds: &mut HashMap<Socket, Arc<Bind>, RandomState>,
        identity: Option<&Arc<Identity>>,
    ) -> (bool, bool) {
        let stale = std::mem::take(&mut self.stale);
        let mut addresses_changed = false;
        for address in &stale {
            let names = self.by_address.get(address).into_iter().flatten();
            let mut entries = Vec::new();
            for name in names {
                if let Some(live) = self.live.get_mut(name) {
                    entries.push(Arc::clone(live.entry.get_or_insert_with(|| {
                        Arc::new(ListenerEntry {
                            name: name.clone(),
                            listener: Arc::clone(&live.listener),
                            tls: live.tls.clone(),
                            hosts: live.tables.clone(),
                        })
                    })));
                }
            }
            let before = binds.remove(address);
            let after = Bind::new(*address, entries, before.as_deref(), identity).map(Arc::new);
            addresses_changed |= match (&before, &after) {
                (Some(before), Some(after)) => {
                    !Arc::ptr_eq(&before.limits, &after.limits)
                        || before.protocols != after.protocols
                        || before.opening != after.opening
                }
                (None, None) => false,
                (Some(_), None) | (None, Some(_)) => true,
            };
            if let Some(after) = after {
                binds.insert(*address, after);
            }
        }
        (!stale.is_empty(), addresses_changed)
    }

    /// Makes one listener live, dead or other than it was; says whether its tables are empty now and
    /// have to be filled.
    fn settle(&mut self, name: &ListenerName) -> bool {
        let given = self.given.get(name).map(|claim| Arc::clone(&claim.value));
        let wanted = given.filter(|_| self.in_the_way_of(name).is_none());
        let before = self.live.remove(name);
        if let Some(before) = &before {
            let address = before.listener.socket();
            if let Some(names) = self.by_address.get_mut(&address) {
                names.remove(name);
                if names.is_empty() {
                    self.by_address.remove(&address);
                }
            }
            self.stale.insert(address);
        }
        let Some(listener) = wanted else {
            return false;
        };
        self.stale.insert(listener.socket());
        self.by_address
            .entry(listener.socket())
            .or_default()
            .insert(name.clone());
        // Made anew only when it has to be: what a client may ask for is decided by protocols and TLS alone.
        let same = before.as_ref().filter(|before| {
            before.listener.tls == listener.tls
                && before.listener.protocols == listener.protocols
                && before.listener.kind == listener.kind
        });
        let tls = match same {
            Some(before) => before.tls.clone(),
            None => TlsService::of(&listener, &self.managed, &self.tickets),
        };
        let kept = before.filter(|before| before.listener.hostname == listener.hostname);
        let fresh = kept.is_none();
        let live = Live {
            tls,
            listener,
            tables: kept.map(|kept| kept.tables).unwrap_or_default(),
            entry: None,
        };
        self.live.insert(name.clone(), live);
        fresh
    }
}

fn slot(listener: &Listener) -> Slot {
    let opening = listener.opening();
    // Where nobody looks at what comes, no hostname can tell listeners apart.
    let hostname = match opening {
        Opening::Http | Opening::Tls => listener.hostname.clone(),
        Opening::Anything | Opening::Redirected(_) => HostPattern::Any,
    };
    (listener.socket(), hostname, opening)
}

#[cfg(test)]
impl Listeners {
    /// Whether nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
            && self.wanted.is_empty()
            && self.arrivals.is_empty()
            && self.live.is_empty()
            && self.by_address.is_empty()
            && self.stale.is_empty()
    }
}
