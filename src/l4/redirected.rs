//! Connections that were redirected: the client asked for another address than the one that it got.
//!
//! Where they go is settled once, when they come: the backend that is known by the address, or the address itself. A
//! worker keeps what it has made of addresses themselves, so that their HTTP connections are kept, too.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance::Micros;
use crate::model::{BackendName, ListenerName};
use crate::snapshot::Destination;
use crate::telemetry::{BackendMetrics, Metrics};

/// Where a redirected connection goes.
#[derive(Clone, Debug)]
pub struct Redirected {
    /// The listener that it came to.
    pub listener: ListenerName,
    /// What it was meant for.
    pub destination: Arc<Destination>,
    /// The address that a backend is known by and the client asked for: routes may say where its requests go. None: it is
    /// not one of those.
    pub address: Option<SocketAddr>,
    /// Whether what comes is TLS of the client's own, or may be because nobody looks: then its bytes are passed on as they
    /// are, and none of the backend's TLS is put around them. mTLS is.
    pub may_be_tls: bool,
}

/// Addresses whose destinations a worker keeps. When there are more it begins anew; connections under way keep theirs.
const MAX_ORIGINALS: usize = 1024;

/// What a worker has made of addresses that are no backend's.
pub struct Originals {
    name: BackendName,
    metrics: Arc<BackendMetrics>,
    known: RefCell<HashMap<SocketAddr, Arc<Destination>>>,
}

impl Originals {
    /// None yet; `name` is under what all of them are counted.
    pub fn new(name: &str, metrics: &Metrics) -> Self {
        Self {
            name: BackendName::new(name),
            metrics: metrics.backend(name),
            known: RefCell::default(),
        }
    }

    /// The destination that an address itself is.
    pub fn get(&self, address: SocketAddr, now: Micros) -> Arc<Destination> {
        let mut known = self.known.borrow_mut();
        if let Some(destination) = known.get(&address) {
            return Arc::clone(destination);
        }
        if known.len() >= MAX_ORIGINALS {
            known.clear();
        }
        let destination = Destination::itself(address, &self.name, Arc::clone(&self.metrics), now);
        let destination = Arc::new(destination);
        known.insert(address, Arc::clone(&destination));
        destination
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_within_the_bound() {
        let originals = Originals::new("original", &Metrics::new(1));
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let first = originals.get(address(1), Micros(0));
        assert!(Arc::ptr_eq(&first, &originals.get(address(1), Micros(0))));
        first.backend.with_fleet(|fleet| {
            assert_eq!(fleet.candidates().len(), 1);
            assert_eq!(fleet.candidates()[0].cell.address(), address(1));
        });
        for port in 1..=3000 {
            originals.get(address(port), Micros(0));
            assert!(originals.known.borrow().len() <= MAX_ORIGINALS);
        }
        assert!(!Arc::ptr_eq(&first, &originals.get(address(1), Micros(0))));
    }
}
