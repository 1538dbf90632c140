//! Destinations: what a redirected connection was meant for, by the address that its client asked for.
//!
//! A backend says by which addresses clients know it (a Service's cluster address and port); here is the table from
//! addresses to backends. Of two backends with one address the one that came first has it, as with all names; the other
//! waits and is reported. What is in no table is reached where it is: a destination of one endpoint, its own address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use foldhash::fast::RandomState;

use super::backend::{Backend, Backends};
use super::rule::CompiledRule;
use crate::balance::Micros;
use crate::model::{self, BackendName, Endpoint, RetryPolicy, RouteName, Rule, Timeouts};
use crate::telemetry::BackendMetrics;

/// What a redirected connection was meant for.
#[derive(Debug)]
pub struct Destination {
    /// Deadlines and retries; it has no conditions and no filters.
    pub rule: Arc<CompiledRule>,
    /// Where to.
    pub backend: Arc<Backend>,
    /// Whether nobody looks into what is sent.
    pub opaque: bool,
}

/// Destinations by address.
pub(super) type Table = HashMap<SocketAddr, Arc<Destination>, RandomState>;

/// The name of the route that rules of destinations are of.
pub const ROUTE: &str = "redirected";

/// Time to connect to an address that is no backend's: it may be anywhere.
const FAR: Duration = Duration::from_secs(10);

impl Destination {
    /// An address itself. `name` is under what its connections are counted: the same for all such addresses, because
    /// there is no bound on how many an app asks for.
    pub fn itself(
        address: SocketAddr,
        name: &BackendName,
        metrics: Arc<BackendMetrics>,
        now: Micros,
    ) -> Self {
        static RULE: LazyLock<Arc<Rule>> = LazyLock::new(|| Arc::new(rule(1)));
        let mut policy = model::Backend::new(name.clone());
        // There is nowhere else to go.
        policy.ejection = None;
        policy.connect_timeout = FAR;
        let backend = Arc::new(Backend::of_one(policy, metrics, Endpoint::at(address), now));
        Self {
            rule: Arc::new(CompiledRule::to(
                &backend,
                Arc::clone(&RULE),
                RouteName::new(ROUTE),
            )),
            backend,
            opaque: false,
        }
    }

    fn of(backend: Arc<Backend>, opaque: bool) -> Self {
        static RULE: LazyLock<Arc<Rule>> = LazyLock::new(|| Arc::new(rule(RetryPolicy::default().attempts)));
        Self {
            rule: Arc::new(CompiledRule::to(
                &backend,
                Arc::clone(&RULE),
                RouteName::new(ROUTE),
            )),
            backend,
            opaque,
        }
    }
}

/// Without deadlines: the app does not know that anybody stands between, and has its own.
fn rule(attempts: u8) -> Rule {
    Rule {
        timeouts: Timeouts::NONE,
        retry: RetryPolicy {
            attempts,
            ..RetryPolicy::default()
        },
        ..Rule::default()
    }
}

/// The control plane's side: who wants which address, and who has it.
#[derive(Default)]
pub(super) struct Destinations {
    wanted: HashMap<BackendName, Wanted>,
    /// Who wants an address, in order of arrival; the first has it.
    lines: HashMap<SocketAddr, Vec<BackendName>>,
    table: Arc<Table>,
    changed: bool,
}

struct Wanted {
    addresses: Vec<SocketAddr>,
    destination: Arc<Destination>,
}

impl Destinations {
    /// Follows what a backend says of its addresses; none: the backend is gone.
    pub(super) fn follow(
        &mut self,
        name: &BackendName,
        policy: Option<&model::Backend>,
        backends: &mut Backends,
    ) {
        let policy = policy.filter(|policy| !policy.virtual_addresses.is_empty());
        let same = match (self.wanted.get(name), policy) {
            (None, None) => true,
            (Some(before), Some(policy)) => {
                before.addresses == policy.virtual_addresses && before.destination.opaque == policy.opaque
            }
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            return;
        }
        let after = policy.map(|policy| Wanted {
            addresses: policy.virtual_addresses.clone(),
            destination: Arc::new(Destination::of(backends.acquire(name), policy.opaque)),
        });
        let addresses = after.as_ref().map_or(&[][..], |after| &after.addresses);
        let mut concerned = addresses.to_vec();
        for address in addresses {
            let line = self.lines.entry(*address).or_default();
            if !line.contains(name) {
                line.push(name.clone());
            }
        }
        let before = match after {
            Some(after) => self.wanted.insert(name.clone(), after),
            None => self.wanted.remove(name),
        };
        if let Some(before) = before {
            for address in before
                .addresses
                .iter()
                .filter(|address| !concerned.contains(address))
            {
                if let Some(line) = self.lines.get_mut(address) {
                    line.retain(|other| other != name);
                }
            }
            concerned.extend(before.addresses);
            backends.release(name);
        }
        let table = Arc::make_mut(&mut self.table);
        for address in concerned {
            let first = self.lines.get(&address).and_then(|line| line.first());
            match first.and_then(|first| self.wanted.get(first)) {
                Some(wanted) => {
                    table.insert(address, Arc::clone(&wanted.destination));
                }
                None => {
                    self.lines.remove(&address);
                    table.remove(&address);
                }
            }
        }
        self.changed = true;
    }

    /// Backends that wait for an address, and who has it.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (SocketAddr, &BackendName, &BackendName)> {
        self.lines.iter().flat_map(|(address, line)| {
            let (holder, waiting) = line
                .split_first()
                .map_or((None, &[][..]), |(first, rest)| (Some(first), rest));
            waiting
                .iter()
                .filter_map(move |name| Some((*address, name, holder?)))
        })
    }

    /// The table for a snapshot.
    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Whether it has changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Delta, SourceName};
    use crate::snapshot::Compiler;
    use crate::telemetry::Metrics;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A change of one backend: the addresses that it has from now on, and whether it is opaque; none: it is gone.
    fn change(name: &str, wanted: Option<(&[&str], bool)>) -> Delta {
        let mut delta = Delta::default();
        let policy = wanted.map(|(addresses, opaque)| {
            let mut policy = model::Backend::new(name.into());
            policy.virtual_addresses = addresses.iter().map(|text| address(text)).collect();
            policy.opaque = opaque;
            Arc::new(policy)
        });
        delta.backends.insert(name.into(), policy);
        delta
    }

    #[test]
    fn the_first_has_an_address_and_the_next_follows() {
        let mut compiler = Compiler::new(Metrics::new(1));
        let source = SourceName::from("s");
        let readers = compiler.readers();
        let (shared, other) = ("10.96.0.1:80", "[fd96::1]:80");
        // What changes; who has the shared address after it, and the other; how many wait.
        for (name, wanted, has_shared, has_other, waiting) in [
            ("b", Some((&[shared][..], false)), Some("b"), None, 0),
            ("a", Some((&[shared, other], false)), Some("b"), Some("a"), 1),
            ("b", Some((&[shared], true)), Some("b"), Some("a"), 1),
            ("b", Some((&[], true)), Some("a"), Some("a"), 0),
            ("b", Some((&[shared], true)), Some("a"), Some("a"), 1),
            ("a", None, Some("b"), None, 0),
            ("b", None, None, None, 0),
        ] {
            let applied = compiler.apply(&source, change(name, wanted), Micros(0));
            assert!(applied.published.is_some());
            let snapshot = readers.load();
            let holder = |text| {
                let destination = snapshot.destination(&address(text));
                destination.map(|destination| destination.backend.name.as_str().to_owned())
            };
            assert_eq!(holder(shared).as_deref(), has_shared, "{name} {wanted:?}");
            assert_eq!(holder(other).as_deref(), has_other, "{name} {wanted:?}");
            assert_eq!(compiler.rejects().len(), waiting, "{name} {wanted:?}");
            let opaque = snapshot
                .destination(&address(shared))
                .map(|destination| destination.opaque);
            if has_shared == Some(name) {
                assert_eq!(opaque, wanted.map(|(_, opaque)| opaque));
            }
        }
        assert_eq!(
            readers.load().backends().count(),
            0,
            "nothing is kept of what is gone"
        );
    }

    #[test]
    fn a_change_of_endpoints_needs_no_new_table() {
        let mut compiler = Compiler::new(Metrics::new(1));
        let source = SourceName::from("s");
        compiler.apply(&source, change("a", Some((&["10.96.0.1:80"], false))), Micros(0));
        let mut delta = Delta::default();
        let endpoint = Endpoint::at(address("10.0.0.1:80"));
        delta.endpoints.insert("a".into(), Some(Arc::new([endpoint])));
        assert_eq!(compiler.apply(&source, delta, Micros(0)).published, None);
    }
}
