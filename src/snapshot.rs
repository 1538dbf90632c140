//! The snapshot: the immutable world that the data plane reads, and the table that answers "which rule
//! is this request for?".
//!
//! There are two levels. The table (listeners, hostnames, paths, rules) is replaced as a whole by a
//! publish; its unchanged parts are shared with the one before. A rule does not hold endpoints but a
//! [`Backend`], the lasting identity of a backend, and inside it the endpoints are swapped alone. So an
//! endpoint that comes or goes costs the rebuilding of one backend's set and never touches the table.
//!
//! How a request finds its rule (Gateway API, "HTTP listener isolation" and the precedence of
//! HTTPRoute):
//!
//! 1. among the listeners of the address, the one with the most specific hostname, and no other;
//! 2. among the hostnames of that listener's routes (cut down to the listener's), the most specific
//!    that has a matching rule: the exact one, then wildcards by length, then any;
//! 3. among the rules of that hostname, the order written down in `snapshot/paths.rs`.

mod backend;
mod challenges;
pub mod compile;
mod conditions;
mod destinations;
mod hosts;
mod mtls;
mod names;
mod paths;
mod publish;
mod rule;
mod sharded;
#[cfg(test)]
mod tests;
mod tls;
mod union;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, LazyLock};

use foldhash::fast::RandomState;
use http::{HeaderMap, Method};

pub use self::backend::Backend;
pub use self::challenges::ChallengeTable;
pub use self::compile::{Applied, Compiler};
pub use self::destinations::Destination;
pub use self::mtls::MtlsService;
pub use self::publish::{Current, Published, Publisher, Reader, Readers};
pub use self::rule::{CompiledRoute, CompiledRule, FilterKinds, Reply, Share, Split, Target};
pub use self::tls::{Certificates, NoCertificate, TlsService};

use self::hosts::HostIndex;
use self::paths::PathTable;
use self::sharded::Sharded;
use crate::model::{
    BackendName, HostPattern, Identity, Listener, ListenerKind, ListenerLimits, ListenerName, Opening,
    PathMatch, Protocols, Transport,
};

/// The immutable world that the data plane reads.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts the publishes of the table; 0 is the empty world before the first.
    pub generation: u64,
    binds: HashMap<(SocketAddr, Transport), Arc<Bind>, RandomState>,
    challenges: Option<Arc<ChallengeTable>>,
    backends: Sharded<BackendName, Arc<Backend>>,
    destinations: Arc<destinations::Table>,
}

impl Snapshot {
    /// What is served on connections to an address, as the model has it (port 0 stays 0).
    pub fn bind(&self, address: &SocketAddr) -> Option<&Arc<Bind>> {
        self.bind_of(address, Transport::Tcp)
    }

    /// What is served at an address, as the model has it (port 0 stays 0).
    pub fn bind_of(&self, address: &SocketAddr, transport: Transport) -> Option<&Arc<Bind>> {
        self.binds.get(&(*address, transport))
    }

    /// What is served on redirected connections that were meant for an address, where routes say it.
    pub fn bind_meant(&self, address: &SocketAddr) -> Option<&Arc<Bind>> {
        self.bind_of(address, Transport::Redirected)
    }

    /// All addresses, in no order.
    pub fn binds(&self) -> impl Iterator<Item = &Arc<Bind>> {
        self.binds.values()
    }

    /// What authorities are answered that ask whether a name is ours. None: they ask nothing now, as nearly always.
    pub fn challenges(&self) -> Option<&ChallengeTable> {
        self.challenges.as_deref()
    }

    /// What redirected connections are for that were meant for an address; none: for the address itself.
    pub fn destination(&self, address: &SocketAddr) -> Option<&Arc<Destination>> {
        self.destinations.get(address)
    }

    /// A backend that is defined or that a rule mentions.
    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.backends.get(name)
    }

    /// All backends that are defined or that a rule mentions, in no order.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.iter().map(|(_, backend)| backend)
    }
}

/// All listeners that share one address.
pub struct Bind {
    /// As the model has it (port 0 stays 0).
    pub address: SocketAddr,
    /// What comes there.
    pub transport: Transport,
    /// The port that clients come to, where it is not that of the address.
    pub public_port: Option<NonZeroU16>,
    /// What any of the listeners speaks: which one a request is for is known only after its head.
    pub protocols: Protocols,
    /// The limits of the first listener by name. The same pointer as before when they have not changed.
    pub limits: Arc<ListenerLimits>,
    /// What has to come first on a connection.
    pub opening: Opening,
    /// Whether other sidecars show who they are, as [`Self::limits`] have it.
    pub mtls: Option<Arc<MtlsService>>,
    /// Whether some listener passes TLS on unopened.
    pub passes_tls: bool,
    /// By name.
    listeners: Vec<Arc<ListenerEntry>>,
    by_hostname: HostIndex<Arc<ListenerEntry>>,
}

/// A listener and the rules attached to it.
pub struct ListenerEntry {
    /// Its name.
    pub name: ListenerName,
    /// As the user wrote it.
    pub listener: Arc<Listener>,
    /// Its TLS, if it has any.
    pub tls: Option<Arc<TlsService>>,
    hosts: HostIndex<Arc<PathTable>>,
}

/// What of a request's head decides where it goes.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The hostname: lower case, without port; empty when there is none.
    pub host: &'a str,
    /// The path, normalised, without the query.
    pub path: &'a str,
    /// The query, without the `?`.
    pub query: Option<&'a str>,
    /// The fields.
    pub headers: &'a HeaderMap,
}

/// The rule that a request is for.
#[derive(Clone, Copy, Debug)]
pub struct Found<'s> {
    /// The listener that took it.
    pub listener: &'s ListenerEntry,
    /// The route it belongs to.
    pub route: &'s CompiledRoute,
    /// The rule.
    pub rule: &'s Arc<CompiledRule>,
    /// The path condition that won; rewrites of a prefix need it.
    pub path: &'s PathMatch,
}

impl Bind {
    /// The rule for a request. Allocates nothing and waits for nobody.
    pub fn find<'s>(&'s self, head: &RequestHead<'_>) -> Option<Found<'s>> {
        let listener: &'s ListenerEntry = self.by_hostname.walk(head.host, Some)?;
        let entry = listener.hosts.walk(head.host, |table| table.find(head))?;
        Some(Found {
            listener,
            route: &entry.route,
            rule: &entry.rule,
            path: &entry.path,
        })
    }

    /// The rule for a connection whose bytes nobody looks into. `name`: the one that the client asked for in its TLS
    /// handshake, in lower case; empty when there is none. It is the rule that a request for everything would find.
    pub fn find_opaque(&self, name: &str) -> Option<Found<'_>> {
        static NO_FIELDS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        let found = self.find(&RequestHead {
            method: &Method::GET,
            host: name,
            path: "/",
            query: None,
            headers: &NO_FIELDS,
        })?;
        (found.listener.listener.kind != ListenerKind::Http).then_some(found)
    }

    /// The listener that a hostname belongs to; an empty one is that of a client which names none.
    pub fn listener_of(&self, host: &str) -> Option<&Arc<ListenerEntry>> {
        self.by_hostname.walk(host, Some)
    }

    /// How the address is called by those who connect to it: `http`, `https`, `tcp`, `tls`, `udp`.
    pub fn scheme(&self) -> &'static str {
        let mut kinds = self.listeners.iter().map(|entry| entry.listener.kind);
        match kinds.find(|kind| *kind != ListenerKind::Http) {
            None if self.opening == Opening::Tls => "https",
            None => ListenerKind::Http.word(),
            Some(kind) => kind.word(),
        }
    }

    /// The listeners, by name.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<ListenerEntry>> {
        self.listeners.iter()
    }

    /// From its listeners, of which there is at least one; `before` is the bind it takes the place of.
    fn new(
        (address, transport): (SocketAddr, Transport),
        listeners: Vec<Arc<ListenerEntry>>,
        before: Option<&Self>,
        identity: Option<&Arc<Identity>>,
    ) -> Option<Self> {
        let opening = listeners.first()?.listener.opening();
        let public_port = listeners.first()?.listener.public_port;
        let limits = &listeners.first()?.listener.limits;
        let kept = before.filter(|before| *before.limits == *limits);
        let limits = kept.map_or_else(|| Arc::new(limits.clone()), |before| Arc::clone(&before.limits));
        let mut by_hostname = HostIndex::default();
        for entry in &listeners {
            by_hostname.insert(&entry.listener.hostname, Arc::clone(entry));
        }
        let any =
            |speaks: fn(&Protocols) -> bool| listeners.iter().any(|entry| speaks(&entry.listener.protocols));
        Some(Self {
            address,
            transport,
            public_port,
            protocols: Protocols {
                http1: any(|protocols| protocols.http1),
                http2: any(|protocols| protocols.http2),
            },
            mtls: limits.mtls.as_ref().map(|asked| {
                MtlsService::of(asked, identity, before.and_then(|before| before.mtls.as_ref()))
            }),
            limits,
            opening,
            passes_tls: listeners.iter().any(|entry| entry.passes_tls()),
            listeners,
            by_hostname,
        })
    }
}

impl ListenerEntry {
    /// Whether it passes TLS on unopened.
    pub fn passes_tls(&self) -> bool {
        self.listener.kind == ListenerKind::Tls && self.listener.tls.is_none()
    }

    /// The hostnames this listener takes.
    pub fn hostname(&self) -> &HostPattern {
        &self.listener.hostname
    }
}

impl fmt::Debug for Bind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Bind");
        debug.field("address", &self.address);
        debug.field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl fmt::Debug for ListenerEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("ListenerEntry");
        debug.field("name", &self.name);
        debug
            .field("hostnames", &self.hosts.len())
            .finish_non_exhaustive()
    }
}
